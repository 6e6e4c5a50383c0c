"""From features and targets to a `GeneralSolution`, by joint expectation propagation and on readout lattices."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.numerics.limits import OutOfTime, time_limit
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.status import Status
from meanfield.progress import Progress
from meanfield.theories.general_data.joint.descent import JointRun
from meanfield.theories.general_data.lattice.descent import LatticeRun
from meanfield.theories.general_data.lattice.dual import class_basis
from meanfield.theories.general_data.neuron import Neuron
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray, Seed, real_array, real_number

__all__ = ["shares", "solve_frozen", "solve_general"]

TOLERANCE = 1e-6  # of max |dJ/dt|
# Up to these joint expectation propagation is refined on a lattice where it needs it; always with the fewest samples.
_SMALL_OUTPUTS, _SMALL_SAMPLES, _TINY_SAMPLES = 3, 200, 60
_TRUSTED_ERROR, _TRUSTED_WEIGHT = 3e-4, 1e-4  # of joint expectation propagation that needs no refinement
_MAX_OUTPUTS = 5  # 350 nodes per code; one more output multiplies that by two and a half


def solve_general(
    activation: Activation,
    features: object,
    targets: object,
    sigma_a: float,
    tau: float,
    *,
    labels: IntArray | None = None,
    fractions: object = None,
    warm_start: GeneralSolution | None = None,
    tolerance: float = TOLERANCE,
    spacing: float = 1.4,
    window: float = 8.0,
    shift: float = 0.0,
    method: str = "auto",
    threads: int | None = None,
    rng: Seed = None,
    progress: Progress | None = None,
) -> GeneralSolution:
    """Minimise J(t) = -<t, Y> + (tau / 2)|t|^2 + ln int da N(a; 0, s2) Z(t a) for one hidden layer on any data.

    Parameters
    ----------
    activation : Activation
    features : (P, r) array
        F with input kernel K = F F^T (sigma_w included).
    targets : (P, m) array
        Y.
    sigma_a : float
        Prior scale of the readout; s2 = sigma_a^2 / P.
    tau : float
        N T > 0.
    labels : (P,) integers, optional
        Classes, for the first stage (t equal within a class). Else t starts in the span of 1 and Y.
    fractions : (g,) array, optional
        Fractions of the neurons per code of `warm_start` (required then): the frozen-weight problem.
    warm_start : GeneralSolution, optional
        Start from its t and codes.
    tolerance : float
        Of max |dJ/dt|.
    spacing, window, shift : float
        Lattice over the readout: spacing in units of sqrt(s2), depth of the tail that counts, offset in steps.
    method : {"auto", "lattice", "joint"}
        How the readout is integrated: on a lattice (at most five outputs), or by expectation propagation over readout
        and weights together, one Gaussian per code, which is accurate where codes are sharp and takes seconds where the
        lattice takes many minutes. "auto": jointly, then, with at most 3 outputs and 200 samples, on a lattice if the
        two ways to evaluate <a phi> (`method_error`) differ by more than 3e-4, codes are shallow, or there are no
        more than 60 samples.
    threads : int, optional
        All processors if not given.
    rng : None, int, SeedSequence or Generator
        For the random starts of the code search.
    progress : callable, optional
        Called with (stage, step, error).

    Returns
    -------
    GeneralSolution
        `status` is "optimal" only if the residual and the extrapolated weight are small.

    Raises
    ------
    ValueError
        If the input is not finite, shapes do not fit, tau or sigma_a is not positive, phi is unbounded, or a lattice is
        asked for in more than five dimensions.
    ConvergenceError
        If not even a starting point was found.

    Notes
    -----
    general_data/THEORY.md, "Readout lattice"; general_data/THEORY.md, "Readout and weights together".
    """
    matrix, y, groups = _checked_arrays(features, targets, labels)
    sigma_a = real_number("sigma_a", sigma_a, above=0.0)
    tau = real_number("tau", tau, above=0.0)
    _check_method(method, activation, y.shape[1])
    if fractions is not None and warm_start is None:
        raise ValueError("fractions belong to the codes of a solution: pass it as warm_start.")
    prior = sigma_a**2 / len(y)
    generator = np.random.default_rng(rng)
    if fractions is not None:
        assert warm_start is not None
        fractions = shares(fractions, warm_start)
        method = warm_start.method
    small = y.shape[1] <= _SMALL_OUTPUTS and len(y) <= _SMALL_SAMPLES
    found = None
    if method != "lattice":
        joint = JointRun(activation, matrix, y, prior, tau, tolerance, groups, generator, threads, progress)
        try:
            if fractions is not None:
                assert warm_start is not None
                return joint.frozen(warm_start, fractions)
            found = joint.equilibrium(class_basis(groups, y), warm_start)
        except OutOfTime:
            return _best(joint)
        except ConvergenceError:
            if method == "joint" or y.shape[1] > _MAX_OUTPUTS:
                raise
        if found is not None and (method == "joint" or not small or (len(y) > _TINY_SAMPLES and _trusted(found))):
            return found
    run = LatticeRun(Neuron(activation, matrix, prior, threads), y, tau, tolerance, generator, progress)
    final: dict[str, float] = {"spacing": spacing, "window": window, "shift": shift}
    if fractions is not None:
        assert warm_start is not None
        try:
            return run.frozen(warm_start, fractions, final)
        except OutOfTime:
            return _best(run)
    start = warm_start if found is None or found.status != Status.OPTIMAL else found
    try:
        refined = run.equilibrium(groups, start, final)
    except OutOfTime:
        return found if found is not None and found.status == Status.OPTIMAL else _best(run)
    return found if found is not None and found.status == Status.OPTIMAL != refined.status else refined


def _checked_arrays(
    features: object, targets: object, labels: IntArray | None
) -> tuple[FloatArray, FloatArray, IntArray | None]:
    matrix, y = real_array("features", features), real_array("targets", targets)
    if matrix.ndim != 2 or y.ndim != 2 or len(matrix) != len(y):
        raise ValueError(
            f"features (P, r) and targets (P, m) must have equally many rows, got {matrix.shape} and {y.shape}."
        )
    groups = None if labels is None else np.asarray(labels)
    if groups is not None and (groups.shape != (len(y),) or groups.dtype.kind not in "iu"):
        raise ValueError(f"labels must be {len(y)} integers, one per sample, got an array of shape {groups.shape}.")
    return matrix, y, groups


def _check_method(method: str, activation: Activation, n_outputs: int) -> None:
    if method not in ("auto", "lattice", "joint"):
        raise ValueError(f"method must be 'auto', 'lattice' or 'joint', got {method!r}.")
    if method == "lattice" and n_outputs > _MAX_OUTPUTS:
        raise ValueError(
            f"the readout is integrated on a lattice in at most {_MAX_OUTPUTS} dimensions, got {n_outputs} outputs; "
            "use method='joint', or solve for fewer classes at a time."
        )
    if max(activation.growth) > 0.0:
        raise ValueError(
            f"{activation!r} is unbounded: its posterior has outliers or is Gaussian, which this solver does not treat."
        )


def _best(run: JointRun | LatticeRun) -> GeneralSolution:
    """What a run had reached when its time was over."""
    if run.last is None:
        raise OutOfTime
    with time_limit(None):
        found = run.best()
    return replace(
        found, status=Status.OUT_OF_TIME, message=f"max |dJ/dt| = {found.residual:.2g} when the time was over."
    )


def _trusted(solution: GeneralSolution) -> bool:
    """Whether codes are so sharp that Gaussians of readout and weights will do."""
    accurate = solution.method_error < _TRUSTED_ERROR and solution.extrapolated_weight < _TRUSTED_WEIGHT
    # Codes in pieces need them on a lattice too, where there are none.
    return solution.status == Status.OPTIMAL and (accurate or len(solution.cuts) > 0)


def shares(fractions: object, solution: GeneralSolution) -> FloatArray:
    """Fractions of the neurons in each code, summing to 1."""
    shares = real_array("fractions", fractions)
    if shares.shape != solution.code_weight.shape or (shares < 0).any() or shares.sum() <= 0:
        raise ValueError(
            f"fractions must be {solution.n_codes} numbers >= 0, one per code of warm_start, got {fractions}."
        )
    return np.asarray(shares / shares.sum())


def solve_frozen(solution: GeneralSolution, fractions: object, **options: Any) -> GeneralSolution:
    """The same problem with given fractions of the neurons in each code of `solution`, as sampled networks have."""
    return solve_general(
        solution.activation,
        solution.features,
        solution.targets,
        math.sqrt(solution.prior * solution.n_samples),
        solution.tau,
        fractions=fractions,
        warm_start=solution,
        **options,
    )
