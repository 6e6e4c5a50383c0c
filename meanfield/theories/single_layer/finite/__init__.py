"""Solvers at finite P: Newton's method on J, and the codes that come of it."""
