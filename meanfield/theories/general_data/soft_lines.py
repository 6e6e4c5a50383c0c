"""Integration along soft directions, for neurons at which expectation propagation alone is not enough.

Where the posterior of the weights is no single Gaussian it is one given x = u.w for some direction u: values of x are
summed over, outwards from the middle until their weight is negligible.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from scipy.special import logsumexp

from meanfield.numerics.limits import mapped
from meanfield.theories.general_data.compiled import ep
from meanfield.theories.general_data.readouts import Line, Readouts
from meanfield.validation import FloatArray, IntArray

__all__ = ["SoftLines"]

_LINE_STEP = 0.5  # of x = u.w
_LINE_ROUND = 4  # values of x evaluated at a time on either side
_LINE_RANGE = 11.0  # values of x this far below the heaviest are negligible
_LINE_END = 10.0
_MAX_GAP = 0.02  # weight of values of x where expectation propagation failed, plus 10 times that at the ends
_SAME_DIRECTION = 0.98  # overlap from which two soft directions count as one
_SOFT_TOLERANCE = 1e-4  # of the damped iteration that finds them


class Propagates(Protocol):
    """A `meanfield.theories.general_data.neuron.Neuron`."""

    features: ep.FactorMatrix
    prior: float
    pool: ThreadPoolExecutor

    def bounded(self, matrix: FloatArray) -> ep.FactorMatrix: ...
    def run(
        self,
        k: FloatArray,
        s: FloatArray,
        nu: FloatArray,
        origin: IntArray | None,
        tolerance: float | FloatArray,
        *,
        features: ep.FactorMatrix | None = ...,
        shift: FloatArray | None = ...,
        x: FloatArray | None = ...,
        chain: bool = ...,
        softest: bool = ...,
    ) -> tuple[ep.Moments, FloatArray]: ...


class SoftLines:
    """Soft directions of a neuron, and its readouts with one of them integrated.

    Attributes
    ----------
    directions : list of (u, F - F u u^T, F u)
    refused : dict
        Lattice nodes that no direction helped: how many were tried.
    """

    def __init__(self, neuron: Propagates) -> None:
        self.neuron = neuron
        self.directions: list[tuple[FloatArray, ep.FactorMatrix, FloatArray]] = []
        self.refused: dict[tuple[float, int], int] = {}

    def resolve(
        self,
        new: Readouts,
        rows: Sequence[int] | IntArray,
        t: FloatArray,
        direction: list[int],
        known: list[Line | None],
        tolerance: FloatArray,
        ratio: FloatArray | None = None,
    ) -> None:
        """Fill in `rows` of `new` by integrating along a soft direction each; status FAILED where that is not enough.

        A known line gives the values of x and, its sites multiplied by `ratio`, the start.
        """
        k = new.readout[rows] @ t.T

        def job(i: int) -> tuple[float, Line] | None:
            old = known[i]
            if old is None:
                return self._new_line(k[i], direction[i], new.s[rows[i]], new.nu[rows[i]], float(tolerance[i]))
            scale = 1.0 if ratio is None else ratio[i]
            n_x = len(old.x)
            found = self._at_x(
                k[i], direction[i], old.x, old.s * scale, old.nu * scale, np.arange(n_x), float(tolerance[i])
            )
            return self._sum_over(direction[i], found, check_ends=False)

        for i, found in zip(rows, mapped(self.neuron.pool, job, range(len(rows)))):
            if found is None:
                new.exponent[i], new.status[i] = -np.inf, ep.FAILED
                continue
            log_z, line = found
            p, best = np.exp(line.log_p), int(np.argmax(line.log_p))
            new.line[i], new.status[i], new.lowest[i] = line, ep.EP, 1.0
            new.exponent[i] = log_z - 0.5 * np.sum(new.readout[i] ** 2) / self.neuron.prior
            new.phi[i] = p @ line.phi
            new.spread[i] = p @ (line.spread + (line.phi - new.phi[i]) ** 2)
            new.gain[i], new.s[i], new.nu[i] = line.gain[best], line.s[best], line.nu[best]
            new.slope[i] = new.phi[i] @ t - new.readout[i] / self.neuron.prior

    def _at_x(
        self,
        k: FloatArray,
        direction: int,
        x: FloatArray,
        s: FloatArray,
        nu: FloatArray,
        origin: IntArray | None,
        tolerance: float,
    ) -> list[FloatArray]:
        """[x, log weight, status, phi, spread, gain, s, nu], one row per value of x = u.w."""
        _, features, shift = self.directions[direction]
        n = len(x)
        moments, _ = self.neuron.run(
            np.tile(k, (n, 1)),
            s,
            nu,
            origin,
            np.full(n, tolerance),
            features=features,
            shift=shift,
            x=x,
            chain=True,
        )
        return [x, moments.log_z - 0.5 * x * x, moments.status, moments.phi, moments.spread, moments.gain, s, nu]

    def _new_line(
        self, k: FloatArray, direction: int, s: FloatArray, nu: FloatArray, tolerance: float
    ) -> tuple[float, Line] | None:
        """Values of x outwards from that of the Gaussian with sites s, nu, until the weight is negligible."""
        mean = np.empty((1, len(self.directions[direction][0])))
        one = np.zeros(1, np.int64)
        ep.factors(
            self.neuron.features,
            one,
            s[None],
            nu[None],
            np.ones((1, len(s))),
            np.empty((1, *self.neuron.features.transposed.shape)),
            mean,
        )
        middle = _LINE_STEP * round(float(mean[0] @ self.directions[direction][0]) / _LINE_STEP)
        found = self._at_x(k, direction, np.array([middle]), s[None].copy(), nu[None].copy(), one, tolerance)
        for sign in (1, -1):
            while True:
                end = -1 if sign > 0 else 0
                last, weight = found[0][end], found[1][end]
                if abs(last) > _LINE_END or weight < np.nanmax(found[1], initial=-np.inf) - _LINE_RANGE:
                    break
                x = np.concatenate([[last], last + sign * _LINE_STEP * np.arange(1, _LINE_ROUND + 1)])
                sites = [np.tile(found[column][end], (len(x), 1)) for column in (6, 7)]
                if found[2][end] != ep.EP:
                    sites = [np.tile(part, (len(x), 1)) for part in (s, nu)]
                origin = np.concatenate([[0], np.arange(len(x) - 1)])
                more = [part[1:] for part in self._at_x(k, direction, x, sites[0], sites[1], origin, tolerance)]
                if sign < 0:
                    more = [part[::-1] for part in more]
                useless = (more[2] != ep.EP).all()
                found = [np.concatenate(pair if sign > 0 else pair[::-1]) for pair in zip(found, more)]
                if useless:  # the weight left out here makes `_sum_over` refuse
                    break
        return self._sum_over(direction, found, check_ends=True)

    def _sum_over(self, direction: int, found: list[FloatArray], *, check_ends: bool) -> tuple[float, Line] | None:
        """ln Z(k) and the neuron along u; None where values of x that matter fail or lie outside the range."""
        x, log_weight, status, *columns = found
        good = np.flatnonzero(status == ep.EP)
        if good.size < 2:
            return None
        log_p = np.interp(x, x[good], log_weight[good]) + np.log(_LINE_STEP / np.sqrt(2.0 * np.pi))
        total = float(logsumexp(log_p))
        log_p -= total
        weight = np.exp(log_p)
        ends = weight[[0, -1]].sum() if check_ends else 0.0
        if weight[status != ep.EP].sum() + 10.0 * ends > _MAX_GAP:
            return None
        near = np.flatnonzero(log_p > log_p.max() - _LINE_RANGE)
        kept = np.arange(near[0], near[-1] + 1)
        source = good[np.argmin(np.abs(kept[:, None] - good), axis=1)]
        return total, Line(direction, x[kept], log_p[kept], *(part[source] for part in columns))

    def soft_directions(self, k: FloatArray, s: FloatArray, nu: FloatArray) -> list[int]:
        """Positions of the directions along which heavily damped EP at k (n, P) ends softest; added to the pool."""
        n = len(k)
        _, found = self.neuron.run(
            k, np.array(s), np.array(nu), np.arange(n), np.full(n, _SOFT_TOLERANCE), softest=True
        )
        positions = []
        for u in found:
            overlap = [abs(float(u @ known)) for known, *_ in self.directions]
            if overlap and max(overlap) > _SAME_DIRECTION:
                positions.append(int(np.argmax(overlap)))
                continue
            projection = self.neuron.features.matrix @ u
            rest = self.neuron.bounded(self.neuron.features.matrix - np.outer(projection, u))
            self.directions.append((u, rest, projection))
            positions.append(len(self.directions) - 1)
        return positions
