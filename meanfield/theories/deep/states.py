"""Codes of a layer: its neurons grouped by the classes they respond to."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from meanfield.theories.deep.exchange_neurons import mean_powers
from meanfield.theories.deep.products import MeanMoments
from meanfield.theories.deep.rules import Detail, code_words
from meanfield.theories.deep.system import Order, System
from meanfield.validation import FloatArray

__all__ = ["States", "exchanged", "layer_nodes", "mean_kurtosis", "states_of", "top_states"]

_LIGHTEST = 1e-8


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
    """

    patterns: tuple[str, ...]
    share: FloatArray
    beta: FloatArray
    covariance: FloatArray
    activation: FloatArray
    variance: FloatArray
    second_beta: FloatArray


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


def states_of(detail: Detail, words: FloatArray) -> States:
    """Averages over the nodes of each pattern."""
    rows = []
    for word in sorted(set(words.tolist())):
        chosen = words == word
        total = float(detail.share[chosen].sum())
        if total < _LIGHTEST:
            continue
        w = detail.share[chosen] / total
        beta = detail.beta[chosen]
        mean = w @ beta
        activation = w @ detail.activation[chosen]
        square = w @ (detail.activation_square[chosen] + detail.noise[chosen])
        covariance = (beta.T * w) @ beta - np.outer(mean, mean)
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


def mean_kurtosis(system: System, order: Order, layer: int) -> FloatArray:
    """(C, C) kurtosis over neurons of the difference of the means of phi over the samples of two classes; NaN on the
    diagonal. Nodes of the layer are those of `layer_nodes`, which has to come first."""
    setting, n = system.setting(order, layer), system.problem.n
    if system.exchanged:
        apart = mean_powers(system.layers[layer], setting)[:, :, None, None] * (1.0 - np.eye(len(n)))
        apart[0, 0] = 1.0
        return _kurtosis(apart, n)
    products, over = MeanMoments(len(n)), system.layers[layer]
    shares: list[tuple[float, str | None]] = [(1.0, None)]
    if system.codes and layer == system.problem.depth - 1:
        assert system.fractions is not None
        shares = [(share, word) for orbit, share in zip(system.members, system.given) for word in orbit]
    moments = np.zeros((5, 5, len(n), len(n)))
    for share, word in shares:
        total = over.totals(setting, products, word).plain
        moments += share / total[products.one] * total[products.powers]
    return _kurtosis(moments, n)


def _kurtosis(moments: FloatArray, n: FloatArray) -> FloatArray:
    """(C, C) of the difference of S_c / n_c and S_e / n_e, from <S_c^i S_e^j> (5, 5, C, C) of different classes."""
    power = np.arange(5)
    moments = moments / (n[:, None] ** power[:, None, None, None] * n ** power[:, None, None])
    # Of the difference, about 0 and then about its mean.
    about = [sum(math.comb(k, j) * (-1.0) ** j * moments[k - j, j] for j in range(k + 1)) for k in range(5)]
    mean = about[1]
    second = about[2] - mean**2
    fourth = about[4] - 4.0 * mean * about[3] + 6.0 * mean**2 * about[2] - 3.0 * mean**4
    np.fill_diagonal(second, np.nan)
    return np.asarray(fourth / second**2)


def exchanged(system: System, order: Order, layer: int) -> States:
    """The groups of a layer of exchangeable classes, which are sums over orbits of code words."""
    setting = system.setting(order, layer)
    count, inverse = len(setting.root), np.linalg.pinv(setting.root)
    free = np.eye(len(inverse)) - inverse @ setting.root
    rows, second = [], free.copy()
    for orbit in system.layers[layer].orbits(setting):
        for chosen in itertools.combinations(range(count), orbit.active):
            part = np.isin(np.arange(count), chosen).astype(int)
            mean, pairs = orbit.field[part], orbit.product[part][:, part]
            np.fill_diagonal(pairs, orbit.square[part])
            share = orbit.share / math.comb(count, orbit.active)
            second += share * inverse @ pairs @ inverse.T
            beta = inverse @ mean
            covariance = inverse @ (pairs - np.outer(mean, mean)) @ inverse.T + free
            activation = orbit.activation[part]
            word = "".join(map(str, part))
            rows.append((word, share, beta, covariance, activation, orbit.activation_square[part] - activation**2))
    rows = [row for row in rows if row[1] >= _LIGHTEST]
    rows.sort(key=lambda row: (-round(row[1], 9), row[0]))
    words, shares, betas, covariances, activations, variances = (list(column) for column in zip(*rows))
    return States(
        tuple(words), np.array(shares), np.array(betas), np.array(covariances), np.array(activations),
        np.array(variances), second,
    )  # fmt: skip


def top_states(system: System, order: Order) -> States:
    """Codes of the last layer."""
    if system.exchanged:
        return exchanged(system, order, system.problem.depth - 1)
    return states_of(*layer_nodes(system, order, system.problem.depth - 1))
