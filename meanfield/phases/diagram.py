"""Sweeps over control parameters and phase diagrams of coding schemes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from meanfield.archive import read_archive, reading, write_archive
from meanfield.drawing import drawn
from meanfield.phases.export import dataset
from meanfield.phases.grid import Grid, checked_axes
from meanfield.phases.phase_names import PhaseNames
from meanfield.phases.raster import PointArrays, posterior_at
from meanfield.phases.work import SweepWork
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.posterior import NotAvailable, SolvedPosterior
from meanfield.posterior.registry import covering_theory, sweep_accuracy
from meanfield.posterior.swept import LocatesTransitions
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.progress import progress_bar
from meanfield.solve import solve
from meanfield.validation import (
    entry,
    executor_or_none,
    flag,
    plain_array,
    real_number,
)

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

    from meanfield.phases.boundaries import Boundaries
    from meanfield.theories.deep.transitions import CodeTransition
    from meanfield.theories.single_layer.transitions.acceptance import Transition

__all__ = ["PhaseDiagram", "sweep"]


@dataclass(frozen=True, eq=False)
class PhaseDiagram(PhaseNames):
    """Solutions on a grid of one or two control parameters; what `sweep` returns.

    Arrays have the shape of the grid, in the order of ``axes``.

    Attributes
    ----------
    network, task, tau
        The problem; swept parameters are replaced point by point.
    axes : dict of str to (n,) array
        Parameter values; for ``fractions`` (n, C), for ``layer_sigmas`` and ``width_ratios`` (n, L - 1).
    points : PointArrays
        All points, first axis outermost.
    """

    def row(self, axis: int, k: int) -> PhaseDiagram:
        """The points with the k-th value of one of two parameters, as a diagram over the other."""
        places = [(k, j) if axis == 0 else (j, k) for j in range(self.shape[1 - axis])]
        return self._part(places, 1 - axis)

    def segment(self, one: tuple[int, int], other: tuple[int, int]) -> PhaseDiagram:
        """Two points that share the value of one of two parameters, as a diagram over the other."""
        return self._part([one, other], 1 if one[0] == other[0] else 0)

    def _part(self, places: Sequence[tuple[int, int]], along: int) -> PhaseDiagram:
        name, values = list(self.axes.items())[along]
        if all(axis.startswith("fraction_") for axis in self.axes):
            raise ValueError(f"along {name} alone the other fraction would not stay; solve the points of the plane.")
        problem = self.problem(places[0])
        index = np.array([np.ravel_multi_index(place, self.shape) for place in places])
        points = PointArrays(**{key: array[index] for key, array in self.points.arrays().items()})
        axes = {name: values[[place[along] for place in places]]}
        return PhaseDiagram(problem.network, problem.class_task, problem.tau, axes, points)

    def posterior(self, index: int | tuple[int, ...]) -> SolvedPosterior:
        """Posterior at a grid point, as the sweep found it.

        Raises
        ------
        ConvergenceError
            If that point is not certified.
        """
        at = (index,) if isinstance(index, (int, np.integer)) and len(self.shape) == 1 else index
        flat = int(np.ravel_multi_index(at, self.shape)) if isinstance(at, tuple) else int(at)
        post = posterior_at(self.points, flat, self.problem(flat))
        if post.status != "optimal":
            raise ConvergenceError(f"the point {at} is not certified ({post.status}): {post.message}.", post)
        return post

    def solve(self, **values: float) -> SolvedPosterior:
        """Posterior at any value of the swept parameters, solved afresh from the nearest certified grid point.

        Raises
        ------
        ValueError
            Unless exactly the swept parameters are given.
        ConvergenceError
            As `meanfield.solve`.
        """
        if set(values) != set(self.axes):
            raise ValueError(f"give a value for each of {', '.join(self.axes)}, got {', '.join(values) or 'nothing'}.")
        return self._solved(values, as_swept=False)

    def solve_as_swept(self, values: Mapping[str, float]) -> SolvedPosterior:
        """The same with the accuracy that sweeps aim at, for what is looked at between points of the grid."""
        return self._solved(values, as_swept=True)

    def _solved(self, values: Mapping[str, float], as_swept: bool) -> SolvedPosterior:
        distance = np.zeros(self.shape)
        for i, (name, axis) in enumerate(self.axes.items()):
            # A number of samples may be infinite: at no distance from itself, and far from all others.
            away = np.where(axis == values[name], 0.0, np.abs(axis - np.nan_to_num(values[name], posinf=1e300)))
            away = away.reshape(len(axis), -1).max(1) / (np.ptp(axis[np.isfinite(axis)]) or 1.0)
            distance = distance + away.reshape([-1 if j == i else 1 for j in range(len(self.shape))])
        distance[~self.certified] = np.inf
        nearest = int(np.argmin(distance))
        start = self.posterior(self._position(nearest)) if np.isfinite(distance).any() else None
        problem = self.problem_with(values)
        theory = covering_theory(*problem)
        if start is not None and start.theory != theory.name:
            start = None
        rtol = sweep_accuracy(theory) if as_swept else None
        return solve(problem.network, problem.class_task, problem.tau, warm_start=start, rtol=rtol)

    def transitions(self) -> tuple[Transition | CodeTransition, ...]:
        """Transitions and label crossovers along a one-parameter sweep, located by Newton on the extended systems.

        Sorted by position. Entries with ``crossover`` True only change a label.

        Raises
        ------
        ValueError
            For a diagram with two axes. In deep networks at finite P single codes come and go smoothly, and only
            first-order transitions are listed.
        NotAvailable
            Along ``depth``, and of deep networks along ``n_samples`` and with a phi that is not bounded.
        """
        if tuple(self.axes) == ("depth",):  # one theory at depth 1, another one below
            raise NotAvailable("transitions are not located along depth; sweep a parameter that varies continuously.")
        theory = covering_theory(*self.problem((0,) * len(self.shape)))
        if isinstance(theory, LocatesTransitions):
            return cast("tuple[CodeTransition, ...]", theory.transitions_along(self))
        from meanfield.theories.single_layer.transitions.line import transitions_along

        return transitions_along(self)

    def boundaries(self) -> Boundaries:
        """Phase boundaries of a diagram with two axes: curves, the points where they meet, and what they leave open.

        At P = infinity with one hidden layer each boundary is followed by continuation, every point of it with its own
        certificate (`Boundary`), from wherever the raster changes its phase, and from islands between its points, as
        far as codes on them foretell these (phases/THEORY.md, "Planes"). Not found are islands that no point of the
        raster hits with more than five classes, within a cell of another boundary, and between two phases that both
        have outliers: one point inside is always enough, so a finer raster finds them. At finite P, and in deep
        networks, codes come and go smoothly: there a curve is where a code begins to have more than one neuron in a
        thousand, found between neighbouring points of the raster (`LevelCurve`).

        Raises
        ------
        ValueError
            Unless the diagram has two axes, both of one number each; in a plane of two fractions.

        Examples
        --------
        >>> import meanfield as mf
        >>> task = mf.class_task(fractions=[0.5, 0.25, 0.25])
        >>> plane = mf.sweep(mf.Network("sigmoid"), task, off=[0.2, 0.4, 0.6], sigma_a=[0.9, 1.0, 1.1])
        >>> (curve,) = plane.boundaries()
        >>> curve.label, curve.continuous, round(curve.at("sigma_a", 1.0)[0].value, 6)
        ('1-1-1 enters', True, 0.477274)
        """
        from meanfield.phases.boundaries import find_boundaries

        return find_boundaries(self)

    def plot(self, ax: Axes | None = None, *, interactive: bool = False) -> Any:
        """Code weights (one axis) or phases (two axes); returns Matplotlib Axes.

        `interactive`: a figure of its own in which a click solves that point and draws it, in any interactive backend;
        returns the `meanfield.plot.explore.Explorer`, which has to be kept.
        """
        if flag("interactive", interactive):
            if ax is not None:
                raise ValueError("an interactive diagram has a figure of its own; leave ax out.")
            return drawn("explore.explore", self)
        return drawn(f"diagrams.{'plot_weights' if len(self.axes) == 1 else 'plot_phases'}", self, ax=ax)

    def to_html(self, path: str | os.PathLike[str], *others: PhaseDiagram) -> Path:
        """One self-contained page: hover names the phase, a click shows codes, readouts and activations of the cell.

        Needs the extra ``html``. `others` are diagrams with the same axes at other values of one more parameter, for
        which the page has a slider. Returns the path.

        Raises
        ------
        ImportError
            Without bokeh.
        ValueError
            If the diagrams differ in more than one parameter, or in their axes.
        """
        page: Path = drawn("page.write_page", [self, *others], path)
        return page

    def to_xarray(self) -> xarray.Dataset:
        """Dataset with the swept parameters as coordinates (needs the extra ``xarray``)."""
        return dataset(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one npz file, without pickle; returns the path."""
        header = {"network": self.network.to_dict(), "task": self.task.to_dict(), "tau": self.tau}
        axes = {f"axis_{name}": values for name, values in self.axes.items()}
        return write_archive(
            path, "phase diagram", {**header, "axes": list(self.axes)}, {**axes, **self.points.arrays()}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PhaseDiagram:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file holds something else, or points that do not solve their task (see `meanfield.phases.claims`).
        FileNotFoundError
            If there is none.
        """
        from meanfield.phases.claims import check_diagram  # which asks for the posteriors of its points

        header, arrays = read_archive(path, "phase diagram")
        with reading(path, "phase diagram"):
            axes = {name: arrays.pop(f"axis_{name}") for name in entry(header, "axes", list)}
            network = Network.from_dict(entry(header, "network", dict))
            task = ClassTask.from_dict(entry(header, "task", dict))
            tau = entry(header, "tau", (int, float))
            for _ in Grid(network, task, tau, axes).problems():
                pass  # each is covered by a theory, or refused as it is made
            diagram = cls(network, task, tau, axes, PointArrays(**arrays))
            check_diagram(diagram)
        return diagram

    def __repr__(self) -> str:
        grid = " x ".join(f"{name} ({len(values)})" for name, values in self.axes.items())
        return (
            f"<PhaseDiagram: {self.network.activation.name}, {grid}; {len(self.phase_labels)} phases, "
            f"{int(np.sum(self.certified))} of {int(np.prod(self.shape))} points certified>"
        )


def sweep(
    network: Network,
    task: ClassTask,
    tau: ArrayLike = 0.0,
    *,
    executor: Executor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    **axes: object,
) -> PhaseDiagram:
    """Solve a class task on a grid of one or two control parameters.

    Neighbouring points start from each other's solution; each carries its own certificate. Points that cannot be
    certified are marked (`PhaseDiagram.certified`), not raised; `PhaseDiagram.status` and `messages` say why. At finite
    numbers of samples a point of one hidden layer aims at a residual of 1e-8, a single solve at 1e-10.

    Parameters
    ----------
    network, task, tau
        The problem; swept parameters override what it says.
    executor : concurrent.futures.Executor, optional
        Where segments (up to 256 neighbouring points) are solved; this process if left out.
    checkpoint : path, optional
        Folder, a new one not of a name that ends in .npz, to which finished points are written every few seconds: an
        interrupted sweep that is started again with the same arguments resumes, and ends with the same numbers to the
        last bit. Files of other sweeps are left alone; damaged ones are named in a warning, and their points solved
        again.
    progress : bool, optional
        Progress bar (needs tqdm); by default only on a terminal.
    **axes : array_like
        One or two of off, on, tau, n_samples, sigma_a, sigma_w, depth, readout_exponent, fractions (n, C),
        fraction_<class> (classes that are not named keep their proportions), target_<class> and parameters of the
        activation (gain, slope, ...), with the values to visit.

    Returns
    -------
    PhaseDiagram

    Raises
    ------
    ValueError
        For unknown parameters, no or more than two axes, and values that a task or network refuses.

    Examples
    --------
    >>> import meanfield as mf
    >>> task = mf.class_task(fractions=[0.5, 0.25, 0.25])
    >>> diagram = mf.sweep(mf.Network("sigmoid"), task, off=[0.0, 0.2, 0.5])
    >>> diagram.phase_labels
    ('1-0-0, 0-1-1, 1-0-1, 1-1-0', '0-1-1, 1-0-1, 1-1-0', '0-1-1, 1-0-1, 1-1-0, 1-1-1')
    """
    executor, progress = executor_or_none("executor", executor), flag("progress", progress, none=True)
    if not isinstance(tau, (int, float)) and plain_array("tau", tau).ndim > 0:  # tau is a parameter like any other
        axes, tau = {"tau": tau, **axes}, 0.0
    tau = real_number("tau", tau, at_least=0.0)
    if not isinstance(network, Network) or not isinstance(task, ClassTask):
        raise ValueError(
            "sweep needs a Network and a ClassTask; build them with Network('sigmoid') and class_task(...)."
        )
    grid = Grid(network, task, tau, checked_axes(axes))
    grid.check()
    work = SweepWork(grid, checkpoint)
    with progress_bar(progress, int(np.prod(grid.shape)), unit="point") as advance:
        work.advance = advance
        work.resume()
        try:
            work.on_pool(executor) if executor is not None else work.here()
        finally:
            work.save()
    return PhaseDiagram(network, task, tau, grid.axes, work.joined())
