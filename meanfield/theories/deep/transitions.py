"""Transitions along a sweep (THEORY.md, "Transitions along a sweep").

At P = infinity codes of the last layer enter and leave with weight zero, and every point is solved in closed form, so
that a change is located by bisection. At finite P single codes come and go smoothly, over a range of the parameter; all
of them are lost at once where the branch without codes has the larger Phi (`first_order`).
"""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass

import numpy as np

from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.posterior import NotAvailable, Posterior
from meanfield.posterior.swept import Swept
from meanfield.theories.deep.search.first_order import crossings
from meanfield.validation import FloatArray

__all__ = ["CodeTransition", "transitions_along"]

_WIDTH = 1e-10  # of the final bracket, relative to the range of the sweep
_NEAR = 1e-4  # the same, where weights on one side of the change take over
_SAME = 1e-7  # transitions closer than this are one
_POINT = 1e-4  # the same for codes that come and go: beside a degenerate point they tie within the solver's tolerance
_MOST = 200  # solves between two points of the sweep


@dataclass(frozen=True, eq=False)
class CodeTransition:
    """A change of the codes of the last layer.

    Attributes
    ----------
    parameters : dict of str to float
        Where: the swept parameter.
    codes : tuple of str
        Patterns of the codes that enter or leave.
    label : str
        What happens as the parameter increases.
    width : float
        Of the bracket in which it was located.
    before, after : tuple of str
        Codes on both sides.
    kind : str
        "weight" where weights pass through zero, "first order" where two branches have the same Phi.
    crossover : bool
        False.
    """

    parameters: dict[str, float]
    codes: tuple[str, ...]
    label: str
    width: float
    before: tuple[str, ...]
    after: tuple[str, ...]
    kind: str = "weight"
    crossover: bool = False

    @property
    def parameter(self) -> str:
        """Name of the parameter."""
        return next(iter(self.parameters))

    @property
    def value(self) -> float:
        """Value of the parameter."""
        return self.parameters[self.parameter]

    def __repr__(self) -> str:
        return f"<Transition: {self.label} at {self.parameter} = {self.value:.10g} to {self.width:.0e}>"


def transitions_along(diagram: Swept) -> tuple[CodeTransition, ...]:
    """Changes of the code set along a sweep of one parameter, sorted by position; at finite P first-order ones.

    Two changes of the same codes between two neighbouring points of the sweep, there and back, are missed. Where a
    branch could not be followed to a first-order transition, a RuntimeWarning says between which points.

    Raises
    ------
    ValueError
        For two axes.
    NotAvailable
        For a parameter that is no number, along ``n_samples``, and for activations that are not bounded.
    """
    if len(diagram.axes) != 1:
        raise ValueError(f"transitions are located along one parameter, the diagram has {list(diagram.axes)}.")
    name, values = next(iter(diagram.axes.items()))
    if np.ndim(values) != 1 or name == "n_samples":
        raise NotAvailable(f"transitions are not located along {name}; sweep a parameter that varies continuously.")
    finite = [math.isfinite(task.n_samples) for _, task, _ in diagram.problems()]
    if all(finite):
        return _first_order(diagram, name, values)
    if any(finite):
        raise NotAvailable("transitions are located at one n_samples, finite or infinite.")
    order = np.argsort(values)
    good = [int(i) for i in order if diagram.certified[i]]
    span = float(np.ptp(values)) or 1.0
    found: list[CodeTransition] = []
    for left, right in itertools.pairwise(good):
        low, high = ((float(values[i]), _codes(diagram.posterior(i))) for i in (left, right))
        _search(diagram, name, low, high, _WIDTH * span, found)
    return tuple(_joined(found, name, _SAME * span))


def _first_order(diagram: Swept, name: str, values: FloatArray) -> tuple[CodeTransition, ...]:
    """Where all codes are lost, or found, at once."""
    if any(network.activation.parts != "codes" for network, _, _ in diagram.problems()):
        raise NotAvailable("first-order transitions are located for bounded activations.")
    found = []
    located, lost = crossings(diagram, name, values)
    for text in lost:
        warnings.warn(text, RuntimeWarning, stacklevel=4)
    for crossing in located:
        sides = {"coding": ("coding",), "uncoded": ()}
        after = "uncoded" if crossing.before == "coding" else "coding"
        label = (
            f"codes are {'lost' if after == 'uncoded' else 'found'}, Phi = {crossing.free_energy:.8g} with and without"
        )
        found.append(
            CodeTransition(
                {name: crossing.value}, (), label, crossing.width, sides[crossing.before], sides[after], "first order"
            )
        )
    return tuple(found)


def _codes(posterior: Posterior) -> tuple[str, ...]:
    return tuple(sorted(code.pattern for code in posterior.codes if code.weight > 1e-9))


def _search(
    diagram: Swept,
    name: str,
    left: tuple[float, tuple[str, ...]],
    right: tuple[float, tuple[str, ...]],
    width: float,
    found: list[CodeTransition],
) -> None:
    """Add all changes between two points whose codes are known."""
    waiting, solves, tried = [(left, right)], 0, False
    while waiting:
        (low, before), (high, after) = waiting.pop()
        if before == after:
            continue
        if not tried and high - low <= width * (_NEAR / _WIDTH):
            tried = not waiting  # with others to come the next bracket may do better
            place = _vanishing(diagram, name, (low, before), (high, after), (left[0], right[0]))
            if place is not None:
                found.append(_change(name, place, before, after, width))
                continue
        if high - low <= width or solves >= _MOST:
            found.append(_change(name, 0.5 * (low + high), before, after, high - low))
            continue
        middle = 0.5 * (low + high)
        try:
            here = middle, _codes(diagram.solve(**{name: middle}))
        except ConvergenceError:  # beside a degenerate point: this is how closely it can be located
            found.append(_change(name, middle, before, after, high - low))
            continue
        solves += 1
        waiting += [(here, (high, after)), ((low, before), here)]


def _vanishing(
    diagram: Swept,
    name: str,
    low: tuple[float, tuple[str, ...]],
    high: tuple[float, tuple[str, ...]],
    limits: tuple[float, float],
) -> float | None:
    """Where the weight of the codes that only one side has vanishes: a parabola through three points of that side.

    The weights are smooth there, so that its error is of third order in the width of the bracket. None where both sides
    have codes of their own, or something else happens nearby.
    """
    step = high[0] - low[0]
    if set(low[1]) < set(high[1]):
        start, own, other, step = high[0], high[1], low[1], step
    elif set(high[1]) < set(low[1]):
        start, own, other, step = low[0], low[1], high[1], -step
    else:
        return None
    places = [start, start + step, start + 3.0 * step]
    if not min(limits) <= places[-1] <= max(limits):
        return None
    weights = []
    for place in places:
        try:
            codes = diagram.solve(**{name: place}).codes
        except ConvergenceError:
            return None
        if tuple(sorted(code.pattern for code in codes if code.weight > 1e-9)) != own:
            return None
        weights.append(sum(code.weight for code in codes if code.pattern not in other))
    roots = np.roots(np.polyfit((np.array(places) - start) / step, weights, 2))
    inside = [float(root.real) for root in roots if abs(root.imag) < 1e-9 and -1.5 <= root.real <= 0.5]
    return start + step * inside[0] if len(inside) == 1 else None


def _change(name: str, value: float, before: tuple[str, ...], after: tuple[str, ...], width: float) -> CodeTransition:
    gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    said = [f"{'-'.join(code)} leaves" for code in gone] + [f"{'-'.join(code)} enters" for code in new]
    return CodeTransition({name: value}, (*gone, *new), ", ".join(said), width, before, after)


def _joined(found: list[CodeTransition], name: str, near: float) -> list[CodeTransition]:
    """Changes at the same place as one; codes that are there at a single point only are named as such."""
    joined: list[CodeTransition] = []
    for one in sorted(found, key=lambda transition: transition.value):
        back = bool(joined) and set(one.codes) == set(joined[-1].codes)
        close = near * (_POINT / _SAME) if back else near
        if not joined or one.value - joined[-1].value > max(close, one.width + joined[-1].width):
            joined.append(one)
            continue
        last = joined.pop()
        width = last.width + one.width + one.value - last.value
        change = _change(name, last.value, last.before, one.after, width)
        passing = sorted(set(last.codes) & set(one.codes))
        point = [", ".join("-".join(code) for code in passing) + " at this point only"] if passing else []
        label = ", ".join([*([change.label] if change.codes else []), *point])
        codes = (*change.codes, *passing)
        value = 0.5 * (last.value + one.value)
        joined.append(CodeTransition({name: value}, codes, label, change.width, last.before, one.after))
    return joined
