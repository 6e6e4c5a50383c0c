"""Local maxima of the weight of a neuron: its codes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.rules import Setting, activation_range
from meanfield.validation import FloatArray

__all__ = ["Maxima"]

_STRIDE = 0.6
_STILL, _SETTLED = 1e-4, 1e-13  # relative change, at which maxima are found well enough, and exactly
_UNSURE = 15.0  # nats: maxima are found roughly, and their widths differ
_RESTART, _FEW = 12, 2  # maxima are looked for afresh every so many settings; always of more classes: codes come back
_X = np.linspace(-7.0, 7.0, 43)  # enough for maxima
_POWERS = _X[:, None] ** np.arange(3)


@dataclass(eq=False)
class Maxima:
    """Finds the maxima of one layer, and keeps them from one setting to the next."""

    phi: Activation
    n: FloatArray
    known: tuple[FloatArray, FloatArray] | None = None
    visits: int = 0

    def find(self, setting: Setting, depth: float, every: bool, exact: bool = False) -> tuple[FloatArray, FloatArray]:
        """Local maxima (b, h), each (k, C), of the weight reached from all sign patterns of b, and 0.

        b <- R R^T n g_b never lowers the weight; h moves by Newton steps. Unless `every`, those are left out that lie
        too low to matter at that depth. With `exact` they do not depend on where the search began.
        """
        n_classes = len(self.n)
        b_cov = setting.root @ setting.root.T
        if self.known is not None and n_classes <= _FEW and self.visits % _RESTART:
            (b, h), sweeps = self.known, 20
        else:
            (b, h), sweeps = self._starts(setting, b_cov), 60
            if self.known is not None:
                b, h = np.vstack([b, self.known[0]]), np.vstack([h, self.known[1]])
        sweeps, still = (60, _SETTLED) if exact else (sweeps, _STILL)
        self.visits += 1
        for _ in range(sweeps):
            before = b, h
            mean, force, stiffness = self.tilted(setting, b, h)
            b = (mean * self.n) @ b_cov
            if setting.covariance.any():
                # Newton in h: (1 - H n g_hh) dh = H n g_h - h, shortened.
                matrix = np.eye(n_classes) + setting.covariance * (self.n * stiffness)[:, None, :]
                wanted = (force * self.n) @ setting.covariance - h
                full = np.linalg.solve(matrix, wanted[:, :, None])[:, :, 0]
                h = h + full * np.minimum(1.0, _STRIDE / np.maximum(np.abs(full).max(axis=1, keepdims=True), 1e-12))
            if all(np.abs(one - other).max() <= still * np.abs(one).max() for one, other in zip((b, h), before)):
                break
        # All are kept: one that is too low now may be the highest of the next setting.
        self.known = _distinct(b, h)
        return self.known if every else self._relevant(setting, *self.known, depth)

    def _relevant(self, setting: Setting, b: FloatArray, h: FloatArray, depth: float) -> tuple[FloatArray, FloatArray]:
        value = self._heights(setting, b, h)
        kept = value > value.max() - depth - _UNSURE
        return b[kept], h[kept]

    def heights(self, setting: Setting) -> tuple[FloatArray, FloatArray]:
        """ln of the weight (k,) at the maxima that are known, and <phi> (k, C) there."""
        assert self.known is not None
        return self._heights(setting, *self.known), self.tilted(setting, *self.known)[0]

    def _heights(self, setting: Setting, b: FloatArray, h: FloatArray) -> FloatArray:
        """(k,) ln of the weight at pairs of b and h (k, C)."""
        beta = b @ np.linalg.pinv(setting.root).T
        value = -0.5 * (beta**2).sum(axis=1)
        if setting.covariance.any():
            value = value - 0.5 * ((h @ np.linalg.pinv(setting.covariance, hermitian=True)) * h).sum(axis=1)
        root = np.sqrt(setting.d)[:, None]
        phi = self.phi(h[:, :, None] + root * _X)
        exponent = b[:, :, None] * phi + 0.5 * setting.delta[:, None] * phi**2 - 0.5 * _X * _X
        top = exponent.max(axis=2)
        g = top + np.log(np.exp(exponent - top[:, :, None]).sum(axis=2))
        return np.asarray(value + g @ self.n)

    def _starts(self, setting: Setting, b_cov: FloatArray) -> tuple[FloatArray, FloatArray]:
        n_classes = len(self.n)
        low, high = activation_range(self.phi)
        middle = 0.5 * (low + high)
        patterns = np.array(list(itertools.product((low, high), repeat=min(n_classes, 8))))
        if n_classes > 8:
            patterns = np.vstack([np.where(np.eye(n_classes, dtype=bool), a, b) for a, b in ((low, high), (high, low))])
        patterns = np.vstack([patterns, patterns - middle, np.zeros((1, n_classes))])
        b = (patterns * self.n) @ b_cov
        h = np.zeros_like(b)
        if setting.covariance.any():
            h = 2.0 * np.sqrt(np.diag(setting.covariance)) * np.sign(b)
        return b, h

    def tilted(self, setting: Setting, b: FloatArray, h: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """<phi>, g_h and max(0, -g_hh) at pairs of b and h (k, C)."""
        root = np.sqrt(setting.d)[:, None]
        phi = self.phi(h[:, :, None] + root * _X)
        exponent = b[:, :, None] * phi + 0.5 * setting.delta[:, None] * phi**2 - 0.5 * _X * _X
        weight = np.exp(exponent - exponent.max(axis=2, keepdims=True))
        total, first, second = np.moveaxis(weight @ _POWERS, 2, 0)
        first, second = first / total, second / total
        mean = np.einsum("kcx,kcx->kc", weight, phi) / total
        return mean, first / root[:, 0], np.maximum(1.0 - second + first**2, 0.0) / setting.d


def _distinct(b: FloatArray, h: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rows that differ from all earlier ones by more than 2 % of the spread."""
    both = np.hstack([b, h])
    unit = np.maximum(np.abs(both).max(axis=0), 1e-12)
    kept: list[int] = []
    for i, row in enumerate(both):
        if all(np.abs((row - both[j]) / unit).max() > 0.02 for j in kept):
            kept.append(i)
    return b[kept], h[kept]
