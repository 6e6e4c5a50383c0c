"""What is drawn of phase diagrams: weights along a line, exact boundaries in a plane."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.phases.curves import boundaries, line_quantities, orbits

TASK = mf.class_task(fractions=[0.5, 0.25, 0.25])


def test_boundaries_pass_through_the_values_of_the_theory_page():
    """phases/THEORY.md, "Boundaries in the plane of off and sigma_a": P_111 = 0 and P_100 = 0 (upper)."""
    plane = mf.sweep(mf.Network("sigmoid"), TASK, off=np.linspace(-0.2, 0.7, 19), sigma_a=np.linspace(0.7, 1.6, 7))
    leaves, enters = sorted(boundaries(plane), key=lambda boundary: boundary.curve[:, 0].mean())
    assert enters.at("sigma_a", 0.75)[0].value == pytest.approx(0.413834508979, abs=1e-11)
    assert enters.at("sigma_a", 1.25)[0].value == pytest.approx(0.559030127860, abs=1e-11)
    assert leaves.at("sigma_a", 1.5)[0].value == pytest.approx(0.202679350058, abs=1e-11)
    with pytest.raises(ValueError, match=r"curves in a plane, but the diagram has the axes \['off'\]"):
        boundaries(mf.sweep(mf.Network("sigmoid"), TASK, off=[0.1, 0.2]))


def test_weights_of_codes_add_up_and_orbits_are_joined():
    quantities = line_quantities(mf.sweep(mf.Network("sigmoid"), TASK, off=[0.1, 0.3, 0.6]))
    assert sum(quantities.values()) == pytest.approx(np.ones(3), abs=1e-10)
    names = [names for names, _ in orbits(quantities)]
    assert ["1-0-1", "1-1-0"] in [sorted(group) for group in names]
    assert sorted(name for group in names for name in group) == sorted(quantities)


def test_overlap_of_outliers_balances_the_targets():
    """M_cc' of phases/THEORY.md, "ReLU": the diagonal is w_c / (p_c^2 sigma_a^2), zero off it below the cone."""
    diagram = mf.sweep(mf.Network("relu"), TASK, off=[0.0, 0.3])
    quantities = line_quantities(diagram)
    outliers = diagram.posterior(0).outliers
    assert quantities["(1, 1)"][0] == pytest.approx(outliers[0].preactivation[0] ** 2, abs=1e-12)
    assert quantities["(2, 3)"][0] == 0
    assert quantities["(2, 3)"][1] > 1e-3
    assert quantities["(1, 2)"] == pytest.approx([0, 0], abs=1e-12)


def test_analog_diagrams_show_readout_variances():
    quantities = line_quantities(mf.sweep(mf.Network("linear"), TASK, off=[-0.3, 0.0]))
    assert list(quantities) == ["output 1", "output 2", "output 3"]
    assert quantities["output 1"][1] == pytest.approx(np.sqrt(0.5), abs=1e-12)  # U^2 = sum p_c y_c y_c^T
