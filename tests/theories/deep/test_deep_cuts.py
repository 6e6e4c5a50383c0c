"""Neurons at the cut between codes of given shares, against the density of readouts."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.solve import solve_deep

NETWORK = mf.Network("sigmoid", depth=2)


@pytest.mark.parametrize("tau", [0.05, 0.35])
def test_neurons_at_the_cut_are_those_of_the_valley(tau):
    """One output: readouts lie on a line, codes are cut at the lowest density between their maxima."""
    task = mf.class_task(targets=[1.0, -1.0], n_samples=100)
    post = solve_deep(NETWORK, task, tau, fractions={"10": 0.55, "01": 0.45}, competitors=False)
    system, order = post._system, post._order
    layer, setting = system.layers[1], system.setting(order, 1)
    system.averages(order, 1)
    step, cuts = layer.rule.beta, {cut.pattern: cut.share for cut in post.certificate.cuts}
    index = np.sort(np.concatenate([layer.regions[word][:, 0] for word in system.codes]))
    beta = step * np.arange(index[0] - 3, index[-1] + 4)[:, None]
    weight = np.exp(layer.log_density(setting, beta) - layer.log_density(setting, beta).max())
    middle = len(beta) // 2
    left, right = np.argmax(weight[:middle]), middle + np.argmax(weight[middle:])
    valley = left + np.argmin(weight[left : right + 1])
    for word, part in cuts.items():
        sign = np.sign(dict(zip(post.solution.patterns, post.solution.readout[:, 0]))[word])
        whole = weight[valley:].sum() if sign > 0.0 else weight[: valley + 1].sum()
        around = weight[valley - 1 : valley + 2] / whole
        assert around.min() / 1.5 < part + 1e-13 < 1.5 * around.max() + 1e-12
    assert (max(cuts.values()) > 1e-3) == any("where it is cut" in note for note in post.solution.notes)


def test_cuts_are_kept_in_files_and_absent_at_equilibrium(tmp_path):
    task = mf.class_task(targets=[1.0, -1.0], n_samples=60)
    post = solve_deep(NETWORK, task, 0.05, competitors=False)
    assert post.certificate.cuts == ()
    given = post.frozen({"10": 0.6, "01": 0.4})
    again = mf.load(given.save(tmp_path / "given.npz"))
    assert again.certificate.cuts == given.certificate.cuts
    assert {cut.pattern for cut in again.certificate.cuts} == {"10", "01"}
