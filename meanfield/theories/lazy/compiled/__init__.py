"""Numba kernels of the lazy theory: arrays in and out, no Python objects."""
