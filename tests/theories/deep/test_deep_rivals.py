"""Solutions beside the reported one: where they are looked for, and that they solve the equations."""

import math

import numpy as np
import pytest
from numpy.polynomial import chebyshev

import meanfield as mf
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search.branches import polish
from meanfield.theories.deep.search.fold import Fold, uncoded_at
from meanfield.theories.deep.solve import solve_deep

BINARY = mf.class_task(targets=[1, -1], n_samples=100)
ONE_HOT = mf.class_task(n_classes=3, n_samples=99)
_XI, _WEIGHT = np.polynomial.hermite_e.hermegauss(64)
_OWN, _SHARE = np.polynomial.hermite_e.hermegauss(9)


def alike(phi, n, conjugate, kernel, d, delta):
    """Averages of a layer of three classes that are all alike, on plain grids: conjugate and kernel are (same, other).

    ln Z, and by name what is averaged, for (11, 12) or 1.
    """
    common, apart = conjugate[0] + 2 * conjugate[1], conjugate[0] - conjugate[1]
    axes = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
    root = axes.T * np.sqrt([common, apart, apart])
    wide, shifted = np.arange(-12.0, 12.1, 0.85), np.arange(-9.0, 13.0, 0.85)
    beta = np.stack(np.meshgrid(shifted, wide, wide, indexing="ij"), axis=-1).reshape(-1, 3)
    beta = beta[(beta**2)[:, 1:].sum(axis=1) < 145.0]
    b = beta @ root.T
    step = 0.3 if kernel[1] > 0.0 else 1.0
    alpha = step * np.arange(-23, 24) if kernel[1] > 0.0 else np.zeros(1)
    h = math.sqrt(kernel[1]) * alpha[:, None] + math.sqrt(kernel[0] - kernel[1]) * _OWN
    reach = np.abs(b).max()
    nodes = reach * np.cos(np.pi * (np.arange(220) + 0.5) / 220)
    value = phi(h[:, :, None] + math.sqrt(d) * _XI)  # (alpha, own, xi)
    names = ("log", "b", "b2", "bb", "h", "h2", "hh")
    table = {name: np.empty((len(nodes), len(alpha))) for name in names}
    for i, one in enumerate(nodes):
        exponent = one * value + 0.5 * delta * value**2
        top = exponent.max(axis=2)
        w = np.exp(exponent - top[:, :, None]) * _WEIGHT
        z = w.sum(axis=2)
        w /= z[:, :, None]
        mean, xi = (w * value).sum(axis=2), (w * _XI).sum(axis=2)
        variance, force = (w * value**2).sum(axis=2) - mean**2, xi / math.sqrt(d)
        stiff = ((w * _XI**2).sum(axis=2) - xi**2 - 1.0) / d
        exponent = n * (top + np.log(z / _WEIGHT.sum())) + np.log(_SHARE / _SHARE.sum())
        peak = exponent.max(axis=1, keepdims=True)
        law = np.exp(exponent - peak)
        table["log"][i] = peak[:, 0] + np.log(law.sum(axis=1))
        law /= law.sum(axis=1, keepdims=True)
        for name, part in zip(names[1:], (mean, mean**2, variance, force, force**2, stiff), strict=True):
            table[name][i] = (law * part).sum(axis=1)
    to_series = np.linalg.inv(chebyshev.chebvander(nodes / reach, len(nodes) - 1))
    read = [chebyshev.chebvander(b[:, c] / reach, len(nodes) - 1) @ to_series for c in range(3)]
    total = -0.5 * (beta**2).sum(axis=1)[:, None] - 0.5 * alpha**2 + sum(one @ table["log"] for one in read)
    top = total.max()
    weight = np.exp(total - top)
    log_z = top + math.log(weight.sum()) + 3 * math.log(0.85 / math.sqrt(2 * math.pi))
    log_z += math.log(step / math.sqrt(2 * math.pi)) if len(alpha) > 1 else 0.0
    weight /= weight.sum()

    def mean_of(name):
        return float((weight * (read[0] @ table[name])).sum())

    def pair_of(name):
        return float((weight * (read[0] @ table[name]) * (read[1] @ table[name])).sum())

    return log_z, {
        "kernel": (mean_of("b2"), pair_of("b")), "d": mean_of("bb"),
        "tilde": (mean_of("h2"), pair_of("h")), "delta": mean_of("hh"),
    }  # fmt: skip


def test_a_solution_without_codes_of_far_smaller_phi_exists():
    """Three classes, three layers, tau = .05: what classes share has learned, so that the kernels are not the prior's,
    and readouts that learn with the prior's would not be stable. It solves the equations on plain grids.
    """
    tau, network = 0.05, mf.Network("sigmoid", 3)
    post = solve_deep(network, ONE_HOT, tau, second=False)
    (rival,) = post.certificate.branches
    assert rival.name == "uncoded"
    assert rival.free_energy == pytest.approx(-680.04973, rel=1e-6)
    assert post.free_energy == pytest.approx(-307.94632, rel=1e-6)  # larger, so that this one is reported
    assert post.certificate.searched[1].endswith("found")
    problem, _ = problem_of(network, ONE_HOT, tau)
    system, end = polish(*uncoded_at(problem), 1e-10, None)
    order = system.unpack(end.x)
    assert order.kernel[1].mean() > 0.5  # 0.25 with the prior's
    phi, n, s = network.activation, 33.0, 1.0 / 99.0
    gram = s * order.t @ order.t.T
    conjugates = [tuple(k[0, :2]) for k in (*order.tilde, gram)]
    kernels, own = [(0.0, 0.0), *(tuple(k[0, :2]) for k in order.kernel)], [1.0, *order.d[:, 0]]
    found = [
        alike(phi, n, conjugates[i], kernels[i], own[i], [*order.delta[:, 0], 0.0][i]) for i in range(3)
    ]  # fmt: skip
    for layer in range(2):
        below, above = found[layer][1], found[layer + 1][1]
        np.testing.assert_allclose(below["kernel"], kernels[layer + 1], rtol=1e-7)
        assert below["d"] == pytest.approx(own[layer + 1], rel=1e-6)
        np.testing.assert_allclose(above["tilde"], conjugates[layer], rtol=1e-5)
        assert above["delta"] == pytest.approx(order.delta[layer, 0], rel=1e-6)
    same, other = found[2][1]["kernel"]
    matrix = s * (np.full((3, 3), n * other) + np.eye(3) * (n * (same - other) + found[2][1]["d"])) + tau * np.eye(3)
    np.testing.assert_allclose(order.t, np.linalg.solve(matrix, np.eye(3)), rtol=1e-5)
    value = sum(one[0] for one in found) - n * np.trace(order.t) + 0.5 * tau * n * (order.t**2).sum()
    for k, d, conjugate, delta in zip(order.kernel, order.d, order.tilde, order.delta, strict=True):
        value -= 0.5 * n * (n * (conjugate * k).sum() + d @ np.diag(conjugate) + delta @ (np.diag(k) + d))
    assert value == pytest.approx(rival.free_energy, rel=1e-6)


def test_it_ends_below_where_readouts_of_the_prior_learn():
    problem, _ = problem_of(mf.Network("sigmoid", 3), ONE_HOT, 0.03)
    fold = uncoded_at(problem)
    assert isinstance(fold, Fold)
    assert fold.tau == pytest.approx(0.038517, rel=1e-3)


@pytest.mark.parametrize(("tau", "exists"), [(0.2, False), (0.3, True)])
def test_many_starts_find_both_branches_and_no_other(tau, exists, tmp_path):
    """Two classes, two layers; the branch without codes ends at 0.2727."""
    post = mf.solve(mf.Network("sigmoid", 2), BINARY, tau)
    found = post.rivals(3, rng=1)
    assert [branch.name for branch in found] == ["coding", "uncoded"][: 1 + exists]
    assert found[0].free_energy == pytest.approx(post.free_energy, rel=1e-9)
    assert all(branch.residual < 1e-7 for branch in found)
    searched = post.certificate.searched
    assert searched[0] == "codes planted from the limit of many samples; one start only"
    assert ("found" if exists else "it ends in a fold at tau = 0.272") in searched[1]
    assert f"searched: {searched[1]}" in post.table()
    assert mf.load(post.save(tmp_path / "deep.npz")).certificate.searched == searched
    with pytest.raises(ValueError, match="starts"):
        post.rivals(-1)


def test_linear_networks_have_no_rivals():
    post = mf.solve(mf.Network("linear", 2), BINARY, 0.1)
    assert post.certificate.searched == ()
    with pytest.raises(ValueError, match="rivals"):
        post.rivals()
