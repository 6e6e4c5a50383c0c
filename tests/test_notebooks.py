"""Notebooks are committed with their outputs, so that a reader sees pictures; nothing of one machine is in them."""

import json
import re
from pathlib import Path

import pytest

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
