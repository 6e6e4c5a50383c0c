"""Averages over the neurons of one layer, by deterministic quadrature."""
