"""Which neurons have which code in a layer without fields h, the first one (THEORY.md, "Codes of neurons").

A neuron is active on a class if g_b(b_c, 0) is above the midpoint of phi: on one side of a plane. Cells of the lattice
in beta are split into pieces that are small against a unit Gaussian, with the exact weight in the middle of each.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from meanfield.activations.activation import Activation
from meanfield.theories.deep.codes.words import OfWord
from meanfield.theories.deep.layers.nodes import LayerNodes
from meanfield.theories.deep.layers.rules import NotCovered, Setting, above, activation_range, beyond, threshold
from meanfield.theories.deep.layers.site import site_rule, site_table
from meanfield.validation import FloatArray

__all__ = ["FreeLaw", "free_law"]

_PIECES, _AGAIN = (0, 64, 16, 4), (0, 8, 6, 4)  # of a cell along an axis, by the number of axes, and of a piece
_MOST_PIECES, _MOST_IN_B = 400_000, 20_000  # of all cells; values of tables in b
_ALONG = 0.05  # spacing of tables in b, in units of 1 / range of phi
_LIGHT, _CORNER = 1e-10, 100.0  # share of a piece; how much more those with two cuts count than those with one


class FreeLaw(NamedTuple):
    """Of a layer without fields h, on pieces of the cells of its nodes: beta (k, r) and share (k,), and by class <phi>,
    <phi^2>, the part above the midpoint and how much more than its share of <phi> that has (k, C)."""

    beta: FloatArray
    share: FloatArray
    mean: FloatArray
    square: FloatArray
    on: FloatArray
    lift: FloatArray

    def part(self, word: str) -> FloatArray:
        """(k,) part of the neurons that have a word."""
        bits = np.array(list(word)) == "1"
        return np.asarray(np.where(bits, self.on, 1.0 - self.on).prod(axis=1))

    def words(self) -> dict[str, OfWord]:
        """By word, on the pieces."""
        every = map("".join, itertools.product("01", repeat=self.on.shape[1]))
        above, below = (
            self.mean + np.divide(sign * self.lift, part, out=np.zeros_like(part), where=part > 0.0)
            for sign, part in ((1.0, self.on), (-1.0, 1.0 - self.on))
        )
        return {
            word: OfWord(self.part(word), np.where(np.array(list(word)) == "1", above, below), self.square)
            for word in every
        }


class _Pieces(NamedTuple):
    """beta (k, r), ln of the weight of a whole piece (k,); g_b, g_b^2 + g_bb, and what `beyond` gives (k, C)."""

    beta: FloatArray
    log: FloatArray
    mean: FloatArray
    square: FloatArray
    on: FloatArray
    lift: FloatArray


def free_law(
    phi: Activation,
    n: FloatArray,
    setting: Setting,
    nodes: LayerNodes,
    beta: FloatArray,
    counts: FloatArray | None = None,
) -> FreeLaw:
    """The law of words of a layer without fields h, from the nodes beta (N, r) that count, whose cells are split; once
    more at cuts, where its weight counts as constant over a piece, and above all where two classes are cut, which count
    as independent there. `counts`: see `WordLaw`.

    Raises
    ------
    NotCovered
        Where there are too many, or these are in too many dimensions.
    """
    count, r = beta.shape
    parts = min(_PIECES[r], int((_MOST_PIECES / count) ** (1.0 / r))) if r < len(_PIECES) else 0
    if parts < 2:
        raise NotCovered("words need too many pieces of the cells of a layer")
    sites = _free_sites(phi, setting, beta, nodes.split(beta, 1)[2])
    found = _free_pieces(phi, n, setting, sites, counts, *nodes.split(beta, parts))
    share = np.exp(found.log - found.log.max())
    cuts = ((found.on > 0.0) & (found.on < 1.0)).sum(axis=1)
    error = np.where(cuts > 1, _CORNER, np.minimum(cuts, 1)) * np.where(share > _LIGHT * share.sum(), share, 0.0)
    most = np.argsort(-error, kind="stable")[: _MOST_PIECES // _AGAIN[r] ** r]
    once = np.ones(len(share), dtype=bool)
    once[most[error[most] > 0.0]] = False
    if not once.all():
        split = nodes.split(found.beta[~once], _AGAIN[r], 1.0 / parts)
        finer = _free_pieces(phi, n, setting, sites, counts, *split)
        found = _Pieces(*(np.concatenate([one[once], other]) for one, other in zip(found, finer)))
    share = np.exp(found.log - found.log.max())
    heavy = share > _LIGHT * share.sum()
    beta, _, mean, square, on, lift = (one[heavy] for one in found)
    return FreeLaw(beta, share[heavy] / share[heavy].sum(), mean, square, on, lift)


def _free_sites(phi: Activation, setting: Setting, beta: FloatArray, edges: FloatArray) -> list[CubicSpline]:
    """By class b -> g, g_b and g_bb at h = 0, over cells around beta (N, r) with these edges (N, r, r)."""
    found = []
    for c, root in enumerate(setting.root):
        b, reach = beta @ root, np.abs(edges @ root).sum(axis=1)
        ends = float((b - reach).min()), float((b + reach).max()) + 1e-9
        low, high = activation_range(phi)
        number = math.ceil((ends[1] - ends[0]) * (high - low) / _ALONG) + 8
        if number > _MOST_IN_B:
            raise NotCovered("words need too fine a table of conjugate fields")
        line, d = np.linspace(*ends, number), float(setting.d[c])
        rule = site_rule(phi, d, 0.0, 0.0, 0.45, max(map(abs, ends)))
        site = site_table(rule, line, np.zeros(1), d, float(setting.delta[c]))
        found.append(CubicSpline(line, np.column_stack([site.g, site.b, site.bb])))
    return found


def _free_pieces(
    phi: Activation,
    n: FloatArray,
    setting: Setting,
    sites: list[CubicSpline],
    counts: FloatArray | None,
    beta: FloatArray,
    log: FloatArray,
    edges: FloatArray,
) -> _Pieces:
    g, mean, variance = np.stack([site(beta @ root) for site, root in zip(sites, setting.root)], axis=2).swapaxes(0, 1)
    change = np.sort(np.abs(edges @ setting.root.T), axis=1) * variance[:, None]
    narrow = change[:, -2] if beta.shape[1] > 1 else np.zeros_like(mean)
    excess, lift = mean - threshold(phi), np.zeros_like(mean)
    if counts is None:
        on = above(excess, narrow, change[:, -1])
    else:
        on, lift = beyond(excess, np.sqrt(np.maximum(variance, 0.0) / counts), narrow, change[:, -1])
    return _Pieces(beta, log - 0.5 * (beta**2).sum(axis=1) + g @ n, mean, mean**2 + variance, on, lift)
