"""The readout for given kernels: t at the minimum of Phi, a convex problem in which codes exchange their neurons.

With many samples ln Z is nearly the largest of the ln Z_gamma of the codes, each a smooth function of t, and has a kink
wherever two of them are equal, as they are at the minimum: t decides weights when it moves by 1/P. Newton's method with
the second derivatives of ln Z sees a kink only where it stands on it; here the ln Z_gamma are expanded to second order
and steps minimise the convex model that these make up. Codes without weight at the point reached are taken from their
maxima, where they have one, else as they were last met.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from meanfield.theories.deep.layers.rules import Averages, NotCovered, code_words
from meanfield.theories.deep.system import Evaluation, Order, System
from meanfield.validation import FloatArray

__all__ = ["readout_minimum"]

_LONGEST = 0.3  # of a step, in units of the largest coordinate
_ARMIJO, _SHORTER, _SHORTEST = 1e-3, 0.4, 1e-3
_LAST = 1.0  # nats: where a step promises less it may be the last one
_LOOKS = 15  # how often a step is looked for anew, as codes were met on the way
_SMOOTHING, _STEPS = 4.0, 12  # of the kinks of a model: by how much less at a time, and steps of Newton at each


class _Code(NamedTuple):
    """ln Z of a code around a point: value, slope and second derivatives."""

    at: FloatArray
    value: float
    slope: FloatArray
    curvature: FloatArray

    def there(self, x: FloatArray) -> tuple[float, FloatArray]:
        """Value and slope at x."""
        move = x - self.at
        bent = self.curvature @ move
        return self.value + float(move @ (self.slope + 0.5 * bent)), self.slope + bent


class _Met(NamedTuple):
    """Phi at some t as far as it depends on it, its slope and second derivatives; its codes, the words of those that
    have weight, what the others have at most; averages of the top."""

    value: float
    slope: FloatArray
    curvature: FloatArray
    codes: dict[str, _Code]
    seen: frozenset[str]
    ceiling: float
    top: list[Averages]


def readout_minimum(
    system: System,
    order: Order,
    tolerance: float = 1e-4,
    most: int = 60,
    known: list[Averages] | None = None,
    curvature: bool = False,
) -> tuple[Order, list[Averages]]:
    """The order parameters with t at the minimum of Phi for these kernels, and the top layer's averages there.

    To within `tolerance` nats, in at most `most` steps. `known`: the top layer's averages at `order`, with curvature.
    The averages have second derivatives by t alone, and all of them with `curvature`.
    """
    problem, basis = system.problem, system.outputs
    gram = problem.tau * np.einsum("iab,jab,a->ij", basis, basis, problem.n)
    x = np.einsum("iab,ab->i", basis, order.t)
    now, whole = _met(system, order, x, gram, known), known is not None
    codes = dict(now.codes)
    for _ in range(most):
        full, expected = _step(x, now, codes, gram)
        length, looks = 1.0, 0
        while expected < -0.5 * tolerance and length > _SHORTEST:
            looks += 1
            try:
                last = curvature and expected > -_LAST
                there = _met(system, order, x + length * full, gram, whole=last)
            except NotCovered:
                length *= _SHORTER
                continue
            if there.value <= now.value + _ARMIJO * length * expected:
                break
            # What was met there tells of a kink on the way, else that way is too long.
            missed = {word: code for word, code in there.codes.items() if word not in now.seen and word in there.seen}
            if looks < _LOOKS and missed:
                codes |= {word: _below(code, x, now.ceiling) for word, code in missed.items()}
                full, expected = _step(x, now, codes, gram)
                length = 1.0
            else:
                length *= _SHORTER
        else:
            break
        x, now, whole = x + length * full, there, last
        codes = {word: _below(code, x, now.ceiling) for word, code in codes.items()} | now.codes
    if curvature and not whole:
        now = _met(system, order, x, gram, whole=True)
    return replace(order, t=np.tensordot(x, basis, 1)), now.top


def _met(
    system: System,
    order: Order,
    x: FloatArray,
    gram: FloatArray,
    known: list[Averages] | None = None,
    whole: bool = False,
) -> _Met:
    """What the top layer has at coordinates x of t; its averages have second derivatives by t, or all (`whole`)."""
    problem, basis, n = system.problem, system.outputs, system.problem.n
    now = replace(order, t=np.tensordot(x, basis, 1))
    top = system.averages(now, problem.depth - 1, curvature=True if whole else "t") if known is None else known
    every = system.combined(Evaluation([], top))[-1]
    flat = basis.reshape(len(basis), -1)
    size = flat.shape[1]

    def derivatives(part: Averages) -> tuple[FloatArray, FloatArray]:
        assert part.curvature is not None
        force = problem.readout_variance * (part.kernel * n + np.diag(part.d)) @ now.t
        curved = problem.readout_variance * flat @ part.curvature[:size, :size] @ flat.T
        return np.einsum("iab,ab,a->i", basis, force, n), curved

    slope, curvature = derivatives(every)
    outside = np.einsum("iab,ab,a->i", basis, problem.y, n)
    value = every.log_z - float(x @ outside) + 0.5 * float(x @ gram @ x)
    codes = {word: _Code(x, part.log_z, *derivatives(part)) for word, part in every.codes.items()}
    seen, ceiling = frozenset(codes), math.inf
    if codes:
        ceiling = max(code.value for code in codes.values()) - system.layers[-1].rule.depth
        guessed = _guessed(system, now, x)
        highest = max(codes, key=lambda word: codes[word].value)
        shift = codes[highest].value - guessed[highest].value if highest in guessed else 0.0
        for word, code in guessed.items():
            if word not in codes:
                codes[word] = _below(code._replace(value=code.value + shift), x, ceiling)
    return _Met(value, slope - outside + gram @ x, curvature + gram, codes, seen, ceiling, top)


def _guessed(system: System, order: Order, x: FloatArray) -> dict[str, _Code]:
    """Codes as their maxima have them, activations fixed: ln Z_gamma = s |sum_c n_c m_c t_c|^2 / 2 and what is left."""
    problem, basis, n = system.problem, system.outputs, system.problem.n
    setting = system.setting(order, problem.depth - 1)
    found: dict[str, list[tuple[float, FloatArray, FloatArray]]] = {}
    values, means = system.layers[-1].maxima.heights(setting)
    for word, value, mean in zip(code_words(problem.phi, means), values, means):
        force = np.einsum("iaq,a,a->iq", basis, n, mean)
        readout = problem.readout_variance * (n * mean) @ order.t
        curved = problem.readout_variance * force @ force.T
        found.setdefault(system.word_of(str(word)), []).append((float(value), force @ readout, curved))
    codes = {}
    for word, members in found.items():
        heights = np.array([one[0] for one in members])
        share = np.exp(heights - heights.max())
        slope, curvature = (
            np.asarray(np.tensordot(share / share.sum(), np.array([one[i] for one in members]), 1)) for i in (1, 2)
        )
        codes[word] = _Code(x, float(heights.max() + math.log(share.sum())), slope, curvature)
    return codes


def _below(code: _Code, x: FloatArray, ceiling: float) -> _Code:
    """A code that weighs less than `ceiling` at x: it curves less on the way, as its tangent is a lower bound."""
    over = code.there(x)[0] - ceiling
    if over <= 0.0:
        return code
    move = x - code.at
    bent = 0.5 * float(move @ code.curvature @ move)
    kept = max(0.0, 1.0 - over / bent) if bent > 0.0 else 1.0
    less = code._replace(curvature=kept * code.curvature)
    return less._replace(value=less.value - max(0.0, less.there(x)[0] - ceiling))


def _step(x: FloatArray, now: _Met, codes: dict[str, _Code], gram: FloatArray) -> tuple[FloatArray, float]:
    """A step towards the minimum of the model at x, not too long, and the change of Phi that it promises."""
    longest = _LONGEST * float(np.abs(x).max())
    if len(codes) < 2:
        step = np.asarray(-np.linalg.solve(now.curvature, now.slope), dtype=float)
        step *= min(1.0, longest / max(float(np.abs(step).max()), 1e-300))
        return step, float(now.slope @ step) + 0.5 * float(step @ now.curvature @ step)
    model = _Model(x, now, list(codes.values()), gram)
    step = model.minimum()
    step = step * min(1.0, longest / max(float(np.abs(step).max()), 1e-300))
    return step, model.value(step) - model.value(np.zeros_like(step))


class _Model:
    """Phi around x with ln Z = ln sum_gamma Z_gamma, every ln Z_gamma to second order; slopes are those of `now`."""

    def __init__(self, x: FloatArray, now: _Met, codes: list[_Code], gram: FloatArray) -> None:
        values, slopes = zip(*(code.there(x) for code in codes))
        self.values, self.slopes = np.array(values), np.array(slopes)
        self.curvatures = np.array([code.curvature for code in codes])
        self.gram = gram
        share = self._shares(self.values, 1.0)
        self.rest = now.slope - share @ self.slopes  # what does not depend on codes

    @staticmethod
    def _shares(values: FloatArray, heat: float) -> FloatArray:
        weight = np.exp((values - values.max()) / heat)
        return np.asarray(weight / weight.sum())

    def _smooth(self, step: FloatArray, heat: float) -> float:
        values = self.values + self.slopes @ step + 0.5 * np.einsum("kij,i,j->k", self.curvatures, step, step)
        top = float(values.max())
        total = top + heat * math.log(float(np.exp((values - top) / heat).sum()))
        return total + float(self.rest @ step) + 0.5 * float(step @ self.gram @ step)

    def value(self, step: FloatArray) -> float:
        """Phi, up to a constant."""
        return self._smooth(step, 1.0)

    def minimum(self) -> FloatArray:
        """The step there: by Newton, with kinks that are smoothed out at first."""
        step = np.zeros(len(self.rest))
        heat = max(1.0, float(np.ptp(self.values)), float(np.abs(self.slopes).max() * 1e-2))
        while True:
            for _ in range(_STEPS):
                bent = self.curvatures @ step
                values = self.values + self.slopes @ step + 0.5 * bent @ step
                share, slopes = self._shares(values, heat), self.slopes + bent
                mean = share @ slopes
                slope = mean + self.rest + self.gram @ step
                apart = slopes - mean
                curvature = np.tensordot(share, self.curvatures, 1) + (apart.T * share) @ apart / heat + self.gram
                move = -np.linalg.lstsq(curvature, slope, rcond=1e-13)[0]
                fall, before, length = float(slope @ move), self._smooth(step, heat), 1.0
                while self._smooth(step + length * move, heat) > before + _ARMIJO * length * fall:
                    length *= 0.5
                    if length < 1e-6:
                        break
                else:
                    step = step + length * move
                    if fall < -1e-6 * heat:
                        continue
                break
            if heat == 1.0:
                return step
            heat = max(1.0, heat / _SMOOTHING)
