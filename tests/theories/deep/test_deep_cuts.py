"""Neurons at the cut between codes of given shares, against the density of readouts."""

import numpy as np
import pytest
from deep_oracles import Site
from margins import below

import meanfield as mf
from meanfield.theories.deep.codes.free_words import free_law
from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.rules import FINE, Setting
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


@pytest.mark.statistical
def test_codes_without_codes():
    """Words of neurons on the branch without codes, whose fields h decide, by plain Monte Carlo over (beta, h).

    Of whole nodes a third was "00" for 0.48, and "11" or "00" by rounding; of drawn neurons 8 % had code 10 or 01.
    """
    task = mf.class_task([0.3, 0.7], targets=[1.0, -0.4], n_samples=100)
    post = mf.solve(NETWORK, task, 0.3)
    system, rng, count = post._system, np.random.default_rng(0), 80_000
    setting = system.setting(post._order, 1)
    h = rng.normal(size=(count, 2)) @ np.linalg.cholesky(setting.covariance).T
    b = rng.normal(size=(count, 1)) @ setting.root.T
    found = [Site(system.problem.phi, setting.d[c], 0.0)(b[:, c], h[:, c]) for c in range(2)]
    log = system.problem.n @ [one[0] for one in found]
    weight, word = np.exp(log - log.max()), 2 * (found[0][1] > 0.5) + (found[1][1] > 0.5)
    weight /= weight.sum()
    shares = {code.pattern: code.weight for code in post.codes}
    neurons = post.sample_neurons(4000, rng=0, samples_per_class=1)
    drawn = dict(zip(neurons.part_names, np.bincount(neurons.code, minlength=4) / 4000))
    for k in range(4):
        own = float(weight[word == k].sum())
        for value, size in ((shares[f"{k:02b}"], count), (drawn[f"{k // 2}-{k % 2}"], 4000)):
            error = np.sqrt(own * (1.0 - own) * (1.0 / size + 1.0 / count)) + 2e-4
            assert below(abs(value - own) / error, what=f"share of code {k:02b}")


def test_words_of_a_layer_without_common_fields():
    """The first layer, on panels in both fields b that end where a class is cut."""
    phi, n = NETWORK.activation, np.array([9.0, 14.0])
    given = Setting(
        np.array([[0.5, 0.1], [-0.35, 0.15]]), np.zeros((2, 2)), np.array([1.0, 1.0]), np.array([0.2, -0.3])
    )
    layer = Layer(phi, n, FINE, last=False)
    detail = layer.evaluate(given, detail=True)[1]
    law = free_law(phi, n, given, layer, detail.beta[detail.share > 1e-8])
    x, w = np.polynomial.legendre.leggauss(20)
    sides = []
    for c, size in enumerate(n):
        site, none = Site(phi, 1.0, given.delta[c]), np.zeros(400)
        middle = np.linspace(-4.0, 4.0, 400)
        cut = np.interp(0.5, site(middle, none)[1], middle)
        half = 5.0 / 20
        up = (half * (2.0 * np.arange(10)[:, None] + 1.0 + x)).ravel()
        weight = np.tile(half * w, 10)
        sides.append([(b, weight * np.exp(size * site(b, np.zeros(200))[0])) for b in (cut - up, cut + up)])
    inverse = np.linalg.inv(given.root @ given.root.T)
    found = {}
    for word in ("00", "01", "10", "11"):
        (b1, w1), (b2, w2) = (sides[c][int(bit)] for c, bit in enumerate(word))
        b = np.stack(np.broadcast_arrays(b1[:, None], b2), axis=-1)
        plain = w1[:, None] * w2 * np.exp(-0.5 * np.einsum("ijc,ce,ije->ij", b, inverse, b))
        found[word] = plain.sum(), np.einsum("ij,ijc->c", plain, b)
    total = sum(part for part, _ in found.values())
    for word, (part, mean) in found.items():
        share = law.share * law.part(word)
        assert share.sum() == pytest.approx(part / total, abs=2e-5)
        np.testing.assert_allclose(share @ law.beta @ given.root.T, mean / total, atol=4e-5)
