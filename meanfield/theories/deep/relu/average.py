"""Averages over the neurons of a layer: those of the bulk, and those of an outlier at finite N."""

from __future__ import annotations

import itertools
import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meanfield.numerics.limits import OutOfTime, check_time, stop_word
from meanfield.theories.deep.relu.allowance import spend
from meanfield.theories.deep.relu.compiled.flood import flood
from meanfield.theories.deep.relu.compiled.site import N_SLOPES
from meanfield.theories.deep.relu.distant import distant
from meanfield.theories.deep.relu.setting import BulkDiverges, ReluSetting
from meanfield.theories.deep.symmetry import exchanged
from meanfield.validation import FloatArray, IntArray

__all__ = [
    "CHECK", "CHECK_WIDE", "COARSE", "FINE", "FINE_WIDE", "ROUGH", "WALL", "BulkSlopes", "ReluAverages", "ReluRule",
    "averages_of", "bulk", "bulk_slopes", "ends_of", "slab",
]  # fmt: skip

WALL = 1.3  # width of the smooth end of the bulk at finite N, in standard deviations of the prior
_REACH = {0: 0, 1: 4000, 2: 700, 3: 200, 4: 150, 5: 100, 6: 60}
_FIRST_REACH = {0: 0, 1: 125, 2: 90, 3: 100, 4: 40, 5: 40, 6: 30}
_FIELDLESS_REACH = 200_000  # the same where there are no fields h, and no tables
_INSIDE = 0.8  # of that reach: where the bulk ends at the latest at finite N
_MOST_NODES = 4_000_000, 40_000_000  # on the way, and on fine lattices
# Nanoseconds on one core of 2023: of an average, of one class at a node and of an entry of the tables, without and with
# derivatives.
_CALL, _NODE, _CELL = 1e5, (200.0, 640.0), (1700.0, 4400.0)
_MOST_ON_THE_WAY = 300_000  # with modes far from the origin, which most steps do not need
_FIRST_HALVES = 200, 400  # of the tables of class averages: middle and lattice of h, in steps; doubled where too small
_MOST_PLACES = 50_000
_ROOM = 1.3  # of the first tables, beyond what the prior needs
_MARGIN = 12
_ON_THE_WAY = 20.0  # ln of the weight up to which lattices are cut there
_MOST_SITES = 1_000_000_000  # numbers of the tables of sites, of which few are touched
_BLUR = 1e-3  # of d / n: smallest variance of a class field on rough lattices
_NEAR = 10.0  # distance from which second moments weigh a mode more than the middle: lattices are cut later for it
_ALIKE = 1e-11  # relative difference of classes that count as exchangeable
_CENTRED, _WIDER = 6, 1.35  # dimensions from which lattices have centres, and how much wider they are
_SHALLOW = 7.0  # by how much rough ones are cut earlier there: nodes grow like the cube of the cut
_UNNOTICED = 1e-5  # gain of a direction that rough lattices leave out


class ReluRule(NamedTuple):
    """A quadrature: steps in standard deviations (conjugate fields, class field, shared field), entries of the table of
    class averages in steps, shift of all lattices in steps, ln of the weight below which class fields and nodes are
    left out."""

    beta: float
    h: float
    alpha: float
    table: float
    shift: float
    inner_cut: float
    cut: float
    far: float


# For the way to a solution.
ROUGH = ReluRule(1.4, 1.4, 1.4, 0.7, 0.0, 20.0, 18.0, 60.0)
COARSE = ReluRule(1.15, 1.15, 1.15, 0.5, 0.0, 22.0, 18.0, 80.0)
FINE = ReluRule(0.92, 0.92, 0.92, 1.0 / 3.0, 0.0, 36.0, 30.0, 90.0)
CHECK = ReluRule(0.81, 0.83, 0.79, 0.29, 0.37, 38.0, 33.0, 105.0)
# The same for lattices of four and five dimensions.
FINE_WIDE = ReluRule(1.02, 1.05, 1.02, 0.36, 0.0, 28.0, 26.0, 90.0)
CHECK_WIDE = ReluRule(0.94, 1.0, 0.93, 0.32, 0.37, 31.0, 28.0, 105.0)
FARTHEST = 700.0  # end of the bulk (`far`), in standard deviations of the prior


class ReluAverages(NamedTuple):
    """Of one layer.

    Attributes
    ----------
    log_z : float
        ln of the integral.
    b, bb, hh : (C,) arrays
        <g_b>, <g_bb>, <g_hh>.
    b_b, h_h : (C, C) arrays
        <g_b g_b^T>, <g_h g_h^T>.
    beta_b : (q, C) array
        <beta g_b^T>.
    beta_beta : (q, q) array
        <beta beta^T>.
    nodes : int
    """

    log_z: float
    b: FloatArray
    b_b: FloatArray
    bb: FloatArray
    h_h: FloatArray
    hh: FloatArray
    beta_b: FloatArray
    beta_beta: FloatArray
    nodes: int


class BulkSlopes(NamedTuple):
    """Derivatives of the averages over the bulk by what they depend on; covariance = diag(spread) + u u^T.

    The last axis of each is that of `flood`'s sums: `averages_of` divides it.
    """

    u: FloatArray
    spread: FloatArray
    by_root: FloatArray  # (C q, ..)
    by_u: FloatArray  # (C p, ..)
    by_spread: FloatArray  # (C, ..), or none
    by_d: FloatArray
    by_delta: FloatArray


def bulk_slopes(setting: ReluSetting, rule: ReluRule, walls: FloatArray) -> BulkSlopes:
    """Derivatives of what `bulk` returns at N = infinity, the end of the bulk as it is."""
    remote = distant(setting, walls, rule.cut)
    ends = ends_of(setting, rule, walls, True)
    found = _average(setting, np.zeros(len(setting.n)), setting.root, ends, rule, remote, True)[1]
    assert found is not None
    return found


def averages_of(value: FloatArray, n_classes: int, q: int) -> ReluAverages:
    """Changes (..., k) of `flood`'s sums as those of averages."""
    return _divided(value, n_classes, q, math.nan, 0)


def bulk(setting: ReluSetting, rule: ReluRule, walls: FloatArray, far: bool) -> ReluAverages:
    """Over the neurons of the bulk; `walls` (o, q) holds the outliers that end it at finite N.

    With `far` (N = infinity) they only give the directions in which it is ended at `rule.far`. Outliers beyond the
    lattice end it inside: what is lost differs from rule to rule, so that the certificate sees it.
    """
    q, ends = setting.root.shape[1], ends_of(setting, rule, walls, far)
    remote = distant(setting, walls, rule.cut) if far else None
    if rule != ROUGH:
        return _average(setting, np.zeros(len(setting.n)), setting.root, ends, rule, remote)[0]
    axes = _strong_axes(setting)
    if axes.shape[1] == q:
        return _average(setting, np.zeros(len(setting.n)), setting.root, ends, rule, remote)[0]
    turned = np.hstack([ends[:, :q] @ axes, ends[:, q:]])
    if remote is not None:
        remote = remote[0] @ axes, remote[1]
    root = np.ascontiguousarray(setting.root @ axes)
    found = _average(setting, np.zeros(len(setting.n)), root, turned, rule, remote)[0]
    rest = np.eye(q) - axes @ axes.T
    return found._replace(beta_b=axes @ found.beta_b, beta_beta=axes @ found.beta_beta @ axes.T + rest)


def ends_of(setting: ReluSetting, rule: ReluRule, walls: FloatArray, far: bool) -> FloatArray:
    """(o, q + 2) direction, position and width of the end of the bulk along each outlier."""
    q = setting.root.shape[1]
    walls = walls[np.linalg.norm(walls, axis=1) > 0.0]
    if not len(walls):
        return np.zeros((0, q + 2))
    size = np.linalg.norm(walls, axis=1)[:, None]
    at = np.full_like(size, rule.far) if far else np.minimum(size, _INSIDE * _REACH[q] * rule.beta)
    return np.hstack([walls / size, at, np.full_like(size, WALL)])


def _strong_axes(setting: ReluSetting) -> FloatArray:
    """(q, k) orthonormal directions of beta that neurons notice; in the others they keep their prior."""
    pull = setting.n[:, None] * setting.root
    strength = pull.T @ setting.covariance @ pull + setting.root.T @ ((setting.n * setting.d)[:, None] * setting.root)
    value, vector = np.linalg.eigh(strength)
    return np.ascontiguousarray(vector[:, value > min(_UNNOTICED, 0.5 * value[-1])])


def slab(setting: ReluSetting, beta: FloatArray, rule: ReluRule) -> ReluAverages:
    """Over the fields across the ray, at the distance |beta| along it.

    `log_z` is ln of the density of the weight along the ray, <beta ..> are of the part of beta across it.
    """
    size = float(np.linalg.norm(beta))
    unit = beta / size
    across = np.linalg.svd(unit[None])[2][1:].T
    found = _average(setting, setting.root @ beta, setting.root @ across, np.zeros((0, across.shape[1] + 2)), rule)[0]
    return found._replace(
        log_z=found.log_z - 0.5 * size**2 - 0.5 * math.log(2.0 * math.pi),
        beta_b=across @ found.beta_b, beta_beta=across @ found.beta_beta @ across.T,
    )  # fmt: skip


def _average(
    setting: ReluSetting,
    origin: FloatArray,
    root: FloatArray,
    ends: FloatArray,
    rule: ReluRule,
    remote: tuple[FloatArray, FloatArray] | None = None,
    slopes: bool = False,
) -> tuple[ReluAverages, BulkSlopes | None]:
    setting.check()
    n_classes, q = root.shape
    u, spread = setting.shared
    if rule == ROUGH and u.shape[1]:  # what single samples blur anyway
        spread = np.maximum(spread, _BLUR * setting.d / setting.n)
    parts = [
        _on_lattice(setting, origin, root, u, spread, ends, one, remote, slopes)
        for one in _lattices(rule, q + u.shape[1])
    ]
    share = np.exp([part.log_z - parts[0].log_z for part in parts])
    log_z = parts[0].log_z + math.log(share.mean())
    share /= share.sum()
    value = np.asarray(sum(one * part.value for one, part in zip(share, parts)))
    found = _divided(value, n_classes, q, log_z, sum(part.nodes for part in parts))
    if not slopes:
        return found, None
    changes, u, p = sum(one * part.changes for one, part in zip(share, parts)), parts[0].u, u.shape[1]
    at = np.cumsum([0, n_classes * q, n_classes * p, n_classes if p else 0, n_classes, n_classes])
    return found, BulkSlopes(u, spread, *(changes[i:j] - changes[i:j, :1] * value for i, j in pairwise(at)))


def _lattices(rule: ReluRule, dimensions: int) -> list[ReluRule]:
    """The lattice of nodes; in many dimensions that of the centres of cubes and their corners, as two.

    The first vectors of its dual are sqrt(2) times as long as those of a cubic lattice of the same spacing, which may
    be wider: nodes are 2 / 1.35^6 = 1/3 as many in six dimensions. The tables keep their steps.
    """
    if dimensions < _CENTRED:
        return [rule]
    wide = rule._replace(beta=_WIDER * rule.beta, alpha=_WIDER * rule.alpha, table=rule.table / _WIDER)
    if rule == ROUGH:
        wide = wide._replace(inner_cut=wide.inner_cut - _SHALLOW, cut=wide.cut - _SHALLOW)
    return [wide, wide._replace(shift=wide.shift + 0.5)]


class _Sums(NamedTuple):
    """Averages on a lattice, as one row, and their derivatives, of which <.> <weight> is not taken off; the shared
    fields as the lattice has them."""

    value: FloatArray
    changes: FloatArray
    log_z: float
    nodes: int
    u: FloatArray


def _on_lattice(
    setting: ReluSetting, origin: FloatArray, root: FloatArray, u: FloatArray, spread: FloatArray, ends: FloatArray,
    rule: ReluRule, remote: tuple[FloatArray, FloatArray] | None, slopes: bool,
) -> _Sums:  # fmt: skip
    n_classes, q = root.shape
    u, lines = _axes(setting, u, spread, rule)
    kind = _kinds(setting, origin, root, u, spread)
    p = u.shape[1]
    known = setting.sizes.get((rule, q))  # each that is too small costs what was found with it
    reach, half_m, half_h = known or (_FIRST_REACH[q], *_first_halves(setting, u, spread, lines, rule))
    size = 1 + 3 * n_classes + 2 * n_classes**2 + q * n_classes + q * q
    changes = np.zeros(((q + p + (3 if p else 2)) * n_classes if slopes else 0, size))
    fine = rule.cut > _ON_THE_WAY
    most = _MOST_NODES[fine] if fine or remote is None else _MOST_ON_THE_WAY
    seeds = np.zeros((0, q + p))
    if remote is not None and len(remote[0]):
        seeds = np.hstack([remote[0], remote[1] @ setting.inverse @ u]) if p else np.ascontiguousarray(remote[0])
    before, images = _exchanged(setting, origin, root, u, spread, ends, seeds)
    farthest, numbers = _REACH[q] if p else _FIELDLESS_REACH, np.array(rule)
    numbers[-2] += 2.0 * math.log(max(1.0, float(np.linalg.norm(seeds[:, :q], axis=1).max(initial=0.0)) / _NEAR))
    while True:
        changes[:] = 0.0
        half_b = reach if q <= 1 else math.ceil(1.2 * reach / rule.table) + _MARGIN
        if remote is not None and p and (kind.max() + 1) * (2 * half_b + 1) * (2 * half_h + 1) * N_SLOPES > _MOST_SITES:
            raise BulkDiverges("the bulk reaches too far for the lattice of its fields.")
        total, log_z, status, counts = flood(
            np.ascontiguousarray(origin), np.ascontiguousarray(root), setting.n, setting.d, setting.delta,
            setting.phi.numbers, u, spread, lines, kind, reach, np.array([half_b, half_m, half_h]),
            _centres(setting, spread, lines, kind, half_b, seeds, remote, rule), ends, seeds, before, numbers,
            most, changes, stop_word(),
        )  # fmt: skip
        nodes = int(counts[0])
        spend(_CALL + n_classes * nodes * _NODE[slopes] + int(counts[1]) * _CELL[slopes])
        if status == 6:
            check_time()
            raise OutOfTime("stopped from outside")
        if status == 1 and reach < farthest:
            reach = min(2 * reach, farthest)
        elif status == 4 and half_h < _MOST_PLACES:
            half_m, half_h = 2 * half_m, 2 * half_h
        else:
            break
    if status == 5 or not np.isfinite(total).all():
        raise BulkDiverges("the weight of a neuron grows along an outlier.")
    if status == 2:
        raise BulkDiverges(f"the bulk does not end within {most:,} nodes of a lattice.")
    if status == 3 or (status == 0 and math.isnan(log_z)):
        raise BulkDiverges("the weight of a neuron is not a number.")
    if status in (1, 4):
        raise BulkDiverges("the bulk reaches the edge of the lattice.")
    setting.sizes[rule, q] = reach, half_m, half_h
    changes = _symmetrised_slopes(changes, images, q, p) / total[0]
    return _Sums(_symmetrised(total, images, q) / total[0], changes, log_z, nodes, u)


def _divided(value: FloatArray, n_classes: int, q: int, log_z: float, nodes: int) -> ReluAverages:
    """What `flood` sums along the last axis of `value`, one average after the other."""
    shapes = [(n_classes,), (n_classes, n_classes)] * 2 + [(n_classes,), (q, n_classes), (q, q)]
    at = np.cumsum([1, *(math.prod(shape) for shape in shapes)])
    parts = [value[..., i:j].reshape(*value.shape[:-1], *shape) for (i, j), shape in zip(pairwise(at), shapes)]
    b, b_b, bb, h_h, hh, beta_b, beta_beta = parts
    return ReluAverages(log_z, b, b_b, bb, h_h, hh, beta_b, beta_beta, nodes)


def _first_halves(
    setting: ReluSetting, u: FloatArray, spread: FloatArray, lines: FloatArray, rule: ReluRule
) -> tuple[int, int]:
    """Of the tables: what the prior of the fields h needs, and room for what moves them."""
    half_m, half_h = _FIRST_HALVES
    if not len(lines):
        return half_m, half_h
    far = _ROOM * math.sqrt(2.0 * rule.cut)
    if len(lines) == 1:
        steps = far / float(lines[0])
    else:
        size = np.sqrt((u**2).sum(axis=1)) / np.sqrt(spread + setting.d / setting.n)
        steps = far * float(size.max()) / (rule.table * rule.h)
    places = far * np.sqrt(np.diag(setting.covariance) * (1.0 / spread + setting.n / setting.d)) / rule.h
    return min(max(half_m, int(steps)), _MOST_PLACES), min(max(half_h, int(places.max())), _MOST_PLACES)


def _centres(
    setting: ReluSetting,
    spread: FloatArray,
    lines: FloatArray,
    kind: NDArray[np.int64],
    half_b: int,
    seeds: FloatArray,
    remote: tuple[FloatArray, FloatArray] | None,
    rule: ReluRule,
) -> NDArray[np.int64]:
    """(kinds, rows, 2) places at which tables of class averages have their middle, on the rays of far modes."""
    found = np.zeros((kind.max() + 1, 2 * half_b + 1, 2), dtype=np.int64)
    if remote is None or not len(remote[0]) or setting.root.shape[1] != 1 or len(lines) != 1:
        return found
    beta = rule.beta * (np.arange(-half_b, half_b + 1) + rule.shift)
    spacing = rule.h / np.sqrt(1.0 / spread + setting.n / setting.d)
    for sign in (-1.0, 1.0):
        on_ray = sign * remote[0][:, 0] > 0.0
        if not on_ray.any():
            continue
        last = np.flatnonzero(on_ray)[-1]  # alpha and h are in proportion to beta
        rows = sign * beta > 0.0
        part = beta[rows, None] / remote[0][last, 0]
        for own in range(len(found)):
            c = int(np.flatnonzero(kind == own)[0])
            per_row = np.array([seeds[last, 1] / lines[0], remote[1][last, c] / spacing[c]])
            found[own, rows] = np.rint(part * per_row)
    return found


def _axes(setting: ReluSetting, u: FloatArray, spread: FloatArray, rule: ReluRule) -> tuple[FloatArray, FloatArray]:
    """Shared fields along the axes of their precision, and the spacing along each."""
    if not u.shape[1]:
        return u, np.zeros(0)
    blurred = u / np.sqrt(spread + setting.d / setting.n)[:, None]
    precision, turn = np.linalg.eigh(np.eye(u.shape[1]) + blurred.T @ blurred)
    return np.ascontiguousarray(u @ turn), rule.alpha / np.sqrt(precision)


def _kinds(
    setting: ReluSetting, origin: FloatArray, root: FloatArray, u: FloatArray, spread: FloatArray
) -> NDArray[np.int64]:
    """Classes with the same averages, in the same places, read the same table."""
    n_classes, q = root.shape
    rows = np.column_stack([setting.n, setting.d, setting.delta, spread, np.linalg.norm(root, axis=1), origin])
    if q <= 1:
        rows = np.column_stack([rows, root])
    if u.shape[1] == 1:
        rows = np.column_stack([rows, u])
    known: list[FloatArray] = []
    kind = np.zeros(n_classes, dtype=np.int64)
    for c, row in enumerate(rows):
        same = [i for i, other in enumerate(known) if np.abs(row - other).max() <= 1e-12 * np.abs(row).max()]
        if not same:
            known.append(row)
        kind[c] = same[0] if same else len(known) - 1
    return kind


def _exchanged(
    setting: ReluSetting, origin: FloatArray, root: FloatArray, u: FloatArray, spread: FloatArray, ends: FloatArray,
    seeds: FloatArray,
) -> tuple[NDArray[np.int64], list[tuple[int, ...]]]:  # fmt: skip
    """For each conjugate field the one before it with which it may be exchanged, or -1, where there is one of each
    class; and the permutations of classes, and of their fields, which this makes.

    Classes may be exchanged whose fields have one law: alike in what is theirs and in the roots.
    """
    n_classes, q = root.shape
    before = np.full(q, -1, dtype=np.int64)
    if q != n_classes or len(seeds):
        return before, [tuple(range(n_classes))]
    own = np.column_stack([setting.n, setting.d, setting.delta, spread, origin, u])
    near = _ALIKE * np.abs(own).max(axis=0)
    apart = _ALIKE * float(np.abs(root).max())

    def alike(swap: IntArray) -> bool:
        turned = ends.copy()
        turned[:, :q] = ends[:, swap]
        return bool(
            (np.abs(own[swap] - own) <= near).all()
            and np.abs(root[np.ix_(swap, swap)] - root).max() <= apart
            and (np.abs(turned[:, None] - ends).max(axis=2, initial=0.0) <= _ALIKE).any(axis=1).all()
        )

    blocks = exchanged(n_classes, alike)
    for block in blocks:
        before[block[1:]] = block[:-1]
    images = []
    for parts in itertools.product(*(itertools.permutations(block) for block in blocks)):
        image = np.arange(n_classes)
        for block, part in zip(blocks, parts):
            image[block] = part
        images.append(tuple(int(c) for c in image))
    return before, images


def _symmetrised(value: FloatArray, images: list[tuple[int, ...]], q: int) -> FloatArray:
    """Sums of `flood` (..., k) as their mean over permutations of the classes and their fields."""
    if len(images) == 1:
        return value
    return np.asarray(np.mean([value[..., _places(image, q)] for image in images], axis=0))


def _symmetrised_slopes(changes: FloatArray, images: list[tuple[int, ...]], q: int, p: int) -> FloatArray:
    """The same of their derivatives, whose rows are permuted, too."""
    if len(images) == 1 or not len(changes):
        return changes
    total = np.zeros_like(changes)
    for image in images:
        classes, rows, start = np.array(image), [], 0
        for fields in (q, p, *((1, 1, 1) if p else (1, 1))):
            index = start + np.arange(len(image) * fields).reshape(len(image), fields)[classes]
            rows.append((index[:, classes] if fields == q else index).ravel())
            start += len(image) * fields
        total += changes[np.concatenate(rows)][:, _places(image, q)]
    return total / len(images)


def _places(image: tuple[int, ...], q: int) -> NDArray[np.int64]:
    """Where each of the sums of `flood` is found in those of permuted classes."""
    n_classes, classes, found, start = len(image), np.array(image), [np.zeros(1, dtype=np.int64)], 1
    for rows, columns in [(1, n_classes), (n_classes, n_classes)] * 2 + [(1, n_classes), (q, n_classes), (q, q)]:
        index = start + np.arange(rows * columns).reshape(rows, columns)
        found.append((index[np.ix_(classes, classes)] if rows > 1 else index[:, classes]).ravel())
        start += rows * columns
    return np.concatenate(found)
