"""Nonlinearities: built-in ones in `builtin`, one file each; what is derived from their expressions, and tables of it."""
