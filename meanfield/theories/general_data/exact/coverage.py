"""Whether a proposal reaches every code: maxima of the exact density, found by scouting, held against it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.general_data.exact.moves import move
from meanfield.theories.general_data.exact.proposal import Mixture
from meanfield.theories.general_data.exact.readout import readout_given
from meanfield.theories.general_data.joint.codes import JointNeuron
from meanfield.theories.general_data.joint.scout import Scout
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray

__all__ = ["Mode", "climbed", "cover", "gather", "modes"]

_MOST = 40  # modes that are looked at
_DEPTH = 12.0  # ln of the weight below which a mode does not matter
_UNCOVERED = 5.0  # mean of ln p - ln q - ln Z
_DRAWS = 50
_STEPS = 40
_SAME = 1e-2  # mean square difference of preactivations
_ADDED = 0.05  # weight in the proposal
_RANDOM, _CHAINS, _SLICES = 24, 20, 8  # starts, chains of each and their moves, where phi jumps


class Mode(NamedTuple):
    """A maximum of ln p(w) = s2 |t^T phi(F w)|^2 / 2 - |w|^2 / 2, and the Gaussian there.

    Attributes
    ----------
    weights : (r,) array
    root : (r, r) array
        Of the covariance.
    log_z : float
        Laplace estimate of its part of Z.
    """

    weights: FloatArray
    root: FloatArray
    log_z: float


def modes(solution: GeneralSolution, t: FloatArray, labels: IntArray | None, rng: np.random.Generator) -> list[Mode]:
    """Maxima where ascents end that start from sets of classes, or at random; highest first."""
    neuron = JointNeuron(solution.activation, solution.features, solution.prior, 1)
    try:
        scout = Scout(labels, neuron, rng)
        random = np.sign(solution.features @ rng.normal(size=(solution.features.shape[1], 24)))
        signs = np.concatenate([scout.sets, random], axis=1)
        value, _, z = scout.ascend(t, signs)
    finally:
        neuron.pool.shutdown(wait=False)
    found: list[Mode] = []
    seen: list[FloatArray] = []
    top = -math.inf
    for i in np.argsort(-value, kind="stable")[:_MOST]:
        if seen and np.mean((np.array(seen) - z[i]) ** 2, axis=1).min() < _SAME:
            continue
        start = np.linalg.lstsq(solution.features, z[i], rcond=None)[0]
        mode = _laplace(solution, t, start)
        if mode is None:
            continue
        at = solution.features @ mode.weights
        if seen and np.mean((np.array(seen) - at) ** 2, axis=1).min() < _SAME:
            continue
        seen += [at]
        top = max(top, mode.log_z)
        found.append(mode)
    return sorted((mode for mode in found if mode.log_z > top - 2.0 * _DEPTH), key=lambda mode: -mode.log_z)


def climbed(solution: GeneralSolution, t: FloatArray, points: FloatArray) -> list[Mode]:
    """Maxima where Newton's method ends from these points, each of them once."""
    found: list[Mode] = []
    seen: list[FloatArray] = []
    for point in points:
        mode = _laplace(solution, t, point)
        if mode is None:
            continue
        at = solution.features @ mode.weights
        if not seen or np.mean((np.array(seen) - at) ** 2, axis=1).min() >= _SAME:
            seen.append(at)
            found.append(mode)
    return found


def gather(solution: GeneralSolution, t: FloatArray, labels: IntArray | None, rng: np.random.Generator) -> list[Mode]:
    """Where chains stay that start from sets of classes, or at random; for phi with jumps, which nothing can climb.

    Every start is followed by elliptical slices of the exact measure; a Gaussian with the moments of its chains stands
    for the place. ln Z of it is the mean of ln p plus its entropy.
    """
    features = solution.features
    rank = features.shape[1]
    neuron = JointNeuron(solution.activation, features, solution.prior, 1)
    try:
        scout = Scout(labels, neuron, rng)
        signs = np.concatenate([scout.sets, np.sign(features @ rng.normal(size=(rank, _RANDOM)))], axis=1)
        starts = np.linalg.solve(scout.ridge, features.T @ signs).T
    finally:
        neuron.pool.shutdown(wait=False)
    starts = starts[:_MOST]
    points = np.repeat(starts, _CHAINS, axis=0)
    places = []
    for _ in range(_SLICES):
        check_time()
        points = move(solution, points, t, 1, rng)
        places.append(points.reshape(len(starts), _CHAINS, rank))
    found = []
    for mine in np.concatenate(places[_SLICES // 2 :], axis=1):
        mean, off = mine.mean(axis=0), mine - mine.mean(axis=0)
        shrink = rank / (rank + len(mine))
        covariance = (1.0 - shrink) * (off.T @ off) / len(mine) + shrink * np.diag((off**2).mean(axis=0) + 1e-6)
        root = np.linalg.cholesky(covariance)
        along = solution.activation(mine @ features.T) @ t
        level = 0.5 * solution.prior * (along**2).sum(axis=1) - 0.5 * (mine**2).sum(axis=1)
        found.append(Mode(mean, root, float(level.mean() + np.log(np.diag(root)).sum() + 0.5 * rank)))
    return sorted(found, key=lambda mode: -mode.log_z)


def cover(
    mixture: Mixture,
    solution: GeneralSolution,
    t: FloatArray,
    log_z: float,
    found: list[Mode],
    rng: np.random.Generator,
    reach: float = math.inf,
) -> tuple[Mixture, float]:
    """The proposal with the modes that it missed, and their weight (0 if there were none)."""
    missed = 0.0
    for mode in found:
        if mode.log_z < log_z - _DEPTH:
            continue
        points = mode.weights + rng.standard_normal((_DRAWS, len(mode.weights))) @ mode.root.T
        centre = solution.prior * (solution.activation(points @ solution.features.T) @ t)
        level = readout_given(centre, solution.prior, reach).level - 0.5 * (points**2).sum(axis=1)
        if float(np.mean(level - mixture.log_density(points))) - log_z > _UNCOVERED:
            missed += math.exp(min(0.0, mode.log_z - log_z))
            mixture = mixture.join(_ADDED, mode.weights, mode.root)
    return mixture, min(missed, 1.0)


def _laplace(solution: GeneralSolution, t: FloatArray, weights: FloatArray) -> Mode | None:
    """Newton's method from `weights`, with a ridge where ln p is not concave."""
    features, s2, phi_of = solution.features, solution.prior, solution.activation
    rank = features.shape[1]

    def level(w: FloatArray) -> float:
        return float(0.5 * s2 * np.sum((t.T @ phi_of(features @ w)) ** 2) - 0.5 * w @ w)

    value = level(weights)
    for _ in range(_STEPS):
        check_time()
        slope, curvature = _derivatives(solution, t, weights)
        if np.abs(slope).max() < 1e-6 * (1.0 + np.abs(weights).max()):
            break
        least = float(np.linalg.eigvalsh(curvature)[0])
        step = np.linalg.solve(curvature + max(0.0, 0.1 - least) * np.eye(rank), slope)
        length = 1.0
        while length > 1e-4 and not level(weights + length * step) >= value:
            length *= 0.5
        if length <= 1e-4:
            break
        weights = weights + length * step
        value = level(weights)
    slope, curvature = _derivatives(solution, t, weights)
    eigenvalues, vectors = np.linalg.eigh(curvature)
    eigenvalues = np.clip(eigenvalues, 0.1, None)  # no wider than thrice the prior
    root = np.linalg.cholesky((vectors / eigenvalues) @ vectors.T)
    return Mode(weights, root, value - 0.5 * float(np.log(eigenvalues).sum()))


def _derivatives(solution: GeneralSolution, t: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gradient of ln p and minus its second derivative."""
    features, s2, phi_of = solution.features, solution.prior, solution.activation
    z, step = features @ weights, 1e-3
    slope = phi_of.derivative(z)
    bend = (phi_of.derivative(z + step) - phi_of.derivative(z - step)) / (2.0 * step)
    response = t @ (t.T @ phi_of(z))
    gradient = s2 * features.T @ (slope * response) - weights
    along = features.T @ (slope[:, None] * t)
    curvature = np.eye(len(weights)) - s2 * (along @ along.T)
    curvature -= s2 * features.T @ ((bend * response)[:, None] * features)
    return gradient, curvature
