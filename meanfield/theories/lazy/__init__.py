"""Lazy networks: Gaussian processes of any depth and activation."""
