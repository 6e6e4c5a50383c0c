"""Class tasks at given fractions of the codes: their own dual, certificate, neurons and files."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from margins import below

import meanfield as mf
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.posterior import NotAvailable

TAU = 0.05
FRACTIONS = {"011": 0.4, "101": 0.3, "110": 0.3}


@pytest.fixture(scope="module")
def equilibrium():
    return mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.3, n_samples=40), TAU)


@pytest.fixture(scope="module")
def frozen(equilibrium):
    return equilibrium.frozen(FRACTIONS)


def test_the_dual_at_the_fractions_of_equilibrium_is_that_of_equilibrium(equilibrium):
    """J(t) = J_p(t) - (p . ln p) / P at p ~ Z_g."""
    same = equilibrium.by_activation([20, 10, 10])
    p = same.shares[same.shares > 0]
    assert same.objective - p @ np.log(p) / 40 == pytest.approx(equilibrium.objective, abs=1e-12)


def test_what_is_claimed_is_of_these_fractions(equilibrium, frozen):
    assert frozen.objective < equilibrium.objective - 1e-3  # a fixed p is never better than the best
    assert frozen.certificate.kkt_residual < 1e-8
    np.testing.assert_allclose(frozen.residual, TAU * frozen.order_parameters["t"], atol=1e-8)
    np.testing.assert_allclose(frozen.order_parameters["weight"][:3], [0.4, 0.3, 0.3])
    assert "min J_p" in frozen.table()
    assert f"{equilibrium.objective:.6f}" not in frozen.table()
    with pytest.raises(NotAvailable, match="density of the readout"):
        frozen.readout_density(np.zeros(3))


@pytest.mark.statistical
def test_drawn_neurons_have_these_fractions(frozen):
    n = 20_000
    neurons = frozen.sample_neurons(n, rng=0, samples_per_class=1)
    for index, code in enumerate(frozen.codes[:3]):
        mine = neurons.code == index
        assert below((mine.mean() - code.weight) / np.sqrt(code.weight * (1 - code.weight) / n))
        error = np.sqrt(np.diag(code.covariance) / mine.sum())
        assert below((neurons.readouts[mine].mean(axis=0) - code.readout) / error)


def test_a_code_that_neurons_would_leave_is_named(equilibrium, frozen):
    assert frozen.notes == ()
    (note,) = equilibrium.frozen({"011": 0.6, "101": 0.2, "110": 0.1, "100": 0.1}).notes
    assert "not locally stable" in note
    assert "0-1-1" in note


def test_codes_of_which_there_is_no_theory_are_not_passed_over(frozen):
    averages = copy.copy(frozen.averages)
    averages.shares = np.where(np.arange(8) == 0, 0.0, averages.shares)  # as if no node showed 0-0-0
    with pytest.raises(ConvergenceError, match="no theory"):
        replace(frozen, averages=averages).frozen({**FRACTIONS, "000": 0.2})


@pytest.mark.parametrize("kind", ["given", "equilibrium"])
def test_files_hold_the_fractions(equilibrium, tmp_path, kind):
    post = equilibrium.frozen(FRACTIONS) if kind == "given" else equilibrium.by_activation([20, 10, 10])
    again = mf.load(post.save(tmp_path / "post"))
    assert (type(again), again.given, again.table()) == (type(post), post.given, post.table())
    assert again.objective == post.objective
    np.testing.assert_array_equal(again.kernel().block, post.kernel().block)
    np.testing.assert_array_equal(again.sample_neurons(9, rng=1).activations, post.sample_neurons(9, rng=1).activations)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("shares", np.full(8, 0.25), "fractions of the codes"),
        ("shares", np.full(4, 0.25), "fractions of the codes"),
        ("shares", np.array([1.5, -0.5, 0, 0, 0, 0, 0, 0]), "fractions of the codes"),
        ("counts", np.array([20.0, 10.0]), "counts must be 3"),
        ("counts", None, "counts"),
    ],
)
def test_files_with_other_fractions_are_refused(equilibrium, tmp_path, name, value, words):
    path = equilibrium.frozen(FRACTIONS).save(tmp_path / "post")
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    arrays.pop(name)
    np.savez(path, **arrays, **({} if value is None else {name: value}))
    with pytest.raises(ValueError, match=words):
        mf.load(path)
