"""Jacobians of the systems that define transitions against central differences."""

import numpy as np
import pytest
import sympy as sp

import meanfield as mf
from meanfield.activations.activation import Activation
from meanfield.theories.single_layer.transitions.control import Control
from meanfield.theories.single_layer.transitions.extended import (
    Active,
    CodeState,
    Cubic,
    ExtendedSystem,
    Soft,
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


CONTROLS = [("off", "tau"), ("on", "sigma_a"), ("sigma_w", "gain"), ("fraction_1", "fraction_3")]


@pytest.mark.parametrize("names", CONTROLS)
def test_jacobian_of_codes(names):
    network, task = mf.Network("sigmoid", sigma_a=1.3), _one_hot(0.65)
    s = mf.solve(network, task).solution
    state = CodeState(s.t * 1.3, s.readout / 1.3, s.weight, s.level)
    control = Control(network, task, 0.07, names)
    system = ExtendedSystem(control, state, (Vanishing(3), Active(1, 0), Soft(3), Cubic(3)))
    noise = 0.02 * np.random.default_rng(0).normal(size=state.x.size)
    assert_jacobian(system, np.append(state.x + noise, control.values))


def test_jacobian_where_the_midpoint_moves():
    z, b = sp.symbols("z b")
    phi = Activation(b * (1 + sp.erf(z)) / 2, z, parameters={"b": 1.2})
    network, task = mf.Network(phi), mf.class_task(targets=[1.0, 0.3])
    state = CodeState(np.array([[1.1], [-0.4]]), np.array([[0.9], [-0.3]]), np.array([0.7, 0.3]), 0.2)
    control = Control(network, task, 0.0, ("b", "target_2"))
    assert_jacobian(ExtendedSystem(control, state, (Active(0, 1),)), np.append(state.x, control.values))


@pytest.mark.parametrize("phi", [mf.activation("relu"), mf.activation("leaky_relu", slope=0.3)])
@pytest.mark.parametrize("names", [*CONTROLS[:2], ("sigma_w", "fraction_2"), ("tau", "own")])
def test_jacobian_of_outliers_and_cones(phi, names):
    names = tuple(next(iter(phi.parameters)) if name == "own" else name for name in names)
    network, task = mf.Network(phi, sigma_a=1.3), _one_hot(0.2)
    control = Control(network, task, 0.07, names)
    rng = np.random.default_rng(0)
    t, a, u = rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=(2, 3))
    isolated = OutlierSystem(control, np.where(u @ t.T > 0, 1.0, -1.0), (1,), ((0, 2),))
    assert_jacobian(isolated, isolated.pack(t, a, u, np.array([0.6, 0.3])))
    cone = ConeSystem(control, ((0, 0), (2, 1), (2, 2)), ((1, 0), (1, 1)))
    assert_jacobian(cone, cone.pack(t, a))
