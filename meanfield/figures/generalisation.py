"""Generalisation of sigmoid and ReLU networks on images: theory, sampled networks and Gaussian process.

Beside it the error from few images of the first data set, over several draws of these: the non-lazy network has the
variance of order 1/N, which is what tells it from the Gaussian process there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, cast

import matplotlib.pyplot as plt
import numpy as np

from meanfield.datasets.images import ImageSet
from meanfield.figures.gallery import Drawing, Scale
from meanfield.figures.panels import letters
from meanfield.figures.runs import Effort, effort, networks, solved
from meanfield.plot.style import PALETTE, phi_name, styled
from meanfield.posterior.generalization import Generalization
from meanfield.posterior.status import Status
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.solve import solve
from meanfield.validation import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from meanfield.posterior.data_posterior import DataPosterior

# phi -> rescaled temperature; unbounded phi need more, or the theory takes hours.
TAUS = {"sigmoid": 0.02, "relu": 0.05}
_FEW = (2, 5, 10)  # images per class
_CIFAR = ("airplane", "automobile", "frog")
_PATIENCE = 300.0  # seconds for one solution: theory takes many minutes where a network hardly tells images apart


class _Found(NamedTuple):
    """Mean squared error (bias and variance) and accuracy of the mean predictor, on new images."""

    error: float
    accuracy: float


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """Three classes, y_+ = 1, y_- = 0; CIFAR-10 in grey where the data folder has it."""
    n = scale.size(60, 200)
    how = effort(scale, draws=(40, 80), warmup=(150, 250), thin=2, chains=(2, 2))
    sets = _sets(scale)
    rows: dict[str, dict[str, _Found]] = {}
    said = []
    for data, images in sets.items():
        # Ten of CIFAR-10: with 33 of each class the theory of sigmoid networks is not certified within minutes.
        per_class = 10 if data == "CIFAR-10" else scale.size(10, 33)
        train, test = images.split(3 * per_class, scale.size(150, 600), rng=scale.seed)
        task = train.task(on=1.0, off=0.0)
        for phi, tau in TAUS.items():
            found: dict[str, _Found] = {}
            network = Network(phi)
            theory = _theory(network, task, tau, n, test, scale)
            if theory is None:
                said.append(f"{data}, {phi}: the theory is not certified")
            else:
                found["theory"] = theory
            found["sampled"] = _sampled(network, tau, n, task, test, how, scale)
            process = solve(Network(phi, scaling="lazy"), task)
            found["GP"] = _of(process.generalization_error(test.images, test.labels))
            rows[f"{data}\n{phi_name(phi)}"] = found
            cells = ", ".join(f"{key} {one.error:.3f} ({one.accuracy:.3f})" for key, one in found.items())
            said.append(f"{data}, {phi}, P = {len(train)}, N = {n}: error (accuracy): {cells}; chance 0.333")
    widths = [0.6 + 0.9 * len(rows), 0.6 + 0.9 * len(rows), 3.0]
    figure, axes = plt.subplots(
        1, 3, figsize=(3.6 + sum(widths), 2.8), layout="constrained", gridspec_kw={"width_ratios": widths}
    )
    for ax, what in zip(axes, _Found._fields):
        for shift, (key, color) in enumerate(zip(("theory", "sampled", "GP"), (PALETTE[0], "0.75", PALETTE[1]))):
            at = [(i, getattr(found[key], what)) for i, found in enumerate(rows.values()) if key in found]
            ax.bar([i + 0.25 * (shift - 1) for i, _ in at], [value for _, value in at], 0.24, color=color, label=key)
        ax.set_xticks(range(len(rows)), list(rows))
        ax.set_ylabel("generalisation error" if what == "error" else what)
        ax.spines[["top", "right"]].set_visible(False)
    axes[1].axhline(1 / 3, color="0.4", linewidth=0.8, linestyle=":")
    axes[0].legend(frameon=False)
    axes[0].margins(y=0.3)
    said += _from_few(axes[2], *next(iter(sets.items())), n, how, scale)
    letters(axes)
    if scale.data is None:
        said.append("digits of scikit-learn; MNIST and CIFAR-10 with --data")
    return Drawing(name, figure, (), tuple(said))


def _theory(network: Network, task: DataTask, tau: float, n: int, test: ImageSet, scale: Scale) -> _Found | None:
    """None where it is not certified."""
    posterior = solved(
        scale, network, task, tau, on_failure="return", progress=False, max_seconds=_PATIENCE if scale.full else None
    )
    if posterior.status is not Status.OPTIMAL:
        return None
    return _of(cast("DataPosterior", posterior).generalization_error(test.images, test.labels, width=n))


def _from_few(ax: Axes, data: str, images: ImageSet, n: int, how: Effort, scale: Scale) -> list[str]:
    """Error from few images: means over draws of these, and sampled networks on the first of them."""
    said = []
    for (phi, tau), color in zip(TAUS.items(), PALETTE):
        theory, lazy, sampled = np.empty((2, len(_FEW), scale.size(2, 4))), np.empty((len(_FEW), scale.size(2, 4))), []
        network = Network(phi)
        for k, per_class in enumerate(_FEW):
            for draw_ in range(theory.shape[2]):
                train, test = images.split(3 * per_class, scale.size(150, 600), rng=scale.seed + draw_)
                task = train.task(on=1.0, off=0.0)
                one = _theory(network, task, tau, n, test, scale)
                theory[:, k, draw_] = one or (math.nan, math.nan)
                process = solve(Network(phi, scaling="lazy"), task)
                lazy[k, draw_] = _of(process.generalization_error(test.images, test.labels)).error
                if draw_ == 0:
                    sampled.append(_sampled(network, tau, n, task, test, how, scale).error)
        x = 3 * np.array(_FEW)
        ax.errorbar(x, theory[0].mean(1), _scatter(theory[0]), color=color, label=phi_name(phi))
        ax.errorbar(x, lazy.mean(1), _scatter(lazy), color=color, linestyle=":", label=f"{phi_name(phi)}, GP")
        ax.plot(x, sampled, "o", markersize=3, color=color, fillstyle="none")
        ax.plot(x, theory[0, :, 0], "x", markersize=3, color=color)
        less, rows = lazy - theory[0], zip(x, theory[0], lazy, theory[1], sampled, strict=True)
        said += [
            f"{data}, {phi}, P = {p}: error {a.mean():.3f}, GP {b.mean():.3f}, accuracy {c.mean():.3f}; "
            f"first draw: theory {a[0]:.3f}, sampled {d:.3f}"
            for p, a, b, c, d in rows
        ]
        pairs = ", ".join(f"{row.mean():.3f} ± {e:.3f}" for row, e in zip(less, _scatter(less), strict=True))
        said.append(
            f"{data}, {phi}: error of the GP minus that of the network at P = {', '.join(map(str, x))}: {pairs}"
        )
    ax.plot([], [], "o", markersize=3, color="0.4", fillstyle="none", label="sampled, one draw")
    ax.plot([], [], "x", markersize=3, color="0.4", label="its theory")
    ax.set(xlabel="number of images", ylabel="generalisation error", ylim=(0, None))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.spines[["top", "right"]].set_visible(False)
    return said


def _scatter(values: FloatArray) -> FloatArray:
    """(k,) standard errors of the means over draws, (k, draws)."""
    return np.asarray(values.std(axis=1, ddof=1) / math.sqrt(values.shape[1]))


def _sets(scale: Scale) -> dict[str, ImageSet]:
    from meanfield import datasets

    if scale.data is None:
        return {"digits": datasets.digits().classes(0, 1, 2)}
    found = {"MNIST": datasets.mnist(scale.data).classes(0, 1, 2)}
    files = sorted(scale.data.glob("cifar*10*"))
    if files:
        found["CIFAR-10"] = datasets.cifar10(files[0]).gray().classes(*_CIFAR)
    return found


def _of(found: Generalization) -> _Found:
    return _Found(found.bias + found.variance, math.nan if found.accuracy is None else found.accuracy)


def _sampled(network: Network, tau: float, n: int, task: DataTask, test: ImageSet, how: Effort, scale: Scale) -> _Found:
    """Networks cooled from the prior: nothing of the theory is used."""
    chains = networks(network, task, n, tau, scale, how, inputs=test.images)
    index = task.class_index(test.labels, len(test))
    wanted = np.eye(task.n_classes)[index]
    error = float(((chains.prediction - wanted) ** 2).sum(axis=-1).mean())
    mean = chains.prediction.mean(axis=(0, 1))
    return _Found(error, float(np.mean(mean.argmax(axis=1) == index)))
