"""The branch with codes: one table of starts, and when which of them can still help (THEORY.md, "Solving").

Every start leads to a system at the coarse quadrature and to where Newton's method ended there; from there `polish`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from meanfield.theories.deep.layers.rules import COARSE, FINE, NotCovered, TooFine
from meanfield.theories.deep.layers.work import OutOfWork, counted
from meanfield.theories.deep.newton import Found, newton
from meanfield.theories.deep.readout import readout_minimum
from meanfield.theories.deep.search.ascent import ascended, climbed_up
from meanfield.theories.deep.search.branches import (
    AROUND_PEAKS,
    ASCENDED,
    FEW_STEPS,
    ONE_WAY,
    ROUGH,
    ROUGH_PEAKS,
    Report,
    Way,
    polish,
)
from meanfield.theories.deep.search.limit_start import first_conjugate, has_limit, limit_order
from meanfield.theories.deep.search.response import responding
from meanfield.theories.deep.search.start import planted, relax
from meanfield.theories.deep.search.upwards import from_few, with_samples
from meanfield.theories.deep.system import MOST_FIELDS, DeepProblem, Order, System, fields_of_layers, patched
from meanfield.validation import FloatArray

__all__ = ["STARTS", "Kind", "Start", "coarse_starts", "coding_and_starts", "coding_branch", "starts_of"]

_WORK = 9e10  # multiplications (30 to 60 s) in finding the codes
_SPENT = 0.98  # part of them after which no other start is tried
_SAME = 1e-2  # difference of coarse solutions, in units of their blocks, that are one
_GOOD = 1e-6  # residual that is asked for of a solution that is only a start
_FEWEST = 60.0  # samples per class, below which there is no other start
_MANY = 3000.0  # samples, from which on the start is that of the limit first
_NARROW = 1e4  # samples, from which on planted starts of two layers may be lost, as those of three are
_CLIMB = 1.2e7  # samples, from which on three and more layers are reached from fewer
_RUNG = 1.25  # times as many samples at a time
_LOST = 1e-2  # residual at which Newton was lost on the way
_MOST_UPWARDS, _FINEST = 20, 1.1  # steps of Newton at more samples, and by how many times more at least
_FEWER = 1.5e10  # multiplications of two layers at a third of the samples
_UPHILL, _NEARLY_UP = 0.03, 0.1  # residual from which Newton takes over from the climb, and from one that began close
_UP = 3e-3  # residual to which the latter goes on where Newton was lost
_LONG = 100  # steps of the latter at most: neurons of steps change their ways slowly


class Kind(NamedTuple):
    """What of a problem decides which starts it has, and in which order."""

    depth: int
    classes: int
    samples: float
    peaks: bool  # lattices around peaks, which bear layers far from any solution and are found anew at every step
    limit: bool  # at the exponent 1 / L, where the limit of many samples is known

    @classmethod
    def of(cls, problem: DeepProblem) -> Kind:
        """That of a problem."""
        return cls(problem.depth, len(problem.n), problem.n_samples, patched(problem), has_limit(problem))

    @property
    def many(self) -> bool:
        """Whether kernels are nearer to those of the limit of many samples than to those of the prior."""
        return self.samples > _MANY

    @property
    def deep(self) -> bool:
        """Whether there are middle layers."""
        return self.depth > 2


@dataclass(frozen=True)
class Start:
    """A row of the table.

    Attributes
    ----------
    name : str
        How it is made, in words.
    make : callable
        From a problem to a system at the coarse quadrature, and where Newton's method ended.
    applies : callable
        Whether a problem of a kind has it.
    cost : callable
        10^9 multiplications that are expected until it has led to the codes: those that it takes, by the part of the
        problems of a kind that it solves.
    second : bool
        Whether it is one to hold a solution against (`second_start`).
    alone : bool
        Whether no other one is tried where it applies.
    """

    name: str
    make: Callable[[DeepProblem, Report | None], tuple[System, Found]]
    applies: Callable[[Kind], bool]
    cost: Callable[[Kind], float]
    second: bool = True
    alone: bool = False


def coding_branch(problem: DeepProblem, tolerance: float, report: Report | None = None) -> tuple[System, Found]:
    """The branch with codes, from the first start of the table that leads to it; of unconverged ones the best.

    Raises
    ------
    NotCovered
        If the integrals cannot be done on the way.
    """
    return coding_and_starts(problem, tolerance, report)[:2]


def coarse_starts(problem: DeepProblem, report: Report | None = None) -> list[Way]:
    """Ways to the codes at the coarse quadrature, which a solution can be held against, in the order of the table."""
    return _ways(problem, starts_of(Kind.of(problem)), report)


def _ways(problem: DeepProblem, rows: list[Start], report: Report | None) -> list[Way]:
    return [partial(start.make, problem, report) for start in rows if start.second]


def starts_of(kind: Kind) -> list[Start]:
    """The starts of a kind of problem, by what they are expected to cost."""
    return sorted((start for start in STARTS if start.applies(kind)), key=lambda start: start.cost(kind))


def coding_and_starts(
    problem: DeepProblem, tolerance: float, report: Report | None = None
) -> tuple[System, Found, list[Way] | None]:
    """The same, and the starts at the coarse quadrature that were not needed; None where some before led to none."""
    rows = starts_of(Kind.of(problem))
    rows = [start for start in rows if start.alone] or rows
    more = AROUND_PEAKS if patched(problem) else 1.0
    search = _Search(more * _WORK)
    with counted(search.most) as work:
        for tried, start in enumerate(rows, 1):
            rough = None
            try:
                with counted(more * ONE_WAY):
                    rough = start.make(problem, report)
                    reached = polish(*rough, tolerance, report)
            except (OutOfWork, NotCovered, np.linalg.LinAlgError) as reason:
                if not search.goes_on(start, rough, reason, work.done):
                    break
            else:
                if search.keeps(start, reached, tolerance):
                    return *reached, _ways(problem, rows[1:], report) if tried == 1 else None
    return *search.best(), None


class _Search:
    """What starts have led to, and whether another one can help: the one place where that is decided."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.found: tuple[System, Found] | None = None  # the best of unconverged ones
        self.refused: tuple[System, Found] | None = None  # coarse solution that is too much for the fine quadrature
        self.said = list[str]()  # what came of each start
        self.error = NotCovered("no start was found from which the quadrature of all layers can be done")

    def keeps(self, start: Start, reached: tuple[System, Found], tolerance: float) -> bool:
        """Whether a start has led to the codes; if not, another one may."""
        self.said.append(f"{start.name}: Newton ended at a residual of {reached[1].residual:.0e}")
        if self.found is None or reached[1].residual < self.found[1].residual:
            self.found = reached
        return self.found[1].residual <= tolerance

    def goes_on(self, start: Start, rough: tuple[System, Found] | None, reason: Exception, done: float) -> bool:
        """Whether other starts can help after a failure.

        After work of `done` or with `rough` at the coarse quadrature, if the start came so far. Where it was lost on
        its way, or was too long, others go other ways. A solution of the coarse quadrature that is too much for the
        fine one is what they lead to as well: that is over when a second one has.
        """
        self.said.append(f"{start.name}: {reason}")
        if isinstance(reason, OutOfWork):
            over = done >= _SPENT * self.most
            if over and self.refused is None:
                self.error = NotCovered(
                    f"codes were not found in the work that is allowed for it (from {'; from '.join(self.said)})"
                )
            return not over
        if isinstance(reason, TooFine) and rough is not None and rough[1].residual <= ROUGH:
            before, self.refused = self.refused, rough
            system, end = rough
            self.error = TooFine(
                f"codes were found at the coarse quadrature (Phi = {system.free_energy(end.x, end.averages):.6g}, from "
                f"{start.name}), the fine one is too much: {reason}"
            )
            return before is None or not _one(before, rough)
        if isinstance(reason, NotCovered) and self.refused is None:
            self.error = reason
        return True

    def best(self) -> tuple[System, Found]:
        """The best of unconverged ends.

        Raises
        ------
        NotCovered
            If there are none, or codes are known that the fine quadrature cannot do; the text says what was in the way.
        """
        if self.found is None or self.refused is not None:
            raise self.error
        return self.found


def _one(one: tuple[System, Found], other: tuple[System, Found]) -> bool:
    """Whether two ends at the coarse quadrature are one solution."""
    system, (x, y) = one[0], (one[1].x, other[1].x)
    return x.shape == y.shape and bool(np.abs((x - y) / system.scales(x)).max() < _SAME)


# ---- how starts are made ------------------------------------------------------------------------------


def _from_fewer(problem: DeepProblem, report: Report | None) -> tuple[System, Found]:
    """From a third of the samples."""
    if problem.n_samples < _FEWEST * len(problem.n):
        raise NotCovered("a third of so few samples is no start")
    fewer = with_samples(problem, 1.0 / 3.0)
    with counted(_FEWER if problem.depth == 2 and not patched(problem) else math.inf):  # and a climb is tried after it
        lower, start = coding_branch(fewer, _GOOD, report)
    if start.residual > ROUGH:
        raise NotCovered(f"the branch with codes was not found at {fewer.n_samples:.4g} samples")
    return _continued(fewer, problem, lower.unpack(start.x), report)


def _climbed(problem: DeepProblem, report: Report | None) -> tuple[System, Found]:
    """Of very many samples: planted, else from fewer, `_RUNG` times as many at a time.

    The layers are so close to an instability there that planted starts miss it; from two solutions the powers of P with
    which they change are known. At the fine quadrature: the coarse one leaves the common part of a middle kernel open.

    Raises
    ------
    NotCovered
        If it is lost on the way; the text says where.
    """
    system, found = _rung(problem, None, report)
    if ROUGH < found.residual <= _LOST:
        found = newton(system, found.x, ROUGH, most=FEW_STEPS, progress=report)
    if found.residual <= ROUGH:
        return system, found
    steps = math.ceil(math.log(problem.n_samples / _CLIMB) / math.log(_RUNG))
    orders: list[Order] = []
    for k in range(steps + 1, -1, -1):
        rung = with_samples(problem, _RUNG**-k)
        system, found = _rung(rung, _extrapolated(*orders[-2:]) if len(orders) > 1 else None, report)
        if found.residual > _LOST:
            raise NotCovered(
                f"with so many samples the layers are close to an instability; at {rung.n_samples:.3g} samples, on the "
                f"way to {problem.n_samples:.3g}, Newton ended at a residual of {found.residual:.1g}"
            )
        orders.append(system.unpack(found.x))
    return system, found


def _rung(problem: DeepProblem, order: Order | None, report: Report | None) -> tuple[System, Found]:
    """A few steps of Newton at the fine quadrature, from order parameters or planted ones."""
    system = System(problem, COARSE)
    if order is None:
        planted_one = readout_minimum(system, planted(problem, limit=True))[0]
        x = relax(system, planted_one, critical=True, limit=True)
    else:
        x = system.pack(order)
    system = system.at_rule(FINE)
    return system, newton(system, x, ROUGH, most=FEW_STEPS, patience=4, progress=report)


def _extrapolated(one: Order, two: Order) -> Order:
    """The order parameters at more samples than those of `two`, by the same factor as these are more than of `one`."""
    mean, last = (order.kernel.mean(axis=(1, 2), keepdims=True) for order in (two, one))
    apart, before = two.kernel - mean, one.kernel - last
    return Order(
        mean * _ratio(mean, last) + apart * _ratio(apart, before),
        two.d * _ratio(two.d, one.d),
        two.tilde * _ratio(two.tilde, one.tilde),
        two.delta * _ratio(two.delta, one.delta),
        two.t * _ratio(two.t, one.t),
    )


def _ratio(two: FloatArray, one: FloatArray) -> FloatArray:
    """two / one, where that is a moderate factor, else 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = two / one
    return np.where(np.isfinite(found) & (found > 0.1) & (found < 10.0), found, 1.0)


def _continued(fewer: DeepProblem, problem: DeepProblem, order: Order, report: Report | None) -> tuple[System, Found]:
    """The same branch at more samples than those of `order`: at once, or where that fails in smaller steps."""
    samples, factor = fewer.n_samples, problem.n_samples / fewer.n_samples
    while True:
        factor = min(factor, problem.n_samples / samples)
        last = samples * factor > 0.999 * problem.n_samples
        there = problem if last else with_samples(problem, samples * factor / problem.n_samples)
        moved = replace(order, tilde=order.tilde / factor, t=order.t / factor ** (1.0 - problem.exponent))
        system = System(there, COARSE)
        try:
            moved = readout_minimum(system, moved)[0]
            rough = newton(system, system.pack(moved), ROUGH, most=_MOST_UPWARDS, patience=4, progress=report)
        except (NotCovered, np.linalg.LinAlgError):
            rough = None
        reached = rough is not None and rough.residual <= ROUGH
        if not reached and factor >= _FINEST:
            factor = math.sqrt(factor)
        elif rough is None or not (reached or last):
            raise NotCovered(f"the branch with codes was lost at {there.n_samples:.4g} samples, followed upwards")
        elif last:
            return system, rough
        else:
            samples, order = there.n_samples, system.unpack(rough.x)


def _from_plant(problem: DeepProblem, report: Report | None, usual: bool = True) -> tuple[System, Found]:
    """From planted codes, with the middle layers of the limit where samples are many, and unless `usual` the others."""
    limit = (problem.n_samples > _MANY) is usual
    system = System(problem, COARSE)
    order = readout_minimum(system, planted(problem, limit=limit))[0]
    x = system.pack(order) if problem.depth == 1 else relax(system, order, critical=True, limit=limit)
    return system, newton(system, x, ROUGH_PEAKS if patched(problem) else ROUGH, progress=report)


def _from_limit(problem: DeepProblem, report: Report | None) -> tuple[System, Found]:
    """From the limit of many samples at the exponent 1 / L."""
    system = System(problem, COARSE)
    order = readout_minimum(system, limit_order(problem))[0]
    x = relax(system, order, limit=True, first=first_conjugate(problem, order))
    return system, newton(system, x, ROUGH, progress=report)


def _from_response(problem: DeepProblem, report: Report | None) -> tuple[System, Found]:
    """Upwards along Phi from where every layer has the kernel that planted codes ask for.

    On lattices around peaks, which are found anew in every step of the climb, at once by Newton's method.
    """
    system = System(problem, COARSE)
    order = responding(system)
    if patched(problem):
        x = system.pack(order)
    else:
        x = climbed_up(system, order, _NEARLY_UP, _LONG, progress=report)
    found = newton(system, x, ROUGH, progress=report)
    if found.residual > ROUGH and not patched(problem) and len(problem.n) < 3:  # too early, where layers are soft
        x = climbed_up(system, system.unpack(x), _UP, _LONG, progress=report)
        found = newton(system, x, ROUGH, progress=report)
    return system, found


def _from_climb(problem: DeepProblem, report: Report | None) -> tuple[System, Found]:
    """From planted codes upwards along Phi, with its second derivatives."""
    system = System(problem, COARSE)
    limit = problem.n_samples > _MANY
    order = readout_minimum(system, planted(problem, limit=limit))[0]
    x = climbed_up(system, system.unpack(relax(system, order, critical=True, limit=limit)), _UPHILL, progress=report)
    return system, newton(system, x, ROUGH, progress=report)


def _from_ascent(problem: DeepProblem, report: Report | None) -> tuple[System, Found]:
    """From planted codes along the conjugates that are asked for, and Newton from where they are nearly right.

    The way there is on lattices around peaks, which bear layers far from any solution; one lattice takes over where it
    does.
    """
    if problem.depth == 1 or fields_of_layers(problem) > MOST_FIELDS:
        raise NotCovered("the fields of a layer are too many for lattices around peaks")
    system = System(problem, COARSE, peaks=True)
    order = readout_minimum(system, planted(problem))[0]
    start = system.unpack(relax(system, order, critical=True))
    x = ascended(system, start, ASCENDED, progress=report)
    found = newton(system, x, ROUGH, progress=report)
    if not patched(problem):
        order, system = system.unpack(found.x), System(problem, COARSE)
        found = newton(system, system.pack(order), ROUGH, progress=report)
    return system, found


def _few(problem: DeepProblem, report: Report | None) -> tuple[System, Found]:
    return from_few(problem, ROUGH, report)


# Costs are those of random tasks (`benchmarks/RESULTS.md`).
STARTS = (
    Start(
        "fewer samples, step by step",
        _climbed,
        lambda kind: kind.deep and kind.samples > _CLIMB,
        lambda kind: 0.0,
        second=False,
        alone=True,
    ),
    Start(
        "the kernels that codes ask for",
        _from_response,
        lambda kind: (
            (kind.deep and kind.many and kind.limit)  # what classes share is far from the prior
            or (kind.classes > 2 and (kind.deep or (kind.depth == 2 and kind.many and not kind.peaks)))
        ),
        lambda kind: 1.0,
    ),
    Start(
        "the limit of many samples",
        _from_limit,
        lambda kind: kind.limit and not kind.peaks,
        lambda kind: 2.0,
    ),
    Start(
        "planted codes",
        _from_plant,
        lambda kind: True,
        lambda kind: 3.0,
    ),
    Start(
        "few samples",
        _few,
        lambda kind: not kind.peaks and (kind.deep or (kind.depth == 2 and kind.samples > _NARROW)),
        lambda kind: 4.0,
    ),
    Start(
        "planted codes with other kernels",
        partial(_from_plant, usual=False),
        lambda kind: kind.deep or kind.many,
        lambda kind: 5.0,
    ),
    Start(
        "a climb along Phi",
        _from_climb,
        lambda kind: kind.depth > 1 and not kind.peaks,
        lambda kind: 6.0 if kind.deep else 8.0,  # layers are soft at fewer samples, where they are two
        second=False,
    ),
    Start(
        "a third of the samples",
        _from_fewer,
        lambda kind: True,
        lambda kind: 10.0 if kind.peaks else 7.0,
        second=False,
    ),
    Start(
        "an ascent along the conjugates",
        _from_ascent,
        lambda kind: True,
        lambda kind: 9.0,
        second=False,
    ),
)
