"""J(t) at finite P and its derivatives, from a lattice or Laplace sum over the readout (sigma_a = 1)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammainccinv

from meanfield.activations.cumulant import Cumulant
from meanfield.numerics.cumulant_table import cumulant2
from meanfield.numerics.lattice_basis import aliasing, aliasing_length, unit_basis
from meanfield.numerics.limits import check_time
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer.compiled.ascent import find_maxima
from meanfield.theories.single_layer.compiled.laplace import laplace
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.compiled.together import maxima_together
from meanfield.theories.single_layer.readout.nodes import Nodes, fill, moments, quick_table, shares, slopes
from meanfield.validation import FloatArray

__all__ = ["ACCURACY", "COARSE", "NotIntegrable", "OutOfBudget", "Outliers", "ReadoutIntegral", "Sums", "outlier_terms"]

COARSE = 1e-4  # relative error of the integral on the way
ACCURACY = 1e-12  # of the final lattice, and of its cut tail, where that is affordable
_MAX_NODES = 5_000_000
_NODE_BUDGET = 25_000_000, 6_000_000  # of all lattices of one solve, in up to five dimensions and in six
# Up to four dimensions, for trial steps, and for an isolated bulk, where the tail never ends: give up earlier
_MAX_COARSE_NODES = 400_000
_CONFINED = 1.0 - 1e-7  # sum_c p_c g(t_c.u) beyond this leaves the integral no width to be summed over
_MAX_MAXIMA = 256
_MAX_TURN = 0.2  # of an outlier direction in one step
_SAME_WINDOW = 0.5  # change of exponents up to which nodes found at one t serve another


class NotIntegrable(ConvergenceError):
    """The integral diverges or its lattice is too large: a trial step went too far, or the problem is out of reach."""


class OutOfBudget(ConvergenceError):
    """All lattices of one solve together have become too large."""


class Outliers(NamedTuple):
    """Outlier directions u_o (o, m) and weights w_o (o,)."""

    direction: FloatArray
    weight: FloatArray


@dataclass(frozen=True, eq=False)
class Sums:
    """The integral at one t, split into regions (separated codes), and J with its derivatives."""

    objective: float
    log_share: FloatArray  # (K,) ln of each region's share of the integral
    first: FloatArray  # (K, C m) d log_share / dt / P
    within: FloatArray  # (C m, C m) Hessian of J without the part between regions; empty where it was not asked for
    maxima: FloatArray  # (n, m) local maxima of h that carry weight, highest first
    level: float
    detail: Any  # `Nodes`, or [covariance, mean, correction of log_share] of each mode

    @property
    def weight(self) -> FloatArray:
        share = np.exp(self.log_share - self.log_share.max())
        return share / share.sum()


class ReadoutIntegral:
    """One task at finite P; `evaluate` gives J at t by the lattice or by Laplace's method.

    Where outliers are `isolated` (unbounded phi) only the bulk is integrated, what is separated from the tail along
    outlier directions; else the tail is part of the integral.
    """

    def __init__(
        self, single_site: Cumulant, p: FloatArray, y: FloatArray, tau: float, n_samples: float, method: str
    ) -> None:
        table = single_site.table
        self.single_site, self.table, self.p, self.y = single_site, table, p, y
        self.tau, self.n_samples, self.method = tau, n_samples, method
        self.asked = n_samples  # what messages speak of; `n_samples` is the P on the way there
        self.quick = quick_table(single_site)
        self.unbounded = table.growth_plus > 0 or table.growth_minus > 0
        self.isolated = self.unbounded
        reach = 1.0 if self.unbounded else table.kappa_max
        self.range = cumulant2(table, -reach)[1], cumulant2(table, reach)[1]  # of phi, or of a typical activation
        self.patterns = _signs(p.size) * p
        self.starts = np.empty((0, y.shape[1]))
        self.refinement = 1.0
        self.accuracy = ACCURACY  # of the final lattice
        self.visited = 0  # lattice nodes so far
        self._last: tuple[object, Sums] | None = None

    def basis(self, accuracy: float) -> FloatArray:
        """Lattice vectors (m, m), as rows, whose aliasing error is the accuracy."""
        m = self.y.shape[1]
        return self.refinement * aliasing_length(m, accuracy, self.n_samples) * unit_basis(m)

    def aliasing(self) -> float:
        """Relative error of the final lattice sum: rigorous where every p_c P is an integer (Poisson summation)."""
        m = self.y.shape[1]
        return aliasing(m, self.refinement * aliasing_length(m, self.accuracy, self.n_samples), self.n_samples)

    def window(self, accuracy: float) -> float:
        """P (max h - h) up to which nodes are kept."""
        return _window(self.y.shape[1], accuracy)

    def maxima(
        self, t: FloatArray, extra: FloatArray | None = None, on_the_way: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """Local maxima of h, highest first, from the last ones and the 0/1 and -1/+1 patterns of the classes.

        `on_the_way`: without the second patterns where there are last ones, or phi is bounded.
        """
        few = on_the_way and (len(self.starts) or not self.unbounded)
        starts = [self.starts] if few else [self.starts, self.patterns @ t]
        if extra is not None:
            starts.append(extra)
        found = np.empty((_MAX_MAXIMA, t.shape[1]))
        height = np.empty(_MAX_MAXIMA)
        where = self.p, t, *self.range, np.concatenate(starts)
        if self.unbounded:
            # Ridges lead along outlier directions: what is there belongs to the tail.
            count = find_maxima(self.table, *where, not self.isolated, found, height)
        else:
            count = maxima_together(self.table, self.quick, *where, found, height)
        order = np.argsort(-height[:count], kind="stable")
        self.starts = found[order]
        return found[order], height[order]

    def reach(self, t: FloatArray) -> FloatArray:
        """Componentwise bound on every maximum of h: a = sum_c p_c G' t_c with |G'| at most sup |phi|."""
        return np.maximum(*np.abs(self.range)) * (self.p @ np.abs(t))

    def grow(
        self, t: FloatArray, maxima: FloatArray, height: FloatArray, accuracy: float, shift: FloatArray, tail: float,
        summed: bool = False,
    ) -> tuple[Nodes, FloatArray]:  # fmt: skip
        """Lattice nodes around those maxima that carry weight, and these; `tail` is the share that is cut off."""
        m = t.shape[1]
        if self.unbounded and not self.isolated:
            worst = worst_directions(self.table, self.p, t, 2.0, np.empty((1, m)), np.empty(1))[1]
            if worst > _CONFINED:
                raise NotIntegrable(f"at P = {self.asked:g} the posterior is not confined (Q = {worst:.9g}).")
        window = self.window(tail)
        # A maximum just inside the window may have no node there: ask a little more of a seed.
        seeds = maxima[self.n_samples * (height - height[0]) > 2.0 - window]
        limit = _MAX_NODES
        if self.isolated or accuracy >= COARSE:
            limit = _MAX_COARSE_NODES * (1 if m <= 4 else 5)
        basis = self.basis(accuracy)
        nodes = fill(self.quick, self.p, t, self.n_samples, basis, shift, seeds, height[0], window, limit, summed)
        self.visited += len(nodes)
        budget = _NODE_BUDGET[m > 5]
        if self.visited > budget:
            raise OutOfBudget(
                f"at P = {self.asked:g} the readout integral in {m} dimensions took more than {budget:.0e} "
                "lattice nodes; a larger P or a larger tau makes the readout posterior narrower."
            )
        if self.isolated and not nodes.complete:
            raise NotIntegrable(
                f"at P = {self.asked:g} the bulk of the readout posterior is not separated from the tail along the "
                "outlier directions; the theory with isolated outliers needs a larger P (or n_samples = inf)."
            )
        if not nodes.complete or nodes.n_regions == 0:
            raise NotIntegrable(
                f"the readout posterior at P = {self.asked:g} covers more than {limit} lattice nodes in "
                f"{m} dimensions (largest |t| {np.abs(t).max():.2g}); a larger P or a larger tau makes it narrower."
            )
        return nodes, seeds

    def evaluate(self, t: FloatArray, accuracy: float, *, tail: float | None = None, hessian: bool = True) -> Sums:
        """J at t and its derivatives; of the Hessian only if asked for.

        The lattice is as fine as `accuracy` demands; what is cut off has the share `tail`, by default the accuracy.

        Raises
        ------
        NotIntegrable
            If the lattice would be too large.
        """
        check_time()
        key = t.tobytes(), accuracy, tail, hessian, self.n_samples, self.refinement, self.method, self.isolated
        if self._last is None or self._last[0] != key:
            self._last = key, self._evaluated(t, accuracy, accuracy if tail is None else tail, hessian)
        return self._last[1]

    def evaluate_nearby(self, near: Sums, t: FloatArray, accuracy: float) -> Sums:
        """`evaluate` without the Hessian, on the lattice nodes that were found at a t close by."""
        nodes = replace(near.detail, exponent=near.detail.exponent.copy())
        log_share, first, changed = slopes(self.quick, self.p, t, self.n_samples, near.level, nodes)
        if not (changed < _SAME_WINDOW and np.isfinite(log_share).all()):
            return self.evaluate(t, accuracy, hessian=False)
        top = log_share.max()
        total = top + np.log(np.exp(log_share - top).sum())
        objective = self.linear(t) + total / self.n_samples
        return Sums(objective, log_share, first, np.empty((0, 0)), near.maxima, near.level, nodes)

    def _evaluated(self, t: FloatArray, accuracy: float, tail: float, hessian: bool) -> Sums:
        maxima, height = self.maxima(t, on_the_way=accuracy >= COARSE)
        if len(height) == 0 or not np.isfinite(height[0]):
            raise NotIntegrable(f"at P = {self.asked:g} the readout posterior has no maximum at a trial step.")
        size, m = t.size, t.shape[1]
        blocks = np.zeros((size, size))
        if self.method == "lattice":
            nodes, maxima = self.grow(t, maxima, height, accuracy, np.zeros(m), tail, not hessian)
            if hessian:
                log_share, first, second, curvature = moments(self.quick, self.p, t, self.n_samples, height[0], nodes)
                for c, block in enumerate(curvature):
                    rows = slice(c * m, (c + 1) * m)
                    blocks[rows, rows] = block
            else:
                assert nodes.sums is not None
                log_share, first = shares(*nodes.sums, self.n_samples, height[0], nodes)
            detail = nodes
        else:
            maxima = maxima[self.n_samples * (height - height[0]) > np.log(accuracy)]
            log_share, first, curvature, *detail = laplace(self.table, self.p, t, self.n_samples, maxima)
            log_share = log_share + detail[-1]  # of order 1 / P; its part in `first`, 1 / P^2, is left out
        if not np.isfinite(log_share).all():
            raise NotIntegrable(
                f"at P = {self.asked:g} the readout integral overflows (largest |t| {np.abs(t).max():.2g})."
            )
        top = log_share.max()
        total = top + np.log(np.exp(log_share - top).sum())
        weight = np.exp(log_share - total)
        if not hessian:
            blocks = np.empty((0, 0))
        elif self.method == "lattice":
            blocks += self.n_samples * (second - (first.T * weight) @ first)
        else:
            blocks += np.tensordot(weight, curvature, 1)
        if hessian:
            blocks[np.diag_indices(size)] += self.tau * np.repeat(self.p, m)
        if not (np.isfinite(total) and np.isfinite(first).all() and np.isfinite(blocks).all()):
            raise NotIntegrable(
                f"at P = {self.asked:g} the readout integral overflows (largest |t| {np.abs(t).max():.2g})."
            )
        return Sums(self.linear(t) + total / self.n_samples, log_share, first, blocks, maxima, height[0], detail)

    def linear(self, t: FloatArray) -> float:
        """-sum_c p_c t_c.y_c + tau/2 sum_c p_c |t_c|^2."""
        return float(np.sum(self.p[:, None] * t * (0.5 * self.tau * t - self.y)))

    def gradient(self, t: FloatArray, sums: Sums, weight: FloatArray, outliers: Outliers) -> FloatArray:
        """dJ/dt (C m,) if the regions had these weights, with the outliers' part."""
        gradient = (self.p[:, None] * (self.tau * t - self.y)).ravel() + weight @ sums.first
        for u, w in zip(*outliers):
            kappa = t @ u
            gradient += w * np.outer(self.p * self.growth(kappa) * kappa, u).ravel()
        return gradient

    def growth(self, kappa: FloatArray) -> FloatArray:
        """g(kappa) / kappa^2 times k, on either side."""
        return np.where(kappa > 0, self.table.growth_plus, self.table.growth_minus)

    def residual(self, gradient: FloatArray) -> float:
        """max_c |y_c - <a G'(a.t_c)> - sum_o ... - tau t_c|."""
        return float((np.abs(gradient.reshape(self.y.shape)) / self.p[:, None]).max())

    def mismatch(self, sums: Sums, weight: FloatArray) -> FloatArray:
        """(ln I_k - ln P_k) / P minus its mean: zero if the weights P_k are the shares of the regions."""
        value = (sums.log_share - np.log(weight)) / self.n_samples
        return value - weight @ value

    def share_error(self, sums: Sums, weight: FloatArray) -> float:
        """Largest violation of P_k = e^{P (l_k - s)}: of l_k, and of P_k itself for regions lighter than 1 / P.

        The lightest regions are a few nodes at the edge of the window, whose l is not resolved and does not matter.
        """
        lightness = np.minimum(1.0, self.n_samples * weight)
        return float(np.max(np.abs(self.mismatch(sums, weight)) * lightness))


@lru_cache(maxsize=256)
def _window(m: int, accuracy: float) -> float:
    return float(gammainccinv(0.5 * m, accuracy)) + 1.0


def _signs(n_classes: int) -> FloatArray:
    """Patterns of -1/+1 over the classes; beyond ten classes one class (or all but one) against the rest."""
    if n_classes <= 10:
        return np.array(list(itertools.product((-1.0, 1.0), repeat=n_classes)))
    one = 2.0 * np.eye(n_classes) - 1.0
    return np.concatenate([one, -one])


def outlier_terms(
    problem: ReadoutIntegral, t: FloatArray, u: FloatArray, flat: float
) -> tuple[FloatArray, float, FloatArray, FloatArray]:
    """q(u; t) = 1/2 sum_c p_c g(t_c.u) with u moved to its maximum; (u, q, dq/dt (C m,), d^2 q/dt^2 (C m, C m)).

    In a cone of outliers many directions are equally good: where the growth differs by less than `flat`, or u would
    have to turn far, it stays.
    """
    start = u
    for _ in range(40):
        kappa = t @ u
        second = problem.p * problem.growth(kappa)
        values, vectors = np.linalg.eigh((t.T * second) @ t)
        stiff = vectors[:, values < values[-1] - flat]
        moved = u - stiff @ (stiff.T @ u)
        moved /= np.linalg.norm(moved)
        if np.abs(moved - start).max() > _MAX_TURN:
            u, flat = start, 4.0 * flat
            continue
        if np.abs(moved - u).max() < 1e-15:
            break
        u = moved
    kappa = t @ u
    first = second * kappa
    n_classes, m = t.shape
    mixed = second[:, None, None] * t[:, :, None] * u + first[:, None, None] * np.eye(m)  # d^2 q / du dt, (C, m, m)
    mixed = mixed.transpose(1, 0, 2).reshape(m, -1)
    gaps = values[-1] - values[values < values[-1] - flat]
    response = stiff.T @ mixed
    hessian = (response.T / gaps) @ response
    for c in range(n_classes):
        rows = slice(c * m, (c + 1) * m)
        hessian[rows, rows] += second[c] * np.outer(u, u)
    return u, 0.5 * float(kappa @ first), np.outer(first, u).ravel(), hessian
