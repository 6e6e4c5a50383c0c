"""What big compiled functions return, in Numba's words: those that call them are compiled without them."""

from __future__ import annotations

__all__ = ["CUTS", "SOLUTION", "STATE"]

# Rows (n, m) and their weights: readouts, cuts, or directions.
CUTS = "float64[:, ::1], float64[::1]"
# Of the bundle method: t, cuts and their weights, directions and their weights, rho.
STATE = f"Tuple((float64[:, ::1], {CUTS}, {CUTS}, float64))"
# Of `active_set`: ok, t, readouts and weights, directions and weights, s, nullity, nullity of t.
SOLUTION = f"Tuple((boolean, float64[:, ::1], {CUTS}, {CUTS}, float64, int64, int64))"
