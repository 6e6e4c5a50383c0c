"""Certificates do not believe in the symmetry that the solver uses: solved with a wrong one, they say so."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep import system
from meanfield.theories.deep.layers.nodes import LayerNodes
from meanfield.theories.deep.symmetry import symmetry

UNEQUAL = mf.class_task([0.52, 0.48], targets=[1, -1], n_samples=50)


def test_classes_of_other_sizes_are_not_exchanged(monkeypatch):
    monkeypatch.setattr(system, "symmetry", lambda n, y, given: symmetry(np.full_like(n, n.mean()), y, given))
    post = mf.solve(mf.Network("sigmoid", 2), UNEQUAL, 0.1, on_failure="return")
    assert post.status != "optimal"
    assert post.certificate.kkt_residual > 1e-3


@pytest.mark.parametrize("often", [1.0, 2.0])
def test_orbits_are_counted(monkeypatch, often):
    """Every node of the lattice stands for itself alone, or for two, also those on the axis of the exchange."""
    monkeypatch.setattr(LayerNodes, "_often", lambda self, index: np.full(len(index), often))
    post = mf.solve(mf.Network("sigmoid", 2), UNEQUAL.with_(fractions=[0.5, 0.5]), 0.1, on_failure="return")
    assert post.status != "optimal"
    assert post.certificate.kkt_residual > 1e-5
