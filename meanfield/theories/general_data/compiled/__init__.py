"""Numba kernels of the general-data solver."""
