"""Machine-written kernels; see `meanfield.symbolic.deep_code`."""
