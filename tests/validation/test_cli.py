"""`meanfield validate`: report, figures, exit status."""

import json

import pytest
from margins import below

from meanfield.cli.main import main

SIZES = {"--samples": 60, "--warmup": 80, "--thin": 1, "--chains": 2, "--seed": 0}
SMALL = ["--activation", "linear", "--start", "planted", *(str(word) for item in SIZES.items() for word in item)]


def validate(*arguments):
    return main(["validate", *SMALL, *map(str, arguments)])


@pytest.mark.statistical
def test_report_of_two_widths(tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert validate("--width", 80, 40, "--n-samples", 16, "--output", folder) == 0
    printed = capsys.readouterr().out
    assert "linear-planted" in printed
    assert "agrees" in printed
    names = {path.name for path in folder.iterdir()}
    assert {"report.md", "report.json", "linear-planted-N80.png", "linear-planted-trend.png", "drift.png"} <= names
    report = (folder / "report.md").read_text(encoding="utf-8")
    for name in names:
        if name.endswith(".png"):
            assert f"({name})" in report
    (row,) = (line for line in report.splitlines() if line.startswith("| linear | planted |"))
    assert below(float(row.split("|")[-3]), 5.0, "extrapolated |z|")
    assert "kernel between samples [1,2]" in report
    assert "Drift of linear" in report
    (case,) = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert [comparison["width"] for comparison in case["comparisons"]] == [40, 80]
    assert case["failures"] == []


def test_exit_status_is_1_if_a_limit_is_exceeded(tmp_path, capsys):
    assert validate("--width", 20, "--n-samples", 16, "--limit", 0.01, "--output", tmp_path) == 1
    assert "beyond 0.01" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-samples", 10], "--n-samples must be 8, 12, 16"),
        (["--width", 20, 20], "--width takes different numbers"),
        (["--width", 20, 40, "--n-samples", 16, 20, 24], "as many as --width"),
        (["--limit", "-1"], "--limit must be positive"),
        (["--samples", 7], "--samples must be 8 or more"),
        (["--seed", "-3"], "--seed 0 or more"),
        (["--width", 0], "--width must be positive, got 0"),
        (["--tau", "-0.1", "--n-samples", 16], "tau must be a real number >= 0"),
    ],
)
def test_wrong_input_is_told_in_one_line(arguments, message, tmp_path, capsys):
    assert validate(*arguments, "--output", tmp_path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
