"""One layer of a linear network: all averages are Gaussian integrals (THEORY.md, "Linear phi")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.layers.products import pairs_of
from meanfield.theories.deep.layers.rules import Averages, NotCovered, Rule, Setting
from meanfield.validation import FloatArray

__all__ = ["LinearLayer", "linear_order"]


@dataclass(eq=False)
class LinearLayer:
    """Averages over the neurons of one layer with phi(z) = slope * z, as `Layer` gives them."""

    phi: Activation
    n: FloatArray
    rule: Rule
    last: bool = False
    turns: FloatArray | None = None

    def evaluate(
        self, setting: Setting, *, grow: bool = True, detail: bool = False, curvature: bool = False
    ) -> tuple[Averages, None]:
        """Averages of a layer.

        Raises
        ------
        NotCovered
            If the Gaussian integral diverges.
        """
        slope = self.phi.slopes[1]
        d = setting.d
        shrink = 1.0 - slope**2 * setting.delta * d
        if (shrink <= 0.0).any():
            raise NotCovered("the integral over a preactivation diverges")
        own = d / shrink  # d'
        values, vectors = np.linalg.eigh(setting.covariance)
        common = vectors * np.sqrt(np.maximum(values, 0.0))
        n_classes, r = setting.root.shape
        # Rows: b and h of every class as linear functions of unit Gaussians.
        b = np.hstack([slope * setting.root, np.zeros((n_classes, n_classes))])
        h = np.hstack([np.zeros((n_classes, r)), common])
        mean = own[:, None] * (b + h / d[:, None])  # mu
        precision = np.eye(r + n_classes)
        precision -= (mean.T * (self.n / own)) @ mean - (h.T * (self.n / d)) @ h
        if np.linalg.eigvalsh(precision)[0] <= 0.0:
            raise NotCovered("the integral over the fields of a layer diverges")
        covariance = np.linalg.inv(precision)
        force = (mean - h) / d[:, None]
        log_z = -0.5 * np.linalg.slogdet(precision)[1] - 0.5 * float(self.n @ np.log(shrink))
        return Averages(
            float(log_z),
            slope**2 * mean @ covariance @ mean.T,
            slope**2 * own,
            force @ covariance @ force.T,
            own / d**2 - 1.0 / d,
            self._second(setting) if curvature else None,
        ), None

    def _second(self, setting: Setting) -> FloatArray:
        """Second derivatives of ln Z = -1/2 sum_c (n_c - 1) ln(1 - q delta_c d_c) - 1/2 ln det(1 - q A B), q = slope^2.

        A = delta + sqrt(n) k~ sqrt(n) and B = d + sqrt(n) H sqrt(n) are what the conjugates and the covariance of z are
        on the constant vectors of the classes. Order of the parameters: as `Averages` has it.
        """
        n, q = self.n, self.phi.slopes[1] ** 2
        size, unit = len(n), np.diag(np.sqrt(n))
        a = np.diag(setting.delta) + unit @ setting.root @ setting.root.T @ unit
        b = np.diag(setting.d) + unit @ setting.covariance @ unit
        inverse = np.linalg.inv(np.eye(size) - q * a @ b)

        def entry(c: int, e: int) -> FloatArray:
            found = np.zeros((size, size))
            found[c, e] = found[e, c] = math.sqrt(n[c] * n[e])
            return found

        blocks = [entry(c, e) for c, e in pairs_of(size)]
        diagonals = [np.diag(row) for row in np.eye(size)]
        second_a: dict[tuple[int, int], FloatArray] = {}
        if self.last:
            r = setting.root.shape[1]
            by_a = []
            for c in range(size):
                for k in range(r):
                    one = np.zeros((size, size))
                    one[c] = setting.root[:, k]
                    by_a.append(unit @ (one + one.T) @ unit)
                    for e in range(size):
                        second_a[c * r + k, e * r + k] = entry(c, e) * (2.0 if c == e else 1.0)
        else:
            by_a = blocks
        by_a = by_a + diagonals
        by_b = blocks + diagonals if setting.covariance.any() else []
        zero = np.zeros((size, size))
        moves = [(x, zero) for x in by_a] + [(zero, x) for x in by_b]
        slopes = [inverse @ (x @ b + a @ y) for x, y in moves]
        total = np.empty((len(moves), len(moves)))
        for i, (x, y) in enumerate(moves):
            for j, (v, w) in enumerate(moves):
                bent = x @ w + v @ y + second_a.get((i, j), zero) @ b
                total[i, j] = 0.5 * q * np.trace(inverse @ bent) + 0.5 * q * q * np.trace(slopes[i] @ slopes[j])
        left = 1.0 - q * setting.delta * setting.d
        first, second = len(by_a) - size, len(moves) - size
        for c in range(size):
            factor = 0.5 * (n[c] - 1.0)
            total[first + c, first + c] += factor * (q * setting.d[c] / left[c]) ** 2
            if by_b:
                mixed = factor * (q / left[c] + q * q * setting.delta[c] * setting.d[c] / left[c] ** 2)
                total[second + c, second + c] += factor * (q * setting.delta[c] / left[c]) ** 2
                total[first + c, second + c] += mixed
                total[second + c, first + c] += mixed
        return total


def linear_order(
    n: FloatArray,
    y: FloatArray,
    s: float,
    k: float,
    scales: Sequence[float],
    slope: float,
    ratios: Sequence[float] | None = None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Kernels (L-1, C, C), d (L-1, C) and t (C, m) at tau = 0, in closed form (THEORY.md, "Linear phi"), as a start.

    The fields of layer l + 1 have covariance scales[l - 1] times the kernel of layer l, of width ratios[l - 1].
    """
    depth = len(scales) + 1
    width = np.ones(depth) if ratios is None else np.array(ratios)
    gain = slope**2 * np.array([1.0, *scales]).cumprod() * slope ** (2 * np.arange(depth))  # of layer 1..L
    q, vectors = np.linalg.eigh((y.T * n) @ y / k)
    q = np.maximum(q, 0.0) / gain[-1]
    v = np.full_like(q, 0.0)
    for i, value in enumerate(q):
        low, high = -80.0, math.log(1.0 / s)
        for _ in range(200):
            middle = 0.5 * (low + high)
            if middle + float(np.log1p(math.exp(middle) * value / width).sum()) > -math.log(s):
                high = middle
            else:
                low = middle
        v[i] = math.exp(0.5 * (low + high))
    grown = np.cumprod(1.0 + v * q / width[:, None], axis=0)  # (L, m): what learning makes of a direction
    kernels, d = [], []
    for layer in range(1, depth):
        start = v * float((1.0 / width[:layer]).sum())  # the limit of no signal
        growth = np.where(q > 0.0, (grown[layer - 1] - 1.0) / np.maximum(q, 1e-300), start)
        kernels.append(gain[layer - 1] / gain[-1] * y @ (vectors * growth) @ vectors.T @ y.T)
        d.append(np.full(len(n), gain[layer - 1] * k))
    t = y @ (vectors / (s * gain[-1] * k * grown[-1])) @ vectors.T
    shape = (depth - 1, len(n), len(n))
    return np.array(kernels).reshape(shape), np.array(d).reshape(shape[:2]), t
