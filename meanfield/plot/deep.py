"""Pictures of deep networks: their layers side by side, codes that sharpen with depth, competing solutions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import matplotlib.pyplot as plt
import numpy as np

from meanfield.plot.class_tasks import draw_kernel, plot_activation_map
from meanfield.plot.style import PALETTE, axes_or_new, styled, symbol
from meanfield.posterior.division import label_of, pattern_of
from meanfield.posterior.kernel import Kernel
from meanfield.posterior.neurons import Neurons, sample_counts
from meanfield.posterior.posterior import SolvedPosterior
from meanfield.posterior.registry import division_of
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.sampling.chains import Chains
from meanfield.theories.deep.posterior import DeepPosterior
from meanfield.validation import FloatArray, short
from meanfield.validation import generator as new_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from meanfield.phases.diagram import PhaseDiagram

__all__ = ["figure_layers", "plot_branches", "plot_sharpening"]


@styled
def figure_layers(
    *networks: SolvedPosterior | Chains, names: Sequence[str] | None = None, n_neurons: int = 60, seed: int = 0
) -> Figure:
    """Representations of all hidden layers side by side: activations of neurons, and below them kernels.

    Activations of all layers have the same colours where phi is bounded, else each layer has a scale of its own.

    Parameters
    ----------
    *networks : DeepPosterior or Chains
        Of the same task and depth; each takes two rows. Of chains the last draw of the first one is shown, and kernels
        averaged over draws and chains.
    names : sequence of str, optional
        Of the rows.
    n_neurons : int
        Drawn from a theory; of a sampled network as many.
    seed : int

    Raises
    ------
    ValueError
        If the networks differ in depth or number of classes, or a theory does not draw its neurons layer by layer.
    """
    views: list[DeepPosterior | _Sampled] = [_layered(one, "sample_neurons") for one in networks]
    depths = {view.network.depth for view in views}
    if len(depths) != 1 or len({view.task.n_classes for view in views}) != 1:
        raise ValueError(f"give networks of the same depth and task, got depths {sorted(depths)}.")
    depth = depths.pop()
    titles = names or ["sampled network" if isinstance(view, _Sampled) else "theory" for view in views]
    figure = plt.figure(figsize=(2.35 * depth, 4.3 * len(views)), layout="constrained")
    parts: Any = figure.subfigures(len(views), 1, squeeze=False)[:, 0]
    for part, view, title in zip(parts, views, titles, strict=True):
        rows = part.subplots(2, depth, squeeze=False)
        part.suptitle(title, fontsize=9)
        drawn = [
            view.sample_neurons(n_neurons, rng=np.random.default_rng([seed, i]), layer=i + 1) for i in range(depth)
        ]
        ends = min(one.activations.min() for one in drawn), max(one.activations.max() for one in drawn)
        shared = (float(ends[0]), float(ends[1])) if view.network.activation.bounded else None
        for i, neurons in enumerate(drawn):
            plot_activation_map(neurons, rows[0, i], colorbar=i == depth - 1 or shared is None, limits=shared)
            draw_kernel(view.task, view.kernel(i + 1), rows[1, i], 40)
            rows[0, i].set_title(f"layer {i + 1}")
            rows[0, i].set_xlabel("")
            if i:
                rows[0, i].set_ylabel("")
            for ax in rows[:, i]:
                short = [text.get_text().removeprefix("class ") for text in ax.get_xticklabels()]
                ax.set_xticks(ax.get_xticks(), short)
            rows[1, i].set_yticks([])
            rows[1, i].set_xlabel("class")
            if i < depth - 1:
                for ax in rows[:, i]:
                    if ax.images[0].colorbar is not None:
                        ax.images[0].colorbar.set_label("")
    return figure


@styled
def plot_sharpening(
    posteriors: DeepPosterior | Chains | Mapping[str, DeepPosterior | Chains], ax: Axes | None = None
) -> Axes:
    """How codes sharpen with depth: mean activation of active and inactive neurons (filled, open), layer by layer.

    Parameters
    ----------
    posteriors : DeepPosterior, or mapping of name to DeepPosterior
        Chains, too: sampled networks are drawn as crosses, without lines.

    The grey axis at the right has the kurtosis over neurons of the difference of the means of the first two classes
    (dotted): 3 where they are Gaussian, the inverse of the share of neurons that tell these classes apart where all are
    on or off.

    Raises
    ------
    ValueError
        For a theory whose neurons are not on or off in every layer.
    """
    ax = axes_or_new(ax, (3.6, 2.6))
    given = posteriors if isinstance(posteriors, Mapping) else {"": posteriors}
    right = ax.twinx()
    deepest = 1
    for color, (name, one) in zip(PALETTE, given.items()):
        sampled = isinstance(one, Chains)
        view = _layered(one, "separation")
        layers = np.arange(1, view.network.depth + 1)
        found = [view.separation(int(layer)) for layer in layers]
        weights = np.asarray(view.task.fractions)
        on, off = ([float(np.nansum(weights * one[key])) for one in found] for key in ("on", "off"))
        kurtosis = [float(one["kurtosis"][0, 1]) for one in found]
        line = "none" if sampled else "-"
        marks: dict[str, Any] = {"markersize": 4.0, "color": color}
        ax.plot(layers, on, "x" if sampled else "o", linestyle=line, label=name or "on", **marks)
        ax.plot(layers, off, "x" if sampled else "o", linestyle=line, markerfacecolor="none", **marks)
        right.plot(layers, kurtosis, marker="+" if sampled else "", linestyle="none" if sampled else ":", **marks)
        deepest = max(deepest, int(layers[-1]))
    ax.set_xticks(range(1, deepest + 1))
    ax.set(xlabel="layer", ylabel="mean activation, on and off", ylim=(-0.03, 1.03))
    right.set_ylabel("kurtosis over neurons (dotted)", color="0.4")
    right.set_ylim(0.9, 3.1)
    right.tick_params(colors="0.4")
    for axis in (ax, right):
        axis.spines["top"].set_visible(False)
    if len(given) > 1:
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.3, 0.5))
    return ax


def _layered(one: object, asked: str) -> DeepPosterior | _Sampled:
    """Chains or a posterior that answers `asked` for every layer."""
    if isinstance(one, Chains):
        return _Sampled(one)
    answer = getattr(one, asked, None)
    if answer is None or "layer" not in inspect.signature(answer).parameters:
        raise ValueError(
            f"{asked} is asked of every layer: give posteriors of deep networks or Chains, got {short(one)}."
        )
    return cast("DeepPosterior", one)


@styled
def plot_branches(diagram: PhaseDiagram, ax: Axes | None = None) -> Axes:
    """Phi / P of the solutions that compete along a sweep of a deep network: the largest (dots) is what is reported.

    Points that are not certified are left out; a branch is drawn where it was found, at a single point as a circle.
    Where both starts lead to one solution it is that without codes, which continues the prior.
    """
    if len(diagram.axes) != 1:
        raise ValueError(f"branches are drawn over one parameter, not over {list(diagram.axes)}.")
    ax = axes_or_new(ax, (3.6, 2.6))
    name, values = next(iter(diagram.axes.items()))
    curves: dict[str, list[tuple[float, float]]] = {"coding": [], "uncoded": []}
    best = []
    for i in np.argsort(values):
        if not diagram.certified[i]:
            continue
        post, x = diagram.posterior(int(i)), float(values[i])
        if not isinstance(post, DeepPosterior):
            raise ValueError("only deep networks have competing solutions; other theories are convex.")
        scale = 1.0 if np.isinf(post.task.n_samples) else post.task.n_samples
        rivals = {branch.name: branch.free_energy / scale for branch in post.certificate.branches}
        curves["uncoded" if post.certificate.continues_prior else "coding"].append((x, post.objective))
        for rival, phi in rivals.items():
            curves.setdefault(rival, []).append((x, phi))
        best.append((x, post.objective))
    for color, (branch, points) in zip(PALETTE, curves.items()):
        if points:
            alone: dict[str, Any] = {"marker": "o", "markersize": 6, "fillstyle": "none"} if len(points) == 1 else {}
            ax.plot(*np.array(points).T, color=color, label=branch, **alone)
    if best:
        ax.plot(*np.array(best).T, ".", color="0.15", markersize=4, label="reported")
    ax.set(xlabel=symbol(name), ylabel=r"$\Phi / P$")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


@dataclass(frozen=True, eq=False)
class _Sampled:
    """Chains, asked the questions of a posterior."""

    chains: Chains

    @property
    def network(self) -> Network:
        return self.chains.network

    @property
    def task(self) -> ClassTask:
        assert isinstance(self.chains.task, ClassTask)
        return self.chains.task

    def kernel(self, layer: int = -1) -> Kernel:
        """Averaged over draws and chains."""
        at = layer - 1 if layer > 0 else layer
        block = self.chains.kernel_between[:, :, at].mean(axis=(0, 1))
        return Kernel(block, self.chains.kernel_diagonal[:, :, at].mean(axis=(0, 1)))

    def sample_neurons(self, n: int, *, rng: object = None, layer: int = -1) -> Neurons:
        """Neurons of the last draw of the first chain, with the responses to as many samples as a theory shows."""
        chains, generator = self.chains, new_generator("rng", rng)
        counts = sample_counts(self.task.fractions, None)
        columns = np.concatenate([np.flatnonzero(chains.labels == c)[:k] for c, k in enumerate(counts)])
        z = chains.preactivations(layer)[0]
        rows = np.sort(generator.choice(len(z), size=min(n, len(z)), replace=False))
        z = z[np.ix_(rows, columns)]
        phi = np.asarray(self.network.activation(z))
        division = division_of(chains.network, self.task)
        words = division.words(chains.class_activations(layer)[0][rows], chains.network, layer)
        found = np.unique(words)[::-1]
        names = tuple(label_of(pattern_of(word, self.task.n_classes)) for word in found)
        code = np.searchsorted(-found, -words)
        last = chains.readout[0, -1][rows] if layer in (-1, chains.network.depth) else np.empty((len(rows), 0))
        return Neurons(last, code, names, z, phi, chains.labels[columns], self.task.class_names)

    def separation(self, layer: int = -1) -> dict[str, FloatArray]:
        """As `DeepPosterior.separation`, over all neurons, draws and chains."""
        at = layer - 1 if layer > 0 else self.network.depth + layer
        below = at < self.network.depth - 1
        mean = self.chains.lower_activation[:, :, at] if below else self.chains.class_activation
        mean = mean.reshape(-1, mean.shape[-1])
        mean = mean[~np.isnan(mean[:, 0])]  # a layer may be narrower than others
        active = mean > division_of(self.network, self.task).threshold(self.network, layer)
        with np.errstate(invalid="ignore"):
            on, off = ((mean * kind).sum(axis=0) / kind.sum(axis=0) for kind in (active, ~active))
        gap = mean[:, :, None] - mean[:, None, :]
        gap = gap - gap.mean(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"on": on, "off": off, "kurtosis": (gap**4).mean(axis=0) / (gap**2).mean(axis=0) ** 2}
