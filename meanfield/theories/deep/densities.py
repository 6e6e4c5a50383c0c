"""Densities of readouts, preactivations and activations in deep networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from meanfield.activations.density import _pieces
from meanfield.theories.deep.codes.free_words import FreeLaw
from meanfield.theories.deep.recomputed import MOST_NODES, RecomputedLayers
from meanfield.validation import FloatArray, real_array, short

__all__ = ["LayerDensities"]


class _Part(NamedTuple):
    """Some nodes: their shares (N,), fields b (N,) and h (H,) of one class, weights over h (N, H), and g there."""

    share: FloatArray
    b: FloatArray
    h: FloatArray
    joint: FloatArray
    g: FloatArray


def _by_field(law: FreeLaw, word: str, root: FloatArray) -> tuple[FloatArray, FloatArray]:
    """beta (k, r) and shares (k,) of the neurons with a word, those of nearly equal b = root . beta taken together."""
    b, share = law.beta @ root, law.share * law.part(word)
    at = ((b - b.min()) * ((MOST_NODES - 1) / max(float(np.ptp(b)), 1e-300))).astype(np.int64)
    total, *means = (np.bincount(at, weight, MOST_NODES) for weight in (share, *(law.beta.T * share)))
    some = total > 0.0
    return np.asarray(np.column_stack(means)[some] / total[some, None]), np.asarray(total[some], dtype=float)


class LayerDensities(RecomputedLayers):
    """The questions about densities that a deep posterior answers."""

    def readout_density(self, a: object) -> FloatArray:
        """Density of the readout at `a`, shape (..., m).

        Raises
        ------
        ValueError
            At P = infinity (a sum of deltas), for more than three classes of different targets and for a wrong shape.
        """
        a = real_array("a", a)
        m = self.task.n_outputs
        if a.shape[-1:] != (m,):
            raise ValueError(f"a must have shape (..., m) with m = {m}, got {a.shape}.")
        if self.scheme == "analog":
            inverse, (_, log_det) = np.linalg.inv(self.readout_covariance), np.linalg.slogdet(self.readout_covariance)
            return np.asarray(
                np.exp(
                    -0.5 * np.einsum("...i,ij,...j->...", a, inverse, a) - 0.5 * (log_det + m * math.log(2 * math.pi))
                )
            )
        self._finite("the readout posterior")
        if self.solution.frozen:
            raise ValueError("with given shares of the codes the readout has a density per code only; read .codes.")
        self._on_one_lattice("the density of readouts")
        system, order, top = self._system, self._order, self.network.depth - 1
        scale = math.sqrt(system.problem.readout_variance)
        flat = a.reshape(-1, m) / scale
        log_weight = system.layers[top].log_density(system.setting(order, top), flat)
        log_z = system.averages(order, top)[0].log_z
        density = np.exp(log_weight - log_z - 0.5 * m * math.log(2 * math.pi)) / scale**m
        return np.asarray(density.reshape(a.shape[:-1]))

    def preactivation_density(self, code: object, cls: int | str, grid: object, layer: int = -1) -> FloatArray:
        """Density of the preactivation on a training sample of class `cls` over the neurons of a code (None: all).

        Neurons have the codes of `codes` and `sample_neurons`; where these are those of whole nodes (`certificate.cuts`
        then has which part may have another), or shares are given, so is the density.

        Parameters
        ----------
        code : None, int, str or Code
            Index or pattern in `layer_codes(layer)`.
        cls : int or str
        grid : array-like
        layer : int
        """
        z = real_array("grid", grid)
        return np.asarray(self._density(code, cls, self._layer(layer) - 1)(z.ravel()).reshape(z.shape))

    def activation_density(self, code: object, cls: int | str, grid: object, layer: int = -1) -> FloatArray:
        """Density of the activation phi(z), as `preactivation_density`."""
        value = real_array("grid", grid)
        density, phi = self._density(code, cls, self._layer(layer) - 1), self.network.activation
        total, reach = np.zeros(value.shape), self._reach(cls, self._layer(layer) - 1)
        for piece in _pieces(phi, -reach, reach):
            if piece.flat:
                continue
            inside = (value > min(piece.ends)) & (value < max(piece.ends))
            z = piece.invert(phi, value[inside])
            with np.errstate(divide="ignore"):
                total[inside] += density(z) / np.abs(phi.derivative(z))
        return total

    def _reach(self, cls: int | str, layer: int) -> float:
        """|z| beyond which there is no weight: of a Gaussian of the prior's size, tilted by fields b and delta~."""
        setting, c = self._system.setting(self._order, layer), int(self._members.index[self._find_class(cls)])
        phi, root = self.network.activation, setting.root[c]
        largest = max(abs(phi.infimum), abs(phi.supremum))
        if self._exchanged:
            field = float(np.abs(self._class_law(layer).b).max())
        else:
            field = float(np.abs(self._nodes(layer)[0].beta @ root).max())
        gain = 2.0 * field * largest + abs(float(setting.delta[c])) * largest**2
        shared = 0.0 if layer == 0 else float(setting.covariance[c, c])
        return math.sqrt(float(setting.d[c])) * math.sqrt(80.0 + 2.0 * gain) + 12.0 * math.sqrt(shared)

    def _density(self, code: object, cls: int | str, layer: int) -> Callable[[FloatArray], FloatArray]:
        """z -> density of z for class `cls` under a code."""
        self._finite("the law of an activation")
        system, order = self._system, self._order
        which = self._find_class(cls)
        c = int(self._members.index[which])
        if self._members.sign[which] < 0.0:  # the mirror image of the first class of its kind
            image = self._density(code, int(self._members.first[c]), layer)
            return lambda z: image(-z)
        if self._exchanged:
            law = self._class_law(layer)
            return law.density(self.network.activation, law.of(None if code is None else self._word(code, layer), c))
        detail, words = self._nodes(layer)
        setting, parts, free = system.setting(order, layer), [], None
        word = None if code is None else self._word(code, layer)
        if word is not None and not (system.codes and layer == system.problem.depth - 1):
            if not setting.covariance.any():
                free = self._free_law(layer)
            else:
                by_word = self._word_law(layer)
                if by_word is not None:  # else words of nodes, see `certificate.cuts`
                    if by_word.law is not None:
                        h, joint, g = by_word.law.of_field(word, c)
                        parts.append(_Part(by_word.some.share, by_word.law.b[:, c], h, joint, g))
                    detail, words = by_word.sure, by_word.words
        if free is not None and word is not None:
            beta, share = _by_field(free, word, setting.root[c])
        else:
            beta, share = detail.beta, detail.share if word is None else np.where(words == word, detail.share, 0.0)
        if system.around_peaks and share.any():
            return system.layers[layer].preactivations(setting, share / share.sum(), c)
        rows = np.argsort(-share)[:MOST_NODES]
        rows = rows[share[rows] > 1e-12 * share.max(initial=0.0)]
        if len(rows):
            beta = beta[rows]
            parts.append(_Part(share[rows], beta @ setting.root[c], *system.layers[layer].class_law(setting, beta, c)))
        total = sum(float(part.share @ part.joint.sum(axis=1)) for part in parts)
        if not total > 0.0:
            raise ValueError(f"the code {short(code)} is too light for a density: its few neurons are on its border.")
        d, delta = float(setting.d[c]), float(setting.delta[c])
        phi = self.network.activation

        def density(z: FloatArray) -> FloatArray:
            out = np.zeros(len(z))
            for start, part in itertools.product(range(0, len(z), 256), parts):
                at, g = z[start : start + 256], part.g
                gauss = np.exp(-0.5 * (at - part.h[:, None]) ** 2 / d) / math.sqrt(2 * math.pi * d)
                value = phi(at)
                top = g.min(axis=1, keepdims=True)
                inside = (part.joint * np.exp(top - g)) @ gauss
                tilt = np.exp(np.clip(part.b[:, None] * value + 0.5 * delta * value**2 - top, -700.0, 700.0))
                out[start : start + 256] += part.share @ (inside * tilt) / total
            return out

        return density
