"""The proof that comes with an answer, and the error that is raised without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Certificate", "ConvergenceError"]


@dataclass(frozen=True)
class Certificate:
    """The proof that comes with a solution.

    Attributes
    ----------
    kkt_residual : float
        Largest violation of the stationarity system, recomputed without the solver's tables.
    duality_gap : float
        J(t) minus the value of the primal problem at the reported posterior.
    bound_gap : float
        Proven upper bound of max_a h(a; t), over all readouts a, minus the level s of the reported codes.
    global_check : bool
        Whether branch and bound proved that no readout lies above s by more than the tolerance.
    unique : bool
        Whether the weights of the codes are unique (t is, wherever J is strictly convex).
    nullity : int
        Dimension of the family of optimal weights; 0 if they are unique.
    boxes : int
        Boxes that branch and bound needed.
    """

    kkt_residual: float
    duality_gap: float
    bound_gap: float
    global_check: bool
    unique: bool
    nullity: int = 0
    boxes: int = 0


class ConvergenceError(RuntimeError):
    """No certified solution was found; `result` holds what was reached (a posterior or solution), not to be trusted.

    The text says which part of the certificate failed and what to try.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result
