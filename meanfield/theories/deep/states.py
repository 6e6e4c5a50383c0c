"""Codes of a layer: its neurons grouped by the classes they respond to.

With one conjugate field the weight is a mixture of unit Gaussians on a uniform lattice, all of which is known from its
values there: a code is an interval of the field, from one place where a mean activation passes the midpoint to the
next, and its sums are integrals of the cardinal series, 1/2 + Si(pi (x_k - cut) / s) / pi of node k beyond a cut. Whole
nodes would do only where no neuron is near a cut: without codes a third of them is in the node at zero field.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.spatial import cKDTree
from scipy.special import sici

from meanfield.theories.deep.products import MeanMoments
from meanfield.theories.deep.rules import Detail, activation_range, code_words
from meanfield.theories.deep.system import Order, System, patched
from meanfield.validation import FloatArray

__all__ = ["States", "layer_intervals", "layer_nodes", "layer_states", "mean_kurtosis", "top_states"]

_LIGHTEST = 1e-8
_TIE = 1e-9  # of the range of phi: a mean activation that is the midpoint
_UNIFORM = 1e-6  # of its spacing, by which a node may be off a lattice
_CLEAR = 1e-10  # share of a node beside a cut, below which whole nodes do
_WEIGHTY = 1e-6  # share of a node whose neighbours are looked at
_GAP = 1.5  # spacings from which on nothing is between two nodes


@dataclass(frozen=True, eq=False)
class States:
    """Groups of neurons, heaviest first.

    Attributes
    ----------
    patterns : tuple of str
    share : (n,) array
    beta, covariance : (n, r) and (n, r, r) arrays
        Mean and covariance of the whitened conjugate field: readouts divided by sqrt(s) in the last layer.
    activation, variance : (n, C) arrays
        Mean of the activation on a sample of each class, and its variance over neurons and samples.
    second_beta : (r, r) array
        <beta beta^T> over all neurons.
    beside : float
        Part of the neurons that are at a node beside one of another code, and may have that one.
    """

    patterns: tuple[str, ...]
    share: FloatArray
    beta: FloatArray
    covariance: FloatArray
    activation: FloatArray
    variance: FloatArray
    second_beta: FloatArray
    beside: float = 0.0


def layer_nodes(system: System, order: Order, layer: int) -> tuple[Detail, FloatArray]:
    """Nodes of a layer with their shares, and the code pattern (N,) of each."""
    phi = system.problem.phi
    if not (system.codes and layer == system.problem.depth - 1):
        detail = system.detail(order, layer)
        return detail, code_words(phi, detail.activation)
    assert system.fractions is not None
    words = tuple(word for orbit in system.members for word in orbit)
    share = [value for orbit, value in zip(system.members, system.given) for _ in orbit]
    found = system.layers[layer].evaluate_codes(system.setting(order, layer), words, detail=True)
    details = [detail for _, detail in found]
    merged = Detail(
        np.concatenate([d.beta for d in details]),
        np.concatenate([f * d.share for f, d in zip(share, details)]),
        *(
            np.concatenate([getattr(d, name) for d in details])
            for name in ("log_weight", "activation", "activation_square", "noise", "field")
        ),
    )
    return merged, np.repeat(words, [len(d.beta) for d in details])


@dataclass(frozen=True, eq=False)
class Intervals:
    """Codes (k + 1,) of a layer with one conjugate field, in order, the cuts (k,) between them, and the spacing."""

    words: tuple[str, ...]
    cuts: FloatArray
    spacing: float

    def at(self, beta: FloatArray) -> FloatArray:
        """Words (...,) of neurons with these whitened fields (...,)."""
        return np.array(self.words)[np.searchsorted(self.cuts, beta)]

    def belonging(self, beta: FloatArray) -> FloatArray:
        """(k + 1, N) parts of nodes beta (N,) in the intervals."""
        beyond = 0.5 + sici(np.pi * (beta - self.cuts[:, None]) / self.spacing)[0] / np.pi
        ones = np.ones((1, len(beta)))
        return -np.diff(np.concatenate([ones, beyond, np.zeros_like(ones)]), axis=0)


def intervals(detail: Detail, middle: float, span: float) -> Intervals | None:
    """Codes as intervals of the one conjugate field; None unless nodes are on a uniform lattice.

    `middle` and `span`: midpoint and width of the range of phi.
    """
    if len(detail.beta) < 3:
        return None
    order = np.argsort(detail.beta[:, 0])
    beta, share = detail.beta[order, 0], detail.share[order]
    spacing = float(np.diff(beta).min())
    steps = (beta - beta[0]) / spacing
    if not spacing > 0.0 or np.abs(steps - np.rint(steps)).max() > _UNIFORM * steps[-1]:
        return None
    first, cuts, flipped = "", [], []
    for c in range(detail.activation.shape[1]):
        excess = detail.activation[order, c] - middle
        told = np.flatnonzero(np.abs(excess) > _TIE * span)
        first += "1" if told.size and excess[told[0]] > 0.0 else "0"
        for i, j in itertools.pairwise(told):
            if (excess[i] > 0.0) != (excess[j] > 0.0):
                near = j == i + 1 and beta[j] - beta[i] < _GAP * spacing
                cuts.append(_zero(share, excess, beta, spacing, i) if near else 0.5 * (beta[i] + beta[j]))
                flipped.append(c)
    words = [first]
    rank = np.argsort(cuts)
    for k in rank:
        c, last = flipped[k], words[-1]
        words.append(last[:c] + ("0" if last[c] == "1" else "1") + last[c + 1 :])
    return Intervals(tuple(words), np.array(cuts)[rank] if cuts else np.empty(0), spacing)


def _zero(share: FloatArray, excess: FloatArray, beta: FloatArray, spacing: float, i: int) -> float:
    """Between nodes i and i + 1, where `excess` changes its sign: its cardinal series, weighted with the shares."""

    def series(x: float) -> float:
        return float((share * excess) @ np.sinc((x - beta) / spacing))

    low, high = float(beta[i]), float(beta[i + 1])
    if series(low) * series(high) < 0.0:
        return float(brentq(series, low, high))
    return low + (high - low) * excess[i] / (excess[i] - excess[i + 1])  # rounding, where next to nothing is


def states_of(detail: Detail, words: FloatArray, found: Intervals | None = None) -> States:
    """Averages over the neurons of each pattern: those of its nodes, or of its `intervals`."""
    if found is None:
        patterns = np.array(sorted(set(words.tolist())))
        belonging = (words == patterns[:, None]).astype(float)
    else:
        parts = found.belonging(detail.beta[:, 0])
        patterns = np.array(sorted(set(found.words)))
        belonging = np.array([parts[[w == word for w in found.words]].sum(axis=0) for word in patterns])
    rows = []
    for word, belongs in zip(patterns.tolist(), belonging):
        part = detail.share * belongs
        total = float(part.sum())
        if total < _LIGHTEST:
            continue
        w = part / total
        mean = w @ detail.beta
        activation = w @ detail.activation
        square = w @ (detail.activation_square + detail.noise)
        covariance = (detail.beta.T * w) @ detail.beta - np.outer(mean, mean)
        rows.append((word, total, mean, covariance, activation, square - activation**2))
    rows.sort(key=lambda row: (-round(row[1], 9), row[0]))
    words_, share, beta, covariance, activation, variance = zip(*rows)
    return States(
        tuple(words_),
        np.array(share),
        np.array(beta),
        np.array(covariance),
        np.array(activation),
        np.array(variance),
        (detail.beta.T * detail.share) @ detail.beta,
    )


def layer_states(system: System, order: Order, layer: int, detail: Detail, words: FloatArray) -> States:
    """Codes of a layer from its `layer_nodes`."""
    cut = layer_intervals(system, order, layer, detail, words)
    if cut is not None:
        return states_of(cut[0], words, cut[1])
    states = states_of(detail, words)
    given = system.codes and layer == system.problem.depth - 1
    return states if given else replace(states, beside=_beside(detail, words))


def layer_intervals(
    system: System, order: Order, layer: int, detail: Detail, words: FloatArray
) -> tuple[Detail, Intervals] | None:
    """Codes of a layer as `intervals`, and nodes that are close enough to tell them.

    None where no neurons are near a cut, or there are several conjugate fields or lattices, and where shares of codes
    are given, each of which has its own basin.
    """
    place = np.argsort(detail.beta[:, 0])
    changes = np.flatnonzero(words[place[1:]] != words[place[:-1]])
    light = not changes.size or detail.share[place[np.stack([changes, changes + 1])]].max() < _CLEAR
    given = system.codes and layer == system.problem.depth - 1
    if detail.beta.shape[1] != 1 or given or light or patched(system.problem):
        return None
    # The series of unit Gaussians is exact to exp(-pi^2 / 2 s^2) only, a sum over all nodes to exp(-2 pi^2 / s^2).
    close = system.at_rule(system.rule._replace(beta=0.5 * system.rule.beta)).detail(order, layer)
    low, high = activation_range(system.problem.phi)
    found = intervals(close, 0.5 * (low + high), high - low)
    return None if found is None else (close, found)


def _beside(detail: Detail, words: FloatArray) -> float:
    """Share of the nodes one of whose nearest neighbours has another word."""
    heavy = np.flatnonzero(detail.share > _WEIGHTY)
    many = min(2 * detail.beta.shape[1] + 1, len(heavy))
    if many < 2:
        return 0.0
    _, near = cKDTree(detail.beta[heavy]).query(detail.beta[heavy], k=many)
    own = words[heavy]
    return float(detail.share[heavy][(own[near] != own[:, None]).any(axis=1)].sum())


def mean_kurtosis(system: System, order: Order, layer: int) -> FloatArray:
    """(C, C) kurtosis over neurons of the difference of the means of phi over the samples of two classes; NaN on the
    diagonal. Nodes of the layer are those of `layer_nodes`, which has to come first."""
    setting, n = system.setting(order, layer), system.problem.n
    products, over = MeanMoments(len(n)), system.layers[layer]
    shares: list[tuple[float, str | None]] = [(1.0, None)]
    if system.codes and layer == system.problem.depth - 1:
        assert system.fractions is not None
        shares = [(share, word) for orbit, share in zip(system.members, system.given) for word in orbit]
    moments = np.zeros((5, 5, len(n), len(n)))
    for share, word in shares:
        total = over.totals(setting, products, word).plain
        moments += share / total[products.one] * total[products.powers]
    power = np.arange(5)
    moments /= n[:, None] ** power[:, None, None, None] * n ** power[:, None, None]
    # Of the difference, about 0 and then about its mean.
    about = [sum(math.comb(k, j) * (-1.0) ** j * moments[k - j, j] for j in range(k + 1)) for k in range(5)]
    mean = about[1]
    second = about[2] - mean**2
    fourth = about[4] - 4.0 * mean * about[3] + 6.0 * mean**2 * about[2] - 3.0 * mean**4
    np.fill_diagonal(second, np.nan)
    return np.asarray(fourth / second**2)


def top_states(system: System, order: Order) -> States:
    """Codes of the last layer."""
    top = system.problem.depth - 1
    return layer_states(system, order, top, *layer_nodes(system, order, top))
