"""Numba kernels of the deep theory: arrays in and out, no Python objects."""
