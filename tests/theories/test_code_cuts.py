"""Codes that overlap at finite P: what belongs to which of them, held against sums that know where h leads."""

import numpy as np
import pytest
from independent import SingleSite
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import erf

import meanfield as mf


def sigmoid(z):
    return 0.5 * (1.0 + erf(np.sqrt(np.pi) * z / 2.0))


@pytest.mark.parametrize(("n_samples", "tau"), [(30, 0.1), (60, 0.15), (400, 0.1)])
def test_one_output_is_cut_at_the_minimum_between_two_codes(n_samples, tau):
    post = mf.solve(mf.Network("sigmoid"), mf.class_task(targets=[1.0, -0.9], n_samples=n_samples), tau)
    t = post.solution.t[:, 0]
    single = SingleSite(sigmoid, 1.0, reach=12.0)

    def h(a):
        return float(0.5 * np.sum(np.asarray(single(t * a)[0])) - 0.5 * a * a)

    low, high = sorted(code.readout[0] for code in post.codes)
    cut = minimize_scalar(h, bounds=(low, high), method="bounded", options={"xatol": 1e-10}).x
    top = max(h(low), h(high))

    def mass(a, b):
        return quad(lambda x: np.exp(n_samples * (h(x) - top)), a, b, epsabs=1e-12, limit=200)[0]

    below, above = mass(-4.0, cut), mass(cut, 4.0)
    weight = {code.readout[0]: code.weight for code in post.codes}
    assert weight[low] == pytest.approx(below / (below + above), abs=2e-7)
    first = quad(lambda x: x * np.exp(n_samples * (h(x) - top)), cut, 4.0, epsabs=1e-12, limit=200)[0] / above
    assert high == pytest.approx(first, abs=2e-6)


@pytest.mark.parametrize(
    ("n_samples", "tau", "off", "expected"),
    [
        (100, 0.1, 0.0, {"110": 0.27515, "101": 0.27515, "011": 0.26117, "100": 0.18854}),
        (50, 0.05, 0.5, {"111": 0.42936, "110": 0.21095, "101": 0.21095, "011": 0.14875}),
        (100, 0.2, -0.6, {"100": 0.66002, "110": 0.11382, "101": 0.11382, "011": 0.11234}),
    ],
)
def test_three_outputs(n_samples, tau, off, expected):
    """`expected`: sums over 400,000 to 580,000 points of a grid, each followed along a <- sum_c p_c G'(a.t_c) t_c."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=off, n_samples=n_samples)
    post = mf.solve(mf.Network("sigmoid"), task, tau)
    assert any("codes overlap" in note for note in post.notes)
    found = {code.pattern: code.weight for code in post.codes}
    assert found.keys() == expected.keys()
    for pattern, weight in expected.items():
        assert found[pattern] == pytest.approx(weight, abs=8e-4)


def test_a_flat_maximum_without_a_node_of_its_own():
    """Code 100 was missing, and its neurons given to one of two codes that exchange of classes makes alike."""
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.26, n_samples=40)
    found = {code.pattern: code.weight for code in mf.solve(mf.Network("step"), task, 0.1).codes}
    expected = {"011": 0.3940, "110": 0.2986, "101": 0.2986, "100": 0.0088}  # a grid as above
    assert found.keys() == expected.keys()
    for pattern, weight in expected.items():
        assert found[pattern] == pytest.approx(weight, abs=8e-4)


@pytest.mark.parametrize("n_samples", [50, 100, 500])
@pytest.mark.parametrize("tau", [0.01, 0.05, 0.1, 0.2])
def test_exchange_of_classes(n_samples, tau):
    """Steepest ascent along the axes of a lattice made codes of one orbit differ by up to 0.04."""
    for off in (-0.6, 0.0, 0.5):
        task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=off, n_samples=n_samples)
        found = {code.pattern: code.weight for code in mf.solve(mf.Network("sigmoid"), task, tau).codes}
        for pattern, weight in found.items():
            assert weight == pytest.approx(found.get(pattern[0] + pattern[2] + pattern[1], 0.0), abs=2e-3)


def test_codes_that_are_apart_say_nothing_of_cuts():
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=500)
    assert not mf.solve(mf.Network("sigmoid"), task, 0.01).notes


def test_the_cut_is_that_of_h_in_any_coordinates():
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.0, n_samples=100)
    plain, turned = (
        mf.solve(mf.Network("sigmoid"), task.with_(targets=task.targets @ basis), 0.1).codes
        for basis in (np.eye(3), rotation)
    )
    for one, other in zip(plain, turned, strict=True):
        assert one.weight == pytest.approx(other.weight, abs=5e-4)
        np.testing.assert_allclose(one.readout @ rotation, other.readout, atol=3e-3)


@pytest.mark.parametrize(("gain", "n_samples"), [(0.75, 12), (1.0, 30)])
def test_classes_that_do_not_know_of_each_other(gain, n_samples):
    """Odd phi and one output per class: readouts are independent and every sign is as likely, so that codes are equal.

    Where a run passed two cuts, one of them where next to nothing is, what lay beyond it was given to the code before:
    weights of .119 to .131, readouts 5 % off.
    """
    targets = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    task = mf.class_task(fractions=[0.3, 0.2, 0.15, 0.35], targets=targets, n_samples=n_samples)
    post = mf.solve(mf.Network("tanh", sigma_w=gain), task, 0.01)
    assert len(post.codes) == 8
    size = np.abs([code.readout for code in post.codes])
    for code in post.codes:
        assert code.weight == pytest.approx(0.125, abs=1e-5)
    np.testing.assert_allclose(size, np.broadcast_to(size.mean(axis=0), size.shape), rtol=1e-4)
    # The moment that does not depend on the cut: <a a> = sum_gamma P_gamma (a a + covariance).
    second = sum(code.weight * (np.outer(code.readout, code.readout) + code.covariance) for code in post.codes)
    np.testing.assert_allclose(second, post.readout_covariance, atol=1e-9)


def test_a_saddle_is_no_code():
    """A node of the lattice at a = 0, the saddle between a code and its complement, had counted as one, of .4 %."""
    targets = [[0.02842224, 0.54671299], [-0.73645409, -0.16290995], [-0.48211931, 0.59884621]]
    task = mf.class_task(fractions=[0.1278, 0.41982242, 0.45237758], targets=targets, n_samples=600)
    one, other = mf.solve(mf.Network("hard_tanh"), task, 0.33737307).codes
    assert {one.pattern, other.pattern} == {"000", "111"}
    assert one.weight == pytest.approx(0.5, abs=3e-4)
    np.testing.assert_allclose(one.readout, -other.readout, atol=2e-3)
