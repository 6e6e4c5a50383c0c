"""Fewer samples than separate bulk and outliers at N = infinity: the saddle at a finite width, followed in P.

At N = infinity the bulk keeps a density of 2^-n along a ray of the first layer, n being the samples that are off there,
and never ends. At a finite N it ends at the outlier, and the saddle is well defined where that density is below that of
one neuron: the barrier exceeds ln N (relu/THEORY.md, "Finite width").
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.deep.relu.average import COARSE, FINE
from meanfield.theories.deep.relu.newton import newton
from meanfield.theories.deep.relu.outlier import classes_on, climbed, summits
from meanfield.theories.deep.relu.setting import BulkDiverges
from meanfield.theories.deep.relu.system import ReluSystem
from meanfield.validation import BoolArray, FloatArray

__all__ = [
    "LEAST_SAMPLES", "START_SAMPLES", "fewer", "least_left_out", "not_separated", "other_codes", "separated",
]  # fmt: skip

LEAST_SAMPLES = 36  # that a code of the first layer leaves out at N = infinity: below, 2^-n is not negligible
START_SAMPLES = 40  # of the smallest class, where the way to fewer begins
_FIRST, _LONGEST, _SHORTEST = 0.05, 0.1, 2e-3  # steps of ln P
_CLOSE, _TOLERANCE = 1e-6, 1e-9
_MOST_CHANGE = 0.15  # of the unknowns in one step, in units of the largest of all: more is another branch
_SAME_RAY = 0.99  # cosine of the angle between two directions that are


def least_left_out(n: FloatArray, words: tuple[str, ...] | None = None, present: BoolArray | None = None) -> float:
    """Fewest samples that one of the codes `present` (o,) of the first layer leaves out, n (C,) being the samples of
    each class; without words: that the code of any one class does."""
    if words is None:
        return float(n.min() if len(n) == 1 else n.sum() - n.max())
    kept = [classes_on(word) for word, one in zip(words, present if present is not None else ()) if one]
    return min((float(n[~on].sum()) for on in kept), default=math.inf)


def not_separated(left_out: float) -> str:
    """Why there is no saddle at infinite width."""
    return (
        f"in deep networks of rectifiers bulk and outliers are separated at infinite width only from {LEAST_SAMPLES} "
        "samples per class on (those of all classes on which a neuron of the first layer is silent together), got "
        f"{left_out:.4g}; width= gives the saddle at a finite one."
    )


def fewer(
    system: ReluSystem, x: FloatArray, n_samples: float, report: Callable[[float], None]
) -> tuple[ReluSystem, FloatArray]:
    """Equations and unknowns at fewer samples, from those at more of them and the same finite width.

    Raises
    ------
    ConvergenceError
        If the branch is lost on the way.
    """
    step, past = _FIRST, None
    while system.problem.n_samples > n_samples * (1.0 + 1e-12):
        now = math.log(system.problem.n_samples)
        there = max(now - step, math.log(n_samples))
        target = n_samples if there <= math.log(n_samples) else math.exp(there)
        following = ReluSystem(system.problem.at(target), system.words, system.present)
        guess = x
        if past is not None:
            before, at = past
            guess = x + (x - before) * (now - there) / (at - now)
        found = None
        try:
            found, size, _ = newton(following, guess, COARSE, _CLOSE, 12, report)
            if size > _CLOSE or np.abs(found - x).max() > _MOST_CHANGE * np.abs(x).max():
                found = None
        except (BulkDiverges, np.linalg.LinAlgError):
            pass
        if found is None:
            step *= 0.5
            if step < _SHORTEST:
                raise ConvergenceError(
                    f"the saddle at width {system.problem.width:g} was followed to fewer samples and lost at "
                    f"{system.problem.n_samples:.4g}."
                )
            continue
        past, system, x, step = (x, now), following, found, min(1.3 * step, _LONGEST)
    x, size, _ = newton(system, x, FINE, _TOLERANCE, 25, report)
    if size > _CLOSE:
        raise ConvergenceError(f"the saddle at width {system.problem.width:g} was not reached (residual {size:.1e}).")
    return system, x


def separated(system: ReluSystem, x: FloatArray) -> None:
    """Refuse a saddle whose bulk has more than one neuron at an outlier.

    Raises
    ------
    ConvergenceError
    """
    order = system.unpack(x)
    for layer in range(system.problem.depth):
        width = system.problem.width_of(layer)
        barrier = system.layer(order, layer, FINE).barrier
        if barrier <= math.log(width):
            raise ConvergenceError(
                f"at {system.problem.n.min():.4g} samples of the smallest class bulk and outliers of layer {layer + 1} "
                f"are not separated at width {width:g}: the density of the bulk at an outlier is exp(-{barrier:.3g}), "
                "more than one neuron. A smaller width has fewer neurons there."
            )


def other_codes(system: ReluSystem, x: FloatArray) -> float:
    """Largest gain of a direction that is a maximum and no outlier's: at finite N those of outliers are above 1."""
    order, worst = system.unpack(x), 0.0
    for layer in range(system.problem.depth):
        setting = system.setting(order, layer)
        own = [climbed(setting, beta)[0] for beta in order.outliers(layer) if beta.any()]
        for beta, gain in summits(setting):
            if not any(float(beta @ ray) > _SAME_RAY for ray in own):
                worst = max(worst, gain)
    return worst
