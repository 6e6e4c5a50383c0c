"""Numba kernels of the single-layer theory: arrays and NamedTuples in and out, no Python objects."""
