"""Readouts on a lattice: few outputs."""
