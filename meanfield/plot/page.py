"""A phase diagram as one HTML file that needs no server and no network: hover, click, slide (needs bokeh)."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from meanfield.archive import output_path
from meanfield.plot.diagrams import regular_curves
from meanfield.plot.style import MAP, PALETTE, code_styles, curve_name, on_paper, some_of, tint
from meanfield.posterior.division import Part
from meanfield.validation import FloatArray, IntArray, short

if TYPE_CHECKING:
    from meanfield.phases.diagram import PhaseDiagram

__all__ = ["write_page"]

_PLAIN = {"off": "y₋", "on": "y₊", "sigma_a": "σₐ", "sigma_w": "σ_w", "tau": "τ", "n_samples": "P"}
_MOST_NAMED = 30  # phases below the plane
_N_NEURONS = 100  # rows of the activation map
_FAILED = "#ffffff"
_SCRIPT = Path(__file__).with_name("page.js")


def write_page(diagrams: Sequence[PhaseDiagram], path: str | os.PathLike[str]) -> Path:
    """See `meanfield.phases.diagram.PhaseDiagram.to_html`.

    Numbers are kept in single precision: seven digits, as many as the tables show.
    """
    try:
        from bokeh.embed import file_html
        from bokeh.layouts import column, row
        from bokeh.models import ColumnDataSource, CustomJS, Div, Slider
        from bokeh.resources import INLINE
    except ImportError as error:
        raise ImportError(f"a page needs bokeh: install the extra html, meanfield-codes[html] ({error}).") from error
    written = output_path(path, ".html")
    first = diagrams[0]
    slider_name, slider_values = _third(diagrams)
    phases = list(dict.fromkeys(name for diagram in diagrams for name in diagram.phase_labels))
    layers = [_points(diagram, phases) for diagram in diagrams]
    patterns = list(dict.fromkeys(label for layer in layers for label in layer["labels"]))
    arrays = _joined(layers, patterns)
    colors = [to_hex(tint(PALETTE[j % 8], 0.35 + 0.25 * (j // 8 % 3))) for j in range(len(phases))]
    data = {name: ColumnDataSource({"x": array.ravel()}, name=name) for name, array in arrays.items()}
    facts = {
        "shape": list(first.shape), "phases": phases, "patterns": patterns, "colors": colors, "failed": _FAILED,
        "names": [_plain(name) for name in first.axes], "classes": list(first.task.class_names),
        "m": first.task.n_outputs, "n_codes": int(arrays["weight"].shape[2]), "n_neurons": _N_NEURONS,
        "axes": [np.asarray(axis).tolist() for axis in first.axes.values()], "slider": slider_values.tolist(),
        "places": [on_paper(axis).tolist() for axis in first.axes.values()],
        "slider_name": _plain(slider_name) if slider_name else "", "messages": [layer["messages"] for layer in layers],
        "palette": [to_hex(style["color"]) for style in code_styles(patterns)],
    }  # fmt: skip
    plane, cells = _plane(first, arrays["phase"][0], colors, phases)
    readouts, lines = _readouts(facts)
    maps, image = _map(facts)
    table = Div(text="<p>Click on the diagram.</p>", width=560, name="table")
    marker = ColumnDataSource({"x": [np.nan], "y": [np.nan]})
    plane.scatter("x", "y", source=marker, size=11, line_color="black", fill_color=None, line_width=2)
    show = CustomJS(
        args={"data": data, "facts": facts, "table": table, "lines": lines, "image": image, "marker": marker,
              "cells": cells, "slider": None, "readouts": readouts},
        code=_SCRIPT.read_text(encoding="utf-8"),
    )  # fmt: skip
    below: list[Any] = []
    if slider_name:
        slider = Slider(
            start=0, end=len(slider_values) - 1, step=1, value=0, show_value=False, name="slider",
            title=f"{_plain(slider_name)} = {slider_values[0]:.5g}",
        )  # fmt: skip
        show.args["slider"] = slider
        slider.js_on_change("value", show)
        below.append(slider)
    plane.js_on_event("tap", show)
    title = f"{first.network.activation.name}: {len(phases)} phases"
    head = Div(text=f"<b>{html.escape(title)}</b><br>{_said(first)}", width=520)
    legend = Div(text=_legend(phases, colors), width=560, name="legend")
    page = row(column(head, plane, *below, legend), column(table, row(readouts, maps)))
    written.write_text(file_html(page, INLINE, title), encoding="utf-8")
    return written


def _plain(name: str) -> str:
    return _PLAIN.get(name, name)


def _said(diagram: PhaseDiagram) -> str:
    fractions = ", ".join(f"{p:.4g}" for p in diagram.task.fractions)
    return (
        f"class fractions {fractions}; σₐ = {diagram.network.sigma_a:g}, σ_w = {diagram.network.sigma_w:g}, "
        f"τ = {diagram.tau:g}, P = {diagram.task.n_samples:g} where they are not swept; "
        f"{int(np.sum(diagram.certified))} of {diagram.certified.size} points certified"
    )


def _legend(phases: Sequence[str], colors: Sequence[str]) -> str:
    """Colours of the phases, in the order of their numbers."""
    square = (
        '<span style="display:inline-block;width:0.8em;height:0.8em;background:{};border:1px solid #555"></span> {}'
    )
    short_names = [some_of(name.split(", "), 12) for name in phases]
    shown = [square.format(color, html.escape(name)) for name, color in zip(short_names, colors, strict=True)]
    rest = len(shown) - _MOST_NAMED
    return "<br>".join([*shown[:_MOST_NAMED], *([f"and {rest} more"] if rest > 0 else [])])


def _third(diagrams: Sequence[PhaseDiagram]) -> tuple[str, FloatArray]:
    """Name and values of the parameter in which the diagrams differ."""
    first = diagrams[0]
    if strangers := [other for other in diagrams if not isinstance(other, type(first))]:
        raise ValueError(f"a page is made of PhaseDiagrams, got {short(strangers[0])}; others follow one by one.")
    for diagram in diagrams:
        same = list(diagram.axes) == list(first.axes) and all(
            np.array_equal(diagram.axes[name], axis) for name, axis in first.axes.items()
        )
        if not same or any(np.asarray(axis).ndim > 1 for axis in diagram.axes.values()):
            raise ValueError("a page needs diagrams with the same axes, each of single numbers.")
    if len(diagrams) == 1:
        return "", np.zeros(0)
    differ = {
        name: np.array(values)
        for name, values in _parameters(diagrams).items()
        if name not in first.axes and len(set(values)) > 1
    }
    if len(differ) != 1:
        what = ", ".join(differ) or "none"
        raise ValueError(f"the diagrams of a page differ in exactly one parameter that is not swept, got {what}.")
    ((name, values),) = differ.items()
    if len(set(values)) != len(values):
        raise ValueError(f"two diagrams have the same {name}; give each value once.")
    return name, values


def _parameters(diagrams: Sequence[PhaseDiagram]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for diagram in diagrams:
        network, task = diagram.network, diagram.task
        own = {"tau": diagram.tau, "sigma_a": network.sigma_a, "sigma_w": network.sigma_w, "n_samples": task.n_samples}
        own |= {f"fraction_{name}": p for name, p in zip(task.class_names, task.fractions, strict=True)}
        if task.on is not None and task.off is not None:
            own |= {"on": task.on, "off": task.off}
        for name, value in {**own, **network.activation.parameters}.items():
            found.setdefault(name, []).append(float(value))
    return found


def _points(diagram: PhaseDiagram, phases: Sequence[str]) -> dict[str, Any]:
    """What is shown of every point: one row per code or outlier, its readout, its mean activation per class."""
    index = np.array([phases.index(name) for name in diagram.phase_labels] or [0])
    flat = np.asarray(diagram.phase).ravel()
    said = np.asarray(diagram.messages).ravel()
    rows: list[list[Part]] = []
    messages = {}
    for i in range(flat.size):
        if flat[i] < 0:
            messages[i] = str(said[i])
            rows.append([])
            continue
        posterior = diagram.posterior(i)
        rows.append(posterior.division.parts(posterior))
    return {
        "rows": rows,
        "labels": dict.fromkeys(label for parts in rows for label, *_ in parts),
        "phase": np.where(flat < 0, -1, index[flat]),
        "t": diagram.t.reshape(flat.size, -1),
        "numbers": np.stack([np.asarray(x).ravel() for x in _numbers(diagram)], axis=1),
        "messages": messages,
    }


def _numbers(diagram: PhaseDiagram) -> tuple[FloatArray, ...]:
    return diagram.objective, diagram.kkt_residual, diagram.duality_gap


def _joined(layers: Sequence[dict[str, Any]], patterns: Sequence[str]) -> dict[str, Any]:
    """Arrays (slider, point, ...) of all layers in single precision; code slots are padded with label -1."""
    n, k = len(layers[0]["rows"]), max(1, max(len(parts) for layer in layers for parts in layer["rows"]))
    some = next(parts[0] for layer in layers for parts in layer["rows"] if parts)
    label = np.full((len(layers), n, k), -1, dtype=np.int16)
    weight = np.zeros((len(layers), n, k), dtype=np.float32)
    readout = np.full((len(layers), n, k, some[2].size), np.nan, dtype=np.float32)
    activation = np.full((len(layers), n, k, some[3].size), np.nan, dtype=np.float32)
    for s, layer in enumerate(layers):
        for i, parts in enumerate(layer["rows"]):
            for j, (name, w, a, phi) in enumerate(parts):
                label[s, i, j], weight[s, i, j] = patterns.index(name), w
                readout[s, i, j], activation[s, i, j] = a, phi
    return {
        "phase": np.array([layer["phase"] for layer in layers], dtype=np.int16),
        "t": np.array([layer["t"] for layer in layers], dtype=np.float32),
        "numbers": np.array([layer["numbers"] for layer in layers], dtype=np.float64),
        "label": label, "weight": weight, "readout": readout, "activation": activation,
    }  # fmt: skip


# ---- figures ---------------------------------------------------------------------------------------------------------


def _edges(values: FloatArray) -> FloatArray:
    """Borders of the cells around sorted values."""
    middle = 0.5 * (values[1:] + values[:-1])
    first = values[0] - (middle[0] - values[0]) if middle.size else values[0] - 0.5
    last = values[-1] + (values[-1] - middle[-1]) if middle.size else values[-1] + 0.5
    return np.concatenate([[first], middle, [last]])


def _plane(diagram: PhaseDiagram, phase: IntArray, colors: Sequence[str], phases: Sequence[str]) -> tuple[Any, Any]:
    from bokeh.models import ColumnDataSource, CustomJSHover, HoverTool, Range1d
    from bokeh.plotting import figure

    names, axes = list(diagram.axes), [on_paper(axis) for axis in diagram.axes.values()]
    plane = figure(
        width=540, height=440, tools="pan,wheel_zoom,box_zoom,reset,save,tap", toolbar_location="above",
        x_axis_label=_plain(names[0]), name="plane",
        x_range=Range1d(0, 1), y_range=Range1d(0, 1),
    )  # fmt: skip
    x = _borders(axes[0])
    if len(axes) == 1:
        plane.yaxis.axis_label = diagram.division.said
        low, high = [0.0], [1.0]
        top = 0.0
        regular, curves = regular_curves(diagram)
        order, at = np.argsort(axes[0][regular]), axes[0][regular]
        for style, (codes, values) in zip(code_styles(curve_name(one) for one, _ in curves), curves, strict=True):
            color = to_hex(style["color"])
            plane.line(at[order], values[order], color=color, line_width=2, legend_label=some_of(codes, 2))
            top = max(top, float(np.nanmax(values, initial=0.0)))
        high = [1.05 * top or 1.0]
        plane.legend.label_text_font_size = "8pt"
        plane.legend.background_fill_alpha = 0.6
        y = np.array([low * axes[0].size, high * axes[0].size])
        left, right, bottom, top_edge = x[0], x[1], y[0], y[1]
    else:
        plane.yaxis.axis_label = _plain(names[1])
        v = _borders(axes[1])
        left, bottom = (grid.ravel() for grid in np.meshgrid(x[0], v[0], indexing="ij"))
        right, top_edge = (grid.ravel() for grid in np.meshgrid(x[1], v[1], indexing="ij"))
    fill = [colors[i] if i >= 0 else _FAILED for i in phase]
    cells = ColumnDataSource(
        {
            "left": np.asarray(left, dtype=np.float32), "right": np.asarray(right, dtype=np.float32),
            "bottom": np.asarray(bottom, dtype=np.float32), "top": np.asarray(top_edge, dtype=np.float32),
            "phase": phase, "color": fill,
        },
        name="cells",
    )  # fmt: skip
    flat = len(axes) == 1
    alpha = 0.35 if flat else 1.0
    quads = plane.quad(
        left="left", right="right", bottom="bottom", top="top", source=cells, fill_color="color",
        line_color=None if flat else "color", fill_alpha=alpha,
        nonselection_fill_alpha=alpha, nonselection_line_alpha=1.0, level="underlay",
    )  # fmt: skip
    named = CustomJSHover(args={"phases": list(phases)}, code="return value < 0 ? 'not certified' : phases[value]")
    plane.add_tools(
        HoverTool(
            renderers=[quads], tooltips=[("phase", "@phase{custom}"), ("at", "$x, $y")], formatters={"@phase": named}
        )
    )
    for shown, swept, places in zip((plane.xaxis, plane.yaxis), diagram.axes.values(), axes):
        if not np.isfinite(swept).all():
            shown.ticker = sorted(set(places.tolist()))
            shown.major_label_overrides = {float(places[np.isinf(swept)][0]): "∞"}
    plane.grid.visible = flat
    plane.x_range.start, plane.x_range.end = float(x[0].min()), float(x[1].max())
    plane.y_range.start, plane.y_range.end = float(np.min(bottom)), float(np.max(top_edge))
    return plane, cells


def _borders(axis: FloatArray) -> FloatArray:
    """(2, n) borders of the cell of every value, whatever the order of the values."""
    order = np.argsort(axis)
    edges = _edges(axis[order])
    borders = np.empty((2, axis.size))
    borders[:, order] = edges[:-1], edges[1:]
    return borders


def _readouts(facts: dict[str, Any]) -> tuple[Any, Any]:
    """Readouts of the codes of the chosen cell, one line per code through its components."""
    from bokeh.models import ColumnDataSource, Range1d
    from bokeh.plotting import figure

    panel = figure(
        width=270, height=300, title="readouts", toolbar_location=None, x_axis_label="output r", name="readouts",
        x_range=Range1d(0.7, facts["m"] + 0.3), y_range=Range1d(-1, 1),
    )  # fmt: skip
    lines = ColumnDataSource({"x": [], "y": [], "size": [], "color": [], "label": []}, name="lines")
    panel.multi_line("x", "y", source=lines, line_color="color", line_width="size")
    panel.xaxis.ticker = list(range(1, facts["m"] + 1))
    return panel, lines


def _map(facts: dict[str, Any]) -> tuple[Any, Any]:
    """Mean activations of a hundred neurons, by code and class, in the chosen cell."""
    from bokeh.models import BasicTicker, ColorBar, ColumnDataSource, LinearColorMapper, NumeralTickFormatter
    from bokeh.plotting import figure

    n_classes = len(facts["classes"])
    panel = figure(
        width=290, height=300, title="mean activations", toolbar_location=None, x_range=(0, n_classes),
        y_range=(_N_NEURONS, 0), x_axis_label="class", y_axis_label="neurons by code", name="map",
        min_border_right=60,  # the scale has no numbers yet when room is made for it
    )  # fmt: skip
    image = ColumnDataSource({"image": [np.full((_N_NEURONS, n_classes), np.nan, dtype=np.float32)]}, name="image")
    mapper = LinearColorMapper(palette=[to_hex(colormaps[MAP](v)) for v in np.linspace(0, 1, 64)], nan_color="#eeeeee")
    panel.image("image", source=image, x=0, y=0, dw=n_classes, dh=_N_NEURONS, color_mapper=mapper)
    ticks = NumeralTickFormatter(format="0.0")
    panel.add_layout(
        ColorBar(color_mapper=mapper, width=8, formatter=ticks, ticker=BasicTicker(desired_num_ticks=4)), "right"
    )
    panel.xaxis.ticker = [c + 0.5 for c in range(n_classes)]
    panel.xaxis.major_label_overrides = {c + 0.5: name for c, name in enumerate(facts["classes"])}
    panel.grid.visible = False
    return panel, image
