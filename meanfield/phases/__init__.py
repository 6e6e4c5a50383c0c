"""Sweeps over control parameters, phase diagrams, transitions and boundaries: what lies above a single solution."""
