"""Steps along a family of problems (relu/THEORY.md, "Following a branch").

The branch is followed by its arc length, because it may turn back (a first-order transition). A code condenses where
its gain reaches 1, and is no outlier any more where its length is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.deep.relu.average import ROUGH
from meanfield.theories.deep.relu.coordinates import ReluOrder, add_blocks
from meanfield.theories.deep.relu.outlier import above, condensed
from meanfield.theories.deep.relu.search.bare import BareSystem
from meanfield.theories.deep.relu.setting import BulkDiverges
from meanfield.theories.deep.relu.slopes import gain_change, setting_change
from meanfield.theories.deep.relu.system import ReluProblem
from meanfield.validation import BoolArray, FloatArray

__all__ = ["BranchLost", "Point", "Walk", "with_outliers"]

_CLOSE = 3e-4  # residual on the way
_CORRECTIONS = 10
_SLOW = 0.3  # part of the error that three corrections must not leave
_FEW, _MANY = 3, 6  # corrections after which the next step is longer, and shorter
_BIRTH = 6
_BACK = 0.4  # of a step: the last chord is at least as long, or it is not extrapolated
_TURNED = 0.3  # cosine of the angle between two directions that are
_LONGEST, _SHORTEST = 1.0, 2e-4  # step along the branch, in relative changes
_MOST_STEPS = 120
_NEAR = 0.96  # gain from which a code is looked at
_CERTAIN = 0.01  # and within which of 1 it becomes an outlier
_SHORT = 0.04  # length below which an outlier has vanished
_BORN = (0.04, 0.01, 0.12)  # squared lengths that are tried
_STEP = 3e-5  # of differences by mu: longer ones are not linear where a gain is near 1, shorter ones see the cuts

Report = Callable[[float], None]
Family = Callable[[float], ReluProblem]


class BranchLost(ValueError):
    """The branch could not be followed to its end."""


@dataclass(frozen=True, eq=False)
class Point:
    system: BareSystem
    x: FloatArray
    mu: float
    jacobian: FloatArray  # by x and mu
    moved: ReluOrder  # derivatives of the order parameters by x
    corrections: int = 0

    @property
    def order(self) -> ReluOrder:
        return self.system.order(self.x, ROUGH)


class Walk:
    """Along one family of problems, to its parameter `end`; `place` says in words where a parameter is."""

    def __init__(self, family: Family, end: float, report: Report, place: Callable[[float], str]) -> None:
        self.family, self.end, self.report, self.place = family, end, report, place

    # ---- points ----------------------------------------------------------------------------------

    def by_mu(
        self, system: BareSystem, mu: float, value: Callable[[BareSystem], FloatArray], here: FloatArray
    ) -> FloatArray:
        """Derivative of what is `here` at mu."""
        ends = []
        for sign in (1.0, -1.0):
            try:
                ends.append((sign, value(system.moved(self.family(mu + sign * _STEP)))))
            except BulkDiverges:
                ends.append((0.0, here))
        (first, high), (second, low) = ends
        if first == second:
            raise BulkDiverges("nothing converges beside this point.")
        return np.asarray((high - low) / ((first - second) * _STEP))

    def jacobian(self, system: BareSystem, x: FloatArray, mu: float, r: FloatArray) -> tuple[FloatArray, ReluOrder]:
        """(k, k + 1) derivatives of the residual by the unknowns and mu, and those of the order parameters."""
        found, moved = system.jacobian(x, ROUGH)
        return np.column_stack([found, self.by_mu(system, mu, lambda other: other.residual(x, ROUGH), r)]), moved

    def corrected(
        self, system: BareSystem, x: FloatArray, mu: float, along: FloatArray | None, jacobian: FloatArray | None,
        most: int = _CORRECTIONS,
    ) -> Point | None:  # fmt: skip
        """Newton at fixed mu, or across the direction `along`; None where it does not end at a solution."""
        try:
            system = system.moved(self.family(mu))
            r = system.residual(x, ROUGH)
            error, fresh = system.error(x, r), False
            before, moved = math.inf, None
            for count in range(most):
                self.report(error)
                if error <= _CLOSE:
                    if not fresh:
                        jacobian, moved = self.jacobian(system, x, mu, r)
                    assert jacobian is not None
                    assert moved is not None
                    return Point(system, x, mu, jacobian, moved, count)
                if along is not None and count % 3 == 2:
                    if error > _SLOW * before:
                        return None
                    before = error
                if jacobian is None:
                    (jacobian, moved), fresh = self.jacobian(system, x, mu, r), True
                scale = np.append(system.scale(x), 1.0)
                row = np.eye(len(scale))[-1] if along is None else along
                change = scale * np.linalg.solve(np.vstack([jacobian * scale, row]), np.append(-r, 0.0))
                part, found = min(1.0, 0.5 / float(np.abs(change / scale).max())), None
                for _ in range(5):
                    try:
                        next_x, new_mu = x + part * change[:-1], mu + part * change[-1]
                        new = system.moved(self.family(new_mu)) if along is not None else system
                        new_r = new.residual(next_x, ROUGH)
                        new_error = new.error(next_x, new_r)
                        if new_error < (1.0 - 0.05 * part) * error:
                            found = new_error
                            break
                    except BulkDiverges:
                        pass
                    part *= 0.5
                if found is None:
                    if fresh:
                        return None
                    jacobian = None
                    continue
                step = np.append(next_x - x, new_mu - mu)
                if part < 1.0 or found > 0.3 * error:
                    jacobian = None
                else:
                    jacobian = jacobian + np.outer(new_r - r - jacobian @ step, step / scale**2) / float(
                        (step / scale) @ (step / scale)
                    )
                system, x, mu, r, error, fresh = new, next_x, new_mu, new_r, found, False
        except (BulkDiverges, np.linalg.LinAlgError):
            pass
        return None

    def tangent(self, point: Point) -> FloatArray:
        """Unit direction of the branch in scaled unknowns, of either sign."""
        scale = np.append(point.system.scale(point.x), 1.0)
        found = np.linalg.svd(point.jacobian * scale)[2][-1]
        return np.asarray(found / np.abs(found).max())

    # ---- outliers --------------------------------------------------------------------------------

    def nearest(self, point: Point) -> tuple[float, int, int] | None:
        """(gain, layer, word) of the absent code of the largest gain."""
        system, order = point.system, point.order
        best = None
        for layer in range(system.problem.depth):
            setting = system.full.setting(order, layer)
            for o, word in enumerate(system.words):
                if system.present[layer, o]:
                    continue
                _, found = above(setting, word)
                if found.word == word and (best is None or found.gain > best[0]):
                    best = found.gain, layer, o
        return best

    def slope(self, point: Point, layer: int, beta: FloatArray) -> FloatArray:
        """Derivatives of a gain by x and mu at the direction beta, which is stationary."""
        system, order = point.system, point.order
        problem = system.problem
        setting = system.full.setting(order, layer)
        change = setting_change(order, point.moved, layer, problem.readout_variance, problem.into(layer))

        def gain(other: BareSystem) -> FloatArray:
            return np.array(condensed(other.full.setting(other.order(point.x, ROUGH), layer), beta).gain)

        by_mu = self.by_mu(system, point.mu, gain, np.array(condensed(setting, beta).gain))
        return np.append(gain_change(setting, beta, change), by_mu)

    def born(self, point: Point, layer: int, o: int, gain: float, slope: FloatArray) -> tuple[Point, int] | None:
        """The solution beside `point` with one more code, and those of its orbit, as outliers, and which code that is:
        at this length a class may have left it already."""
        system, order = point.system, point.order
        group = system.full.symmetry.permutations
        orbit = {system.words.index("".join(system.words[o][i] for i in p)) for p in group}
        present = system.present.copy()
        present[layer, list(orbit)] = True
        more = BareSystem(system.problem, system.words, present)
        setting = system.full.setting(order, layer)
        units = {word: above(setting, system.words[word])[0] for word in orbit}
        base = system.residual(point.x, ROUGH)
        small = 1e-4
        try:
            small_one = more.pack(with_outliers(order, layer, units, math.sqrt(small)))
            there = more.full.images(more.order(small_one, ROUGH), ROUGH)
        except BulkDiverges:
            return None
        source = (system.pack(there) - point.x - base) / small
        by_x, by_mu = point.jacobian[:, :-1], point.jacobian[:, -1]
        a, b = np.linalg.solve(by_x, -by_mu), np.linalg.solve(by_x, source)
        by_end = float(slope[:-1] @ a + slope[-1])
        rate = float(slope[:-1] @ b)
        if by_end == 0.0 or rate == 0.0:
            return None
        at_end = ((self.end - point.mu) * by_end - (1.0 - gain)) / rate
        for square in (at_end, *_BORN):
            change = ((1.0 - gain) + rate * square) / by_end
            if not 0.0 < square <= max(_BORN) or not abs(change) < 1.0:
                continue
            start = _order_of(system, point.x + change * a - square * b, order)
            x = more.pack(with_outliers(start, layer, units, math.sqrt(square)))
            held = None
            if square != at_end:  # at this length, whatever mu is
                held = np.append(_outlier_only(more, x, layer, o) * more.scale(x), 0.0)
                held /= np.linalg.norm(held)
            found = self.corrected(more, x, float(point.mu + change), held, None, _BIRTH)
            now = o
            if found is not None and (left := self.without(found)) is not None:
                now = next((new for at, old, new in left.renamed if (at, old) == (layer, o)), o)
                if left.vanished or now == o:
                    continue
                found = self.renamed(found, left)
            if found is not None and found.mu <= self.end + 1e-9 and self.without(found) is None:
                return found, now
        return None

    def renamed(self, point: Point, left: _Left) -> Point | None:
        """The solution with the outliers that are left, under their words."""
        fewer = BareSystem(point.system.problem, point.system.words, left.present)
        return self.corrected(fewer, fewer.pack(left.order), point.mu, None, None)

    def without(self, point: Point) -> _Left | None:
        """Outliers that are left, and under their words, where some have vanished or changed their code."""
        system, order = point.system, point.order
        present, renamed, vanished = system.present.copy(), [], []
        for layer in range(system.problem.depth):
            setting, outliers = system.full.setting(order, layer), order.outliers(layer)
            moved = {}
            for o, word in enumerate(system.words):
                if not present[layer, o]:
                    continue
                now = condensed(setting, outliers[o]).word
                if now == word and np.linalg.norm(outliers[o]) >= _SHORT:
                    continue
                if now != word and now in system.words and not system.present[layer, system.words.index(now)]:
                    moved[system.words.index(now)] = outliers[o].copy()  # a class has joined or left
                    renamed.append((layer, o, system.words.index(now)))
                else:
                    vanished.append((layer, o))
                present[layer, o] = False
                outliers[o] = 0.0
            for o, beta in moved.items():
                present[layer, o] = True
                outliers[o] = beta
        return _Left(present, order, tuple(renamed), tuple(vanished)) if renamed or vanished else None

    def onwards(self, left: _Left, before: BareSystem, along: FloatArray, point: Point) -> FloatArray:
        """Which way the branch goes on at `point`, behind the place where outliers vanished or changed their words.

        The gain of one that has vanished falls there; otherwise all goes on as it did, `along` in the unknowns before.
        """
        for layer, o in left.vanished:
            beta = above(point.system.full.setting(point.order, layer), point.system.words[o])[0]
            slope = self.slope(point, layer, beta)
            return np.asarray(-slope * np.append(point.system.scale(point.x), 1.0))
        change = before.problem.nothing(len(before.words))
        add_blocks(before.blocks, along[:-1], change)
        for layer, o, now in left.renamed:
            change.outliers(layer)[now], change.outliers(layer)[o] = change.outliers(layer)[o].copy(), 0.0
        return np.append(point.system.pack(change), along[-1]) / np.append(point.system.scale(point.x), 1.0)

    # ---- the walk --------------------------------------------------------------------------------

    def start(self, system: BareSystem, x: FloatArray, mu: float) -> Point:
        """The solution near to x.

        Raises
        ------
        BranchLost
        """
        point = self.corrected(system, x, mu, None, None)
        if point is None:
            raise BranchLost(f"it has no solution at {self.place(mu)}")
        return point

    def points(self, point: Point, forwards: FloatArray | None = None) -> Iterator[tuple[Point, FloatArray]]:
        """Solutions from `point` on, towards the end at first, to that at the end; and the direction behind each.

        Raises
        ------
        BranchLost
        """
        if forwards is None:
            forwards = np.append(np.zeros(len(point.x)), 1.0)
        step, refused, past = 0.3, math.inf, None
        for _ in range(_MOST_STEPS):
            check_time()
            along = self.tangent(point)
            along = along * np.sign(along @ forwards)
            scale = np.append(point.system.scale(point.x), 1.0)
            if along[-1] > 0.0:  # do not step over the end
                step = min(step, max(self.end - point.mu, 1e-9) / along[-1] * 1.001)
            following = None
            near = self.nearest(point)
            if near is not None and near[0] > _NEAR:
                gain, layer, o = near
                beta = above(point.system.full.setting(point.order, layer), point.system.words[o])[0]
                slope = self.slope(point, layer, beta)
                rise = float((slope * scale) @ along)
                room = 1.0 - gain
                if _CERTAIN < room < 1.2 * step * rise:
                    step = (room - 0.5 * _CERTAIN) / rise
                elif gain > 1.0 or 0.0 < room < min(1.2 * step * rise, 0.5 * refused):
                    born = self.born(point, layer, o, gain, slope)
                    refused = max(room, 0.0) if born is None else math.inf
                    if born is None and rise > 0.0 < room:  # its gain does not reach 1 as it seems
                        step = min(step, 0.7 * room / rise)
                    if born is not None:
                        following, o = born
                        forwards = np.append(_outlier_only(following.system, following.x, layer, o), 0.0)
                        point, step, past = following, min(step, 0.2), None
                        yield point, forwards
                        continue
            z = _ahead(past, point, scale, along, step)
            at_end = z[-1] >= self.end
            if at_end:
                z = _at(past, point, scale, along, self.end)
            following = self.corrected(
                point.system, z[:-1], float(z[-1]), None if at_end else along / np.linalg.norm(along), point.jacobian
            )
            if (
                following is not None
                and np.abs(np.append(following.x - point.x, following.mu - point.mu) / scale).max() > 3.0 * step + 0.02
            ):
                following = None  # another branch
            if following is None:
                step *= 0.5
                if step < _SHORTEST:
                    raise BranchLost(f"it was lost at {self.place(point.mu)}")
                continue
            left = self.without(following)
            if left is not None:
                found = self.renamed(following, left)
                if found is None:
                    step *= 0.5
                    continue
                forwards = self.onwards(left, following.system, scale * along, found)
                point, past = found, None
                yield point, forwards
                continue
            forwards, past = along, _Past(np.append(point.x, point.mu), scale * along)
            factor = 1.6 if following.corrections <= _FEW else 1.0 if following.corrections <= _MANY else 0.7
            point, step = following, min(factor * step, _LONGEST)
            if point.mu >= self.end - 1e-12:
                near = self.nearest(point)
                if near is None or near[0] < 1.0 + 1e-4:
                    yield point, forwards
                    return
            yield point, forwards
        raise BranchLost(f"it is long, and was left at {self.place(point.mu)}")


@dataclass(frozen=True, eq=False)
class _Left:
    """Outliers that are present, the order parameters with them, (layer, old, new word) and (layer, word) of others."""

    present: BoolArray
    order: ReluOrder
    renamed: tuple[tuple[int, int, int], ...]
    vanished: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class _Past:
    """The point before the last, and the direction of the branch there: (x, mu)."""

    z: FloatArray
    slope: FloatArray


def _ahead(past: _Past | None, point: Point, scale: FloatArray, along: FloatArray, step: float) -> FloatArray:
    """(x, mu) one step further: on the cubic through the last two points with their directions, if there are two.

    Its parameter is the component along the last direction, which corrections keep.
    """
    here, slope = np.append(point.x, point.mu), scale * along
    unit = along / scale / float(along @ along)
    linear = here + step * slope
    if past is None:
        return linear
    length, speed = float(unit @ (here - past.z)), float(unit @ past.slope)
    if not (length > _BACK * step and speed > _TURNED):
        return linear
    part = step / length  # of the last chord, beyond its end
    rest = here - past.z - length * slope
    bend = length * (past.slope / speed - slope)
    square, cube = bend - 3.0 * rest, bend - 2.0 * rest
    return np.asarray(linear + part**2 * square + part**3 * cube)


def _at(past: _Past | None, point: Point, scale: FloatArray, along: FloatArray, end: float) -> FloatArray:
    """(x, end), about where the branch is there."""
    low, high = 0.0, max(end - point.mu, 1e-9) / along[-1] * 1.5
    for _ in range(50):
        middle = 0.5 * (low + high)
        z = _ahead(past, point, scale, along, middle)
        low, high = (middle, high) if z[-1] < end else (low, middle)
    z[-1] = end
    return z


def _outlier_only(system: BareSystem, x: FloatArray, layer: int, o: int) -> FloatArray:
    """The unknowns with all but one outlier (of each orbit) set to zero: the direction in which it grows."""
    order = system.bare(x)
    one = order.outliers(layer)[o].copy()
    only = ReluOrder(*(0.0 * getattr(order, f.name) for f in fields(order)))
    only.outliers(layer)[o] = one
    return system.pack(only)


def with_outliers(order: ReluOrder, layer: int, units: dict[int, FloatArray], length: float) -> ReluOrder:
    """With outliers of one layer set."""
    order = replace(order, lower=order.lower.copy(), top=order.top.copy())
    for o, unit in units.items():
        order.outliers(layer)[o] = length * unit
    return order


def _order_of(system: BareSystem, x: FloatArray, fallback: ReluOrder) -> ReluOrder:
    """Order parameters without their kernels, which are those of `fallback`."""
    return replace(system.bare(x), kernel=fallback.kernel, d=fallback.d)
