"""What all pictures share: colours of codes, axes, legends, names of parameters (fonts: `meanfield.drawing`).

Maps use cividis, which all common kinds of colour vision tell apart.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from meanfield.drawing import PALETTE, axes_or_new, styled
from meanfield.validation import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend


__all__ = [
    "GREY",
    "MAP",
    "PALETTE",
    "axes_or_new",
    "code_color",
    "code_styles",
    "curve_name",
    "group_centres",
    "line_styles",
    "mark_infinity",
    "on_paper",
    "panel_letter",
    "phi_name",
    "reading_order",
    "save_figure",
    "side_legend",
    "some_of",
    "span",
    "styled",
    "symbol",
    "tint",
]

MAP = "cividis"
_DASHES = ("-", "--", "-.", ":")
_OF_CODES = tuple(PALETTE[k] for k in (2, 1, 3, 5, 0, 4, 7, 6))  # of up to three classes: 1-1-1, 1-1-0, ..., 0-0-0
_CODE = re.compile(r"(?:outlier )?([01](?:-[01]){0,2})(?![-\d])")
GREY = "0.4"  # of what is no code
_SYMBOLS = {
    "off": "$y_{-}$",
    "on": "$y_{+}$",
    "sigma_a": r"$\sigma_a$",
    "sigma_w": r"$\sigma_w$",
    "tau": r"$\tau$",
    "n_samples": "$P$",
}


@styled
def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.pdf and `stem`.png, close the figure, and return the two paths."""
    if not stem.parent.is_dir():
        raise FileNotFoundError(f"the folder {stem.parent} does not exist; make it first.")
    written = [stem.with_name(stem.name + suffix) for suffix in (".pdf", ".png")]
    fonts = logging.getLogger("fontTools")  # chatters about time stamps in fonts that matplotlib ships
    level = fonts.level
    fonts.setLevel(logging.ERROR)
    for path in written:
        figure.savefig(path, bbox_inches="tight")
    fonts.setLevel(level)
    plt.close(figure)
    return written


def symbol(name: str) -> str:
    """The symbol of a control parameter, or its name."""
    kind, _, index = name.partition("_")
    if kind in ("fraction", "target") and index:
        return rf"${'p' if kind == 'fraction' else 'y'}_{{{index}}}$"
    return _SYMBOLS.get(name, name)


def phi_name(phi: str) -> str:
    """The name of a nonlinearity as texts write it."""
    return phi.replace("relu", "ReLU").replace("_", " ")


def line_styles() -> list[dict[str, Any]]:
    """Colours of the palette, repeated with other dashes."""
    return [{"color": color, "linestyle": dash} for dash in _DASHES for color in PALETTE]


def some_of(names: Sequence[str], most: int) -> str:
    """Names with commas; of more than there is room for the first, and how many others there are."""
    left = len(names) - most
    return ", ".join(names) if left <= 1 else f"{', '.join(names[:most])} and {left} more"


def curve_name(names: Iterable[str]) -> str:
    """Of codes that share a curve the one whose colour it has: the first in reading order."""
    return min(names, key=reading_order)


def code_color(name: str) -> str | None:
    """The colour of a code of up to three classes ("1-1-0", "outlier 1-0-0") in every picture, and of the bulk.

    None for other names. Of several codes, "1-0-1, 1-1-0", that of the first.
    """
    if name == "bulk":
        return GREY
    found = _CODE.match(name)
    if found is None:
        return None
    pattern = found[1].replace("-", "")
    return _OF_CODES[(1 << len(pattern)) - 1 - int(pattern, 2)]


def code_styles(names: Iterable[str]) -> list[dict[str, Any]]:
    """Colours and dashes of curves of codes: `code_color`, and for names without one those of `line_styles` in order.

    A colour that is used again has other dashes.
    """
    plain, used = line_styles(), dict[str, int]()
    styles = []
    for k, name in enumerate(names):
        color = code_color(name)
        if color is None:
            styles.append(plain[k % len(plain)])
            continue
        used[color] = used.get(color, -1) + 1
        styles.append({"color": color, "linestyle": _DASHES[used[color] % len(_DASHES)]})
    return styles


def on_paper(values: FloatArray) -> FloatArray:
    """Where the values of a parameter are drawn: an infinite one (P) at twice the largest finite one."""
    finite = values[np.isfinite(values)]
    return np.where(np.isinf(values), 2.0 * float(np.max(finite, initial=0.5)), values)


def mark_infinity(axis: Axis, values: FloatArray) -> None:
    """Say where on an axis infinity is, if it is among the values."""
    if np.isfinite(values).all():
        return
    last = float(np.max(values[np.isfinite(values)], initial=0.5))
    low, high = sorted(axis.get_view_interval())
    ticks = [float(tick) for tick in axis.get_majorticklocs() if low <= tick <= min(last, high)]
    axis.set_ticks([*ticks, 2.0 * last], labels=[*(f"{tick:g}" for tick in ticks), r"$\infty$"])


def span(values: FloatArray) -> tuple[float, float]:
    """Limits of an axis: least and largest value; around a single one some room."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def group_centres(edges: ArrayLike, size: int) -> FloatArray:
    bounds = np.concatenate([[-0.5], edges, [size - 0.5]])
    return 0.5 * (bounds[1:] + bounds[:-1])


def side_legend(ax: Axes, title: str, handles: Sequence[Any] | None = None, most: int | None = None) -> Legend:
    """A legend right of the axes; with `most`, of so many names and the number of the others."""
    shown = list(ax.get_legend_handles_labels()[0] if handles is None else handles)
    if most is not None and (left := len(shown) - most) > 1:
        shown = [*shown[:most], Line2D([], [], linestyle="none", label=f"and {left} more")]
    return ax.legend(
        handles=shown, title=title, frameon=False, alignment="left", loc="center left", bbox_to_anchor=(1.01, 0.5)
    )


def reading_order(name: str) -> tuple[bool, list[int]]:
    """Codes from 1-1-1 down, then outliers."""
    return name.startswith("outlier"), [-ord(x) for x in name]


def panel_letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def tint(color: str, amount: float) -> tuple[float, float, float]:
    red, green, blue = (1 - amount * (1 - x) for x in to_rgb(color))
    return red, green, blue
