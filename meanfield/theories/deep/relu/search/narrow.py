"""From N = infinity to the saddle at N neurons per layer, or to the N at which there is none (relu/THEORY.md, "Finite
width").

As N falls an outlier draws nearer to the bulk, and where the two meet the branch turns back to larger N: a fold. What
Newton finds beyond is the other side of the fold, on which the bulk is cut off near its middle and which does not
become the limit as N grows. Therefore the branch is followed from N = infinity by its arc length, ln N among the
unknowns, and ends where ln N has its minimum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.deep.relu.average import COARSE, FINE
from meanfield.theories.deep.relu.newton import newton
from meanfield.theories.deep.relu.setting import BulkDiverges
from meanfield.theories.deep.relu.system import ReluSystem
from meanfield.validation import FloatArray

__all__ = ["branch_end", "narrowed"]

_FIRST_WIDTHS = (1e6, 1e7, 1e8)  # the first that is reached from N = infinity
_TOLERANCE = 1e-9
_CLOSE = 1e-6  # residual that is left on the way
_LONGEST, _SHORTEST = 1.4, 2e-3  # step along the branch: ln N, and relative changes of the unknowns
_CORRECTIONS = 8
_MOST_STEPS = 200
_SMALL = 0.1  # of the mean size of the unknowns: what relative changes refer to at least

Report = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class _Point:
    """A solution (x, ln N), and the direction of the branch there in units of `scale`, towards smaller N at first."""

    z: FloatArray
    tangent: FloatArray

    @property
    def width(self) -> float:
        return math.exp(float(self.z[-1]))


@dataclass(frozen=True)
class _End:
    """The fold: the layer whose outliers meet the bulk there, and -ln of the density of the bulk at them."""

    point: _Point
    layer: int
    barrier: float


class _Branch:
    """The equations of one problem with ln N as one more unknown, on coarse lattices."""

    def __init__(self, system: ReluSystem, scale: FloatArray) -> None:
        self.problem, self.words, self.present, self.scale = system.problem, system.words, system.present, scale
        self._systems: dict[float, ReluSystem] = {}

    def system(self, log_width: float) -> ReluSystem:
        """The equations at a width; the last ones remember their averages."""
        if log_width not in self._systems:
            if len(self._systems) > 2:
                self._systems.clear()
            self._systems[log_width] = ReluSystem(
                replace(self.problem, width=math.exp(log_width)), self.words, self.present
            )
        return self._systems[log_width]

    def residual(self, z: FloatArray) -> FloatArray:
        return self.system(float(z[-1])).residual(z[:-1], COARSE)

    def jacobian(self, z: FloatArray, r: FloatArray) -> FloatArray:
        """(k, k + 1), by unknowns in units of `scale`."""
        by_x = self.system(float(z[-1])).jacobian(z[:-1], COARSE, r)
        moved = z.copy()
        moved[-1] += 1e-5
        return np.column_stack([by_x, (self.residual(moved) - r) / 1e-5]) * self.scale

    def start(self, x: FloatArray, report: Report) -> _Point:
        """The solution at the first width that Newton reaches from N = infinity."""
        for width in _FIRST_WIDTHS:
            z = np.append(x, math.log(width))
            try:
                found, size, _ = newton(self.system(float(z[-1])), x, COARSE, _CLOSE, 15, report)
                if size <= _CLOSE:
                    z = np.append(found, z[-1])
                    return _Point(z, self.tangent(self.jacobian(z, self.residual(z)), -np.eye(len(z))[-1]))
            except BulkDiverges:
                pass
        raise ConvergenceError(f"no saddle was reached from N = infinity, not at N = {_FIRST_WIDTHS[-1]:.0e} either.")

    @staticmethod
    def tangent(jacobian: FloatArray, along: FloatArray) -> FloatArray:
        """Unit null vector on the side of `along`."""
        found = np.linalg.svd(jacobian / np.linalg.norm(jacobian, axis=1)[:, None])[2][-1]
        return np.asarray(found * np.sign(found @ along))

    def moved(self, point: _Point, step: float, report: Report) -> tuple[_Point, int] | None:
        """The point one step further, and the corrections that it took; None if it was not reached."""
        z = point.z + step * self.scale * point.tangent
        try:
            r = self.residual(z)
            jacobian = self.jacobian(z, r)
            for count in range(_CORRECTIONS):
                size = float(np.linalg.norm(r))
                report(size)
                if size <= _CLOSE:
                    return _Point(z, self.tangent(jacobian, point.tangent)), count
                change = np.linalg.solve(np.vstack([jacobian, point.tangent]), np.append(-r, 0.0))
                if not np.linalg.norm(change) < step:
                    return None
                z = z + self.scale * change
                new = self.residual(z)
                jacobian = jacobian + np.outer(new - r - jacobian @ change, change) / float(change @ change)
                r = new
        except (BulkDiverges, np.linalg.LinAlgError):
            pass
        return None

    def followed(self, x: FloatArray, width: float, report: Report) -> tuple[_Point, _Point]:
        """Neighbouring points with `width` between them, or the first behind the fold as the second."""
        point, step = self.start(x, report), 1.0
        for _ in range(_MOST_STEPS):
            found = self.moved(point, step, report)
            if found is None:
                step *= 0.4
                if step < _SHORTEST:
                    raise ConvergenceError(
                        f"the branch of saddles at finite width was lost at N = {point.width:.4g}, on the way from "
                        "N = infinity; leave width out, or ask for a larger one."
                    )
                continue
            following, corrections = found
            turned, narrow = following.tangent[-1] >= 0.0, following.width <= width
            if turned and narrow and step > _SHORTEST:  # which of them first?
                step *= 0.4
                continue
            if turned or narrow:
                return point, following
            point, step = following, min(step * (1.6 if corrections < 4 else 0.8), _LONGEST)
        raise ConvergenceError(f"the saddle at width {width:g} was not reached: the branch from N = infinity is long.")

    def end(self, before: _Point, behind: _Point, report: Report) -> _End:
        """The fold between two points, where the slope of ln N vanishes: secants."""
        for _ in range(12):
            share = before.tangent[-1] / (before.tangent[-1] - behind.tangent[-1])
            length = float(before.tangent @ ((behind.z - before.z) / self.scale))
            found = self.moved(before, min(max(float(share), 0.05), 0.95) * length, report)
            if found is None or min(before.width, behind.width) - found[0].width < 1e-3 * found[0].width:
                break
            if found[0].tangent[-1] < 0.0:
                before = found[0]
            else:
                behind = found[0]
        lowest = min((one for one in (before, behind, found and found[0]) if one), key=lambda one: one.width)
        system = self.system(float(lowest.z[-1]))
        order = system.unpack(lowest.z[:-1])
        barriers = [system.layer(order, i, COARSE).barrier for i in range(self.problem.depth)]
        return _End(lowest, int(np.argmin(barriers)), min(barriers))


def _branch(system: ReluSystem, x: FloatArray) -> _Branch:
    """Relative changes count alike, those of outliers too: the length of one is what runs into the fold."""
    size = np.abs(x)
    scale = np.append(np.maximum(size, _SMALL * size.mean()), 1.0)
    return _Branch(system, scale)


def branch_end(system: ReluSystem, x: FloatArray, report: Report = lambda size: None) -> float:
    """The smallest N of the branch that begins at the solution x at N = infinity; 0 if it goes on below 1.

    Raises
    ------
    ConvergenceError
        If the branch is lost on the way.
    """
    branch = _branch(system, x)
    before, behind = branch.followed(x, 1.0, report)
    return 0.0 if behind.tangent[-1] < 0.0 else branch.end(before, behind, report).point.width


def narrowed(system: ReluSystem, x: FloatArray, width: float, report: Report) -> tuple[ReluSystem, FloatArray]:
    """Equations and unknowns at N, from those at N = infinity.

    Raises
    ------
    ConvergenceError
        If the branch ends above N, or is lost.
    """
    branch = _branch(system, x)
    before, behind = branch.followed(x, width, report)
    left = (before.z[-1] - math.log(width)) / (before.z[-1] - behind.z[-1]) if behind is not before else 0.0
    if behind.tangent[-1] >= 0.0:
        end = branch.end(before, behind, report)
        if end.point.width > width:
            raise ConvergenceError(_no_saddle(width, end))
        behind = end.point  # near it N is a parabola
        left = 1.0 - math.sqrt(math.log(width / behind.width) / max(before.z[-1] - behind.z[-1], 1e-12))
    x = (before.z + left * (behind.z - before.z))[:-1]
    system = ReluSystem(replace(system.problem, width=width), system.words, system.present)
    try:
        x, size, jacobian = newton(system, x, COARSE, _CLOSE, 15, report)
        z = np.append(x, math.log(width))
        slope = branch.tangent(branch.jacobian(z, branch.residual(z)), before.tangent)[-1]
        if size <= _CLOSE and slope < 0.0:
            x, size, _ = newton(system, x, FINE, _TOLERANCE, 25, report, jacobian)
    except BulkDiverges:
        size, slope = math.inf, -1.0
    if size > _CLOSE or slope >= 0.0:
        why = "it is too near to the end of its branch" if slope >= 0.0 else f"residual {size:.1e}"
        raise ConvergenceError(f"the saddle at width {width:g} was not reached ({why}).")
    return system, x


def _no_saddle(width: float, end: _End) -> str:
    return (
        f"there is no saddle with one outlier per code and layer at width {width:g}: followed from N = infinity, it "
        f"ends at N = {end.point.width:.3g}, where the outliers of layer {end.layer + 1} and the bulk meet (density "
        f"there exp(-{end.barrier:.1f})). Leave width out: sampled networks extrapolated in 1/N are those of N = "
        "infinity."
    )
