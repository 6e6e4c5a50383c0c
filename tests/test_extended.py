"""Jacobians of the systems that define transitions against central differences."""

import numpy as np

import meanfield as mf
from meanfield.theories.single_layer.transitions.extended import (
    Active,
    CodeState,
    Control,
    Cubic,
    Soft,
    System,
    Vanishing,
)
from meanfield.theories.single_layer.transitions.extended_outliers import ConeSystem, OutlierSystem


def _one_hot(off):
    return mf.class_task(fractions=(0.5, 0.25, 0.25), off=off)


def assert_jacobian(system, unknowns):
    _, exact = system.linearised(unknowns)
    for i in range(unknowns.size):
        step = np.zeros(unknowns.size)
        step[i] = 1e-5
        forward, backward = system.residual(unknowns + step), system.residual(unknowns - step)
        np.testing.assert_allclose(exact[:, i], (forward - backward) / 2e-5, atol=2e-8)


def test_jacobian_of_codes():
    network, task = mf.Network("sigmoid", sigma_a=1.3), _one_hot(0.65)
    s = mf.solve(network, task).solution
    state = CodeState(s.t * 1.3, s.readout / 1.3, s.weight, s.level)
    control = Control(network, task, 0.07, ("off", "tau"))
    system = System(control, state, (Vanishing(3), Active(1, 0, 0.5), Soft(3), Cubic(3)))
    noise = 0.02 * np.random.default_rng(0).normal(size=state.x.size)
    assert_jacobian(system, np.append(state.x + noise, control.values))


def test_jacobian_of_outliers_and_cones():
    network, task = mf.Network("relu", sigma_a=1.3), _one_hot(0.2)
    s = mf.solve(network, task).solution
    control = Control(network, task, 0.07, ("off", "sigma_a"))
    t, a, u, w = s.t * 1.3, s.readout[0] / 1.3, s.outlier_direction, s.outlier_weight / 1.69
    rng = np.random.default_rng(0)
    isolated = OutlierSystem(control, (u @ t.T > 0).astype(float), (1,), ((0, 2),))
    unknowns = isolated.pack(t, a, u, w)
    unknowns[:-2] += 0.02 * rng.normal(size=unknowns.size - 2)
    assert_jacobian(isolated, unknowns)
    cone = ConeSystem(control, ((0, 0), (2, 1), (2, 2)), ((1, 0), (1, 1)))
    unknowns = cone.pack(t, a)
    unknowns[:-2] += 0.02 * rng.normal(size=unknowns.size - 2)
    assert_jacobian(cone, unknowns)
