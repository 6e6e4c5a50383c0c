"""Pictures of networks on real data: codes on images, kernels, predictors beside the lazy ones, errors, hard images.

Samples are sorted by class, training inputs first. Functions take `ax=None` and return the Axes; those called
`figure_...` make a figure of several. Test inputs X are raw ones, as they are given to `posterior.predict`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from meanfield.plot.class_tasks import plot_activation_map
from meanfield.plot.style import MAP, PALETTE, axes_or_new, group_centres, styled
from meanfield.posterior.neurons import Neurons
from meanfield.validation import FloatArray, real_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from meanfield.posterior.data_posterior import DataPosterior
    from meanfield.posterior.generalization import Generalization
    from meanfield.problem.data_task import DataTask

__all__ = [
    "figure_kernels",
    "figure_predictor",
    "plot_data_kernel",
    "plot_errors",
    "plot_hard_images",
    "plot_image_codes",
    "plot_predictor",
]

_COLORS = (PALETTE[0], PALETTE[5], PALETTE[7])  # of up to three networks that are compared


@styled
def plot_image_codes(
    posterior: DataPosterior,
    ax: Axes | None = None,
    *,
    X: object = None,
    labels: object = None,
    n_neurons: int = 100,
    n_samples: int = 60,
    rng: object = 0,
    colorbar: bool = True,
) -> Axes:
    """Activations of neurons drawn from the theory: rows are neurons by code, columns images by class.

    Neurons without a code (linear and lazy networks) are sorted by their strongest common pattern.

    Parameters
    ----------
    posterior : DataPosterior
        On a task with classes.
    ax : matplotlib Axes, optional
    X : (n, ...) array-like, optional
        Raw test inputs, shown to the same neurons to the right of the training inputs.
    labels : (n,) array-like
        Their class names or raw labels.
    n_neurons, n_samples : int
        Numbers of neurons, and of training (and of test) inputs shown.
    rng : None, int, SeedSequence or Generator
    colorbar : bool

    Raises
    ------
    ValueError
        For tasks without classes, and for labels that do not fit.
    """
    ax = axes_or_new(ax, (3.4 if X is None else 4.8, 2.8))
    task = posterior.task
    rows, columns = _shown(task, X, labels, n_samples)
    neurons = replace(
        posterior.sample_neurons(n_neurons, rng=rng, X=rows),
        labels=np.concatenate(columns),
        class_names=task.class_names * len(columns),
    )
    plot_activation_map(_by_pattern(neurons), ax, colorbar=colorbar)
    _name_columns(ax, task.class_names, columns)
    return ax


@styled
def plot_data_kernel(
    posterior: DataPosterior,
    ax: Axes | None = None,
    *,
    X: object = None,
    labels: object = None,
    inputs: bool = False,
    n_samples: int = 60,
) -> Axes:
    """Kernel of the hidden layer on training (and test) inputs sorted by class.

    Colours span the pairs of different samples; the diagonal may lie beyond.

    Parameters
    ----------
    posterior : DataPosterior
        Of a non-lazy or lazy network, on a task with classes.
    ax : matplotlib Axes, optional
    X, labels : array-like, optional
        Raw test inputs and their class names.
    inputs : bool
        Show the kernel of the inputs, sigma_w^2 x.x'/N_0, instead.
    n_samples : int
        Number of training (and of test) inputs shown.
    """
    ax = axes_or_new(ax, (3.2, 2.6))
    task = posterior.task
    rows, columns = _shown(task, X, labels, n_samples)
    if inputs:
        seen = task.transform(rows)
        matrix = posterior.network.sigma_w**2 * seen @ seen.T / task.n_inputs
    else:
        matrix = np.asarray(posterior.kernel(rows))
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    low, high = np.quantile(others, [0.002, 0.998])
    image = ax.imshow(matrix, cmap=MAP, interpolation="nearest", vmin=low, vmax=high)
    _name_columns(ax, task.class_names, columns)
    ax.set_yticks(ax.get_xticks(), [tick.get_text() for tick in ax.get_xticklabels()])
    edges = np.flatnonzero(np.diff(np.concatenate(columns))) + 0.5
    for draw in (ax.axvline, ax.axhline):
        for edge in edges:
            draw(edge, color="white", linewidth=0.5 if len(edges) < 12 else 0.2)
    if len(columns) > 1:
        ax.axhline(len(columns[0]) - 0.5, color="white", linewidth=2)
    beside = ax.inset_axes((1.04, 0.0, 0.05, 1.0))  # as high as the picture, which is square
    bar = ax.figure.colorbar(image, cax=beside, extend="both" if matrix.min() < low else "max", extendfrac=0.03)
    bar.set_label(r"kernel $K_{\mu\nu}$")
    return ax


@styled
def figure_kernels(
    posterior: DataPosterior, lazy: DataPosterior, *, X: object = None, labels: object = None, n_samples: int = 60
) -> Figure:
    """Kernels side by side: learned, of the lazy network, and of the inputs."""
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.5), layout="constrained")
    options: dict[str, Any] = {"X": X, "labels": labels, "n_samples": n_samples}
    pad = 4 if X is None else 14  # room for the words training and test
    plot_data_kernel(posterior, axes[0], **options).set_title("learned", pad=pad)
    plot_data_kernel(lazy, axes[1], **options).set_title("lazy", pad=pad)
    plot_data_kernel(posterior, axes[2], inputs=True, **options).set_title("inputs", pad=pad)
    for ax in axes[1:]:
        ax.set_yticks([])
    return figure


@styled
def plot_predictor(
    task: DataTask,
    outputs: Mapping[str, object],
    labels: object,
    ax: Axes | None = None,
    *,
    output: int = 0,
    bins: int | None = None,
    legend: bool = True,
) -> Axes:
    """Histograms of one output on new inputs, a row per class: one network filled, others as lines, the third as dots.

    Dotted vertical marks are the targets of the classes. Every row has its own scale, the same for all networks.

    Parameters
    ----------
    task : DataTask with classes
        What the networks were trained on.
    outputs : mapping of str to (n, m) array
        Mean predictors on the new inputs, e.g. ``{"non-lazy": post.predict(X), "lazy": lazy.predict(X), "sampled":
        chains.prediction.mean(axis=(0, 1))}``.
    labels : (n,) array-like
        Class names or raw labels of the new inputs.
    ax : matplotlib Axes, optional
    output : int
        r, counted from 0.
    bins : int, optional
        10 to 30, with the number of samples per class, by default.
    legend : bool

    Raises
    ------
    ValueError
        For shapes and labels that do not fit, and more than three networks.
    """
    values = {name: value[:, output] for name, value in _checked(task, outputs, labels).items()}
    index = task.class_index(labels, len(next(iter(values.values()))))
    ax = axes_or_new(ax, (3.4, 0.6 + 0.45 * task.n_classes))
    targets = [task.targets[_classes(task) == c, output].mean() for c in range(task.n_classes)]
    everything = np.concatenate([*values.values(), targets])
    bins = bins or int(np.clip(3 * math.sqrt(len(index) / task.n_classes), 10, 30))
    margin = 0.5 * np.ptp(everything) / bins
    grid = np.linspace(everything.min() - margin, everything.max() + margin, bins + 1)
    for c in range(task.n_classes):
        base = task.n_classes - 1 - c
        counts = {name: np.histogram(value[index == c], grid)[0] for name, value in values.items()}
        top = max(1, *(int(count.max()) for count in counts.values()))
        ax.axhline(base, color="0.6", linewidth=0.5, zorder=1)
        ax.plot([targets[c]] * 2, [base, base + 0.95], color="0.2", linestyle=":", linewidth=1.0, zorder=4)
        for number, (name, count) in enumerate(counts.items()):
            level = np.where(count > 0, base + 0.85 * count / top, np.nan)  # empty bins are left out
            style: dict[str, Any] = {"color": _COLORS[number], "label": name if c == 0 else None}
            if number == 2:
                ax.plot(0.5 * (grid[1:] + grid[:-1]), level, ".", markersize=4, zorder=5, **style)
                continue
            ax.stairs(level, grid, baseline=base, linewidth=1.0, zorder=3, **style)
            if number == 0:
                ax.stairs(level, grid, baseline=base, color=_COLORS[0], fill=True, alpha=0.3, zorder=2)
    ax.set_yticks([task.n_classes - 0.6 - c for c in range(task.n_classes)], task.class_names)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(0, task.n_classes)
    ax.set_ylabel("true class")
    ax.set_xlabel(f"output $f_{{{output + 1}}}$")
    ax.spines[["top", "right", "left"]].set_visible(False)
    if legend and len(values) > 1:
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(values))
    return ax


@styled
def figure_predictor(
    task: DataTask, outputs: Mapping[str, object], labels: object, *, bins: int | None = None
) -> Figure:
    """`plot_predictor` for every output, at most five in a row."""
    columns = min(task.n_outputs, 5)
    rows = math.ceil(task.n_outputs / columns)
    size = (min(7.4, 1.2 + 2.1 * columns), rows * (0.55 + 0.4 * task.n_classes) + 0.25)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharex=True)
    for r, ax in enumerate(axes.ravel()):
        if r >= task.n_outputs:
            ax.axis("off")
            continue
        plot_predictor(task, outputs, labels, ax, output=r, bins=bins, legend=False)
        ax.tick_params(labelbottom=True)
        if r % columns:
            ax.set_ylabel("")
            ax.set_yticks([])
    handles, names = axes[0, 0].get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    return figure


@styled
def plot_errors(errors: Mapping[str, Generalization], ax: Axes | None = None) -> Axes:
    """Generalisation error of every class: squared bias (full) and predictor variance (hatched), summed over outputs.

    The legend has the means over all samples.

    Parameters
    ----------
    errors : mapping of str to Generalization
        Of up to three networks on the same inputs, e.g. ``{"non-lazy": post.generalization_error(X, labels), "lazy":
        lazy.generalization_error(X, labels)}``.
    ax : matplotlib Axes, optional

    Raises
    ------
    ValueError
        For more than three networks, and if the inputs have no classes.
    """
    _check_number(errors)
    per_class = {name: error.per_class() for name, error in errors.items()}
    classes = list(next(iter(per_class.values())))
    if not classes:
        raise ValueError("the test samples have no classes; a single error per network needs no picture.")
    ax = axes_or_new(ax, (max(3.9, 1.8 + 0.45 * len(classes)), 2.6))
    width = 0.8 / len(errors)
    place = np.arange(len(classes) + 1) + np.append(np.zeros(len(classes)), 0.3)  # "all" stands apart
    for color, (number, (name, error)) in zip(_COLORS, enumerate(errors.items()), strict=False):
        rows = [per_class[name][c] for c in classes]
        bias = np.array([*(row["bias"] for row in rows), error.bias])
        variance = np.array([*(row["variance"] for row in rows), error.variance])
        x = place + width * (number - 0.5 * (len(errors) - 1))
        ax.bar(x, bias, 0.9 * width, color=color, label=f"{name}: bias ({error.bias:.2g})")
        hatched: dict[str, Any] = {"facecolor": "white", "edgecolor": color, "hatch": "/////", "linewidth": 0.8}
        hatched["label"] = f"{name}: variance ({error.variance:.1g})"
        ax.bar(x, variance, 0.9 * width, bottom=bias, **hatched)
    ax.set_xticks(place, [*classes, "all"])
    _fit_ticks(ax)
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel("true class")
    ax.set_ylabel("generalisation error")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(2, len(errors)))
    return ax


@styled
def plot_hard_images(posterior: DataPosterior, ax: Axes | None = None, *, n_images: int = 12) -> Axes:
    """Training images with the largest |t_mu|, hardest first, with class and residual tau |t_mu| (|t_mu| at tau = 0).

    Raises
    ------
    ValueError
        If the inputs were not images.
    """
    task = posterior.task
    if len(task.image_shape) < 2 or min(task.image_shape[:2]) < 2:
        raise ValueError(f"the inputs of {task!r} are no images; give data_task arrays of shape (P, h, w).")
    by_residual = posterior.tau > 0.0  # at tau = 0 there is none
    hardness = np.linalg.norm(posterior.residual if by_residual else posterior.order_parameters["t"], axis=1)
    order = np.argsort(-hardness, kind="stable")[:n_images]
    columns = min(6, len(order))
    rows = math.ceil(len(order) / columns)
    ax = axes_or_new(ax, (0.75 * columns, 0.98 * rows))
    pixels = _raw(task)[order].reshape(-1, *task.image_shape)
    pixels = (pixels - pixels.min()) / max(float(np.ptp(pixels)), 1e-300)
    for k, (mu, image) in enumerate(zip(order, pixels, strict=True)):
        left, top = 1.12 * (k % columns), 1.42 * (k // columns)
        ax.imshow(image, cmap="gray", extent=(left, left + 1, top + 1, top), interpolation="nearest", vmin=0, vmax=1)
        name = "" if task.labels is None else f"{task.class_names[task.labels[mu]]}: "
        ax.text(left + 0.5, top + 1.04, f"{name}{_short(hardness[mu])}", ha="center", va="top", fontsize="x-small")
    ax.set_xlim(-0.05, 1.12 * columns - 0.07)
    ax.set_ylim(1.42 * rows - 0.15, -0.05)
    ax.set_axis_off()
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title("class: training residual" if by_residual else r"class: $|t_\mu|$")
    return ax


# ---- samples ---------------------------------------------------------------------------------------------------------


def _raw(task: DataTask) -> FloatArray:
    """(P, N_0) training inputs as they were before centring and scaling."""
    return np.asarray(task.inputs * task.scale + task.center)


def _shown(task: DataTask, X: object, labels: object, most: int) -> tuple[FloatArray, list[NDArray[np.intp]]]:
    """Raw inputs (n, N_0) sorted by part and class, about `most` of each part, and what stands above every column.

    That is, for the training set and (if given) the test set, the class index, plus the number of classes for tests.
    """
    rows, columns = [_raw(task)], [_classes(task)]
    if X is not None:
        if labels is None:
            raise ValueError("test inputs X are sorted by class: give their labels=.")
        tests = np.asarray(X, dtype=np.float64)
        rows.append(tests.reshape(len(tests), -1))
        columns.append(task.class_index(labels, len(tests)))
    chosen = [_chosen(index, most) for index in columns]
    raw = np.concatenate([part[which] for part, which in zip(rows, chosen, strict=True)])
    return raw, [
        index[which] + i * task.n_classes for i, (index, which) in enumerate(zip(columns, chosen, strict=True))
    ]


def _classes(task: DataTask) -> NDArray[np.intp]:
    if task.labels is None:
        raise ValueError(f"this picture sorts samples by class, but {task!r} has none; give labels= to data_task.")
    return task.labels


def _chosen(index: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Positions of at most about `most` samples, sorted by class, of every class in proportion and evenly spaced."""
    share = min(1.0, most / len(index))
    found = []
    for c in np.unique(index):
        members = np.flatnonzero(index == c)
        found.append(members[np.linspace(0, members.size - 1, max(1, round(share * members.size))).astype(np.intp)])
    return np.concatenate(found)


def _checked(task: DataTask, outputs: Mapping[str, object], labels: object) -> dict[str, FloatArray]:
    """Predictors (n, m) of at most three networks on n labelled inputs."""
    _check_number(outputs)
    _classes(task)
    n = len(np.asarray(labels))
    found = {name: real_array(f"output of {name}", value) for name, value in outputs.items()}
    for name, value in found.items():
        if value.shape != (n, task.n_outputs):
            raise ValueError(
                f"the output of {name} must have shape (n, m) = ({n}, {task.n_outputs}), got {value.shape}."
            )
    return found


def _check_number(networks: Mapping[str, object]) -> None:
    if not 1 <= len(networks) <= len(_COLORS):
        raise ValueError(f"one to three networks can be compared, got {len(networks)}: {list(networks)}.")


# ---- labels ----------------------------------------------------------------------------------------------------------


def _short(value: float) -> str:
    return f"{value:#.2g}".rstrip(".")


def _by_pattern(neurons: Neurons) -> Neurons:
    """Neurons without codes sorted along the strongest common pattern of their mean activations on the classes."""
    if len(neurons.part_names) > 1:
        return neurons
    means = np.array([neurons.activations[:, neurons.labels == c].mean(axis=1) for c in np.unique(neurons.labels)]).T
    left, _, right = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    order = np.argsort(-left[:, 0] * np.sign(right[0, np.argmax(np.abs(right[0]))]), kind="stable")
    rows = ("readouts", "code", "preactivations", "activations")
    return replace(neurons, **{name: getattr(neurons, name)[order] for name in rows})


def _name_columns(ax: Axes, names: Sequence[str], columns: Sequence[NDArray[np.intp]]) -> None:
    """Class names below columns sorted by part and class; a thick line parts training and test inputs."""
    labels = np.concatenate(columns)
    edges = np.flatnonzero(np.diff(labels)) + 0.5
    ax.set_xlabel("inputs by class")
    ax.set_xticks(group_centres(edges, labels.size), [names[c % len(names)] for c in np.unique(labels)])
    ax.tick_params(length=0)
    if not _fit_ticks(ax):
        ax.set_xticks([])
        ax.set_xlabel(f"inputs: {names[0]}, ..., {names[-1]}")
    if len(columns) == 1:
        return
    border = len(columns[0]) - 0.5
    ax.axvline(border, color="white", linewidth=2)
    for text, centre in zip(("training", "test"), group_centres([border], labels.size), strict=True):
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        ax.annotate(text, (centre, 1), (0, 3), ha="center", va="bottom", **place)


def _fit_ticks(ax: Axes) -> bool:
    """Upright tick labels where they are too long to stand side by side; False if there is no room for these either."""
    names = [tick.get_text() for tick in ax.get_xticklabels()]
    room = 0.8 * ax.get_window_extent().width / ax.figure.dpi * 72 / max(len(names), 1)  # points
    if 4.2 * max(len(name) for name in names) + 3 > room:
        ax.tick_params(axis="x", rotation=90)
        return room > 8
    return True
