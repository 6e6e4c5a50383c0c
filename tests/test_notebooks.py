"""Notebooks are committed with their outputs, so that a reader sees pictures; nothing of one machine is in them."""

import base64
import importlib.util
import io
import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from meanfield.plot.style import MAP, PALETTE

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_cells(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        pattern = r"^(?:print\(|\w+ = data_tasks\.|figure|ax = )|\.plot\(\);"
        speaks = re.search(pattern, "".join(cell["source"]), re.MULTILINE)
        assert cell["outputs"] or not speaks, "".join(cell["source"])
    pictures = [output for cell in cells for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_hold_no_warnings_and_no_places(path):
    for cell in code_cells(path):
        for output in cell["outputs"]:
            assert output.get("name") != "stderr"
            assert output["output_type"] != "error"
            text = "".join([*output.get("text", []), *output.get("data", {}).get("text/plain", [])])
            assert re.findall(r"Warning|(?:^|[\s'\"(])/[a-z]+/\S*|0x[0-9a-f]{6,}", text) == []


def test_they_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 3_000_000


def test_lines_keep_their_colours_beside_maps():
    """Few colours are kept of a picture; once the maps took them all, and two codes had the same line."""
    pytest.importorskip("nbclient", reason="needs nbclient")
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    specification = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    execute = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(execute)
    figure, axes = plt.subplots(2, 2, figsize=(8, 5))
    for i, color in enumerate(PALETTE):
        axes[0, 0].plot([0, 1], [i, i + 0.5], color=color, linewidth=1.4)
    for ax in axes.flat[1:]:
        ax.imshow(np.random.default_rng(0).uniform(size=(80, 80)), cmap=MAP, interpolation="nearest")
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=100)
    plt.close(figure)
    few = execute.small(base64.b64encode(written.getvalue()).decode())
    before, after = (
        np.array(image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        for data in (written.getvalue(), base64.b64decode(few))
    )
    for color in PALETTE:
        drawn = (before == np.rint(255 * np.array(to_rgb(color)))).all(axis=-1)
        assert drawn.sum() > 100
        assert np.abs(after - before)[drawn].max() < 10, color
    assert len(np.unique(after.reshape(-1, 3), axis=0)) <= execute.COLOURS
