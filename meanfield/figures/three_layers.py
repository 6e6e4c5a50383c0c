"""Three hidden layers: linear, sigmoid and ReLU networks, whose codes sharpen from layer to layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from meanfield.figures.gallery import Drawing, Scale
from meanfield.figures.panels import draw_activations, draw_kernel_matrix, letters, mean_kernel, network_of, strongest
from meanfield.figures.runs import Runs, effort, sampled, solved
from meanfield.plot.style import phi_name, styled
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.sampling.compare import Comparison
from meanfield.solve import solve

if TYPE_CHECKING:
    from meanfield.posterior.posterior import Posterior
    from meanfield.validation import FloatArray

DEPTH = 3
# Into these the published sigmoid network has frozen (notebooks/deep.ipynb holds its layers against the theory).
FROZEN = {"100": 0.27, "010": 0.135, "001": 0.14, "110": 0.15, "101": 0.16, "011": 0.145}
_SHOWN = 30  # neurons of rectifiers


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """Activations and kernels of every layer; of a kernel the upper half is the theory's, the lower one is sampled."""
    figure, axes = plt.subplots(3, 2 * DEPTH, figsize=(11.0, 5.2), layout="constrained")
    comparisons: list[Comparison] = []
    said: list[str] = []
    for row, phi in zip(axes, ("linear", "sigmoid", "relu"), strict=True):
        posterior, runs, note = {"linear": _linear, "sigmoid": _sigmoid, "relu": _rectifier}[phi](scale)
        comparisons += runs.comparisons
        chains = runs.widest
        row[0].set_ylabel(phi_name(phi))
        for layer in range(1, DEPTH + 1):
            neurons = network_of(chains, layer=layer - DEPTH - 1)
            shown = None if phi == "sigmoid" else strongest(neurons, _SHOWN if phi == "relu" else chains.width)
            draw_activations(row[layer - 1], neurons, shown)
            kernels = posterior.kernel(layer=layer).matrix(chains.labels), mean_kernel(chains, layer - DEPTH - 1)
            both = _halves(*kernels, chains.labels)
            draw_kernel_matrix(row[DEPTH + layer - 1], both, chains.labels, chains.task.class_names)
            if phi == "linear":
                row[layer - 1].set_title(f"layer {layer}")
                row[DEPTH + layer - 1].set_title(f"kernel, layer {layer}")
        said += [f"{phi}: {line}" for line in (*_sharpening(posterior, runs), *note)]
    letters(axes.flat)
    return Drawing(name, figure, tuple(comparisons), tuple(said))


def _linear(scale: Scale) -> tuple[Posterior, Runs, list[str]]:
    """Prior of the readout 1/P^(1/3), where all layers learn."""
    n = scale.size(80, 300)  # terms of order 1/N^2 are seen at 100 and 200
    network = Network("linear", depth=DEPTH)
    task = class_task([0.5, 0.25, 0.25], off=-0.5, n_samples=scale.size(80, 100))
    posterior = solve(network, task, tau=0.02)
    how = effort(scale, draws=(60, 60), warmup=(120, 200), thin=scale.size(3, 2), chains=(2, 2))
    runs = sampled(posterior, (n // 2, n), scale, how, start="annealed")
    return posterior, runs, [runs.said]


def _sigmoid(scale: Scale) -> tuple[Posterior, Runs, list[str]]:
    """Prior of the readout 1/P, at the fractions of codes of the published network; chains start there."""
    n = scale.size(100, 200)
    network = Network("sigmoid", depth=DEPTH, readout_exponent=1.0)
    # Two small widths make a line: terms of order (P / N)^2 must be small.
    task = class_task([0.5, 0.25, 0.25], off=-0.5, n_samples=scale.size(48, 200))
    posterior = solved(scale, network, task, 1e-3, fractions=FROZEN, progress=False)
    how = effort(scale, draws=(40, 100), warmup=(80, 150), thin=2, chains=(4, 4))
    # The deviations of 126 statistics at full size need 1/N^2, and so a third width.
    runs = sampled(posterior, (n // 4, n // 2, n) if scale.full else (n // 2, n), scale, how, rounds=1)
    return posterior, runs, [runs.said]


def _rectifier(scale: Scale) -> tuple[Posterior, Runs, list[str]]:
    """The theory is that of N = infinity; chains start from it.

    Neurons of the first layer condense one after the other as N grows (P = 100: none at N = 100, one at 200, one of
    each class at 400, as at N = infinity): below N = 200 deviations are no trend in 1/N. As a chain at N = 200 keeps
    the class of that one neuron, errors are the scatter of chains, and further rounds of draws would tell nothing.
    """
    n = scale.size(160, 400)
    network, task = Network("relu", depth=DEPTH), class_task(targets=[1.0, -1.0], n_samples=scale.size(80, 100))
    posterior = solved(scale, network, task, 0.05, progress=False)
    how = effort(scale, draws=(80, 80), warmup=(60, 80), thin=1, chains=(2, 4))
    runs = sampled(posterior, (n // 2, n), scale, how, length=0.8 if scale.full else 1.5, rounds=1)
    return posterior, runs, [runs.said]


def _sharpening(posterior: Posterior, runs: Runs) -> list[str]:
    """How far the kernels tell classes apart, by layer."""
    chains = runs.widest
    between, diagonal = chains.kernel_between.mean(axis=(0, 1)), chains.kernel_diagonal.mean(axis=(0, 1))
    kernels = [posterior.kernel(layer=layer) for layer in range(1, DEPTH + 1)]
    theory = [_contrast(kernel.block, kernel.diagonal) for kernel in kernels]
    found = [_contrast(*one) for one in zip(between, diagonal, strict=True)]
    pairs = ", ".join(f"{a:.3f} ({b:.3f})" for a, b in zip(theory, found, strict=True))
    return [f"kernel within minus between classes over its diagonal, layers 1 to {DEPTH}, theory (sampled): {pairs}"]


def _contrast(block: FloatArray, diagonal: FloatArray) -> float:
    """Of different samples of one class minus those of two classes, relative to the diagonal."""
    within = np.diag(block).mean()
    between = block[~np.eye(len(block), dtype=bool)].mean()
    return float((within - between) / diagonal.mean())


def _halves(upper: FloatArray, lower: FloatArray, labels: object) -> FloatArray:
    """One matrix of two symmetric ones, as seen with inputs sorted by class."""
    order = np.argsort(np.asarray(labels), kind="stable")
    rank = np.argsort(order)
    return np.where(rank[:, None] < rank, upper, lower)
