"""Compiled kernels of the deep rectifier theory."""
