"""The proof that comes with an answer, and the error that is raised without one."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Certificate", "ConvergenceError", "Proof", "UnstableFractions"]


class Proof:
    """What dataclasses of numbers that may not have been computed are compared by: NaN is equal to NaN."""

    def _numbers(self) -> tuple[object, ...]:
        # All that derive from this are dataclasses, which the types of this class do not say.
        values = (getattr(self, item.name) for item in fields(self))  # type: ignore[arg-type]
        return tuple("NaN" if isinstance(value, float) and value != value else value for value in values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proof) and type(other) is type(self) and other._numbers() == self._numbers()

    def __hash__(self) -> int:
        return hash(self._numbers())


@dataclass(frozen=True, eq=False)
class Certificate(Proof):
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
    output_error : float or None
        Root mean square, over samples and outputs, of the distance between these outputs and those of the exact theory,
        beyond the noise of its measurement; None where it was not measured.
    output_error_max : float or None
        The largest distance, beyond three standard errors.
    output_error_se : float or None
        Root mean square of the standard errors of these distances.
    effective_samples : float or None
        Effective number of points of the sample they were measured on; infinite for a quadrature.
    log_z_error : float or None
        ln Z of the exact single-neuron measure minus that of the approximation, at the same t.
    missed_weight : float or None
        Weight of codes that only a search beside the solver found.
    seed_difference : float or None
        Root mean square of the difference between the outputs of two independent runs, where only particles found any.
    """

    kkt_residual: float
    duality_gap: float
    bound_gap: float
    global_check: bool
    unique: bool
    nullity: int = 0
    boxes: int = 0
    output_error: float | None = None
    output_error_max: float | None = None
    output_error_se: float | None = None
    effective_samples: float | None = None
    log_z_error: float | None = None
    missed_weight: float | None = None
    seed_difference: float | None = None


class ConvergenceError(RuntimeError):
    """No certified solution was found; `result` holds what was reached (a posterior or solution), not to be trusted.

    The text says which part of the certificate failed and what to try.
    """

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result


class UnstableFractions(ConvergenceError):
    """Neurons were given a code that is not locally stable: they would leave it; `pattern` is that code."""

    def __init__(self, message: str, pattern: str) -> None:
        super().__init__(message)
        self.pattern = pattern
