"""Geometry along a sequence of representations: layers, epochs, or values of a control parameter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, SupportsFloat, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meanfield.geometry.clouds import Clouds, Seed, as_clouds, describe_seed, group_by_label
from meanfield.geometry.results import Result
from meanfield.progress import progress_bar
from meanfield.validation import class_labels, short

__all__ = ["MEASURES", "Trajectory", "measure", "trajectory"]

Array = NDArray[np.float64]
_Item = TypeVar("_Item")
Measure = str | Callable[[list[Array]], object]

MEASURES = ("glue", "replica", "simulated", "neural_collapse", "participation_ratio", "center_correlation")
PENDING = 32  # representations handed to an executor ahead of the results


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Trajectory(Result):
    """Table of measures over a parameter; see `trajectory`.

    Attributes
    ----------
    parameter : (T,) array
        Numbers or names.
    parameter_name : str
    columns : tuple of str
    values : (len(columns), T) array
        NaN where a measure does not exist.
    """

    parameter: np.ndarray
    parameter_name: str
    columns: tuple[str, ...]
    values: Array

    title: ClassVar[str] = "trajectory"

    def __len__(self) -> int:
        return len(self.parameter)

    def __getitem__(self, column: str) -> Array:
        if column not in self.columns:
            raise KeyError(f"no column {column!r}; there are {', '.join(self.columns)}")
        return self.values[self.columns.index(column)]

    def to_dict(self) -> dict[str, Any]:
        """Columns by name, the parameter first: what a data frame is made from."""
        return {self.parameter_name: self.parameter, **{name: self[name] for name in self.columns}}

    def table(self, columns: Sequence[str] | None = None) -> str:
        """Text table; without `columns`, the measures without their errors, eight at most."""
        shown = list(columns) if columns is not None else [c for c in self.columns if not c.endswith("_error")][:8]
        rows = [[self.parameter_name, *shown]]
        for i, value in enumerate(self.parameter):
            rows.append([str(value), *(f"{self[name][i]:.4g}" for name in shown)])
        widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows)

    def __repr__(self) -> str:
        return f"Trajectory({len(self)} values of {self.parameter_name}, columns: {', '.join(self.columns)})"


def measure(
    manifolds: object,
    measures: Sequence[Measure] = ("glue",),
    options: Mapping[str, Mapping[str, object]] | None = None,
    seed: Seed = None,
) -> dict[str, float]:
    """One row of a trajectory: all measures of one representation as a flat dict.

    Columns of GLUE keep their names, those of other measures begin with the name of the measure.
    """
    from meanfield.geometry.centers import center_correlation
    from meanfield.geometry.comparators import neural_collapse, participation_ratio
    from meanfield.geometry.descriptors import glue
    from meanfield.geometry.replica import replica_capacity
    from meanfield.geometry.simulation import simulated_capacity

    clouds = as_clouds(manifolds)
    known: dict[str, Callable[..., object]] = {
        "glue": partial(glue, seed=seed),
        "replica": partial(replica_capacity, seed=seed),
        "simulated": partial(simulated_capacity, seed=seed),
        "neural_collapse": neural_collapse,
        "participation_ratio": lambda clouds: participation_ratio(clouds.points),
        "center_correlation": center_correlation,
    }
    row: dict[str, float] = {}
    for item in measures:
        if callable(item):
            name, found = getattr(item, "__name__", "measure"), item(clouds.separate())
        else:
            name, found = item, known[item](clouds, **(options or {}).get(item, {}))
        if isinstance(found, Result):
            prefix = "" if name == "glue" else f"{name}_"
            row.update({prefix + key: value for key, value in found.to_dict().items()})
        elif isinstance(found, Mapping):
            row.update({key: float(value) for key, value in found.items()})
        else:
            row[name] = float(cast(SupportsFloat, found))
    return row


def _check_measures(measures: object, options: Mapping[str, Mapping[str, object]] | None) -> tuple[Measure, ...]:
    single = isinstance(measures, str) or callable(measures)
    if not single and not isinstance(measures, Iterable):
        raise ValueError(f"measures must be names or functions, got {short(measures)}")
    chosen = (measures,) if single or not isinstance(measures, Iterable) else tuple(measures)
    for item in chosen:
        if not callable(item) and not (isinstance(item, str) and item in MEASURES):
            known = ", ".join(MEASURES)
            raise ValueError(f"measure {short(item)} is not known: one of {known}, or a function of manifolds")
    if options is not None and not (
        isinstance(options, Mapping) and all(isinstance(value, Mapping) for value in options.values())
    ):
        raise ValueError(f"options must map names of measures to their options, got {short(options)}")
    stray = set(options or {}) - {item for item in chosen if isinstance(item, str)}
    if not chosen:
        raise ValueError("there are no measures; name at least one")
    if stray:
        raise ValueError(f"options are given for {sorted(stray)}, which are not measured")
    return cast("tuple[Measure, ...]", chosen)


def _rows(
    work: Callable[[_Item], dict[str, float]], items: Iterable[_Item], executor: Executor | None
) -> Iterator[dict[str, float]]:
    if executor is None:
        yield from map(work, items)
        return
    pending: deque[Future[dict[str, float]]] = deque()
    for item in items:
        pending.append(executor.submit(work, item))
        if len(pending) >= PENDING:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def trajectory(
    representations: object,
    *,
    parameter: ArrayLike | None = None,
    parameter_name: str = "step",
    y: ArrayLike | None = None,
    n_points: int | None = None,
    measures: Measure | Sequence[Measure] = ("glue",),
    options: Mapping[str, Mapping[str, object]] | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
    seed: Seed = None,
) -> Trajectory:
    """Measure every representation of a sequence: layers of a network, epochs of training, values of a parameter.

    Parameters
    ----------
    representations : iterable, or mapping of parameter value to representation
        Each one manifolds as in `glue`, or with `y` an (n, N) array. Read one at a time, so a generator keeps memory
        small.
    parameter : (T,) array of numbers or names, optional
        Values at which the representations were taken; keys of the mapping or 0, 1, 2, ... by default.
    parameter_name : str
    y : (n,) labels, optional
        Common class labels of (n, N) representations.
    n_points : int, optional
        Points drawn from every class, the same for all representations; needs `y`.
    measures : name or function, or a sequence of them
        "glue", "replica", "simulated", "neural_collapse", "participation_ratio", "center_correlation", or a function
        of a list of manifolds that returns a number, a dict of numbers or a result.
    options : mapping of measure name to options, optional
        For example ``{"glue": {"n_probes": 500, "labels": "one_vs_rest"}}``.
    executor : concurrent.futures.Executor, optional
        Shares the representations; functions among `measures` must then be picklable for processes.
    progress : bool, optional
        Progress bar where tqdm is installed; by default on a terminal only.
    seed : int or SeedSequence, optional
        The same for every representation, so that probes are common and differences along the trajectory are sharp.

    Returns
    -------
    Trajectory

    Raises
    ------
    ValueError
        Unknown measures, lengths that do not match, and what the measures refuse.

    Examples
    --------
    >>> from meanfield.geometry import spherical_manifolds
    >>> spheres = {R: spherical_manifolds(4, 60, 20, 3, R, seed=1) for R in (0.5, 1.0)}
    >>> path = trajectory(spheres, parameter_name="radius", options={"glue": {"n_probes": 100}}, seed=0)
    >>> bool(path["capacity"][0] > path["capacity"][1])
    True
    """
    chosen = _check_measures(measures, options)
    if isinstance(seed, np.random.Generator):  # each call would advance it: common probes need one fixed stream
        seed = int(seed.integers(0, 2**63))
    elif seed is None:
        seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    if n_points is not None and y is None:
        raise ValueError("n_points needs the labels y of (n, N) representations; or subsample with group_by_label")
    if isinstance(representations, Mapping):
        if parameter is None:
            parameter = list(representations)
        representations = representations.values()
    if isinstance(representations, str | bytes) or not isinstance(representations, Iterable):
        kind = type(representations).__name__
        raise ValueError(f"representations must be a sequence or mapping of manifolds, got {kind}")
    try:
        given = None if parameter is None else np.asarray(parameter)
    except ValueError as error:
        raise ValueError(f"parameter must be a vector of numbers or names: {error}") from error
    total = len(representations) if isinstance(representations, Sized) else None
    if given is not None and total is not None and given.shape != (total,):
        raise ValueError(f"parameter has shape {given.shape} for {total} representations")
    names = () if y is None else tuple(str(value) for value in class_labels("y", y)[1])

    def clouds() -> Iterator[object]:
        for item in representations:
            if y is None:
                yield item
            else:
                parts = group_by_label(item, y, n_points, seed)
                yield Clouds(np.concatenate(parts), np.cumsum([0, *map(len, parts)]), names)

    work = partial(measure, measures=chosen, options=options, seed=seed)
    rows = []
    with progress_bar(progress, total, title="geometry") as advance:
        for row in _rows(work, clouds(), executor):
            rows.append(row)
            advance()
    if not rows:
        raise ValueError("there are no representations")
    values = np.arange(len(rows)) if given is None else given
    if values.dtype.kind not in "iufU":
        values = values.astype(str)
    if values.shape != (len(rows),):
        raise ValueError(f"parameter has shape {values.shape} for {len(rows)} representations")
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Trajectory(
        parameter=values,
        parameter_name=parameter_name,
        columns=columns,
        values=np.array([[row.get(column, np.nan) for row in rows] for column in columns]),
        options={
            "measures": [item if isinstance(item, str) else getattr(item, "__name__", "measure") for item in chosen],
            "n_points": n_points,
            "seed": describe_seed(seed),
        },
        names=names,
    )
