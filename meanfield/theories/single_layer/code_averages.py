"""Class tasks at given fractions of the codes, and neurons assigned to codes as they are in samples.

The weight of a code is P_gamma in the theory, but a chain keeps the fractions it had when it cooled: neurons do not hop
between codes, the barriers are O(P). Given the fractions p_g, all else follows from the convex dual (the single-layer
form of the frozen-weight dual on data)

    J_p(t) = -sum_c p_c t_c.y_c + tau/2 sum_c p_c |t_c|^2 + sum_g p_g (1/P) ln Z_g(t),
    y_c    = sum_g p_g <a M_c>_g + tau t_c,

where Z_g integrates the single-neuron weight exp(sum_mu a.t_mu phi(z_mu)) over the readouts and preactivations that
show code g, and M_c is the mean activation over the n_c samples of class c. As J(t) = max_p [J_p(t) - (p . ln p) / P],
both have the same stationarity conditions at the equilibrium fractions p_g ~ Z_g. A neuron is assigned to a code by M,
as in samples: given a, the M_c are independent normal variables of mean G'(a.t_c) and variance G''(a.t_c) / n_c.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import logsumexp, ndtr

from meanfield.activations.cumulant import cumulant
from meanfield.numerics.symmetric import symmetric_root
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.parts import activity_threshold
from meanfield.theories.single_layer.densities import Densities
from meanfield.theories.single_layer.readout.lattice import log_integral, readout_lattice
from meanfield.validation import FloatArray

__all__ = ["MIN_MASS", "CodeAverages", "NetworkMoments"]

MIN_MASS = 1e-11  # of a code on the lattice; rarer ones have no theory
_GRID = 4000  # nodes of the splines of G, G', G''
_STEPS = 30
_HALVINGS = 30
_TOLERANCE = 1e-10
_ASCENT, _CLOSE = 2000, 1e-9  # steps to a maximum of h, and how near counts


class NetworkMoments(NamedTuple):
    """Averages over all neurons: residual (C, m), kernel (C, C) and its diagonal (C,), first two moments of a."""

    residual: FloatArray
    block: FloatArray
    diagonal: FloatArray
    mean: FloatArray
    moment: FloatArray


class _Sides(NamedTuple):
    """Per node and class: M below (index 0) and above (1) the threshold."""

    probability: FloatArray  # (2, n, C)
    first: FloatArray  # E[M | side]
    second: FloatArray  # E[M^2 | side]
    site_mean: FloatArray  # G', G'' (n, C)
    site_variance: FloatArray
    log_weight: FloatArray  # (n,), 0 at most: only ratios count
    shift: float  # what was taken from it


class CodeAverages:
    """Single-neuron averages restricted to codes, for a bounded phi at finite P.

    Parameters
    ----------
    posterior : SingleNeuronPosterior
    counts : (C,) integer array
        Samples of each class n_c.

    Attributes
    ----------
    t : (C, m) array
        Order parameters of the posterior.
    """

    def __init__(self, posterior: Densities, counts: object) -> None:
        task, network = posterior.task, posterior.network
        self.t = posterior.solution.t
        self.counts = np.asarray(counts, dtype=float)
        self.fractions, self.targets, self.tau = task.fractions, task.targets, posterior.tau
        self.n_samples = float(task.n_samples)
        self.middle = activity_threshold(network)
        self.cumulant = cumulant(network.activation, network.k)
        self.readouts, weight = _nodes(posterior)
        self._level = log_integral(task, posterior.solution)  # (1/P) ln Z at its t
        self._reach = (math.inf, -math.inf)
        self._base = np.log(weight) - self.n_samples * self._cumulants(self.t)[0] @ self.fractions
        start = self._sides(self.t)
        self.shares = self._masses(start)
        # What the posterior violates of its own stationarity is handed on: a wrong t stays wrong at other fractions.
        self._offset = self._output(start, self.shares) + self.tau * self.t - self.targets

    def given(self, shares: FloatArray) -> FloatArray:
        """(C, m) order parameters at the fractions (2^C,) of the codes: minimum of J_p by Newton's method.

        Raises
        ------
        ConvergenceError
            If no minimum is found near those of the posterior.
        """
        t = self.t
        sides = self._sides(t)
        misfit = self._misfit(sides, shares, t)
        for _ in range(_STEPS):
            if np.abs(misfit).max() <= _TOLERANCE:
                return t
            # the Hessian is exact but for neurons at the threshold; J_p is convex, and fractions change t little
            step = np.linalg.solve(self._jacobian(sides, shares), misfit.ravel()).reshape(t.shape)
            length, before = min(1.0, 1.0 / np.abs(step).max()), float(np.linalg.norm(misfit))
            for _ in range(_HALVINGS):  # codes have widths of 1 / sqrt(P): beyond, Newton's steps are too long
                new = t - length * step
                sides = self._sides(new)
                misfit = self._misfit(sides, shares, new)
                if np.linalg.norm(misfit) <= (1.0 - 1e-4 * length) * before:
                    break
                length *= 0.5
            t = new
        raise ConvergenceError(
            f"the theory at these fractions of the codes did not converge (misfit {np.abs(misfit).max():.1e}); they "
            "may be too far from equilibrium (compare samples with fractions='equilibrium')."
        )

    def dual(self, t: FloatArray, shares: FloatArray) -> float:
        """J_p(t) at the fractions (2^C,) of the codes."""
        sides, classes = self._sides(t), np.arange(len(t))
        value = self._level + sides.shift / self.n_samples
        known = self.known(shares)
        for word in known.tolist():
            log_weight = self._log_weight(sides, (word >> classes[::-1]) & 1)
            value += shares[word] / shares[known].sum() * float(logsumexp(log_weight)) / self.n_samples
        return float(value + self.fractions @ (0.5 * self.tau * t**2 - t * self.targets).sum(axis=1))

    def violation(self, t: FloatArray, shares: FloatArray) -> float:
        """Largest violation of y_c = sum_g p_g <a M_c>_g + tau t_c, by direct evaluations of G."""
        return float(np.abs(self._output(self._sides(t, direct=True), shares) + self.tau * t - self.targets).max())

    def known(self, shares: FloatArray) -> NDArray[np.intp]:
        """Words of the codes that have neurons and a theory."""
        return np.flatnonzero((shares > 0) & (self.shares > MIN_MASS))

    def leaving(self, t: FloatArray, readout: FloatArray, sigma_a: float, word: int) -> bool:
        """Whether steepest ascent of h, from a readout, leads to a maximum that shows another code."""
        for _ in range(_ASCENT):
            new = sigma_a**2 * (self.fractions * self.cumulant.direct(t @ readout)[1]) @ t
            moved, readout = float(np.abs(new - readout).max()), new
            if moved <= _CLOSE * (1.0 + float(np.abs(new).max())):
                break
        shown = self.cumulant.direct(t @ readout)[1] > self.middle
        return int(shown @ (1 << np.arange(len(t))[::-1])) != word

    def _misfit(self, sides: _Sides, shares: FloatArray, t: FloatArray) -> FloatArray:
        return self._output(sides, shares) + self.tau * t - self.targets - self._offset

    def moments(self, t: FloatArray, shares: FloatArray) -> NetworkMoments:
        """Averages over all neurons at order parameters t and fractions (2^C,) of the codes."""
        sides, n_classes = self._sides(t), len(t)
        mean, moment = np.zeros(t.shape[1]), np.zeros((t.shape[1],) * 2)
        block, diagonal = np.zeros((n_classes,) * 2), np.zeros(n_classes)
        for share, weight, first, second in self._mixture(sides, shares):
            mean += share * weight @ self.readouts
            moment += share * (self.readouts.T * weight) @ self.readouts
            single = weight @ (sides.site_mean**2 + sides.site_variance)
            inside = (first.T * weight) @ first
            same = (self.counts * (weight @ second) - single) / np.maximum(self.counts - 1.0, 1.0)
            inside[np.diag_indices(n_classes)] = same
            block += share * inside
            diagonal += share * single
        residual = self.targets + self._offset - self._output(sides, shares)
        return NetworkMoments(residual, block, diagonal, mean, moment)

    def of_code(self, t: FloatArray, word: int) -> tuple[FloatArray, ...]:
        """Mean (m,) and covariance (m, m) of the readout, mean and variance (C,) of the activation, given a code.

        NaN for a code that no node shows.
        """
        sides = self._sides(t)
        alone = np.zeros(2 ** len(t))
        alone[word] = 1.0
        for _, weight, first, _ in self._mixture(sides, alone):
            mean = weight @ self.readouts
            deviation = self.readouts - mean
            activation = weight @ first
            square = weight @ (sides.site_mean**2 + sides.site_variance)
            return mean, (deviation.T * weight) @ deviation, activation, square - activation**2
        n_classes, m = t.shape
        return tuple(np.full(shape, np.nan) for shape in ((m,), (m, m), (n_classes,), (n_classes,)))

    # ---- averages over nodes ---------------------------------------------------------------------

    def _cumulants(self, t: FloatArray) -> tuple[FloatArray, ...]:
        """G, G', G'' (n, C) at the nodes, by splines through direct evaluations."""
        kappa = self.readouts @ t.T
        low, high = self._reach
        if kappa.min() < low or kappa.max() > high:  # with a margin: fractions change t little
            margin = 0.1 * np.ptp(kappa) + 1e-9
            self._reach = float(kappa.min() - margin), float(kappa.max() + margin)
            grid = np.linspace(*self._reach, _GRID)
            self._spline = CubicSpline(grid, np.stack(self.cumulant.direct(grid), axis=1))
        return tuple(np.moveaxis(self._spline(kappa), -1, 0))

    def _sides(self, t: FloatArray, direct: bool = False) -> _Sides:
        g0, mu, site = self.cumulant.direct(self.readouts @ t.T) if direct else self._cumulants(t)
        sd = np.sqrt(np.maximum(site, 1e-300) / self.counts)
        theta = (mu - self.middle) / sd
        sign = np.array([-1.0, 1.0])[:, None, None]
        probability = np.maximum(ndtr(sign * theta), 1e-300)
        excess = sign * sd * np.exp(-0.5 * theta**2) / math.sqrt(2 * math.pi) / probability
        second = mu**2 + sd**2 + (mu + self.middle) * excess
        log_weight = self._base + self.n_samples * g0 @ self.fractions
        shift = float(log_weight.max())
        return _Sides(probability, mu + excess, second, mu, site, log_weight - shift, shift)

    def _word(self, sides: _Sides, word: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Weights (n,) of a code, of sum 1, and E[M | code], E[M^2 | code] (n, C)."""
        classes = np.arange(len(self.t))
        bits = (word >> classes[::-1]) & 1
        log_weight = self._log_weight(sides, bits)
        weight = np.exp(log_weight - log_weight.max())
        return np.asarray(weight / weight.sum()), sides.first[bits, :, classes].T, sides.second[bits, :, classes].T

    def _log_weight(self, sides: _Sides, bits: NDArray[np.intp]) -> FloatArray:
        """(n,) of the nodes, times the probability that a neuron there shows a code."""
        return np.asarray(sides.log_weight + np.log(sides.probability[bits, :, np.arange(len(bits))]).sum(axis=0))

    def _masses(self, sides: _Sides) -> FloatArray:
        """(2^C,) shares of all codes."""
        classes = np.arange(len(self.t))
        words = (np.arange(2**classes.size)[:, None] >> classes[::-1]) & 1
        mass = np.array([np.exp(self._log_weight(sides, bits)).sum() for bits in words])
        return np.asarray(mass / mass.sum())

    def _mixture(self, sides: _Sides, shares: FloatArray) -> list[tuple[float, FloatArray, FloatArray, FloatArray]]:
        """(share, normalised node weights, E[M], E[M^2]) of all codes that occur; shares renormalised."""
        # What a code weighs at other t is no matter: its fraction is given, and nodes only tell how it is distributed.
        found = [(float(shares[word]), *self._word(sides, int(word))) for word in self.known(shares).tolist()]
        norm = sum(share for share, *_ in found) or 1.0
        return [(share / norm, weight, first, second) for share, weight, first, second in found]

    def _output(self, sides: _Sides, shares: FloatArray) -> FloatArray:
        """(C, m) sum_g p_g <a M_c>_g."""
        parts = [share * (first.T * weight) @ self.readouts for share, weight, first, _ in self._mixture(sides, shares)]
        return np.asarray(sum(parts))

    def _jacobian(self, sides: _Sides, shares: FloatArray) -> FloatArray:
        """d output / dt + tau, (C m, C m)."""
        n_classes, m = self.t.shape
        total = self.tau * np.eye(n_classes * m)
        for share, weight, first, _ in self._mixture(sides, shares):
            product = (first[:, :, None] * self.readouts[:, None, :]).reshape(len(weight), -1)
            deviation = product - weight @ product
            column = self.n_samples * np.repeat(self.fractions, m)
            total += share * (deviation.T * weight) @ deviation * column
            for c in range(n_classes):
                at = slice(c * m, (c + 1) * m)
                total[at, at] += share * (self.readouts.T * (weight * sides.site_variance[:, c])) @ self.readouts
        return total


def _nodes(posterior: Densities) -> tuple[FloatArray, FloatArray]:
    """Nodes (n, m) and weights (n,) of the readout posterior: the lattice, or points of the Gaussian codes."""
    lattice = readout_lattice(posterior.network, posterior.task, posterior.solution)
    if lattice is not None:
        keep = lattice[1] > 1e-14 * lattice[1].max()
        return lattice[0][keep], lattice[1][keep] / lattice[1][keep].sum()
    from scipy.stats import norm, qmc

    m = posterior.task.n_outputs
    points = norm.ppf(qmc.Sobol(m, scramble=False).random_base2(13) + 0.5**14)
    readouts = [code.readout + points @ symmetric_root(np.asarray(code.covariance)) for code in posterior.codes]
    weights = [np.full(len(points), code.weight / len(points)) for code in posterior.codes]
    return np.concatenate(readouts), np.concatenate(weights)
