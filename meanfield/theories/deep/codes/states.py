"""Codes of a layer: its neurons grouped by the classes they respond to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from meanfield.theories.deep.codes.free_words import FreeLaw, free_law
from meanfield.theories.deep.codes.single_samples import sample_means
from meanfield.theories.deep.codes.words import OfWord, WordLaw
from meanfield.theories.deep.exchangeable.neurons import mean_powers
from meanfield.theories.deep.layers.products import MeanMoments
from meanfield.theories.deep.layers.rules import Detail, NotCovered, Setting, code_words, threshold
from meanfield.theories.deep.reduction import Members
from meanfield.theories.deep.system import DeepProblem, Order, System
from meanfield.validation import FloatArray, IntArray

__all__ = [
    "NodesByWord",
    "States",
    "code_parts",
    "exchanged",
    "free_words",
    "kept_fields",
    "layer_nodes",
    "layer_states",
    "mean_kurtosis",
    "sampled_states",
    "top_states",
    "word_law",
]

_LIGHTEST = 1e-8
_CLEAR = 1e-7  # share of the neurons that may have another word than their node, below which whole nodes do
_SURE = 1e-10  # part of the neurons of a node, below which it has one word
_LOOKED_AT = 4000  # nodes, the heaviest ones, or at once
_NOTHING, _FEW, _LIGHT = 1e-10, 1000, 1e-6  # share of a node that does not count; of all that do not, of more nodes
_UNSEEN = 1e-9  # share of the lightest nodes together, which are taken to have one word
_FAINT = 1e-8  # share of a node whose cell is not split
_DRAWN = 2000  # neurons
_ROUNDING = 1e-8  # of the largest kernel or conjugate, of a class of target 0
_LOST = 1e-10  # of the terms that make up a fourth moment, below which rounding errors remain of it


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
    unsure : (n,) array
        Part of the neurons of each that may have another code; 0 where the law of words is known.
    """

    patterns: tuple[str, ...]
    share: FloatArray
    beta: FloatArray
    covariance: FloatArray
    activation: FloatArray
    variance: FloatArray
    second_beta: FloatArray
    unsure: FloatArray


class NodesByWord(NamedTuple):
    """Nodes of a layer whose neurons all have the same word, these words, and other nodes with the law of theirs."""

    sure: Detail
    words: FloatArray
    some: Detail
    law: WordLaw | None


def kept_fields(problem: DeepProblem, order: Order) -> Order:
    """Order parameters without what rounding, the square root of which is a field, leaves of classes that have none.

    Of odd phi all preactivations of a class of target 0 may change sign: unless that symmetry is broken it shares
    nothing with itself or others, and all of its neurons are at the midpoint.
    """
    none = np.flatnonzero(~problem.y.any(axis=1)) if problem.phi.parity == "odd" else np.empty(0, dtype=np.intp)
    kernel, tilde, t = order.kernel.copy(), order.tilde.copy(), order.t.copy()
    for matrix, c in itertools.product((*kernel, *tilde), none):
        if matrix[c, c] < _ROUNDING * matrix.max():
            matrix[c] = matrix[:, c] = 0.0
    t[none] = 0.0
    return replace(order, kernel=kernel, tilde=tilde, t=t)


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
    return _states(
        detail.beta, detail.share, {word: _whole(detail, words, word) for word in sorted(set(words.tolist()))}
    )


def _states(beta: FloatArray, share: FloatArray, laws: Mapping[str, OfWord]) -> States:
    """Averages over the neurons of each pattern, at nodes beta (N, r) with their shares (N,)."""
    rows = []
    for word, law in laws.items():
        part = share * law.part
        total = float(part.sum())
        if total < _LIGHTEST:
            continue
        w = part / total
        mean, active = w @ beta, w @ law.activation
        spread = (beta.T * w) @ beta - np.outer(mean, mean)
        rows.append((word, total, mean, spread, active, w @ law.square - active**2))
    rows.sort(key=lambda row: (-round(row[1], 9), row[0]))
    second = (beta.T * share) @ beta
    patterns, *means = zip(*rows)
    heaviest, fields_b, spreads, actives, variances = map(np.array, means)
    return States(tuple(patterns), heaviest, fields_b, spreads, actives, variances, second, np.zeros(len(rows)))


def layer_states(system: System, order: Order, layer: int, detail: Detail, words: FloatArray) -> States:
    """Codes of a layer from its `layer_nodes`.

    Where neurons are near a cut whole nodes do not tell how many are on either side of it (without codes a third of
    them is in the node at zero field), and fields h decide it, too: `WordLaw`.
    """
    states = states_of(detail, words)
    if system.codes and layer == system.problem.depth - 1:  # given, each in its own basin
        return states
    unsure = _beside(system, order, layer, detail, words)
    known = float(unsure @ detail.share) < _CLEAR
    if known:
        unsure = _apart(system, order, layer, detail, words)
        if float(unsure @ detail.share) < _CLEAR:
            return states
    try:
        if not system.setting(order, layer).covariance.any():
            free = free_words(system, order, layer, detail)
            return replace(_states(free.beta, free.share, free.words()), second_beta=states.second_beta)
        sure, whole, some, law = word_law(system, order, layer, detail, unsure if known else None)
        laws = {} if law is None else law.of_words()
    except NotCovered:
        if not known:
            unsure = np.minimum(unsure + _apart(system, order, layer, detail, words), 1.0)
        part = unsure * detail.share
        own = [float(part[words == word].sum()) for word in states.patterns]
        return replace(states, unsure=np.minimum(np.array(own) / states.share, 1.0))
    zero = OfWord(np.zeros(len(some.share)), some.activation, some.activation_square)
    beta, share = (np.concatenate(pair) for pair in ((sure.beta, some.beta), (sure.share, some.share)))
    found = _states(beta, share / share.sum(), {
        word: OfWord(*(np.concatenate(pair) for pair in zip(_whole(sure, whole, word), laws.get(word, zero))))
        for word in sorted({*whole.tolist(), *laws})
    })  # fmt: skip
    return replace(found, second_beta=states.second_beta)


def sampled_states(system: System, order: Order, counts: FloatArray) -> States:
    """Codes of the last layer, neurons told by their mean activations over `counts` (C,) samples of each class.

    Raises
    ------
    NotCovered
        Where the law of words is not known, see `word_law`.
    """
    top, problem, order = system.problem.depth - 1, system.problem, kept_fields(system.problem, order)
    if system.exchanged or system.around_peaks:
        raise NotCovered("the law of words is that of a lattice in b")
    detail, setting = system.detail(order, top), system.setting(order, top)
    if not setting.covariance.any():
        heavy = detail.beta[detail.share > _FAINT]
        free = free_law(problem.phi, problem.n, setting, system.layers[top], heavy, counts)
        return _states(free.beta, free.share, free.words())
    detail = _refined(system, order, top, detail)
    detail = _rows(detail, _heaviest(detail))
    law = _law_of_words(problem, setting, detail, counts)
    return _states(detail.beta, detail.share / detail.share.sum(), law.of_words())


def free_words(system: System, order: Order, layer: int, detail: Detail) -> FreeLaw:
    """The law of words of a layer without fields h, from its nodes.

    Raises
    ------
    NotCovered
        In one that is integrated around peaks, and by `free_law`.
    """
    if system.around_peaks:
        raise NotCovered("the law of words is that of a lattice in b")
    setting, problem = system.setting(order, layer), system.problem
    return free_law(problem.phi, problem.n, setting, system.layers[layer], detail.beta[detail.share > _FAINT])


def word_law(system: System, order: Order, layer: int, detail: Detail, unsure: FloatArray | None = None) -> NodesByWord:
    """The words of the neurons at the nodes of a layer with fields h.

    Of one conjugate field at half the spacing of the nodes given. The lightest are left out. `unsure`: (N,) of
    `_apart`, if that is known.

    Raises
    ------
    NotCovered
        In a layer without fields h, in one that is integrated around peaks, and by `WordLaw`.
    """
    setting = system.setting(order, layer)
    if not setting.covariance.any() or system.around_peaks:
        raise NotCovered("the law of words is that of a lattice in b, for layers with fields h")
    finer = _refined(system, order, layer, detail)
    heavy = _heaviest(finer)
    kept = _rows(finer, heavy)
    words = code_words(system.problem.phi, kept.activation)
    if unsure is None or finer is not detail:
        unsure = _apart(system, order, layer, kept, words)
    else:
        unsure = unsure[heavy]
    one = unsure < _SURE
    sure, some = _rows(kept, one), _rows(kept, ~one)
    law = _law_of_words(system.problem, setting, some) if len(some.share) else None
    return NodesByWord(sure, words[one], some, law)


def _law_of_words(problem: DeepProblem, setting: Setting, detail: Detail, counts: FloatArray | None = None) -> WordLaw:
    """The law of words at these nodes, if it has their mean activations."""
    law = WordLaw(problem.phi, problem.n, setting, detail.beta, counts)
    if not law.agrees(detail.activation, detail.share):
        raise NotCovered("the law of words does not resolve how fields pull at classes that share them")
    return law


def _refined(system: System, order: Order, layer: int, detail: Detail) -> Detail:
    """Of one conjugate field the nodes at half the spacing."""
    if detail.beta.shape[1] > 1:
        return detail
    return system.at_rule(system.rule._replace(beta=0.5 * system.rule.beta)).detail(order, layer)


def _heaviest(detail: Detail) -> IntArray:
    """The nodes that count, heaviest first."""
    heavy = np.argsort(-detail.share)
    heavy = heavy[detail.share[heavy] > _NOTHING]
    if len(heavy) > _FEW:
        missed = 1.0 - np.cumsum(detail.share[heavy])
        heavy = heavy[: max(_FEW, int(np.searchsorted(-missed, -_LIGHT)))]
    return heavy


def _rows(detail: Detail, at: np.ndarray) -> Detail:
    return Detail(*(getattr(detail, part.name)[at] for part in fields(detail)))


def _whole(detail: Detail, words: FloatArray, word: str) -> OfWord:
    """Whole nodes of a word."""
    return OfWord((words == word).astype(float), detail.activation, detail.activation_square + detail.noise)


def _apart(system: System, order: Order, layer: int, detail: Detail, words: FloatArray) -> FloatArray:
    """(N,) part of the neurons with exactly the fields b of a node, that have another word than it: those beyond the
    cut of any class, summed over classes."""
    setting, over = system.setting(order, layer), system.layers[layer]
    if system.around_peaks:
        return _drawn_apart(system, setting, layer, detail, words)
    found = np.zeros(len(words))
    if not setting.covariance.any():
        return found
    heavy = np.argsort(-detail.share)
    heavy = heavy[: np.searchsorted(np.cumsum(detail.share[heavy]), 1.0 - _UNSEEN) + 1]
    heavy = heavy[detail.share[heavy] > _NOTHING]
    first, place = over.node_orbits(detail.beta[heavy])  # what they have is the same of all nodes of one orbit
    each = np.zeros(len(first))
    try:
        for start in range(0, len(first), _LOOKED_AT):
            part = slice(start, start + _LOOKED_AT)
            rows = heavy[first[part]]
            for c, (joint, mean) in enumerate(over.class_means(setting, detail.beta[rows], range(len(setting.d)))):
                on = np.array([word[c] == "1" for word in words[rows]])
                each[part] += np.where((mean > threshold(system.problem.phi)) != on[:, None], joint, 0.0).sum(axis=1)
    except NotCovered:
        return np.ones(len(words))
    found[heavy] = each[place]
    return found


def _drawn_apart(system: System, setting: Setting, layer: int, detail: Detail, words: FloatArray) -> FloatArray:
    """The same, the part by word, of neurons that are drawn."""
    phi, rng = system.problem.phi, np.random.default_rng(0)
    pick = np.sort(rng.choice(len(words), size=_DRAWN, p=detail.share / detail.share.sum()))
    b, h, row = system.layers[layer].drawn(setting, pick, rng)
    mean = np.empty_like(b)
    for c in range(b.shape[1]):
        mean[:, c] = sample_means(phi, b[:, c], h[:, c], float(setting.d[c]), float(setting.delta[c]))
    own, found = words[pick[row]], np.ones(len(words))
    apart = code_words(phi, mean) != own
    for word in set(own.tolist()):
        found[words == word] = apart[own == word].mean()
    return found


def _beside(system: System, order: Order, layer: int, detail: Detail, words: FloatArray) -> FloatArray:
    """(N,) whether a node is beside a cut: one of its neighbours on the lattice, among the heaviest, has another word;
    in a layer without fields h also whether a cut goes through its cell."""
    found = np.zeros(len(words))
    heavy = np.argsort(-detail.share)[:_LOOKED_AT]
    heavy = heavy[detail.share[heavy] > _NOTHING]
    many = min(2 * detail.beta.shape[1] + 1, len(heavy))
    if many < 2:
        return found
    beta, setting = detail.beta[heavy], system.setting(order, layer)
    place = beta if system.around_peaks else system.layers[layer].in_cells(beta)
    _, near = cKDTree(place).query(place, k=many)
    own = words[heavy]
    found[heavy] = (own[near] != own[:, None]).any(axis=1)
    if not (setting.covariance.any() or system.around_peaks):
        sides = np.abs(system.layers[layer].split(beta, 1)[2] @ setting.root.T).sum(axis=1)  # of cells, in b
        mean = detail.activation[heavy]
        slope = detail.activation_square[heavy] + detail.noise[heavy] - mean**2
        found[heavy] = np.maximum(
            found[heavy], (np.abs(mean - threshold(system.problem.phi)) < sides * slope).any(axis=1)
        )
    return found


def mean_kurtosis(
    system: System, order: Order, layer: int, members: Members, counts: FloatArray, centres: FloatArray
) -> FloatArray:
    """(C, C) kurtosis over neurons of the difference of the means of phi over the samples of two classes of the task,
    which are `members` of the system's and have so many samples (C,); NaN on the diagonal, and where the two differ by
    so little that rounding errors remain. Nodes of the layer are those of `layer_nodes`, which has to come first;
    moments are about `centres` (C,), numbers near the mean of phi."""
    setting, over = system.setting(order, layer), system.layers[layer]
    moments = np.zeros((5, 5, len(counts), len(counts)))
    if system.exchanged:
        powers = {pair: mean_powers(over, setting, *pair) for pair in set(itertools.product(counts.tolist(), repeat=2))}
        for i, j in itertools.permutations(range(len(counts)), 2):
            alike = int(members.index[i] == members.index[j])
            moments[:, :, i, j] = powers[float(counts[i]), float(counts[j])][alike]
    else:
        products = MeanMoments(members.index, counts, centres)
        shares: list[tuple[float, str | None]] = [(1.0, None)]
        if system.codes and layer == system.problem.depth - 1:
            assert system.fractions is not None
            shares = [(share, word) for orbit, share in zip(system.members, system.given) for word in orbit]
        for share, word in shares:
            total = over.totals(setting, products, word).plain
            moments += share / total[products.one] * total[products.powers]
    return _kurtosis(moments, counts, members.signs)


def _kurtosis(moments: FloatArray, n: FloatArray, signs: FloatArray) -> FloatArray:
    """(C, C) of S_i / n_i - S_j / n_j, from <S_i^k S_j^l> (5, 5, C, C) before S_j takes its sign relative to S_i."""
    power = np.arange(5)
    moments = moments / (n[:, None] ** power[:, None, None, None] * n ** power[:, None, None])
    # About 0 and then about its mean.
    about = [sum(math.comb(k, j) * (-signs) ** j * moments[k - j, j] for j in range(k + 1)) for k in range(5)]
    mean = about[1]
    second = about[2] - mean**2
    fourth = about[4] - 4.0 * mean * about[3] + 6.0 * mean**2 * about[2] - 3.0 * mean**4
    size = sum(math.comb(4, j) * np.abs(moments[4 - j, j]) for j in range(5))
    second[~(_LOST * size < np.abs(fourth))] = np.nan
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
        np.array(variances), second, np.zeros(len(words)),
    )  # fmt: skip


def code_parts(states: States, alike: Members, s: float) -> dict[str, Any]:
    """What a solution lists of its codes, with the variance s of the readout prior."""
    return {
        "readout": math.sqrt(s) * states.beta, "weight": states.share, "covariance": s * states.covariance,
        "activation": alike.means(states.activation), "activation_variance": alike.variances(states.variance),
        "patterns": tuple(alike.word(word) for word in states.patterns),
    }  # fmt: skip


def top_states(system: System, order: Order) -> States:
    """Codes of the last layer."""
    top, order = system.problem.depth - 1, kept_fields(system.problem, order)
    if system.exchanged:
        return exchanged(system, order, top)
    return layer_states(system, order, top, *layer_nodes(system, order, top))
