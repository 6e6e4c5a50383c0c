"""Neural collapse and the geometry of class manifolds, for the three codes and for lazy networks."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from meanfield import geometry
from meanfield.figures.gallery import Drawing, Scale
from meanfield.figures.panels import letters
from meanfield.figures.runs import effort, networks
from meanfield.plot.style import PALETTE, styled
from meanfield.problem.class_task import class_task
from meanfield.problem.network import Network
from meanfield.solve import solve
from meanfield.validation import FloatArray

TAU = 0.02
SCHEMES = {"linear": "analog", "sigmoid": "redundant", "relu": "sparse"}
_MEASURES = ("NC1: within over between classes", "manifold capacity", "manifold radius", "manifold dimension")


@styled
def draw(name: str, scale: Scale) -> Drawing:
    """Theory (drawn neurons) beside sampled networks of the same N and P."""
    n, p, repeats = scale.size(80, 400), scale.size(100, 200), scale.size(4, 10)
    task = class_task(fractions=[0.5, 0.25, 0.25], n_samples=p)
    how = effort(scale, draws=(40, 40), warmup=(120, 100), thin=4, chains=(repeats // 2, repeats // 2))
    values: dict[tuple[str, str], FloatArray] = {}
    for phi, scheme in SCHEMES.items():
        network = Network(phi)
        posterior = solve(network, task, tau=TAU)
        chains = networks(network, task, n, TAU, scale, how, start=posterior)
        counts = np.bincount(chains.labels).tolist()
        drawn = [posterior.sample_neurons(n, rng=seed, samples_per_class=counts).activations for seed in range(repeats)]
        sampled = [features for at in ("first", "last") for features in chains.activations(at=at)]
        for source, found in (("theory", drawn), ("sampled", sampled)):
            values[scheme, source] = np.array([_measured(features, chains.labels) for features in found])
    figure, axes = plt.subplots(1, 4, figsize=(9.2, 2.4), layout="constrained")
    said = []
    for k, (ax, title) in enumerate(zip(axes, _MEASURES, strict=True)):
        for source, shift, color in (("theory", -0.2, PALETTE[0]), ("sampled", 0.2, "0.75")):
            rows = [values[scheme, source][:, k] for scheme in SCHEMES.values()]
            mean = [float(v.mean()) for v in rows]
            error = [float(v.std(ddof=1) / np.sqrt(v.size)) for v in rows]
            ax.bar(np.arange(3) + shift, mean, 0.4, yerr=error, color=color, label=source)
            cells = ", ".join(f"{s} {m:.3g} ± {e:.1g}" for s, m, e in zip(SCHEMES.values(), mean, error, strict=True))
            said.append(f"{title}, {source}: {cells}")
        ax.set_xticks(range(3), SCHEMES.values())
        ax.set_ylabel(title)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    figure.legend(*axes[1].get_legend_handles_labels(), frameon=False, loc="outside upper right", ncols=2)
    letters(axes)
    said.append(
        "NC1 of sampled networks is smaller: it measures scatter along the readouts, where training pins the sum over "
        "neurons that neurons drawn from the theory leave free"
    )
    return Drawing(name, figure, (), tuple(said))


def _measured(features: FloatArray, labels: NDArray[np.intp]) -> list[float]:
    """NC1 and the GLUE measures of one network's activations (N, P)."""
    manifolds = [features[:, labels == c].T for c in np.unique(labels)]
    found = geometry.glue(manifolds, seed=0)
    return [geometry.neural_collapse(manifolds).nc1, found.capacity, found.radius, found.dimension]
