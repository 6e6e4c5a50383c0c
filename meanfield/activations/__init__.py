"""Nonlinearities: built-in ones in `builtin`, one file each; what is derived from expressions, and tables of it."""
