"""A phase diagram to click on, in any interactive Matplotlib backend: the point is solved and its codes are drawn."""

from __future__ import annotations

import math
import textwrap
import time
from typing import TYPE_CHECKING, Any, cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure, SubFigure

from meanfield.plot.class_tasks import plot_activation_map, plot_readout_posterior
from meanfield.plot.diagrams import plot_phases, plot_weights
from meanfield.plot.style import MAP, on_paper, styled, symbol
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.posterior import NotAvailable
from meanfield.theories.deep.posterior import DeepPosterior
from meanfield.validation import FloatArray, real_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import KeyEvent, MouseEvent

    from meanfield.phases.diagram import PhaseDiagram
    from meanfield.posterior.posterior import Posterior

__all__ = ["Explorer", "explore"]

_STEPS = {"left": (-1, 0), "right": (1, 0), "down": (0, -1), "up": (0, 1)}
_N_NEURONS = 100


class Explorer:
    """What `PhaseDiagram.plot(interactive=True)` returns. Keep it: with it the figure stops listening.

    A click solves the point under the cursor and draws it; arrow keys step from grid value to grid value.

    Attributes
    ----------
    diagram : PhaseDiagram
    figure : Figure
    posterior : Posterior or None
        The last point that was solved.
    values : dict of str to float
        Where that is.
    """

    @styled
    def __init__(self, diagram: PhaseDiagram) -> None:
        if any(axis.ndim > 1 for axis in diagram.axes.values()):
            raise ValueError("fractions are no number that a click could choose; sweep fraction_<class> instead.")
        self.diagram = diagram
        self.figure = plt.figure(figsize=(11.0, 4.6), layout="constrained")
        panels = cast("tuple[SubFigure, SubFigure]", self.figure.subfigures(1, 2, width_ratios=(1.35, 1.0)))
        left, self._side = panels
        line = len(diagram.axes) == 1
        self._plane = (plot_weights if line else plot_phases)(diagram, left.subplots())
        left.suptitle("click, or step with the arrow keys", fontsize="medium", color="0.4")
        marker: dict[str, Any] = {
            "marker": "o",
            "markersize": 7,
            "markerfacecolor": "none",
            "color": "black",
            "zorder": 10,
        }
        self._marker = None if line else self._plane.plot([], [], linestyle="none", **marker)[0]
        self._rule = self._plane.axvline(np.nan, color="black", linewidth=1.0) if line else None
        self.posterior: Posterior | None = None
        self.values: dict[str, float] = {}
        self.figure.canvas.mpl_connect("button_press_event", self._clicked)
        self.figure.canvas.mpl_connect("key_press_event", self._key)

    @styled
    def select(self, *values: float) -> Posterior | None:
        """Solve and draw the point with these values of the axes, in order; returns its posterior, None if it fails.

        Raises
        ------
        ValueError
            Unless there is a number for each axis.
        """
        names = list(self.diagram.axes)
        if len(values) != len(names):
            raise ValueError(f"give a value for each of {', '.join(names)}, got {len(values)}.")
        self.values = {
            name: real_number(name, value, infinite=name == "n_samples")
            for name, value in zip(names, values, strict=True)
        }
        begin, failure = time.perf_counter(), ""
        try:
            self.posterior = self.diagram.solve(**self.values)
        except (ConvergenceError, ValueError) as error:
            self.posterior, failure = None, str(error)
        self._draw(1e3 * (time.perf_counter() - begin), failure)
        return self.posterior

    def _draw(self, milliseconds: float, failure: str) -> None:
        at = [float(on_paper(np.append(self.diagram.axes[n], v))[-1]) for n, v in self.values.items()]
        if self._rule is not None:
            self._rule.set_xdata([at[0], at[0]])
        elif self._marker is not None:
            self._marker.set_data([at[0]], [at[1]])
        self._side.clear()
        title = ",  ".join(f"{symbol(name)} = {value:.5g}" for name, value in self.values.items())
        if self.posterior is None:
            self._side.text(0.02, 0.95, f"{title}\n\n{_wrapped(failure)}", va="top", fontsize="small")
        else:
            top, bottom = self._side.subplots(2, 1, height_ratios=(1.0, 1.2))
            for ax, plot in ((top, plot_readout_posterior), (bottom, _plot_neurons)):
                try:
                    plot(self.posterior, ax)
                except (NotAvailable, ValueError) as error:  # a picture less, not a click that fails
                    ax.clear()
                    ax.text(0.0, 0.9, _wrapped(str(error)), va="top", fontsize="small")
                    ax.axis("off")
            head = f"{title}:  {self.posterior.status}"
            self._side.suptitle(f"{head}, {milliseconds:.1f} ms", fontsize="medium")
        self.figure.canvas.draw_idle()

    def _clicked(self, event: MouseEvent) -> None:
        if event.inaxes is self._plane and event.xdata is not None and event.ydata is not None and _free(self.figure):
            places = zip(self.diagram.axes.values(), (event.xdata, event.ydata))
            self.select(*(_value_at(axis, float(place)) for axis, place in places))

    def _key(self, event: KeyEvent) -> None:
        step = _STEPS.get(str(event.key))
        if step is None or not self.values:
            return
        moved = []
        for (name, axis), by in zip(self.diagram.axes.items(), step):
            order = np.sort(axis)
            i = int(np.argmin(np.abs(on_paper(order) - on_paper(np.append(order, self.values[name]))[-1]))) + by
            moved.append(float(order[min(max(i, 0), order.size - 1)]) if by else self.values[name])
        self.select(*moved)


def explore(diagram: PhaseDiagram) -> Explorer:
    """The diagram beside the codes, readouts and activations of the point that is clicked.

    Raises
    ------
    ValueError
        For an axis of whole vectors of fractions.
    """
    return Explorer(diagram)


def _plot_neurons(posterior: Posterior, ax: Axes) -> Axes:
    """Activations of drawn neurons; of deep networks at P = infinity, where no preactivations are left, by code."""
    if not isinstance(posterior, DeepPosterior) or math.isfinite(posterior.task.n_samples):
        return plot_activation_map(posterior.sample_neurons(_N_NEURONS, rng=0), ax)
    names = posterior.task.class_names
    shares = np.rint(_N_NEURONS * np.cumsum([code.weight for code in posterior.codes])).astype(int)
    rows = np.repeat([code.activation for code in posterior.codes], np.diff(shares, prepend=0), axis=0)
    image = ax.imshow(rows, aspect="auto", interpolation="nearest", cmap=MAP)
    for edge in shares[:-1]:
        ax.axhline(edge - 0.5, color="white", linewidth=0.8)
    middles = 0.5 * (shares + np.append(0, shares[:-1])) - 0.5
    ax.set_yticks(middles, [code.label for code in posterior.codes])
    ax.set_xticks(range(len(names)), [f"class {name}" for name in names])
    ax.tick_params(length=0)
    ax.set_ylabel("neurons")
    ax.figure.colorbar(image, ax=ax, pad=0.02, label=r"mean activation $\phi(z)$")
    return ax


def _value_at(axis: FloatArray, place: float) -> float:
    """What a place on an axis stands for: infinity, where that is among its values and drawn nearby."""
    if np.isfinite(axis).all() or place < 1.5 * float(np.max(axis[np.isfinite(axis)], initial=0.5)):
        return place
    return float("inf")


def _free(figure: Figure) -> bool:
    """Whether the toolbar does not use clicks itself (zoom, pan)."""
    toolbar = getattr(figure.canvas, "toolbar", None)
    return not getattr(toolbar, "mode", "")


def _wrapped(text: str, width: int = 58) -> str:
    return "\n".join(textwrap.wrap(text, width))
