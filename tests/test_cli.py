"""The command `meanfield`: what it prints and writes, and how it fails."""

import csv
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import meanfield as mf
from meanfield import cli
from meanfield.cli import warmup
from meanfield.posterior.certificate import ConvergenceError
from meanfield.theories.single_layer import precompile

matplotlib.use("Agg")


def run(*words):
    return cli.main([str(word) for word in words])


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for word in ("solve", "phase-diagram", "equations", "examples", "exit status"):
        assert word in text
    for command in ("solve", "phase-diagram", "equations"):
        with pytest.raises(SystemExit) as stop:
            run(command, "--help")
        assert stop.value.code == 0
        assert "--activation" in capsys.readouterr().out


def test_solve_prints_the_reference_solution(capsys):
    assert run("solve", "--off", 0.5) == 0
    text = capsys.readouterr().out
    assert "min J = -3.754332057" in text
    assert re.search(r"0-1-1 +0\.331569", text)
    assert "no better readout exists" in text


def test_flags_describe_any_task(capsys):
    assert run("solve", "--activation", "relu", "--fractions", "1/2", "0.5", "--targets", "1", "-1") == 0
    assert "min J = -1.414213562" in capsys.readouterr().out
    assert run("solve", "--fractions", "1/2", "1/2", "--targets", "1,-1", "-1,1", "--sigma-a", 2, "--tau", 0.1) == 0
    assert "sigma_a = 2" in capsys.readouterr().out


def test_a_formula_is_an_activation(capsys):
    arguments = ("--fractions", "1/2", "1/2", "--targets", "1", "-1")
    assert run("solve", "--activation", "(1 + erf(sqrt(pi)*g*z/2))/2", "--parameter", "g=1", *arguments) == 0
    assert "min J = -3.95223" in capsys.readouterr().out


def test_a_task_file_does_what_the_flags_do_and_flags_win(tmp_path, capsys):
    path = tmp_path / "task.toml"
    path.write_text(
        'tau = 0.0\n[task]\nfractions = ["1/2", 0.25, 0.25]\noff = 0.5\nn_samples = inf\n'
        '[network]\nactivation = "sigmoid"\nsigma_a = 1.0\n[network.parameters]\ngain = 1.0\n'
    )
    assert run("solve", "--config", path) == 0
    assert "min J = -3.754332057" in capsys.readouterr().out
    assert run("solve", "--config", path, "--off", 0.2) == 0
    objective = re.search(r"min J = (\S+)", capsys.readouterr().out)
    assert float(objective.group(1)) == pytest.approx(-4.58869594, abs=5e-9)
    assert run("solve", "--config", path, "--targets", "1", "0", "0", "--parameter", "gain=2") == 0
    assert "1 outputs" in capsys.readouterr().out


def test_posterior_and_pictures_are_written(tmp_path, capsys):
    assert run("solve", "--off", 0.2, "--output", tmp_path / "p.npz", "--plot", tmp_path / "p") == 0
    written = sorted(path.name for path in tmp_path.iterdir())
    kinds = ("activation_map", "kernel", "readout_posterior")
    assert written == sorted(["p.npz", *(f"p-{kind}.{end}" for kind in kinds for end in ("pdf", "png"))])
    text = capsys.readouterr().out
    assert all(name in text for name in written)
    assert mf.SingleNeuronPosterior.load(tmp_path / "p.npz").task.off == 0.2


def test_equations_are_latex(capsys):
    assert run("equations", "--activation", "relu") == 0
    text = capsys.readouterr().out
    assert "\\kappa" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("solve", "--fractions", "1/2", "1/3"), "fractions must sum to 1"),
        (("solve", "--fractions", "half", "1/2"), "'half' is not a number"),
        (("solve", "--fractions", "1/0", "1/2"), "'1/0' is not a number"),
        (("solve", "--off", "1"), "on and off are both 1"),
        (("solve", "--targets", "1,0", "0"), "equally long rows"),
        (("solve", "--n-samples", "2"), "smaller than the number of classes"),
        (("solve", "--n-samples", "9", "--fractions", "0.1", "0.9"), "leaves 0.9 for class 1"),
        (("solve", "--sigma-a", "-1"), "sigma_a must be a real number > 0"),
        (("solve", "--tau", "-1"), "tau"),
        (("solve", "--activation", "sigmoyd"), "no activation 'sigmoyd'"),
        (("solve", "--activation", "z.foo"), "cannot hold 'z.foo'"),
        (("solve", "--activation", "z**2"), "faster than linear|grows"),
        (("solve", "--parameter", "gain"), "does not read NAME=VALUE"),
        (("solve", "--parameter", "gian=2"), "'gian'"),
        (("solve", "--config", "no-such-file.toml"), "no-such-file.toml"),
        (("phase-diagram", "--sweep", "off"), "does not read NAME=START:STOP:COUNT"),
        (("phase-diagram", "--sweep", "off=0:1:1"), "COUNT >= 2"),
        (("phase-diagram", "--sweep", "off=1:0:5"), "START must be smaller"),
        (("phase-diagram", "--sweep", "off=0:x:5"), "'x' is not a number"),
        (("phase-diagram", "--sweep", "off=0:1:5", "--sweep", "off=0:1:5"), "different parameters"),
        (("phase-diagram", "--sweep", "of=0:1:5"), "'of'"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err)
    assert captured.err.startswith(f"meanfield {words[0]}: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[task\n", "is not TOML"),
        ("[tusk]\noff = 1\n", "unknown entries tusk"),
        ("[task]\nof = 1\n", r"\[task\] of .* has unknown entries of"),
        ("[network]\nsigma = 1\n", "unknown entries sigma"),
    ],
)
def test_wrong_task_files_are_refused(text, message, tmp_path, capsys):
    path = tmp_path / "task.toml"
    path.write_text(text)
    assert run("solve", "--config", path) == 2
    assert re.search(message, capsys.readouterr().err)


def test_no_certified_solution_is_status_3(monkeypatch, capsys):
    def fail(*_, **__):
        raise ConvergenceError("duality gap 0.1: start from an easier task.")

    monkeypatch.setattr(import_module("meanfield.solve"), "solve", fail)
    assert run("solve") == 3
    assert capsys.readouterr().err == "meanfield solve: duality gap 0.1: start from an easier task.\n"


def test_other_errors_are_not_hidden(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(import_module("meanfield.solve"), "solve", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run("solve")


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_line_finds_the_known_transitions(tmp_path, capsys):
    folder = tmp_path / "out"
    assert run("phase-diagram", "--sweep", "off=-0.2:0.7:46", "--maps", 0.2, 0.6, "--output", folder) == 0
    text = capsys.readouterr().out
    assert "off = 0.0320902460" in text
    assert "off = 0.4772742956" in text
    names = {path.name for path in folder.iterdir()}
    assert names == {"weights-off.pdf", "weights-off.png", "weights-off.npz", "weights-off.csv", "transitions-off.csv"}
    for name in names:
        assert name in text
    rows = read_csv(folder / "weights-off.csv")
    assert [float(row["off"]) for row in rows] == pytest.approx(np.linspace(-0.2, 0.7, 46))
    total = [sum(float(value) for key, value in row.items() if key[:2] in ("0-", "1-")) for row in rows]
    assert total == pytest.approx(np.ones(46), abs=1e-9)
    located = [float(row["value"]) for row in read_csv(folder / "transitions-off.csv")]
    assert located == pytest.approx([0.032090245991, 0.477274295593], abs=1e-11)


def test_temperature_can_be_swept_and_maps_are_chosen(tmp_path, capsys):
    """The pitchfork of phases/THEORY.md, "Finite temperature"."""
    assert run("phase-diagram", "--off", 0.2, "--sweep", "tau=0.1:0.15:11", "--output", tmp_path) == 0
    assert "tau = 0.1293256863" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} >= {"weights-tau.pdf", "transitions-tau.csv"}


def test_a_sweep_in_processes_with_a_checkpoint(tmp_path, capsys):
    words = "phase-diagram", "--sweep", "off=0.1:0.4:7", "--sweep", "sigma_a=0.8:1.2:3"
    assert run(*words, "--output", tmp_path / "one") == 0
    kept = tmp_path / "chunks"
    for _ in range(2):  # the second time from the checkpoint
        assert run(*words, "--workers", 2, "--checkpoint", kept, "--output", tmp_path / "two") == 0
        assert len(list(kept.glob("*.npz"))) == 1
    assert read_csv(tmp_path / "two" / "phases-off-sigma_a.csv") == read_csv(
        tmp_path / "one" / "phases-off-sigma_a.csv"
    )
    capsys.readouterr()
    assert run(*words, "--workers", 0, "--output", tmp_path / "none") == 2
    assert "--workers must be at least 1" in capsys.readouterr().err


def command(*words, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    # Not in the checkout: `-m` would prefer its package to the one under test, whose compiled code is cached.
    where = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-m", "meanfield", *words], env=environment, cwd=where, text=True, **options
    )


def test_the_module_is_the_command():
    output, _ = command("--version", stdout=subprocess.PIPE).communicate()
    assert re.fullmatch(r"meanfield (\d+\.\d+.*|\(not installed\))\n", output)


def test_a_reader_that_stops_reading_is_not_answered_with_a_traceback():
    process = command("solve", "--off", "0.5", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    message = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert message == ""


def test_two_sweeps_make_a_plane(tmp_path):
    arguments = ("--sweep", "off=0.3:0.6:7", "--sweep", "sigma_a=0.9:1.1:3")
    assert run("phase-diagram", *arguments, "--output", tmp_path) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".png", ".npz", ".csv"}
    rows = read_csv(tmp_path / "phases-off-sigma_a.csv")
    assert len(rows) == 21
    assert {row["phase"] for row in rows if row["off"] == "0.3"} == {"0-1-1, 1-0-1, 1-1-0"}
    (curve,) = {row["curve"] for row in read_csv(tmp_path / "phases-off-sigma_a-boundaries.csv")}
    assert curve == "0"
    assert mf.PhaseDiagram.load(tmp_path / "phases-off-sigma_a.npz").shape == (7, 3)


def test_warmup_says_what_it_compiles(monkeypatch, capsys):
    programs = []

    def compile_part(program):
        programs.append(program)
        return "no memory" if "labels" in program and "relu" in program else None

    monkeypatch.setattr(warmup, "_compile", compile_part)
    assert run("warmup") == 0
    assert sorted(programs) == sorted(warmup.FIRST.values())
    assert "[4/4]" in capsys.readouterr().out
    assert run("warmup", "--all", "--workers", 3) == 1
    printed = capsys.readouterr().out
    assert "data, unbounded failed: no memory" in printed
    assert "finite P compiled" in printed
    assert run("warmup", "--workers", 0) == 2


@pytest.mark.parametrize("name", [*warmup.FIRST, *warmup.OTHERS])
def test_what_warmup_runs_is_valid(name):
    """One process for all: what they compile is there already, or needed by other tests."""
    exec({**warmup.FIRST, **warmup.OTHERS}[name], {})


def test_parts_of_warmup_report_failures():
    assert warmup._compile("pass") is None
    assert warmup._compile("raise ValueError('no')") == "ValueError: no"
    assert warmup._compile("raise SystemExit(3)") == "no reason given"


def test_precompiled_signatures_are_those_that_are_used():
    """What the second process compiles is found by the first: no signature of its own."""
    mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5))
    before = [len(function.overloads) for function, _ in precompile.calls()]
    precompile.precompile()
    assert [len(function.overloads) for function, _ in precompile.calls()] == before
    assert precompile.is_compiled()


def test_precompiled_signatures_of_diagrams_are_those_that_are_used(tmp_path):
    """By the first command of README, for which they are chosen."""
    assert run("phase-diagram", "--output", tmp_path) == 0
    before = [len(function.overloads) for function, *_ in precompile.calls_of_diagrams()]
    precompile.precompile_diagrams()
    assert [len(function.overloads) for function, *_ in precompile.calls_of_diagrams()] == before


class TestBeside:
    """The second process: where it is started, and that it ends with the first."""

    @pytest.fixture(autouse=True)
    def _as_in_a_new_process(self, monkeypatch, tmp_path):
        monkeypatch.setattr(precompile, "_asked", False)
        monkeypatch.setattr(precompile, "cache_directory", lambda: tmp_path / "empty" / "cache")
        monkeypatch.setattr(precompile.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        monkeypatch.delenv(precompile.SWITCH, raising=False)

    @pytest.fixture
    def started(self, monkeypatch):
        """The processes that are started; they wait until they are told to end."""
        found, popen = [], subprocess.Popen

        def start(command, **options):
            program = command[-1].replace("from meanfield.theories.single_layer.precompile import", "import time #")
            found.append(popen([*command[:-1], program.replace("precompile()", "time.sleep(60)")], **options))
            return found[-1]

        monkeypatch.setattr(precompile.subprocess, "Popen", start)
        return found

    def test_once_and_no_longer_than_the_first(self, started):
        with precompile.beside():
            (helper,) = started
            assert helper.poll() is None
        assert helper.poll() is not None
        with precompile.beside():
            assert started == [helper]

    def test_after_an_interrupt(self, started):
        with pytest.raises(KeyboardInterrupt), precompile.beside():
            raise KeyboardInterrupt
        assert started[0].poll() is not None

    def test_where_the_first_is_gone(self, started):
        with precompile.beside():
            started[0].stdin.close()
            assert started[0].wait(60.0) == 1

    @pytest.mark.parametrize("reason", ["switch", "worker", "one processor", "no cache", "read-only", "not Python"])
    def test_not_where_it_would_be_of_no_use(self, started, monkeypatch, reason):
        if reason == "switch":
            monkeypatch.setenv(precompile.SWITCH, "0")
        elif reason == "worker":
            monkeypatch.setattr(precompile.multiprocessing, "parent_process", lambda: "another")
        elif reason == "one processor":
            monkeypatch.setattr(precompile.os, "sched_getaffinity", lambda _: {0}, raising=False)
        elif reason == "no cache":
            monkeypatch.setattr(precompile, "cache_directory", lambda: None)
        elif reason == "read-only":
            monkeypatch.setattr(precompile.os, "access", lambda *_: False)
        else:
            monkeypatch.setattr(precompile.sys, "executable", "/usr/bin/editor")
        with precompile.beside():
            assert not started
