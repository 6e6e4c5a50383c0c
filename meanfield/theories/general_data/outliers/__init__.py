"""Unbounded activations on data: a bulk, codes, and outliers."""
