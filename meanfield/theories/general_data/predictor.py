"""Predictors of nonlinear networks on any data, from the mixture that solves them.

See general_data/THEORY.md, "Predictors".

The posterior of a neuron is a mixture over readouts a_i (lattice nodes, some resolved along a soft direction u of the
weights) of weight p_i. In each, the weights w of the first layer are Gaussian, with precision A = 1 + F^T S F and mean
A^{-1} F^T nu, so a new preactivation is z* ~ N(m*, v*), m* = F* w, v* = |L^{-1} F*^T|^2 + rho*. Then

    f(x) = sum_i p_i a_i E_i phi(z*),
    Var f_r(x) = [C** - C* (C + tau)^{-1} C*^T] / N,
    C = sum_i p_i C_i (x) a_i a_i^T + sum_i p_i (g_i - g)(g_i - g)^T,    g_i = E_i phi (x) a_i,

where C_i is the covariance of phi over samples, Cov(phi, phi') = c Sigma_zz' c' with c = Cov(phi, z) / Var z.
Outliers (unbounded phi) add lam_o phi(F* w_o) u_o to the mean. Their own fluctuations, of order 1/N too, are not in the
variance.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from meanfield.activations.activation import Activation
from meanfield.posterior.predictor import Drawn
from meanfield.problem.data_task import DataTask
from meanfield.problem.features import Features
from meanfield.problem.network import Network
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray

_Result = TypeVar("_Result")

__all__ = ["GeneralPredictor", "hermite_moments"]

_NEGLIGIBLE = 1e-7  # weight of all components that are left out
_NEGLIGIBLE_IN_KERNEL = 1e-5
_TERMS = 16  # of Mehler's series for kernels, at most
_SMALL = 1e-6  # last term that is kept, relative to the first
_REACH = 9.0
_GAUSS_X, _GAUSS_W = np.polynomial.legendre.leggauss(16)
_BLOCK = 200  # test inputs treated at a time
_SMALLEST, _AGREE = 1e-3, 1e-11  # step of a trapezoidal sum that is halved until two shifts of it agree so well
_RIDGE = 1e-10  # of the mean diagonal: where tau is smaller the response is regularised by it
_SAME_INPUT = 1.0 - 1e-9  # correlation of preactivations from which two inputs are one
_COARSE = 0.3  # step of the trapezoidal rule for a Gaussian of variance 1
_WIDE = 30.0  # standard deviation of z beyond which nodes at equal distances would be too many
_NODES = 2_000_000  # of all rows that are treated at a time


def hermite_moments(
    phi: Activation, mean: FloatArray, variance: FloatArray, terms: int
) -> tuple[FloatArray, FloatArray]:
    """E[phi(z) h_j(x)] for j < terms, (n, terms), and E[phi(z)^2] (n,), where z = mean + sqrt(variance) x, x ~ N(0, 1).

    h_j are Hermite polynomials, orthonormal: the first moment is E phi, the second sqrt(variance) E phi'. Quadrature
    by Gauss-Legendre panels that end at the kinks of phi; where there are none by the trapezoidal rule (spectrally
    accurate) with a step that resolves phi, in x or, for wide distributions, in asinh z.
    """
    root = np.sqrt(np.maximum(variance, 1e-300))
    found, square = np.empty((len(mean), terms)), np.empty(len(mean))
    if phi.kinks:
        groups = [(np.arange(len(mean)), _panels(phi, mean, root))]
    else:
        wide = root > _WIDE
        groups = [
            (np.flatnonzero(mine), grid(phi, mean[mine], root[mine]))
            for mine, grid in ((~wide, _even), (wide, _stretch))
            if mine.any()
        ]
    for rows, (x, w) in groups:
        block = max(1, _NODES // x.shape[1])
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            mine = rows[part]
            own = slice(None) if len(x) == 1 else part
            values = phi(mean[mine, None] + root[mine, None] * x[own])
            found[mine], square[mine] = _project(values, x[own], w[own], terms)
    return found, square


def _project(value: FloatArray, x: FloatArray, w: FloatArray, terms: int) -> tuple[FloatArray, FloatArray]:
    """Sums of phi h_j (n, terms) and phi^2 (n,) over nodes x with weights w, (1, nodes) or (n, nodes)."""
    weighted = value * w
    found = np.empty((len(value), terms))
    before, now = np.zeros_like(x), np.ones_like(x)
    for j in range(terms):
        found[:, j] = (weighted * now).sum(axis=1) if x.shape[0] > 1 else weighted @ now[0]
        before, now = now, (x * now - math.sqrt(j) * before) / math.sqrt(j + 1)
    return found, (weighted * value).sum(axis=1)


def _panels(phi: Activation, mean: FloatArray, root: FloatArray) -> tuple[FloatArray, FloatArray]:
    inner = np.clip((np.array(phi.kinks) - mean[:, None]) / root[:, None], -_REACH, _REACH)
    ends = np.full((len(mean), 1), _REACH)
    edges = np.sort(np.concatenate([-ends, inner, ends, np.zeros_like(ends)], axis=1), axis=1)
    half, middle = 0.5 * np.diff(edges), 0.5 * (edges[:, 1:] + edges[:, :-1])
    parts = 4  # of each panel
    shift = (2.0 * np.arange(parts) + 1.0) / parts - 1.0
    nodes = (shift[:, None] + _GAUSS_X / parts).ravel()
    weights = np.tile(_GAUSS_W / parts, parts)
    x = np.asarray((middle[:, :, None] + half[:, :, None] * nodes).reshape(len(mean), -1), dtype=np.float64)
    return x, (half[:, :, None] * weights).reshape(len(mean), -1) * _gaussian_density(x)


def _even(phi: Activation, mean: FloatArray, root: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Nodes at equal distances, the same for all rows."""
    step = min(_COARSE, _resolution(phi) / float(root.max()))
    count = math.ceil(_REACH / step)
    x: FloatArray = step * np.arange(-count, count + 1, dtype=np.float64)[None, :]
    return x, step * _gaussian_density(x)


def _stretch(phi: Activation, mean: FloatArray, root: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Nodes at equal distances of asinh z: dense where |z| is small and phi bends, sparse where it is nearly straight.

    Far from zero they are |z| du apart, which has to resolve the Gaussian.
    """
    low, high = np.arcsinh(mean - _REACH * root), np.arcsinh(mean + _REACH * root)
    largest = np.minimum(0.1 * _resolution(phi), _COARSE * root / np.maximum(np.abs(mean), root))
    count = int(np.ceil(((high - low) / largest).max())) + 1
    u = np.linspace(low, high, count, axis=1)
    x = (np.sinh(u) - mean[:, None]) / root[:, None]
    return x, (u[:, 1:2] - u[:, :1]) * np.cosh(u) / root[:, None] * _gaussian_density(x)


def _gaussian_density(x: np.ndarray) -> FloatArray:
    return np.asarray(np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


@lru_cache(maxsize=32)
def _resolution(phi: Activation) -> float:
    """Step in z at which the trapezoidal rule knows E phi and E phi^2 of Gaussians to rounding, 5e-4 at least."""
    root, mean = 3.0, np.linspace(-9.0, 9.0, 19)[:, None]
    step = _COARSE
    while step > _SMALLEST:
        sums = []
        for shift in (0.0, 0.5):
            x = step / root * (np.arange(math.ceil(-_REACH * root / step), math.ceil(_REACH * root / step)) + shift)
            value = phi(mean + root * x)
            w = step / root * _gaussian_density(x)
            sums.append(np.array([value @ w, value**2 @ w]))
        if np.abs(sums[0] - sums[1]).max() <= _AGREE * max(1.0, float(np.abs(sums[0]).max())):
            break
        step *= 0.5
    return step


class Component(NamedTuple):
    """A Gaussian of the mixture, prepared for new inputs."""

    lower: FloatArray  # L (r, r)
    solved: FloatArray  # V = L^{-1} F_d^T (r, P)
    centre: FloatArray  # c = L^{-1} F_d^T nu (r,)
    direction: FloatArray | None  # u (r,)
    x: float


def _gaussian(component: Component, new: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean (n,) of z* and V* (r, n) of features (n, r)."""
    offset: float | FloatArray = 0.0
    if component.direction is not None:
        projection = new @ component.direction
        new = new - np.outer(projection, component.direction)
        offset = component.x * projection
    solved = solve_triangular(component.lower, new.T, lower=True, check_finite=False)
    return component.centre @ solved + offset, solved


@dataclass(frozen=True, eq=False)
class GeneralPredictor:
    """See the module; `solution` is a `meanfield.theories.general_data.solution.GeneralSolution`.

    With frozen code weights the network cannot move neurons between codes: then g is the mean over the code of i.
    """

    network: Network
    task: DataTask
    tau: float
    solution: GeneralSolution
    part_names: tuple[str, ...]  # codes, then outliers

    # ---- the mixture -------------------------------------------------------------------------------

    @property
    def _features(self) -> Features:
        return self.task.features(self.network.sigma_w)

    @cached_property
    def _rows(self) -> IntArray:
        """Components that carry weight, heaviest first."""
        weight = self.solution.weight
        order = np.argsort(-weight, kind="stable")
        kept = int(np.searchsorted(np.cumsum(weight[order]), weight.sum() - _NEGLIGIBLE)) + 1
        return order[:kept]

    @cached_property
    def _weights(self) -> FloatArray:
        weight = self.solution.weight[self._rows]
        return np.asarray(weight / self.solution.weight.sum())

    def _component(self, row: int) -> Component:
        s, features = self.solution, self._features.matrix
        sites, linear = s.s[row], s.nu[row]
        u, x = None, 0.0
        if s.soft[row] >= 0:
            u, x = s.directions[s.soft[row]], float(s.soft_x[row])
            projection = features @ u
            features = features - np.outer(projection, u)
            linear = linear - sites * (x * projection)
        precision = features.T @ (sites[:, None] * features)
        precision.flat[:: len(precision) + 1] += 1.0
        lower = np.linalg.cholesky(precision)
        solved = solve_triangular(lower, features.T, lower=True, check_finite=False)
        return Component(lower, solved, solved @ linear, u, x)

    def _each(self, job: Callable[[int], _Result], count: int | None = None) -> Iterable[_Result]:
        """job(position) for every component, or the heaviest ones, on all processors."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            yield from pool.map(job, range(len(self._rows) if count is None else count))

    def _moments(self, new: FloatArray, terms: int = 1) -> tuple[FloatArray, FloatArray]:
        """E_i[phi h_j] (components, n, terms) and v* (components, n) on inputs (n, N_0)."""
        features, residual = self._features.project(new)

        def job(position: int) -> tuple[FloatArray, FloatArray]:
            mean, solved = _gaussian(self._component(self._rows[position]), features)
            variance = (solved**2).sum(axis=0) + residual
            return hermite_moments(self.network.activation, mean, variance, terms)[0], variance

        found = list(self._each(job))
        return np.array([f for f, _ in found]), np.array([v for _, v in found])

    # ---- what it answers ---------------------------------------------------------------------------

    def mean(self, new: FloatArray) -> FloatArray:
        readout = self.solution.readout[self._rows]
        activation = self._moments(new)[0][:, :, 0]
        outputs = activation.T @ (self._weights[:, None] * readout)
        return np.asarray(outputs + self.outlier_outputs(new))

    def code_activations(self, new: FloatArray) -> FloatArray:
        """(G, n) mean activation of the neurons of each code on inputs (n, N_0)."""
        label = self.solution.basin[self._rows]
        activation = self._moments(new)[0][:, :, 0]
        share = np.where(np.arange(label.max() + 1)[:, None] == label, self._weights, 0.0)
        return np.asarray(share @ activation / share.sum(axis=1)[:, None])

    def outlier_activations(self, new: FloatArray) -> FloatArray:
        """(o, n) phi(F* w_o) of the outliers at |u| = 1, in units of sqrt(N)."""
        left, right = self.network.activation.slopes
        z = self.solution.outlier_w @ self._features.project(new)[0].T
        return np.asarray(np.where(z > 0.0, right, left) * z)

    def outlier_outputs(self, new: FloatArray) -> FloatArray:
        """(n, m) part of the outputs that the outliers make."""
        s = self.solution
        if not len(s.outlier_weight):
            return np.zeros((len(new), self.task.n_outputs))
        return np.asarray(self.outlier_activations(new).T @ (s.outlier_weight[:, None] * s.outlier_direction))

    def variance(self, new: FloatArray, width: float) -> FloatArray:
        blocks = [self._variance(new[i : i + _BLOCK]) for i in range(0, len(new), _BLOCK)]
        return np.maximum(np.concatenate(blocks), 0.0) / width

    @cached_property
    def _train(self) -> tuple[FloatArray, FloatArray]:
        """Cholesky factor of C + tau (P m, P m), and the centred sqrt(p_i) g_i (components, P m)."""
        s, weight, rows = self.solution, self._weights, self._rows
        p, m = s.t.shape
        readout = s.readout[rows]
        g = (s.phi[rows][:, :, None] * readout[:, None, :]).reshape(len(rows), p * m)
        g = self._centre(g)
        total = (g.T @ g).reshape(p, m, p, m)

        for i, covariance in enumerate(self._each(self._covariance)):
            outer = weight[i] * np.multiply.outer(readout[i], readout[i])
            for r in range(m):
                for q in range(m):
                    total[:, r, :, q] += outer[r, q] * covariance
        matrix = total.reshape(p * m, p * m)
        matrix.flat[:: p * m + 1] += max(self.tau, _RIDGE * float(np.trace(matrix)) / (p * m))
        return cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False), g

    def _variance(self, new: FloatArray) -> FloatArray:
        """N Var f_r on inputs (n, N_0)."""
        s, weight, rows = self.solution, self._weights, self._rows
        (p, m), n = s.t.shape, len(new)
        factor, g = self._train
        features, residual = self._features.project(new)
        readout = s.readout[rows]

        def job(position: int) -> tuple[FloatArray, FloatArray, FloatArray]:
            row = rows[position]
            component = self._component(row)
            mean, solved = _gaussian(component, features)
            variance = (solved**2).sum(axis=0) + residual
            moments, square = hermite_moments(self.network.activation, mean, variance, 2)
            slope = moments[:, 1] / np.sqrt(np.maximum(variance, 1e-300))
            cross = slope[:, None] * (solved.T @ component.solved) * s.gain[row]
            return moments[:, 0], square - moments[:, 0] ** 2, cross

        pairs = np.zeros((m, m, n, p))
        own = np.zeros((n, m))
        activation = np.empty((len(rows), n))
        for i, (phi, spread, cross) in enumerate(self._each(job)):
            activation[i] = phi
            own += np.multiply.outer(weight[i] * spread, readout[i] ** 2)
            pairs += (weight[i] * np.multiply.outer(readout[i], readout[i]))[:, :, None, None] * cross
        new_g = self._centre((activation[:, :, None] * readout[:, None, :]).reshape(len(rows), n * m))
        own += (new_g**2).sum(axis=0).reshape(n, m)
        cross = pairs.transpose(2, 0, 3, 1).reshape(n * m, p * m)
        cross = cross + new_g.T @ g
        explained = np.einsum("ij,ji->i", cross, cho_solve(factor, cross.T, check_finite=False))
        return np.asarray(own - explained.reshape(n, m))

    def _covariance(self, position: int) -> FloatArray:
        """C_i (P, P) of a component on the training inputs."""
        row = self._rows[position]
        b = self._component(row).solved * self.solution.gain[row]
        covariance = b.T @ b
        np.fill_diagonal(covariance, self.solution.spread[row])
        return np.asarray(covariance)

    def _centre(self, g: FloatArray) -> FloatArray:
        """sqrt(p_i) (g_i - g), g_i in rows."""
        weight, label = self._weights, self.solution.basin[self._rows]
        if not self.solution.frozen:
            label = np.zeros_like(label)
        centred = g.copy()
        for code in np.unique(label):
            mine = label == code
            centred[mine] -= weight[mine] @ g[mine] / weight[mine].sum()
        return centred * np.sqrt(weight)[:, None]

    def kernel(self, left: FloatArray, right: FloatArray | None, layer: int) -> FloatArray:
        other = left if right is None else right
        features, rest = self._features.project(left)
        others, others_rest = (features, rest) if right is None else self._features.project(other)
        scale = self.network.sigma_w**2 / left.shape[1]
        outside = scale * left @ other.T - features @ others.T  # covariance that the training inputs do not span

        def job(position: int) -> FloatArray:
            component = self._component(self._rows[position])
            parts = []
            for f, r in ((features, rest), (others, others_rest)):
                mean, solved = _gaussian(component, f)
                variance = (solved**2).sum(axis=0) + r
                parts.append((solved, variance, *hermite_moments(self.network.activation, mean, variance, _TERMS)))
            (v, variance, c, square), (v2, variance2, c2, square2) = parts
            scales = np.sqrt(np.maximum(np.multiply.outer(variance, variance2), 1e-300))
            rho = np.clip((v.T @ v2 + outside) / scales, -1.0, 1.0)
            size = np.abs(c).max(axis=0) * np.abs(c2).max(axis=0)
            total = np.zeros_like(rho)
            for j in range(int(np.flatnonzero(size > _SMALL * size[0])[-1]), -1, -1):
                total *= rho
                total += np.multiply.outer(c[:, j], c2[:, j])
            if rho.max() > _SAME_INPUT:  # the same input: no series
                same = (rho > _SAME_INPUT) & np.isclose(square[:, None], square2)
                total[same] = np.sqrt(np.multiply.outer(square, square2))[same]
            return self._weights[position] * total

        share = np.cumsum(self._weights)
        count = int(np.searchsorted(share, (1.0 - _NEGLIGIBLE_IN_KERNEL) * share[-1])) + 1
        kernel = sum(self._each(job, count)) / share[count - 1]
        if len(self.solution.outlier_weight):
            left_o = self.outlier_activations(left)
            right_o = left_o if right is None else self.outlier_activations(other)
            kernel = kernel + (left_o.T * self.solution.outlier_weight) @ right_o
        return np.asarray(kernel)

    def training_kernel(self) -> FloatArray:
        """(P, P) kernel on the training inputs from the tilted moments of expectation propagation."""
        s, weight, rows = self.solution, self._weights, self._rows
        phi = s.phi[rows]
        kernel = (phi.T * weight) @ phi

        for w, covariance in zip(weight, self._each(self._covariance)):
            kernel += w * covariance
        outlier = self.outlier_activations(self.task.inputs)
        return np.asarray(kernel + (outlier.T * s.outlier_weight) @ outlier)

    def draw(self, n: int, new: FloatArray, rng: np.random.Generator) -> Drawn:
        """Weights from the mixture; readouts from their Gaussian given the weights, N(s2 t^T phi, s2)."""
        s, features = self.solution, self._features
        outliers = len(s.outlier_weight)
        codes = len(self.part_names) - outliers
        if n <= outliers:
            raise ValueError(f"n = {n} neurons cannot hold {outliers} outliers and a bulk; ask for more neurons.")
        chosen = rng.choice(len(self._rows), size=n, p=self._weights / self._weights.sum())
        part = s.basin[self._rows[chosen]].astype(np.intp)
        noise = rng.standard_normal((n, features.rank))
        w = np.empty_like(noise)
        for position in np.unique(chosen):
            mine = chosen == position
            component = self._component(self._rows[position])
            right = (component.centre + noise[mine]).T
            drawn = solve_triangular(component.lower, right, lower=True, trans=1, check_finite=False).T
            if component.direction is not None:
                u = component.direction
                drawn += np.outer(component.x - drawn @ u, u)
            w[mine] = drawn
        prior = self.network.sigma_a**2 / self.task.n_samples
        on_training = self.network.activation(w @ features.matrix.T)
        readouts = prior * on_training @ s.t + math.sqrt(prior) * rng.standard_normal((n, s.t.shape[1]))
        for o in range(outliers):  # the last neurons become the outliers
            row, size = n - outliers + o, math.sqrt(n * s.outlier_weight[o])
            part[row], readouts[row], w[row] = codes + o, size * s.outlier_direction[o], size * s.outlier_w[o]
        # The part of the weights that no training input has seen keeps its prior.
        unseen = rng.standard_normal((n, new.shape[1]))
        unseen -= (unseen @ features.map) @ features.map.T
        unseen[n - outliers :] = 0.0
        scale = self.network.sigma_w / math.sqrt(new.shape[1])
        z = w @ features.project(new)[0].T + scale * unseen @ new.T
        return readouts, part, self.part_names, z
