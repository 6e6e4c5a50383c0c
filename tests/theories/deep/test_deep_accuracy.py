"""The error of the order parameters in the certificate: what a small residual leaves open along soft directions."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.posterior.status import Status
from meanfield.theories.deep.layers.rules import CHECK, Rule
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search.coding import coding_branch
from meanfield.theories.deep.solve import solve_deep
from meanfield.theories.deep.stability import order_errors
from meanfield.theories.deep.system import Order, System

BINARY = mf.class_task(targets=[1, -1], n_samples=100)


def test_it_is_how_far_order_parameters_are_off():
    problem, _ = problem_of(mf.Network("sigmoid", 2), BINARY, 0.05)
    system, found = coding_branch(problem, 1e-11)
    check, off = system.at_rule(CHECK), 1e-6 * np.cos(np.arange(system.size))
    x = found.x + off * system.scales(found.x)
    errors = order_errors(check, x, check.evaluate(x, curvature=True))
    for (name, layer, at), error in zip(system.blocks, errors, strict=True):
        assert (error.name, error.layer) == (name, layer + 1)
        assert error.value == pytest.approx(np.abs(off[at]).max(), rel=1e-3)


def test_many_samples_leave_the_middle_kernel_open():
    """At 10^7 samples three layers are near an instability: the residual is far smaller than the error."""
    task = BINARY.with_(n_samples=1e7)
    post = solve_deep(mf.Network("sigmoid", 3), task, 0.01, competitors=False, second=False)
    proof = post.certificate
    assert post.status == "optimal"
    assert (proof.softest.name, proof.softest.layer) == ("kernel", 2)
    assert 10.0 * proof.residual < proof.order_error < 1e-6
    assert proof.order_error == max(error.value for error in proof.order_errors)


def test_a_soft_direction_is_not_certified(monkeypatch, tmp_path):
    hessian = System.hessian

    def soft(self, found):
        full = hessian(self, found)
        if self.rule != CHECK:
            return full
        size = np.sqrt(np.abs(np.diag(full)))
        values, vectors = np.linalg.eigh(full / np.outer(size, size))
        least = np.argmin(np.abs(values))
        values[least] *= 1e-10
        return (vectors * values) @ vectors.T * np.outer(size, size)

    monkeypatch.setattr(System, "hessian", soft)
    post = solve_deep(mf.Network("sigmoid", 2), BINARY, 0.05, competitors=False, second=False)
    assert post.certificate.residual < 1e-8
    assert post.certificate.order_error > 1e-6
    assert post.status == Status.RESIDUAL
    assert "error of" in post.message
    with pytest.raises(mf.ConvergenceError, match="order parameters"):
        mf.solve(mf.Network("sigmoid", 2), BINARY, 0.05)


def test_it_is_printed_and_kept_in_files(tmp_path):
    post = mf.solve(mf.Network("sigmoid", 2), BINARY, 0.05)
    proof = post.certificate
    assert proof.order_error < 1e-8
    assert f"order parameters to {proof.order_error:.1e}" in post.table()
    again = mf.load(post.save(tmp_path / "deep.npz")).certificate
    assert again.order_errors == proof.order_errors
    assert again.softest == proof.softest


@pytest.mark.parametrize("tau", [1e6, 0.05])
def test_error_of_the_last_kernel_is_in_the_certificate(tau):
    """At tau = 1e6 the solver's own quadrature has d of the last layer 5e-6 off, that of the certificate has not."""
    post = solve_deep(mf.Network("sigmoid", 3), BINARY, tau)
    s, proof = post.solution, post.certificate
    errors = {error.name: error.value for error in proof.order_errors if error.layer == 3}
    problem, members = problem_of(post.network, BINARY, tau)
    system = System(problem, Rule(0.6, 0.55, 0.4, 0.3, 34.0, 0.2, 0.2))
    first = members.first
    kernel, tilde = (values[:, first][:, :, first] for values in (s.kernel[:-1], s.tilde))
    order = Order(kernel, s.d[:-1, first], tilde, s.delta[:, first], s.t[first])
    x = system.pack(order)
    top = system.combined(system.evaluate(x))[-1]
    kernel, d = members.matrices(top.kernel), members.variances(top.d)
    assert post.status == "optimal"
    assert np.abs(s.kernel[-1] - kernel).max() <= 1.5 * errors["kernel"] * kernel.max() + 1e-14
    assert np.abs(s.d[-1] - d).max() <= (1.5 * errors["d"] + 1e-13) * d.max()
    assert max(errors.values()) <= proof.order_error < 1e-6


@pytest.mark.parametrize("targets", [[1, -1], [1, -0.4]])
def test_less_than_two_samples_in_a_class(targets):
    """exp(n g) is no mixture of Gaussians of unit width then: lattices of whole numbers of samples left 1e-5."""
    task = mf.class_task([0.94, 0.06], targets=targets, n_samples=20)
    proof = solve_deep(mf.Network("sigmoid", 2), task, 0.1, competitors=False).certificate
    assert proof.residual < 1e-9
    assert proof.order_error < 1e-9
