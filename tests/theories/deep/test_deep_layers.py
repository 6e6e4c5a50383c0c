"""Layers of different width and scale, in everything that takes a network."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sympy as sp

import meanfield as mf
from meanfield.cli.main import main
from meanfield.symbolic.deep import LayerAverage, array_of, c, e, layer_scale, layer_width
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.system import Order, System

NETWORK = mf.Network("sigmoid", 3, layer_sigmas=(0.8, 1.3), width_ratios=(2.0, 0.5))
TASK = mf.class_task(targets=[1, -1], n_samples=40)
TAU = 0.05


@pytest.fixture(scope="module")
def post():
    return mf.solve(NETWORK, TASK, TAU)


@pytest.fixture(scope="module")
def chains(post):
    return mf.sample(NETWORK, TASK, 20, TAU, draws=8, warmup=10, chains=2, rng=0, start=post, progress=False)


def test_printed_equations_are_those_that_are_solved(post):
    """Right sides of the conjugates' equations, with the layers' averages put in, at the solution."""
    found = mf.equations(NETWORK, TASK)
    numbers = {layer_scale(i + 1): s for i, s in enumerate(NETWORK.scales)}
    numbers |= {layer_width(i + 1): r for i, r in enumerate(NETWORK.ratios)}
    rows = {row.lhs: row.rhs for row in found.stationarity}
    s, system = post.solution, System(problem_of(NETWORK, TASK, TAU)[0])
    order = Order(s.kernel[:-1], s.d[:-1], s.tilde, s.delta, s.t)
    for layer in (1, 2):
        above = system.averages(order, layer)[0]
        for printed, averaged, solved in (
            (rows[array_of("k~", layer)[c, e]], above.tilde, s.tilde[layer - 1]),
            (rows[array_of("delta~", layer)[c]], above.delta, s.delta[layer - 1]),
        ):
            (inside,) = printed.atoms(LayerAverage)
            assert inside.args[1] == layer + 1
            factor = float(printed.coeff(inside).subs(numbers))
            np.testing.assert_allclose(factor * averaged, solved, rtol=1e-6)
    for layer in (1, 2, 3):  # and those of the kernels
        here = system.averages(order, layer - 1)[0]
        rows_here = {"K": (here.kernel, s.kernel), "d": (here.d, s.d)} if layer < 3 else {}
        for name, (averaged, solved) in rows_here.items():
            printed = rows[array_of(name, layer)[(c, e) if name == "K" else c]]
            assert printed in {LayerAverage(sp.IndexedBase("g_b")[c] * sp.IndexedBase("g_b")[e], sp.Integer(layer)),
                               LayerAverage(sp.IndexedBase("g_bb")[c], sp.Integer(layer))}  # fmt: skip
            np.testing.assert_allclose(averaged, solved[layer - 1], rtol=1e-6)
    outputs = [row.rhs for row in found.stationarity if str(row.lhs).startswith("y")]
    assert len(outputs) == 1
    # y = s (<g_bb> t + sum_e <g_b g_b> n t) + tau t, term by term as it is printed
    n, variance = TASK.n_samples * np.asarray(TASK.fractions), NETWORK.sigma_a**2 / TASK.n_samples**NETWORK.beta
    value = variance * ((here.kernel * n) @ s.t + here.d[:, None] * s.t) + TAU * s.t
    np.testing.assert_allclose(value, TASK.targets, rtol=1e-6)
    assert {str(x) for x in outputs[0].free_symbols} >= {"s", "tau"}
    text = found.latex()
    assert r"\tfrac{N_{\ell}}{N_{L}}" in text
    assert r"\sigma_w" not in text
    assert r"\sigma_w" in mf.equations(mf.Network("sigmoid", 3), TASK).latex()


def test_chains_and_their_files(chains, post, tmp_path):
    assert chains.problem.widths == (40, 10, 20)
    assert [chains.activations(layer).shape[1] for layer in (1, 2, 3)] == [40, 10, 20]
    assert chains.lower_activation.shape == (2, 8, 2, 40, 2)
    for layer in (1, 2):  # what was recorded is what the weights give
        phi = chains.class_activations(layer)
        np.testing.assert_allclose(chains.lower_activation[:, -1, layer - 1, : phi.shape[1]], phi, atol=1e-13)
        assert np.isnan(chains.lower_activation[:, :, layer - 1, phi.shape[1] :]).all()
    kernel = np.mean(chains.activations(2)[0] ** 2, axis=0)
    np.testing.assert_allclose(chains.kernel_diagonal[0, -1, 1, 0], kernel[:20].mean(), rtol=1e-12)
    again = mf.load(chains.save(tmp_path / "chains.npz"))
    assert again.problem.widths == chains.problem.widths
    np.testing.assert_array_equal(again.lower_activation, chains.lower_activation)
    with pytest.raises(ValueError, match="whole numbers"):
        mf.sample(NETWORK, TASK, 21, TAU)


def test_neurons_of_the_theory_make_networks_with_its_kernels(chains, post):
    """A planted start, before it has moved far: kernels of all layers."""
    for layer in (1, 2, 3):
        drawn = post.sample_neurons(20000, layer=layer, samples_per_class=[2, 2], rng=0)
        phi = drawn.activations
        found = phi[:, 0] @ phi[:, 1] / len(phi)
        assert found == pytest.approx(post.kernel(layer).block[0, 0], rel=0.03)


def test_comparison_drift_and_pictures(chains, post):
    names = {row.name for row in mf.compare(post, chains).tested}
    assert {"kernel between samples, layer 1 [1,2]", "kernel between samples, layer 2 [1,2]"} <= names
    for layer, width in enumerate(chains.problem.widths, 1):
        assert mf.drift(chains, layer=layer).first.shape == (width, 2)
    plt.close(mf.plot.figure_layers(post, chains))
    plt.close(mf.plot.plot_sharpening({"theory": post, "sampled": chains}).figure)


def test_weights_of_a_user_are_observed(chains):
    """The same numbers from the weights as from the sampler."""
    scales = NETWORK.scales
    weights = [s * w for s, w in zip(scales, chains.problem.weights(chains.state_last[0]))]
    inputs = np.sqrt(40.0) * np.eye(40)
    seen = mf.observe(NETWORK, TASK, TAU, readouts=chains.readout[0, -1], weights=weights, inputs=inputs)
    np.testing.assert_allclose(seen.residual[0, 0], chains.residual[0, -1], atol=1e-12)
    np.testing.assert_allclose(seen.kernel_diagonal[0, 0], chains.kernel_diagonal[0, -1], rtol=1e-12)
    draws = seen.as_draws(whole=True)
    assert [draws.activation(layer).shape[2] for layer in (1, 2, 3)] == [40, 10, 20]


def test_sweeps():
    rows = [[1.0, 1.0], [2.0, 0.5]]
    diagram = mf.sweep(NETWORK.with_(width_ratios=None), TASK, tau=TAU, width_ratios=rows)
    assert diagram.certified.all()
    assert diagram.posterior(1).network == NETWORK
    with pytest.raises(ValueError, match="rows of depth - 1 numbers"):
        mf.sweep(NETWORK, TASK, tau=TAU, layer_sigmas=[1.0, 2.0])
    with pytest.raises(ValueError, match="depth - 1 = 2 numbers"):
        mf.sweep(NETWORK, TASK, tau=TAU, layer_sigmas=[[1.0], [2.0]])


def test_command_line(post, capsys, tmp_path):
    flags = ["--depth", "3", "--layer-sigmas", "0.8", "1.3", "--width-ratios", "2", "1/2"]
    task = ["--targets", "1", "-1", "--fractions", "1/2", "1/2", "--n-samples", "40", "--tau", str(TAU)]
    assert main(["solve", *flags, *task]) == 0
    printed = capsys.readouterr().out
    assert "layer_sigmas = (0.8, 1.3), width_ratios = (2, 0.5)" in printed
    assert f"Phi = {post.free_energy:.7g}" in printed
    assert main(["equations", *flags]) == 0
    assert r"\sigma_{3}" in capsys.readouterr().out
    config = tmp_path / "task.toml"
    config.write_text(
        'tau = 0.05\n[network]\ndepth = 3\nlayer_sigmas = [0.8, 1.3]\nwidth_ratios = [2, "1/2"]\n'
        "[task]\ntargets = [[1], [-1]]\nn_samples = 40\nfractions = [0.5, 0.5]\n"
    )
    assert main(["solve", "--config", str(config)]) == 0
    assert f"Phi = {post.free_energy:.7g}" in capsys.readouterr().out
    for wrong in (["--width-ratios", "2"], ["--width-ratios", "2", "x"], ["--layer-sigmas", "1", "-1"]):
        assert main(["solve", "--depth", "3", *wrong]) == 2
    config.write_text("[network]\ndepth = 3\nwidth_ratios = 2\n")
    assert main(["solve", "--config", str(config)]) == 2
    assert "width_ratios" in capsys.readouterr().err
