"""Bad paths of pages, networks that are none, parameters beyond float64, networks that follow no code."""

import numpy as np
import pytest

import meanfield as mf

SIGMOID = mf.Network("sigmoid")
TASK = mf.class_task(n_classes=2, off=0.3, n_samples=8)
SIZES = {"width": 100, "n_inputs": 10, "n_samples": 8}


@pytest.fixture(scope="module")
def diagram():
    return mf.sweep(SIGMOID, mf.class_task(n_classes=2), off=[0.0, 0.4], tau=[0.05, 0.2], progress=False)


@pytest.mark.parametrize("bad", ["", None, 5, b"x", "\0"])
def test_pages_are_written_to_paths(diagram, bad):
    pytest.importorskip("bokeh")
    with pytest.raises(ValueError, match="path must be a path"):
        diagram.to_html(bad)


def test_pages_are_not_written_beside_a_folder(diagram, tmp_path):
    pytest.importorskip("bokeh")
    folder = tmp_path / "here"
    folder.mkdir()
    with pytest.raises(IsADirectoryError, match=r"is a folder.*result\.html"):
        diagram.to_html(folder)
    with pytest.raises(FileNotFoundError, match="make it first"):
        diagram.to_html(folder / "missing" / "page.html")
    assert diagram.to_html(folder / "page") == folder / "page.html"
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "page.html"]


@pytest.mark.parametrize("bad", ["sigmoid", None, 5, TASK])
def test_training_needs_a_network(bad):
    with pytest.raises(ValueError, match="network must be a Network"):
        mf.training_parameters(bad, 0.1, **SIZES)
    with pytest.raises(ValueError, match="network must be a Network"):
        mf.theory_parameters(bad, weight_decay=0.1, temperature=0.1, **SIZES)


@pytest.mark.parametrize("tau", [1e308, 1e-320])
def test_training_parameters_are_numbers_of_float64(tau):
    with pytest.raises(ValueError, match="beyond the range of float64"):
        mf.training_parameters(SIGMOID, tau, **SIZES)


def test_tau_of_a_training_run_is_a_number_of_float64():
    with pytest.raises(ValueError, match="tau = inf, beyond"):
        mf.theory_parameters(SIGMOID, weight_decay=1e308, temperature=1e307, **SIZES)


def test_ragged_readouts_are_named():
    with pytest.raises(ValueError, match="readouts cannot be read as an array"):
        mf.observe(SIGMOID, TASK, readouts=[[1.0, 2.0], [3.0]], activations=np.zeros((20, 8)))


def test_networks_that_follow_no_code_are_not_called_diverged():
    dead = mf.observe(SIGMOID, TASK, 0.1, readouts=np.zeros((3, 2, 20)), activations=np.zeros((3, 20, 8)))
    posterior = mf.solve(SIGMOID, TASK, tau=0.1)
    with pytest.raises(ValueError, match="no neuron follows any code of the theory"):
        mf.compare(posterior, dead)
    assert not mf.compare(posterior, dead, fractions="equilibrium").passed()
