"""The command `meanfield` on deep networks: what some of them do not have is said, and the rest is written."""

import matplotlib
import numpy as np
import pytest

import meanfield as mf
from meanfield import cli
from meanfield.posterior.certificate import ConvergenceError
from meanfield.sampling import compare as comparing

matplotlib.use("Agg")
TWO = ("--fractions", "1/2", "1/2", "--targets", "1", "-1")


def run(*words):
    return cli.main([str(word) for word in words])


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_line_over_the_depth_is_written_without_transitions(tmp_path, capsys):
    """At depth 1 and at P = infinity below it: two theories, of which one draws neurons."""
    assert run("phase-diagram", *TWO, "--sweep", "depth=1:2:2", "--output", tmp_path) == 0
    said = capsys.readouterr().out
    assert "transitions are not located along depth" in said
    assert {"weights-depth.pdf", "weights-depth.csv", "weights-depth.npz"} <= names(tmp_path)


def test_a_line_without_neurons_to_draw_has_no_maps(tmp_path, capsys):
    assert run("phase-diagram", "--depth", 2, "--sweep", "off=0.2:0.5:3", "--output", tmp_path) == 0
    said = capsys.readouterr().out
    assert "off = 0.3377223398   1-1-1 enters" in said
    assert said.count("no activation map at off") == 2
    assert {"weights-off.pdf", "weights-off.csv", "transitions-off.csv"} <= names(tmp_path)


def test_pictures_that_a_posterior_does_not_have_are_named(tmp_path, capsys):
    words = "--depth", 2, "--n-samples", 60, "--tau", 0.1, "--activation", "linear", "--plot", tmp_path / "one"
    assert run("solve", *TWO, *words) == 0
    assert "no activation map: neurons of a deep linear network are Gaussian" in capsys.readouterr().out
    assert names(tmp_path) == {
        f"one-{name}.{end}" for name in ("kernel", "readout_posterior") for end in ("pdf", "png")
    }


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            ("--activation", "relu", "--n-samples", 60, "--sweep", "tau=0.1:0.2:2"),
            3,
            "no point is certified; the first: ",
        ),
        (("--sweep", "tau=0.1:0.2:2", "--maps", 0.1, 3), 2, "--maps must be from 0.1 to 0.2, as tau, got 3"),
        (("--sweep", "tau=0.1:0.2:2", "--sweep", "off=0:1:2", "--maps", 0.1), 2, "--maps is for one --sweep"),
    ],
)
def test_sweeps_without_an_answer_are_one_line(words, status, message, tmp_path, capsys):
    assert run("phase-diagram", *TWO, "--depth", 2, *words, "--output", tmp_path) == status
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_width_and_accuracy_of_a_solve(capsys):
    words = "solve", *TWO, "--depth", 2, "--n-samples", 60
    assert run(*words, "--width", 400) == 2
    assert "width= is for deep networks of rectifiers" in capsys.readouterr().err
    assert run(*words, "--rtol", 2) == 2
    assert "rtol must be a real number below 1, got 2" in capsys.readouterr().err


def test_lines_without_transitions_are_drawn():
    task = mf.class_task(targets=[1, -1])
    for network, axis in (
        (mf.Network("sigmoid"), {"depth": [1, 2]}),
        (mf.Network("linear", depth=2), {"n_samples": [40, 60]}),
        (mf.Network("linear", depth=2), {"tau": [0.1, 0.2], "n_samples": 60}),
    ):
        given = dict(axis)
        own = task.with_(n_samples=given.pop("n_samples")) if "tau" in given else task
        diagram = mf.sweep(network, own, **({"tau": 0.1} | given))
        with pytest.raises(mf.NotAvailable):
            diagram.transitions()
        assert np.all(np.isfinite(diagram.plot().get_xlim()))
    matplotlib.pyplot.close("all")


def test_comparisons_without_a_theory_at_sampled_shares_name_the_others(monkeypatch):
    task = mf.class_task(targets=[1, -1], n_samples=20)
    network = mf.Network("sigmoid", depth=2)
    post = mf.solve(network, task, 0.2)
    chains = mf.sample(network, task, 20, 0.2, draws=4, warmup=4, chains=1, rng=0, start=post)
    monkeypatch.setattr(comparing, "_check_codes_are_followed", lambda shares, patterns: None)
    with pytest.raises(ConvergenceError, match="fractions='equilibrium' compares with the shares of equilibrium"):
        mf.compare(post, chains)
    assert mf.compare(post, chains, fractions="equilibrium").tested
