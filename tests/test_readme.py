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
    assert {path.name for path in tmp_path.iterdir()} == {"post.npz", "map.png"}


def test_nothing_of_one_machine_is_in_it():
    text = README.read_text(encoding="utf-8")
    assert re.findall(r"(?:^|[\s`'\"(])/[a-z]+/\S*|https?://\S*", text) == []
    assert "@@" not in text


def test_every_file_it_names_exists():
    text = README.read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    named = re.findall(r"`((?:[A-Za-z_]+/)*[A-Za-z_]+\.(?:py|md|cff)|(?:[a-z_]+/)+|LICENSE)`", text)
    assert len(pictures) == 2
    assert len(set(named)) > 10
    for name in {*named, *pictures} - {"results/", "THEORY.md"}:
        assert (README.parent / name).exists(), name
    assert max((README.parent / name).stat().st_size for name in pictures) < 150_000


def test_it_can_be_read_in_ten_minutes():
    assert 6_000 <= len(README.read_bytes()) <= 8_000


def test_it_has_the_two_commands():
    """One line installs and runs the main job, one installs and runs the tests."""
    start = "    python3 -m venv .venv && . .venv/bin/activate && pip install "
    lines = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    commands = [line for line in lines if "pip install" in line]
    assert commands == [f"{start}. && meanfield phase-diagram", f"{start}'.[test]' && pytest"]
