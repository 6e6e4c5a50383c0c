"""The README does what it says: its Python runs, and prints what is printed there."""

import contextlib
import io
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```(python)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def lines_to_compare(text):
    """Without the residual and gap of certificates, which are rounding errors, and orders of equal weights."""
    return sorted(line for line in text.splitlines() if not line.startswith("certificate"))


def test_the_tour_runs_and_prints_what_it_shows(tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    namespace, printed, shown = {}, "", 0
    for language, text in BLOCK.findall(README.read_text(encoding="utf-8")):
        if language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(text, "README.md", "exec"), namespace)
            printed = output.getvalue()
        else:
            assert lines_to_compare(printed) == lines_to_compare(text)
            shown += 1
    plt.close("all")
    assert shown == 3
    assert {path.name for path in tmp_path.iterdir()} == {"post.npz", "map.png", "plane.png"}


def test_nothing_of_one_machine_is_in_it():
    text = README.read_text(encoding="utf-8")
    assert re.findall(r"(?:^|[\s`'\"(])/[a-z]+/\S*|https?://\S*", text) == []
    assert "@@" not in text


def test_every_file_it_names_exists():
    text = README.read_text(encoding="utf-8")
    for name in set(re.findall(r"`([a-z_/]+\.py|[a-z]+/)`", text)) - {"results/"}:
        root = README.parent
        assert (root / name).exists() or (root / "meanfield" / name).exists(), name
