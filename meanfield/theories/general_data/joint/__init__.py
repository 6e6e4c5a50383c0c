"""Readout and weights of a code as one Gaussian each: any number of outputs."""
