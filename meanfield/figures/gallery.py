"""Which figures there are, and how large the networks in them are."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from meanfield.activations.activation import Activation
    from meanfield.sampling.compare import Comparison

__all__ = ["ANY_ACTIVATION", "FIGURES", "FULL_SECONDS", "Drawing", "Scale", "draw"]

# Name -> module of this folder, what it shows.
FIGURES = {
    "fig1": ("lazy", "lazy against non-lazy: kernels and activations of linear, sigmoid and ReLU networks"),
    "fig2": ("analog", "analog coding in a two-layer linear network"),
    "fig3": ("digits", "analog coding on images of digits: predictor, generalisation, Gaussian process"),
    "fig4": ("redundant", "redundant coding in a sigmoid network: readouts, activations, kernel"),
    "fig5": ("coding_transitions", "coding transitions: activations at four targets of the other classes"),
    "sparse": ("sparse", "sparse coding in a ReLU network: bulk and outliers"),
    "deep": ("three_layers", "three hidden layers, linear, sigmoid and ReLU: codes sharpen from layer to layer"),
    "images": (
        "generalisation",
        "generalisation on images: sigmoid and ReLU networks, theory, Gaussian process",
    ),
    "drift": ("stability", "representations drift (linear) or stay (sigmoid, ReLU)"),
    "collapse": ("collapse", "neural collapse and manifold geometry of the three codes"),
    "planes": ("planes", "phases and their boundaries in planes of two control parameters"),
}

ANY_ACTIVATION = ("fig5",)  # figures whose nonlinearity can be another one

# Seconds of one processor at full size, roughly, as measured.
FULL_SECONDS = {
    "fig1": 2000, "fig2": 150, "fig3": 190, "fig4": 190, "fig5": 200, "sparse": 160, "deep": 2100, "images": 230,
    "drift": 60, "collapse": 110, "planes": 150,
}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """How large and how long.

    Attributes
    ----------
    full : bool
        The paper's N and P, or networks small enough for a minute per figure.
    seed : int
        Of all that is drawn or sampled.
    data : Path or None
        Folder with MNIST, and maybe CIFAR-10; scikit-learn's digits without it.
    kept : Path or None
        Folder in which chains and slow solutions are kept: an interrupted figure goes on from there.
    told : function or None
        Called with a line about what is being sampled.
    activation : str, Activation or None
        Another nonlinearity than that of the paper, in figures of `ANY_ACTIVATION`.
    """

    full: bool = False
    seed: int = 0
    data: Path | None = None
    kept: Path | None = None
    told: Callable[[str], None] | None = None
    activation: str | Activation | None = None

    def say(self, line: str) -> None:
        """What is going on, to who wants to know."""
        if self.told is not None:
            self.told(line)

    def size(self, small: int, full: int) -> int:
        """N, P or a number of draws."""
        return full if self.full else small


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure and what was measured for it.

    Attributes
    ----------
    name : str
    figure : matplotlib Figure
    comparisons : tuple of Comparison
        Sampled networks against the theory.
    said : tuple of str
        What agrees, and what does not, in numbers.
    """

    name: str
    figure: Figure
    comparisons: tuple[Comparison, ...] = ()
    said: tuple[str, ...] = field(default=())

    @property
    def max_z(self) -> float:
        """Largest |z| of the statistics that were tested."""
        return max((found.max_z for found in self.comparisons), default=float("nan"))

    def report(self) -> str:
        """Lines for a terminal."""
        lines = [f"{self.name}: {FIGURES[self.name][1]}"]
        for found in self.comparisons:
            net = found.draws.network
            lines.append(
                f"  {net.activation.name} (L = {net.depth}, {net.scaling}), N = {found.width}, "
                f"P = {found.draws.labels.size}, tau = {found.draws.tau:g}: max |z| = {found.max_z:.2f} over "
                f"{len(found.tested)} statistics of {found.draws.n_chains} x {found.draws.readout.shape[1]} draws"
            )
        return "\n".join([*lines, *(f"  {line}" for line in self.said)])


def draw(name: str, scale: Scale | None = None) -> Drawing:
    """One of `FIGURES`.

    Raises
    ------
    ValueError
        For a name that is none of them, a scale that is no `Scale`, and for a nonlinearity in a figure that is about
        others.
    """
    from meanfield.validation import instance  # late: the command's help needs no NumPy

    scale = Scale() if scale is None else scale
    instance("scale", scale, Scale, "of meanfield.figures")
    chosen([name], scale.activation)
    module = importlib.import_module(f"meanfield.figures.{FIGURES[name][0]}")
    drawing: Drawing = module.draw(name, scale)
    return drawing


def chosen(names: Sequence[str] | None, activation: object = None) -> list[str]:
    """All names, or those given; ValueError for others, and for a nonlinearity in a figure that is about its own."""
    from meanfield.validation import short  # late: the command's help needs no NumPy

    for name in names or ():
        if not isinstance(name, str) or name not in FIGURES:
            raise ValueError(f"there is no figure {short(name)}; there are {', '.join(FIGURES)}.")
    found = list(dict.fromkeys(names)) if names else list(FIGURES)
    fixed = [name for name in found if name not in ANY_ACTIVATION]
    if activation is not None and fixed:
        others = " ".join(ANY_ACTIVATION)
        raise ValueError(f"{fixed[0]} is about its own nonlinearities; another one is for {others} (--only {others}).")
    return found
