"""Cones of outliers with codes on ridges beside them: Newton on everything at once, and W as rays of the cone again."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.numerics.budget import new_stop
from meanfield.theories.single_layer import limit
from meanfield.theories.single_layer.compiled import cones, moving_cuts
from meanfield.theories.single_layer.compiled.generated.action import action_hessian
from meanfield.theories.single_layer.compiled.joint_newton import joint_newton

# fractions, targets in units of sigma_a: two directions of growth one beside a ridge, and one direction
PLANE = (
    (0.198, 0.336, 0.078, 0.388),
    np.array([[1.71, -0.24, 1.82, 0.0, -0.3], [0.48, 1.98, 1.8, -0.16, 1.03], [-0.01, 0.12, 1.14, -0.34, 0.94],
              [0.84, 1.73, -1.54, 0.92, 1.71]]) / 2.913,
)  # fmt: skip


@pytest.fixture(scope="module")
def plane():
    p, y = PLANE
    task = mf.class_task(fractions=np.array(p), targets=y)
    post = mf.solve(mf.Network("leaky_relu"), task)
    assert post.status == "optimal"
    table = limit.compiled_tables(mf.activation("leaky_relu"), 1.0)[0]._replace(stop=new_stop())
    return table, np.array(p), y, post.solution


def state(solution, rng):
    """Cuts, their sizes, directions and multipliers as the bundle method may leave them."""
    a, weight = solution.readout, solution.weight
    length = np.linalg.norm(solution.outlier_direction, axis=1)
    directions = solution.outlier_direction / length[:, None]
    sizes = 1.0 + (a**2).sum(1)
    multipliers = np.concatenate([weight * sizes, solution.outlier_weight * length**2])
    return a.copy(), sizes, directions, multipliers * (1.0 + 0.01 * rng.normal(size=len(multipliers)))


def test_a_solution_that_is_off_is_found_again(plane):
    table, p, y, s = plane
    rng = np.random.default_rng(0)
    for off in (1e-12, 1e-11):
        cuts, sizes, directions, multipliers = state(s, rng)
        t = s.t + off * rng.normal(size=s.t.shape)
        search = np.empty((1024, 5)), np.empty(1024), np.full(1, -1)
        low, high = limit.phi_range(mf.activation("leaky_relu"), 1.0)[:2]
        found = cones.solve_cones(
            table, p, y, 0.0, low, high, t, s.level + off, cuts, sizes, directions, multipliers, off, search
        )
        ok, t, readouts, weights, rays, ray_weights, level = found[:7]
        assert ok
        assert np.abs(t - s.t).max() < 1e-10
        assert level == pytest.approx(s.level, abs=1e-10)
        assert len(readouts) == len(s.readout)
        assert weights.min() > 0.0
        assert ray_weights.min() > 0.0
        # rays are eigenvectors of growth, on the side of zero where their classes are said to be
        for u in rays:
            kappa = t @ u
            pull = p * np.where(kappa > 0, 1.0, 1e-4) * kappa
            assert np.abs(pull @ t - u).max() < 1e-10
        produced = np.einsum("o,or,oc->cr", ray_weights, rays, np.where(rays @ t.T > 0, 1.0, 1e-4) * (rays @ t.T))
        for a, weight in zip(readouts, weights):
            gradient, hessian = np.empty(5), np.empty((5, 5))
            action_hessian(table, p, t, a, gradient, hessian)
            assert np.abs(gradient).max() < 1e-10
            step = 1e-6 * np.eye(len(p))  # G' by differences
            for c in range(len(p)):
                up, down = (t + sign * np.outer(step[c], a) / (a @ a) for sign in (1.0, -1.0))
                slope = (action_hessian(table, p, up, a, gradient, hessian)
                         - action_hessian(table, p, down, a, gradient, hessian)) / 2e-6 / p[c]  # fmt: skip
                produced[c] += weight * a * slope
        assert np.abs(produced - y).max() < 1e-6


def test_newton_finds_weights_and_level_and_gives_up_without_a_solution(plane):
    table, p, y, s = plane
    growths, frames, dims = [], [], []
    for signs in ((-1, -1, -1, 1), (1, 1, 1, -1)):  # of the rays
        growth = np.where(np.array(signs) > 0, 1.0, 1e-4)
        gap, axes = np.linalg.eigh(np.eye(5) - (s.t.T * (p * growth)) @ s.t)
        dims.append(int((abs(gap) < 1e-11).sum()))
        growths.append(growth)
        frames.append(axes[:, np.argsort(abs(gap))])
    assert dims == [1, 2]
    weights = np.zeros((2, 5))
    weights[:, :2] = [[0.6, 0.0], [0.3, 0.4]]  # not those of the solution
    for targets, solvable in ((y, True), (-y[::-1], False)):
        t, a, weight, w = s.t.copy(), s.readout.copy(), s.weight.copy(), weights.copy()
        turned = np.array(frames)
        ok, level, nullity = joint_newton(
            table, p, targets, 0.0, t, s.level, a, weight, np.array(dims), np.array(growths), turned, w
        )
        if solvable:
            assert ok
            assert nullity == 0
            assert level == pytest.approx(s.level, abs=1e-10)
            assert np.abs(t - s.t).max() < 1e-10
            assert np.allclose(weight, s.weight, rtol=1e-6)
        else:
            assert not ok or min(w.min(), weight.min()) < 0.0


def test_far_readouts_that_the_rim_beats_are_no_codes(plane):
    table, p, _, s = plane
    far = s.readout[np.argmax((s.readout**2).sum(1))]
    assert (far**2).sum() > 1e4
    assert not moving_cuts._rim_is_higher(table, p, s.t, s.level, far)
    u = s.outlier_direction[0] / np.linalg.norm(s.outlier_direction[0])
    assert moving_cuts._rim_is_higher(table, p, s.t, s.level, 1e5 * u)
    assert not moving_cuts._rim_is_higher(table, p, s.t, s.level, u)  # not far
