"""Generalisation of sigmoid and ReLU networks on images: theory, sampled networks and Gaussian process."""

from __future__ import annotations

import math
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from meanfield.datasets.images import ImageSet
from meanfield.figures.gallery import Drawing, Scale
from meanfield.figures.panels import letters
from meanfield.figures.runs import Effort, effort, networks, solved
from meanfield.plot.style import PALETTE, styled
from meanfield.posterior.generalization import Generalization
from meanfield.posterior.status import Status
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.solve import solve

# phi -> rescaled temperature; unbounded phi need more, or the theory takes hours.
TAUS = {"sigmoid": 0.02, "relu": 0.05}
_CIFAR = ("airplane", "automobile", "frog")


class _Found(NamedTuple):
    """Mean squared error (bias and variance) and accuracy of the mean predictor, on new images."""

    error: float
    accuracy: float


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """Three classes, y_+ = 1, y_- = 0; CIFAR-10 in grey where the data folder has it."""
    n, per_class = scale.size(60, 200), scale.size(10, 33)
    how = effort(scale, draws=(40, 80), warmup=(150, 250), thin=2, chains=(2, 2))
    sets = _sets(scale)
    rows: dict[str, dict[str, _Found]] = {}
    said = []
    for data, images in sets.items():
        train, test = images.split(3 * per_class, scale.size(150, 600), rng=scale.seed)
        task = train.task(on=1.0, off=0.0)
        for phi, tau in TAUS.items():
            found: dict[str, _Found] = {}
            network = Network(phi)
            if phi == "sigmoid" or scale.full:  # of rectifiers minutes to hours on images
                posterior = solved(scale, network, task, tau, on_failure="return", progress=False)
                if posterior.status is Status.OPTIMAL:
                    found["theory"] = _of(posterior.generalization_error(test.images, test.labels, width=n))
                else:
                    said.append(f"{data}, {phi}: the theory is not certified ({posterior.status})")
            found["sampled"] = _sampled(network, tau, n, task, test, how, scale)
            process = solve(Network(phi, scaling="lazy"), task)
            found["GP"] = _of(process.generalization_error(test.images, test.labels))
            rows[f"{data}\n{phi}"] = found
            cells = ", ".join(f"{key} {one.error:.3f} ({one.accuracy:.3f})" for key, one in found.items())
            said.append(f"{data}, {phi}, P = {len(train)}, N = {n}: error (accuracy): {cells}; chance 0.333")
    figure, axes = plt.subplots(1, 2, figsize=(3.0 + 2.2 * len(rows), 2.8), layout="constrained")
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
    letters(axes)
    if scale.data is None:
        said.append("digits of scikit-learn; MNIST and CIFAR-10 with --data")
    return Drawing(name, figure, (), tuple(said))


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
