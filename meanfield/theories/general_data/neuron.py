"""The single neuron of one task at many readouts: compiled expectation propagation spread over threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.numerics.limits import check_time, mapped, stop_word
from meanfield.theories.general_data.compiled import ep
from meanfield.theories.general_data.compiled.variational import ascend
from meanfield.theories.general_data.readouts import EXTRAPOLATED, Components, Line, Readouts, components, join
from meanfield.theories.general_data.soft_lines import SoftLines
from meanfield.theories.general_data.tilt import tilt_of
from meanfield.validation import FloatArray, IntArray

__all__ = ["EXTRAPOLATED", "Components", "Line", "Neuron", "Readouts", "components", "features_tuple", "join"]

_CHUNK = 8
_OPERATIONS = 1e9  # of a chunk, between two looks at the clock
_SITE_SCALE = 0.5, 1.6
_DAMPINGS = np.array([1.0, 0.8, 0.4])  # from known sites, then from zero sites
_SOFT_DAMPING, _SOFT_CAP = np.array([0.25]), 150


def features_tuple(matrix: FloatArray) -> ep.FactorMatrix:
    """F (P, r) as compiled code wants it."""
    matrix = np.ascontiguousarray(matrix, dtype=float)
    variance, offset = np.sum(matrix * matrix, axis=1), np.zeros(len(matrix))
    return ep.FactorMatrix(matrix, np.ascontiguousarray(matrix.T), variance, offset, np.zeros(1, np.int64))


class Neuron:
    """log Z and its derivatives for z = F w, w ~ N(0, 1_r).

    Parameters
    ----------
    activation : Activation
    matrix : (P, r) array
        F.
    prior : float
        s2 = sigma_a^2 / P, prior variance of a readout weight.
    threads : int or None
        All processors if None.
    """

    cap = 60  # iterations
    room = 1.0  # factor of the bound on marginal and cavity variances
    compiled = staticmethod(ep.evaluate)

    def __init__(self, activation: Activation, matrix: FloatArray, prior: float, threads: int | None = None) -> None:
        self.activation = activation
        self.tilt = tilt_of(activation)
        self.features = self.bounded(matrix)
        self.prior = prior
        self.lines = SoftLines(self)
        self.fallback = False  # variational bound where expectation propagation fails
        self.threads = threads or os.cpu_count() or 1
        self.pool = ThreadPoolExecutor(self.threads)
        self.n_evaluations = 0
        self.n_iterations = 0

    def bounded(self, matrix: FloatArray) -> ep.FactorMatrix:
        """F for compiled code, which uses its variances as bounds only."""
        features = features_tuple(matrix)
        return features._replace(variance=self.room * features.variance)

    @property
    def n_samples(self) -> int:
        return len(self.features.matrix)

    def spread_over_threads(self, n: int, job: Callable[[IntArray], None], chunk: int | None = None) -> None:
        """job(rows) for chunks of 0 ... n - 1."""
        if chunk is None:
            each = self.cap * self.features.matrix.size * self.features.matrix.shape[1]
            chunk = int(np.clip(_OPERATIONS / each, 1, _CHUNK))
        parts = [np.arange(i, min(i + chunk, n)) for i in range(0, n, chunk)]
        if len(parts) <= 1 or self.threads == 1:
            for part in parts:
                check_time()
                job(part)
        else:
            for _ in mapped(self.pool, job, parts):
                pass

    def run(
        self,
        k: FloatArray,
        s: FloatArray,
        nu: FloatArray,
        origin: IntArray | None,
        tolerance: float | FloatArray,
        *,
        features: ep.FactorMatrix | None = None,
        shift: FloatArray | None = None,
        x: FloatArray | None = None,
        chain: bool = False,
        softest: bool = False,
        dampings: FloatArray = _DAMPINGS,
    ) -> tuple[ep.Moments, FloatArray]:
        """The compiled evaluation of rows of k (n, P), s and nu in place; eigenvectors (n, r) if `softest`.

        `chain`: rows refer to earlier ones as `origin` and must stay in order.
        """
        n, p = k.shape
        features = (features or self.features)._replace(stop=stop_word())
        moments = ep.Moments(
            np.empty(n), *np.empty((3, n, p)), np.full(n, ep.FAILED), np.zeros(n, np.int64), np.empty(n)
        )
        soft = np.empty((n if softest else 0, features.matrix.shape[1]))
        arguments = (
            features,
            np.zeros(p) if shift is None else shift,
            np.zeros(n) if x is None else x,
            self.tilt,
        )
        dampings, cap = (_SOFT_DAMPING, _SOFT_CAP) if softest else (dampings, self.cap)

        def job(rows: IntArray) -> None:
            self.compiled(*arguments, rows, k, s, nu, origin, dampings, tolerance, cap, moments, soft)

        if chain:
            for i in range(n):
                check_time()
                job(np.array([i]))
        else:
            self.spread_over_threads(n, job)
        check_time()  # what was stopped has failed
        self.n_evaluations += n
        self.n_iterations += int(moments.iterations.sum())
        return moments, soft

    def evaluate(
        self,
        t: FloatArray,
        readout: FloatArray,
        start: tuple[FloatArray, FloatArray] | None = None,
        tolerance: float | FloatArray = 1e-6,
        fallback: bool | None = None,
        dampings: FloatArray = _DAMPINGS,
    ) -> Readouts:
        """Neurons with these readouts (n, m) at t (P, m), from sites `start` (two arrays (n, P)) or from none."""
        n, k = len(readout), readout @ t.T
        s, nu = (np.array(part) for part in start) if start is not None else np.zeros((2, n, self.n_samples))
        origin = np.arange(n) if start is not None else np.full(n, -1)
        tol = np.broadcast_to(np.asarray(tolerance, dtype=float), (n,)).copy()
        moments, _ = self.run(k, s, nu, origin, tol, dampings=dampings)
        failed = np.flatnonzero(moments.status == ep.FAILED)
        if (self.fallback if fallback is None else fallback) and failed.size:
            features = self.features._replace(stop=stop_word())
            self.spread_over_threads(
                failed.size, lambda rows: ascend(features, self.tilt, failed[rows], k, s, nu, tol, moments)
            )
            check_time()
        failed = moments.status == ep.FAILED
        exponent = moments.log_z - 0.5 * np.sum(readout**2, axis=1) / self.prior
        slope = moments.phi @ t - readout / self.prior
        return Readouts(
            readout,
            np.where(failed, -np.inf, exponent),
            moments.phi,
            moments.spread,
            moments.gain,
            s,
            nu,
            moments.status,
            moments.lowest,
            moments.iterations,
            slope,
            np.full(n, None, dtype=object),
        )

    def move(self, known: Readouts, t_old: FloatArray, t: FloatArray, tolerance: float | FloatArray) -> Readouts:
        """The same readouts at another t; where expectation propagation fails, second order from the old t."""
        k_old, k = known.readout @ t_old.T, known.readout @ t.T
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.clip(np.nan_to_num(k / k_old, nan=1.0), *_SITE_SCALE)
        start = known.s * ratio, known.nu * ratio
        tolerance = np.broadcast_to(tolerance, (len(known),))
        plain = np.array([line is None for line in known.line], dtype=bool)
        new = known.take(slice(None))
        # Where it failed before, one attempt is enough.
        hopeless = known.status == EXTRAPOLATED
        for rows, dampings in ((plain & ~hopeless, _DAMPINGS), (plain & hopeless, _DAMPINGS[-1:])):
            sites = start[0][rows], start[1][rows]
            new.assign(rows, self.evaluate(t, known.readout[rows], sites, tolerance[rows], dampings=dampings))
        soft = np.flatnonzero(~plain)
        lines = [known.line[i] for i in soft]
        self.lines.resolve(new, soft, t, [line.direction for line in lines], lines, tolerance[soft], ratio[soft])
        failed = np.flatnonzero(~new.ok & known.ok)
        self.extrapolate(new, failed, known.take(failed), (k - k_old)[failed], t)
        return new

    def factor(self, parts: Components, *, alone: bool = False) -> tuple[FloatArray, FloatArray]:
        """V diag(gain) (n, r, P), so that C = (V diag(gain))^T (V diag(gain)) off the diagonal, and that diagonal less
        the exact one (n, P). `alone`: in the calling thread only."""
        n, p = parts.s.shape
        solved = np.empty((n, self.features.matrix.shape[1], p))
        mean = np.empty((n, self.features.matrix.shape[1]))
        for features, group in self.groups(parts):

            def job(rows: IntArray, features: ep.FactorMatrix = features, group: IntArray = group) -> None:
                ep.factors(features, group[rows], parts.s, parts.nu, parts.gain, solved, mean)

            if alone:
                job(np.arange(len(group)))
            else:
                self.spread_over_threads(len(group), job)
        return solved, parts.spread - np.sum(solved * solved, axis=1)

    def extrapolate(self, new: Readouts, rows: IntArray, known: Readouts, change: FloatArray, t: FloatArray) -> None:
        """Fill in `rows` of `new` from `known` neurons whose k differ by `change` (n, P), to second order."""
        if not len(rows):
            return
        parts = components(known, np.ones(len(known)))
        solved, diagonal = self.factor(parts)
        step = change[parts.node]
        response = np.einsum("ijp,ij->ip", solved, np.einsum("ijp,ip->ij", solved, step)) + diagonal * step
        off = parts.phi - known.phi[parts.node]
        response += off * np.sum(off * step, axis=1)[:, None]
        total = np.zeros_like(known.phi)
        np.add.at(total, parts.node, parts.weight[:, None] * response)
        log_z = known.exponent + 0.5 * np.sum(known.readout**2, axis=1) / self.prior
        log_z += np.sum(change * (known.phi + 0.5 * total), axis=1)
        new.exponent[rows] = log_z - 0.5 * np.sum(new.readout[rows] ** 2, axis=1) / self.prior
        new.phi[rows] = known.phi + total
        for name in ("spread", "gain", "s", "nu", "lowest", "line"):
            getattr(new, name)[rows] = getattr(known, name)
        new.status[rows] = EXTRAPOLATED
        new.slope[rows] = new.phi[rows] @ t - new.readout[rows] / self.prior

    def groups(self, parts: Components) -> list[tuple[ep.FactorMatrix, IntArray]]:
        """Feature factors and the rows of `parts` that go with each."""
        return [
            (self.features if d < 0 else self.lines.directions[d][1], np.flatnonzero(parts.direction == d))
            for d in np.unique(parts.direction)
        ]

    def curvature(self, parts: Components, basis: FloatArray | None) -> FloatArray:
        """sum_i w_i C_i (x) a_i a_i^T as an array (q, m, q, m); basis (P, q), or None for the identity."""
        m = parts.readout.shape[1]
        pairs = [(r, q) for r in range(m) for q in range(r + 1)]
        moments = np.stack([parts.weight * parts.readout[:, r] * parts.readout[:, q] for r, q in pairs], axis=1)
        size = self.n_samples if basis is None else basis.shape[1]
        totals: list[FloatArray] = []

        def job(rows: IntArray) -> None:
            total = np.zeros((len(pairs), size, size))
            for i in range(0, len(rows), _CHUNK):
                some = parts.take(rows[i : i + _CHUNK])
                for weight, solved, diagonal in zip(moments[rows[i : i + _CHUNK]], *self.factor(some, alone=True)):
                    if basis is None:
                        covariance = solved.T @ solved
                        covariance[np.diag_indices(size)] += diagonal
                    else:
                        small = solved @ basis
                        covariance = small.T @ small + (basis.T * diagonal) @ basis
                    for target, factor in zip(total, weight):
                        target += factor * covariance
            totals.append(total)

        self.spread_over_threads(len(parts.weight), job, max(1, -(-len(parts.weight) // self.threads)))
        total = sum(totals[1:], totals[0])
        result = np.empty((size, m, size, m))
        for block, (r, q) in zip(total, pairs):
            result[:, r, :, q] = block
            result[:, q, :, r] = block
        return result
