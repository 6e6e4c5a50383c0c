"""Whether a picture can be read: no texts on top of each other, none cut off."""

from itertools import combinations

from matplotlib.text import Text


def texts(ax):
    """Everything written in or around the axes; ticks outside the view are not drawn."""
    found = [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label]
    for axis, view in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        low, high = sorted(view)
        found += [t.label1 for t in axis.get_major_ticks() if low - 1e-9 <= t.get_loc() <= high + 1e-9]
    legend = ax.get_legend()
    return [t for t in [*found, *(legend.get_texts() if legend else [])] if t.get_text() and t.get_visible()]


def assert_legible(*axes):
    """No two texts overlap, and none is cut off by the border of the figure."""
    figure = axes[0].get_figure(root=True)
    figure.draw_without_rendering()
    found = [t for ax in axes for t in texts(ax)]
    boxes = [Text.get_window_extent(t) for t in found]  # of an annotation: without its arrow
    for (one, a), (other, b) in combinations(zip(found, boxes, strict=True), 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, f"{one.get_text()!r} overlaps {other.get_text()!r}"
    for text, box in zip(found, boxes, strict=True):
        assert box.x0 >= -1, f"{text.get_text()!r} is cut off"
        assert box.y0 >= -1, f"{text.get_text()!r} is cut off"
        assert box.x1 <= figure.bbox.width + 1, f"{text.get_text()!r} is cut off"
        assert box.y1 <= figure.bbox.height + 1, f"{text.get_text()!r} is cut off"
