"""Codes in pieces: exact partition, the tree of cuts, samples with two bumps; and the accelerated fixed point."""

from __future__ import annotations

import numpy as np
import pytest
from general_oracles import digits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.special import log_ndtr, logsumexp

from meanfield.activations.activation import activation
from meanfield.theories.general_data.joint import neuron as joint
from meanfield.theories.general_data.joint.codes import Codes, JointNeuron, pattern
from meanfield.theories.general_data.joint.neuron import Cut, cavities, joint_moments
from meanfield.theories.general_data.joint.pieces import apart, places, region, within
from meanfield.theories.general_data.joint.splitting import regrow_pieces, split_shoulder
from meanfield.theories.general_data.solve import solve_frozen, solve_general

SIGMOID = activation("sigmoid")
A, W = np.linspace(-6.0, 6.0, 1501), np.linspace(-9.0, 9.0, 3001)


def _brute(features, t, s2, cuts=()):
    """ln Z, <a phi> (P,) and E phi of one readout and one weight, on a grid."""
    z = np.outer(features[:, 0], W)
    phi = SIGMOID(z)
    level = np.multiply.outer(A, t[:, 0] @ phi) - 0.5 * (A**2 / s2)[:, None] - 0.5 * W**2
    for cut in cuts:
        level = level + log_ndtr(cut.side * (z[cut.sample] - cut.at) / cut.width)
    top = level.max()
    density = np.exp(level - top)
    total = trapezoid(trapezoid(density, W), A)
    mean = trapezoid(trapezoid(density[None] * phi[:, None, :], W) * A, A) / total
    plain = trapezoid(trapezoid(density, A, axis=0) * phi, W) / total
    return top + np.log(total / (2.0 * np.pi * np.sqrt(s2))), mean, plain


def _neuron(features, s2):
    return JointNeuron(SIGMOID, np.asarray(features, dtype=float), s2, 1)


def _one_weight(n_samples, size):
    """400 problems of one weight: neuron, t and the whole code that EP finds from the middle, if it does."""
    rng = np.random.default_rng(0)
    for _ in range(400):
        features = 1.5 * rng.normal(size=(rng.integers(*n_samples), 1))
        t = size * rng.normal(size=features.shape)
        neuron, none = _neuron(features, 0.3), (np.zeros((len(t), 2, 2)), np.zeros((len(t), 2)))
        code = neuron.solve(t, none, 1e-9)
        yield neuron, t, None if code is None or code.bound else code


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("at", [-1.0, 0.4, 3.0])
def test_one_sample_is_exact_on_either_side(side, at):
    """A single factor leaves nothing to approximate: moments with a cut are those of the grid."""
    neuron, t = _neuron([[1.3]], 0.7), np.array([[2.0]])
    cut = Cut(0, at, 0.2, side)
    found = neuron.solve(t, None, 1e-12, cuts=(cut,))
    log_z, mean, phi = _brute(neuron.matrix, t, 0.7, (cut,))
    assert found.log_z == pytest.approx(log_z, abs=1e-6)
    assert found.mean_a_phi[0, 0] == pytest.approx(mean[0], abs=1e-6)
    assert found.phi[0] == pytest.approx(phi[0], abs=1e-6)
    assert found.cuts == (cut,)


@settings(max_examples=25, deadline=None)
@given(st.floats(-3.0, 3.0), st.floats(0.1, 1.0), st.floats(-4.0, 4.0))
def test_sides_add_up_to_the_whole(at, width, tilt):
    neuron, t = _neuron([[1.0]], 0.5), np.array([[tilt]])
    whole = neuron.solve(t, None, 1e-12)
    parts = [neuron.solve(t, None, 1e-12, cuts=(Cut(0, at, width, side),)) for side in (-1, 1)]
    log_z = np.array([part.log_z for part in parts])
    assert logsumexp(log_z) == pytest.approx(whole.log_z, abs=1e-8)
    assert neuron.flipped(parts[0], t, 0) == pytest.approx(log_z[1] - log_z[0], abs=1e-8)
    share = np.exp(log_z - logsumexp(log_z))
    assert sum(w * part.mean_a_phi for w, part in zip(share, parts)) == pytest.approx(whole.mean_a_phi, abs=1e-7)


def test_pieces_are_more_accurate_than_the_whole():
    """Wherever one weight and a few strong samples make two bumps: the sum of the pieces, the whole, and the grid."""
    ratios, slopes = [], []
    for neuron, t, whole in _one_weight((2, 5), 4.0):
        cuts = [] if whole is None else places(whole, t, neuron.activation, 2)
        if not cuts:
            continue
        sides = (cuts[0], cuts[0].flipped)
        parts = [neuron.solve(t, (whole.q, whole.nu), 1e-9, cuts=(cut,)) for cut in sides]
        if None in parts:
            continue
        log_z, mean, _ = _brute(neuron.matrix, t, 0.3)
        total = np.array([part.log_z for part in parts])
        share = np.exp(total - logsumexp(total))
        own = sum(w * part.mean_a_phi[:, 0] for w, part in zip(share, parts))
        ratios.append(abs(logsumexp(total) - log_z) / abs(whole.log_z - log_z))
        slopes.append(np.abs(own - mean).max() / np.abs(whole.mean_a_phi[:, 0] - mean).max())
    assert len(ratios) >= 8
    assert max(ratios) < 1.0
    assert max(slopes) < 1.0
    assert np.median(ratios) < 0.2
    assert np.median(slopes) < 0.2


def test_tree_of_cuts():
    one, two, three = (Cut(i, 0.1 * i, 0.1, 1) for i in range(3))
    leaves = [(one, two), (one, two.flipped, three), (one.flipped,)]
    assert apart(leaves[0], leaves[1])
    assert apart(leaves[0], leaves[2])
    assert not apart(leaves[0], (one,))
    assert within(leaves[1], (one, two.flipped))
    assert not within(leaves[0], leaves[1])
    assert not within(one, one)
    assert region(np.array([1.0, 1.0, 0.0]), leaves) is None
    assert region(np.array([-1.0, 5.0, 0.0]), leaves) is None
    assert region(np.array([1.0, -1.0, 1.0]), leaves) is None
    assert region(np.array([1.0, -1.0, 0.0]), leaves) == (one, two.flipped, three.flipped)
    assert region(np.zeros(3), [()]) is None


def test_leaves_and_their_code_are_told_apart():
    """The pieces replace their code when they add up to it, and give way when most of it is missing."""
    matrix, targets, labels = digits(0.0, 30)
    neuron = JointNeuron(SIGMOID, matrix, 1.0 / 30.0, 1)
    t = 6.0 * (targets - targets.mean(axis=0))
    code = neuron.solve(t, pattern(np.where(labels == 0, 1.0, 0.0)), 1e-9)
    cut = Cut(int(np.argmin(np.abs(code.phi - 0.5))), 0.0, 0.2, 1)
    parts = [neuron.solve(t, (code.q, code.nu), 1e-9, cuts=(c,), family=code.family) for c in (cut, cut.flipped)]
    total = logsumexp([part.log_z for part in parts])
    assert total == pytest.approx(code.log_z, abs=0.05)
    assert neuron.distinct(Codes(t, (code, *parts))).joints == tuple(parts)
    low = min(parts, key=lambda part: part.log_z)
    if low.log_z < code.log_z - 1.0:
        assert neuron.distinct(Codes(t, (code, low))).joints == (code,)
    assert neuron.flipped(parts[0], t, 0) == pytest.approx(parts[1].log_z - parts[0].log_z, abs=0.5)  # others react
    grown = regrow_pieces(neuron, Codes(t, (parts[0],)), 1e-9)
    assert [joint.cuts for joint in grown.joints] == [(cut,), (cut.flipped,)]
    assert neuron.place(code._replace(family=99), tuple(parts)) is None


def test_cavity_is_the_posterior_without_the_sample():
    matrix, targets, labels = digits(0.0, 30)
    neuron = JointNeuron(SIGMOID, matrix, 1.0 / 30.0, 1)
    t = 6.0 * (targets - targets.mean(axis=0))
    code = neuron.solve(t, pattern(np.where(labels == 0, 1.0, 0.0)), 1e-9)
    _, mean, cavity_cov, cavity_mean = cavities(code, t)
    assert mean[:, 1] == pytest.approx(matrix @ code.weights, abs=1e-9)
    assert mean[:, 0] == pytest.approx(t @ code.readout, abs=1e-9)
    q, nu = code.q.copy(), code.nu.copy()
    q[3], nu[3] = 0.0, 0.0
    m = t.shape[1]
    row = np.zeros((30, 2, m + matrix.shape[1]))
    row[:, 0, :m], row[:, 1, m:] = t, matrix
    precision = np.diag([30.0] * m + [1.0] * matrix.shape[1]) + np.einsum("pia,pij,pjb->ab", row, q, row)
    covariance = np.linalg.inv(precision)
    assert cavity_cov[3] == pytest.approx(row[3] @ covariance @ row[3].T, abs=1e-9)
    assert cavity_mean[3] == pytest.approx(row[3] @ covariance @ np.einsum("pia,pi->a", row, nu), abs=1e-9)


@pytest.fixture(scope="module")
def mislabelled():
    """Digits with a wrong label, for which neurons have to bend: EP alone has no fixed point on the way."""
    matrix, _, labels = digits(0.0, 90)
    labels = np.array(labels)
    wrong = np.random.default_rng(1).choice(90, 1, replace=False)
    labels[wrong] = (labels[wrong] + 1) % 3
    targets = np.eye(3)[labels]
    options = {"labels": labels, "threads": 2, "rng": 0, "method": "joint"}
    return matrix, targets, labels, solve_general(SIGMOID, matrix, targets, 1.0, 0.01, **options), options


def test_wrong_label_is_solved_in_pieces(mislabelled):
    """The lattice extrapolates a third of the weight there ("EP failed"), and still is near."""
    matrix, targets, _, found, options = mislabelled
    assert found.status == "optimal"
    assert len(found.cuts) > 0
    assert found.method_error < 2e-3
    heavy = found.code_weight > 0.05
    assert heavy.sum() == 3
    assert found.code_weight.sum() == pytest.approx(1.0)
    assert found.weight.sum() == pytest.approx(1.0)
    mean = (found.phi.T * found.weight) @ found.readout
    assert np.abs(targets - found.tau * found.t - mean).max() < 2e-3
    lattice = solve_general(SIGMOID, matrix, targets, 1.0, 0.01, **{**options, "method": "lattice"})
    assert lattice.status == "EP failed"
    assert found.tau * np.sqrt(np.mean((found.t - lattice.t) ** 2)) < 4e-3  # of targets of size one
    for weight, readout in zip(found.code_weight[heavy], found.code_readout[heavy]):
        nearest = np.argmin(np.sum((lattice.code_readout - readout) ** 2, axis=1))
        assert weight == pytest.approx(lattice.code_weight[nearest], abs=5e-3)
        assert readout == pytest.approx(lattice.code_readout[nearest], abs=0.02)


def test_warm_start_and_frozen_weights_know_the_pieces(mislabelled):
    matrix, targets, _, found, options = mislabelled
    again = solve_general(SIGMOID, matrix, targets, 1.0, 0.01, warm_start=found, **options)
    assert again.status == "optimal"
    assert again.t == pytest.approx(found.t, abs=1e-3)
    frozen = solve_frozen(found, found.code_weight, threads=2, rng=0, method="joint")
    assert frozen.status == "optimal"
    assert frozen.frozen
    assert frozen.tau * np.abs(frozen.t - found.t).max() < 1e-3
    assert frozen.code_weight[: (found.code_weight > 1e-3).sum()] == pytest.approx(
        found.code_weight[found.code_weight > 1e-3], abs=1e-3
    )


def test_acceleration_finds_the_fixed_point_of_plain_iterations(monkeypatch):
    """The same sites with and without it, in fewer steps."""
    matrix, targets, labels = digits(0.0, 90)
    neuron = JointNeuron(SIGMOID, matrix, 1.0 / 90.0, 1)
    t = 8.0 * (targets - targets.mean(axis=0))
    start = pattern(np.where(labels == 1, 1.0, 0.0))
    arguments = matrix, t, neuron.prior, neuron.tilted, start, 1e-10, neuron.bound, 2000
    fast = joint_moments(*arguments, 0.5)
    monkeypatch.setattr(joint, "_MIXED_BELOW", 0.0)
    monkeypatch.setattr(joint, "_MIXED_AFTER", np.inf)
    plain = joint_moments(*arguments, 0.5)
    assert fast.log_z == pytest.approx(plain.log_z, abs=1e-8)
    assert fast.q == pytest.approx(plain.q, abs=1e-7)
    assert fast.mean_a_phi == pytest.approx(plain.mean_a_phi, abs=1e-8)
    assert fast.iterations < plain.iterations


def test_shoulder_of_a_code_is_cut_off():
    """One weight, two bumps close in height: the code that EP finds and the bump it leaves out, against the grid."""
    errors, slopes = [], []
    for neuron, t, code in _one_weight((3, 8), 5.0):
        phi = SIGMOID(np.outer(neuron.matrix[:, 0], W))
        level = 0.15 * (t[:, 0] @ phi) ** 2 - 0.5 * W**2
        tops = np.flatnonzero((level[1:-1] > level[:-2]) & (level[1:-1] >= level[2:])) + 1
        tops = tops[level[tops] > level.max() - 3.0]
        if code is None or len(tops) < 2:
            continue
        shoulder = phi[:, max(tops, key=lambda i: abs(W[i] - code.weights[0]))]
        if np.mean((shoulder - code.phi) ** 2) < 0.02:
            continue
        parts = split_shoulder(neuron, Codes(t, (code,)), shoulder, 1e-9)
        if len(parts.joints) == 1:
            continue
        assert parts.joints[0].cuts[0] == parts.joints[1].cuts[0].flipped
        log_z, mean, _ = _brute(neuron.matrix, t, 0.3)
        own = parts.weight @ np.array([joint.mean_a_phi[:, 0] for joint in parts.joints])
        errors.append((abs(code.log_z - log_z), abs(logsumexp(parts.log_z) - log_z)))
        slopes.append((np.abs(code.mean_a_phi[:, 0] - mean).max(), np.abs(own - mean).max()))
    before, after = np.array(errors).T
    assert len(before) >= 14
    assert (after < before + 1e-9).all()
    assert np.median(after / before) < 0.6
    whole, cut = np.array(slopes).T
    assert np.median(cut / whole) < 0.7


def test_no_shoulder_is_cut_off_where_there_is_none():
    matrix, targets, labels = digits(0.0, 30)
    neuron = JointNeuron(SIGMOID, matrix, 1.0 / 30.0, 1)
    t = 6.0 * (targets - targets.mean(axis=0))
    codes = Codes(t, (neuron.solve(t, pattern(np.where(labels == 0, 1.0, 0.0)), 1e-9),))
    assert split_shoulder(neuron, codes, np.where(np.arange(30) % 2, 1.0, 0.0), 1e-9) is codes
