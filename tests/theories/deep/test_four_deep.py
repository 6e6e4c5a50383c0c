"""Four classes of different targets on three layers, whose middle one has fields and conjugates of every class; and the
ascent on lattices around peaks where there are three."""

from dataclasses import replace
from math import gamma

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.layers.rules import CHECK, NotCovered
from meanfield.theories.deep.newton import _agreeing
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search import coding
from meanfield.theories.deep.solve import solve_deep
from meanfield.theories.deep.system import Order, System
from meanfield.theories.deep.unlike_classes import patched
from meanfield.theories.deep.unlike_classes.patched import PatchedLayer
from meanfield.theories.deep.unlike_classes.peaks import Peaks, fitted

TWO, THREE = mf.Network("sigmoid", depth=2), mf.Network("sigmoid", depth=3)
FOUR = mf.class_task([0.4, 0.3, 0.2, 0.1], targets=[[1.0], [-0.4], [-1.0], [0.3]], n_samples=150)


FEW = {False: 20_000, True: 8_000}  # nodes: what certifies to 1e-3, in a quarter of the time


@pytest.fixture(scope="module")
def four():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patched, "_NODES", FEW)
        return solve_deep(THREE, FOUR, 0.1)


def test_three_layers_are_certified(four):
    proof, o = four.certificate, four.solution
    assert four.status == "optimal"
    assert proof.residual < 1e-3
    assert proof.order_error < 1e-3
    assert proof.inner_curvature > 0.0 > proof.outer_curvature
    n, s = 150.0 * np.array(FOUR.fractions), 1.0 / 150.0
    outputs = s * (o.kernel[-1] @ (n[:, None] * o.t) + o.d[-1][:, None] * o.t) + 0.1 * o.t
    np.testing.assert_allclose(outputs, FOUR.targets, atol=1e-5)
    assert sum(code.weight for code in four.codes) == pytest.approx(1.0, abs=1e-6)
    assert "not compared" in proof.searched[1]


def test_phi_of_three_layers_is_stationary(four):
    """Differences of Phi, on lattices of another rule, by all order parameters at once, beside those of ln Z alone."""
    system, order, step = four._system, four._order, 2e-4
    check = system.at_rule(CHECK)
    rng = np.random.default_rng(1)
    factor = {name: rng.normal(size=getattr(order, name).shape) for name in ("d", "delta", "t")}
    turn = {name: rng.normal(size=order.kernel.shape) for name in ("kernel", "tilde")}
    check.evaluate(system.pack(order))
    phi, log_z = [], []
    for sign in (-step, step):
        moved = {name: getattr(order, name) * (1.0 + sign * value) for name, value in factor.items()}
        for name, value in turn.items():  # stays positive
            frame = np.eye(4) + sign * value
            moved[name] = frame @ getattr(order, name) @ frame.transpose(0, 2, 1)
        x = system.pack(replace(order, **moved))
        found = check.evaluate(x, grow=False)
        phi.append(check.free_energy(x, found))
        log_z.append(np.array([one.log_z for one in (*found.lower, *found.top)]))
    assert abs(phi[1] - phi[0]) < 1e-3 * np.abs(log_z[1] - log_z[0]).max()


def test_three_classes_taken_for_four():
    """A class split in two of the same targets changes nothing; the kernels of the four are singular."""
    task = mf.class_task(n_classes=3, n_samples=60)
    three = solve_deep(THREE, task, 0.05, competitors=False, second=False)
    problem, split = three._system.problem, np.array([0, 0, 1, 2])
    n = np.array([0.4, 0.6, 1.0, 1.0]) * problem.n[split]
    system = System(replace(problem, n=n, y=problem.y[split]), distinct=True, peaks=True)
    assert isinstance(system.layers[1], PatchedLayer)
    o, both = three._order, np.ix_([0, 1], split, split)
    x = system.pack(Order(o.kernel[both], o.d[:, split], o.tilde[both], o.delta[:, split], o.t[split]))
    found = system.evaluate(x)
    assert np.abs(system.residual(x, found)).max() < 1e-3
    assert system.free_energy(x, found) == pytest.approx(three.free_energy, rel=1e-5)


def test_three_classes_by_ascent(monkeypatch):
    """Where no planted start leads to the solution the ascent does, and one lattice certifies it."""
    task = mf.class_task([0.5, 0.3, 0.2], targets=[[1.0], [-0.4], [-1.0]], n_samples=120)
    expected = solve_deep(TWO, task, 0.1, competitors=False)
    ascent = tuple(start for start in coding.STARTS if start.name == "an ascent along the conjugates")
    monkeypatch.setattr(coding, "STARTS", ascent)
    found = solve_deep(TWO, task, 0.1, competitors=False)
    assert found.status == "optimal"
    assert found.certificate.order_error < 1e-8
    assert not any(isinstance(layer, PatchedLayer) for layer in found._system.layers)
    for name in ("kernel", "d", "tilde", "t"):
        value = getattr(expected.solution, name)
        np.testing.assert_allclose(getattr(found.solution, name), value, atol=1e-7 * np.abs(value).max())


def test_two_outputs_on_three_layers(monkeypatch):
    """Kernels that the codes ask for are the start, as planted ones lead nowhere: at the coarse quadrature."""
    monkeypatch.setattr(patched, "_NODES", FEW)
    targets = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.3], [0.2, -0.8]]
    task = mf.class_task([0.4, 0.3, 0.2, 0.1], targets=targets, n_samples=150)
    problem, _ = problem_of(THREE, task, 0.1)
    system, found = coding._from_response(problem, None)
    assert found.residual < 5e-5
    top, t = found.averages.top[0], system.unpack(found.x).t
    outputs = (top.kernel @ (problem.n[:, None] * t) + top.d[:, None] * t) / 150.0 + 0.1 * t
    np.testing.assert_allclose(outputs, task.targets, atol=1e-3)
    # On the usual lattices, certified to 5e-4: -360.2430.
    assert system.free_energy(found.x, found.averages) == pytest.approx(-360.243, abs=0.05)


def test_peaks_that_begin_far_too_wide():
    """Curvature at a flat maximum says little of how wide the weight is: exp(-x^4 / 4) along three axes of eight."""
    flat = np.arange(8) < 3

    def log_weight(v):
        return -0.25 * (v[:, flat] ** 4).sum(axis=1) - 0.5 * (v[:, ~flat] ** 2).sum(axis=1)

    begin = Peaks(np.zeros((1, 8)), np.diag(np.where(flat, 12.0**2, 1.0))[None], np.ones(1))
    found = fitted(log_weight, begin, 1e-9)
    second = 2.0 * gamma(0.75) / gamma(0.25)
    np.testing.assert_allclose(np.diag(found.covariance[0]), np.where(flat, second, 1.0), rtol=0.25)
    with pytest.raises(NotCovered, match="nearly Gaussian"):
        fitted(lambda v: -1e6 * np.abs(np.sin(1e6 * v)).sum(axis=1), begin, 1e-9)


def test_steps_agree_with_a_matrix_after_powells_update():
    problem = problem_of(TWO, mf.class_task(targets=[1.0, -1.0], n_samples=50), 0.1)[0]
    system = System(problem)
    rng = np.random.default_rng(0)
    x, step, change = (rng.normal(size=system.size) for _ in range(3))
    matrix = rng.normal(size=(system.size, system.size))
    matrix = matrix + matrix.T
    found = _agreeing(system, matrix, x, step, change)
    np.testing.assert_allclose(found, found.T, rtol=1e-9, atol=1e-12 * np.abs(found).max())
    np.testing.assert_allclose(found @ step, change, rtol=1e-6, atol=1e-9 * np.abs(matrix @ step).max())
