"""Chains that start from neurons drawn from a solution of the theory: weights that give a network these neurons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from meanfield.problem.class_task import ClassTask
from meanfield.sampling.problem import SampledProblem, class_means, class_sizes
from meanfield.validation import FloatArray

__all__ = ["planted", "weights_of"]

_GIVE = 0.05  # by how much of their variance within a class preactivations of the upper layers may be missed


class DrawnNeurons(Protocol):
    """Readouts (n, m), preactivations (n, S) and codes (n,) of neurons, as `Posterior.sample_neurons` returns them."""

    @property
    def code(self) -> np.ndarray: ...
    @property
    def readouts(self) -> FloatArray: ...
    @property
    def preactivations(self) -> FloatArray: ...


class PlantedCode(Protocol):
    """A code and its share of the neurons."""

    @property
    def weight(self) -> float: ...


class Drawable(Protocol):
    """A posterior whose neurons can be drawn in every layer, with samples of each class as wanted."""

    @property
    def task(self) -> object: ...
    @property
    def codes(self) -> Sequence[PlantedCode]: ...
    @property
    def outliers(self) -> Sequence[object]: ...
    def sample_neurons(self, n: int, *, rng: np.random.Generator, **where: object) -> DrawnNeurons: ...


def planted(posed: SampledProblem, posterior: Drawable, rng: np.random.Generator) -> FloatArray:
    """Weights of a network whose neurons are drawn from the theory, with rounded instead of random code counts."""
    where: dict[str, object] = {}
    if isinstance(posterior.task, ClassTask):
        where["samples_per_class"] = class_sizes(posed.labels, posed.n_groups).tolist()
    depth = posed.network.depth
    z = [
        posterior.sample_neurons(n, rng=rng, layer=i, **where).preactivations
        for i, n in zip(range(1, depth), posed.widths)
    ]
    readouts, top = _last_layer(posed.width, posterior, rng, where)
    return weights_of(posed, readouts, [*z, top], rng)


def _last_layer(
    n: int, posterior: Drawable, rng: np.random.Generator, where: dict[str, object]
) -> tuple[FloatArray, FloatArray]:
    """Readouts and preactivations of n neurons, of every code its share of them."""
    codes = getattr(posterior, "codes", ())
    if len(codes) > 1 and not len(getattr(posterior, "outliers", ())):
        wanted = n * np.array([code.weight for code in codes]) / sum(code.weight for code in codes)
        quota = np.floor(wanted).astype(int)
        quota[np.argsort(quota - wanted, kind="stable")[: n - quota.sum()]] += 1
        for surplus in (4, 64):  # enough of the rarest code
            many = posterior.sample_neurons(surplus * n, rng=rng, **where)
            rows = [np.flatnonzero(many.code == g) for g in range(len(codes))]
            if all(row.size >= k for row, k in zip(rows, quota)):
                chosen = np.concatenate([row[:k] for row, k in zip(rows, quota)])
                return many.readouts[chosen], many.preactivations[chosen]
    neurons = posterior.sample_neurons(n, rng=rng, **where)
    return neurons.readouts, neurons.preactivations


def weights_of(
    posed: SampledProblem, readouts: FloatArray, z: Sequence[FloatArray], rng: np.random.Generator | None = None
) -> FloatArray:
    """All weights x of a network with these readouts (N, m) and preactivations (N_l, P), first layer first.

    The first layer has its preactivations exactly. Those of a layer above are regressed on the activations that the
    layer below really has: a draw of its weights from their prior, given preactivations with a little noise.
    """
    wanted = (posed.width, posed.n_outputs), (posed.widths[0], posed.n_samples)
    found = readouts.shape, z[0].shape
    if found != wanted:
        raise ValueError(
            f"planted neurons must have readouts {wanted[0]} and preactivations {wanted[1]}, got {found[0]} and "
            f"{found[1]}; solve the theory for the same task and n_samples."
        )
    if posed.features.size:
        parts = [np.linalg.lstsq(posed.features, z[0].T, rcond=None)[0].T]
    else:
        parts = [z[0] / posed.network.sigma_w]
    phi = np.asarray(posed.network.activation(z[0]))
    mean = class_means(posed.labels, posed.n_groups)
    for layer, scale in zip(z[1:], posed.network.scales[1:]):
        assert rng is not None
        low = len(phi)
        inputs = scale / math.sqrt(low) * phi  # (N_{l-1}, P): z = W inputs
        gram = inputs.T @ inputs
        noise = _GIVE * float(np.mean((inputs - (inputs @ mean)[:, posed.labels]) ** 2)) * low
        gram[np.diag_indices(len(gram))] += noise
        weights = rng.standard_normal((len(layer), low))
        missing = layer - weights @ inputs - math.sqrt(noise) * rng.standard_normal(layer.shape)
        weights = weights + cho_solve(cho_factor(gram), missing.T).T @ inputs.T
        parts.append(weights)
        phi = np.asarray(posed.network.activation(weights @ inputs))
    return np.concatenate([*(part.ravel() for part in parts), (readouts.T / posed.readout_std).ravel()])
