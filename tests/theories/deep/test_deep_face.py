"""What is asked of a deep posterior from outside: layers, samples, sweeps, transitions, pictures."""

import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fake_chains import fake_chains
from margins import below, beyond

import meanfield as mf
from meanfield import plot
from meanfield.posterior.certificate import UnstableFractions
from meanfield.sampling.expected import expected
from meanfield.sampling.statistics import as_draws, observables
from meanfield.theories.deep.newton import Found
from meanfield.theories.deep.search import first_order

NETWORK = mf.Network("sigmoid", depth=2)
BINARY = mf.class_task(targets=[1, -1], n_samples=100)
ONE_HOT = mf.class_task([0.5, 0.25, 0.25], off=0.0)


@pytest.fixture(scope="module")
def frozen():
    return mf.solve(NETWORK, BINARY, 0.01, fractions={"1-0": 0.54, "01": 0.46})


@pytest.fixture(scope="module")
def chains(frozen):
    options = {"draws": 12, "warmup": 20, "chains": 2, "rng": 0, "progress": False}
    return mf.sample(NETWORK, BINARY, 50, 0.01, start=frozen, **options)


def test_solving_at_fractions_is_freezing_a_solution(frozen):
    other = mf.solve(NETWORK, BINARY, 0.01).frozen({"10": 54, "01": 46})
    assert other.free_energy == frozen.free_energy
    assert frozen.certified
    with pytest.raises(UnstableFractions, match="locally stable with code 11") as refused:
        mf.solve(NETWORK, BINARY, 0.01, fractions={"10": 0.45, "01": 0.45, "11": 0.1})
    assert refused.value.pattern == "11"
    with pytest.raises(ValueError, match="mapping from code patterns"):
        mf.solve(NETWORK, BINARY, 0.01, fractions=[0.5, 0.5])


def test_margins_of_stability(frozen):
    """Every class has a field b_c = a.t_c with the sign of the code; t of the rarer code's class is larger."""
    margins = frozen.stability()
    assert set(margins) == {"10", "01"}
    assert margins["10"] == pytest.approx(min(frozen.codes[0].readout[0] * frozen.solution.t[:, 0] * [1, -1]))
    assert min(margins.values()) > 3.0


def test_kernels_of_all_layers_are_compared(frozen, chains):
    draws = as_draws(chains)
    theory = expected(frozen, draws, ("10", "01"))
    for layer, where in ((1, ", layer 1"), (2, "")):
        kernel = frozen.kernel(layer)
        np.testing.assert_array_equal(theory[f"kernel between samples{where}"], kernel.block)
        np.testing.assert_array_equal(theory[f"kernel diagonal{where}"], kernel.block_diagonal)
        np.testing.assert_allclose(theory[f"kernel excess{where}"], frozen.solution.d[layer - 1], atol=1e-15)
        own = {o.name: o.series for o in observables(draws, ("10",))}
        np.testing.assert_array_equal(own[f"kernel diagonal{where}"], chains.kernel_diagonal[:, :, layer - 1])
    compared = mf.compare(frozen, chains)
    assert {row.name for row in compared.tested} >= {"kernel excess, layer 1 [2]", "kernel between samples [1,2]"}
    assert "kernel diagonal, layer 1" in mf.summarize(chains).table()


def test_rare_codes_that_are_not_stable_are_left_out_and_named(frozen):
    """One neuron of a hundred on its way between two codes; ten of them are no detail."""
    activation = np.full((2, 8, 100, 2), 0.01)
    activation[:, :, :54, 0] = activation[:, :, 54:, 1] = 0.99
    activation[:, :, 0] = 0.8  # code 11
    readout = np.where(activation[..., :1] > 0.5, 2.0, -2.0) + 1e-3 * np.arange(8)[:, None, None]
    draws = fake_chains(NETWORK, readout, activation, np.repeat([0, 1], 50), BINARY)
    left_out = {}
    shares = np.array([[0.0, 0.46, 0.53, 0.01]] * 2)
    values = expected(frozen, as_draws(draws), ("10", "01"), shares, left_out=left_out)
    assert left_out == {"11": 0.01}
    np.testing.assert_allclose(values["residual"][0], frozen.frozen({"10": 53, "01": 46}).residual)
    with pytest.raises(UnstableFractions, match="code 11"):
        expected(frozen, as_draws(draws), ("10", "01"), np.array([[0.0, 0.45, 0.45, 0.1]] * 2))


@pytest.mark.statistical
def test_sampled_networks_have_the_kernels_of_the_theory(frozen):
    """Two widths extrapolated; the theory at other fractions, or at another tau, is seen to be another."""
    task = BINARY.with_(n_samples=40)
    post = mf.solve(NETWORK, task, 0.02, fractions={"10": 0.6, "01": 0.4})
    wrong = mf.solve(NETWORK, task, 0.02, fractions={"10": 0.5, "01": 0.5})
    found, planted = [], []
    for width in (40, 80):
        options = {"draws": 150, "warmup": 150, "thin": 2, "chains": 2, "rng": width, "progress": False}
        sampled = mf.sample(NETWORK, task, width, 0.02, start=post, **options)
        groups = ("kernel", "residual", "readout")
        found.append(mf.compare(post, sampled, statistics=groups))
        planted.append(mf.compare(wrong, sampled, statistics=groups, fractions="equilibrium"))
    trend = mf.finite_size_trend(found)
    assert len(trend.rows) == 18
    assert below([row.z for row in trend.rows])
    assert beyond([row.z for row in mf.finite_size_trend(planted).rows])


def test_a_sweep_keeps_whole_solutions(tmp_path, monkeypatch):
    from meanfield.theories.deep import solve as module

    def none(*_):
        raise module.NotCovered("not looked for")

    monkeypatch.setattr(module, "prior_branch", none)  # the search for a rival takes most of the time
    taus = [0.01, 0.02]
    diagram = mf.sweep(NETWORK, BINARY, tau=taus, checkpoint=tmp_path, progress=False)
    assert diagram.certified.all()
    direct = mf.solve(NETWORK, BINARY, 0.02, warm_start=diagram.posterior(0))
    assert diagram.posterior(1).table() == direct.table()
    assert diagram.phase_labels == ("0-1, 1-0",)
    np.testing.assert_allclose(diagram.weights("10"), 0.5, atol=1e-9)
    again = mf.sweep(NETWORK, BINARY, tau=taus, checkpoint=tmp_path, progress=False)
    loaded = mf.load(diagram.save(tmp_path / "diagram"))
    for other in (again, loaded):
        for name, array in diagram.points.arrays().items():
            np.testing.assert_array_equal(array, other.points.arrays()[name])
        assert other.posterior(1).table() == direct.table()
    assert diagram.solve(tau=0.015).certified
    assert diagram.transitions() == ()  # single codes come and go smoothly at finite P


def test_a_sweep_over_depth_meets_two_theories():
    diagram = mf.sweep(NETWORK, BINARY, 0.01, depth=[1, 2], progress=False)
    assert diagram.certified.all()
    assert [diagram.posterior(i).theory for i in (0, 1)] == ["single_layer", "deep"]
    assert diagram.posterior(1).network.depth == 2
    with pytest.raises(ValueError, match="whole numbers of hidden layers"):
        mf.sweep(NETWORK, BINARY, 0.01, depth=[1.5], progress=False)


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("readout_exponent", [0.9, 1.0]),
        ("sigma_w", [0.9, 1.0]),
        ("n_samples", [100, math.inf]),
        ("sigma_a", [0.9, 1.0]),
    ],
)
def test_sweeps_over_what_makes_a_network(axis, values, monkeypatch):
    """The last point is that of its own solve."""
    from meanfield.theories.deep import solve as module

    def none(*_):
        raise module.NotCovered("not looked for")

    monkeypatch.setattr(module, "prior_branch", none)
    diagram = mf.sweep(NETWORK, BINARY, 0.02, **{axis: values}, progress=False)
    assert diagram.certified.all()
    assert diagram.phase_labels == ("0-1, 1-0",)
    task = BINARY.with_(n_samples=values[-1]) if axis == "n_samples" else BINARY
    assert diagram.objective[-1] == pytest.approx(mf.solve(NETWORK, task, 0.02).objective, rel=1e-9)
    assert diagram.objective[0] != pytest.approx(diagram.objective[-1], rel=1e-3)


def test_points_are_checked_as_they_are_restored():
    diagram = mf.sweep(NETWORK, BINARY, tau=[0.01], sigma_a=[1.0], progress=False)
    assert diagram.shape == (1, 1)
    assert diagram.posterior((0, 0)).certified
    points = diagram.points

    def with_kept(kept):
        damaged = type(points)(**{**points.arrays(), "kept": kept})
        return type(diagram)(diagram.network, diagram.task, diagram.tau, diagram.axes, damaged).posterior((0, 0))

    with pytest.raises(ValueError, match="its t does not belong"):
        with_kept(np.where(np.isin(points.kept, diagram.t), 1.01 * points.kept, points.kept))
    with pytest.raises(ValueError, match="larger than the numbers"):
        with_kept(points.kept[:, :5])


def test_points_that_fail_say_why():
    """What no theory covers is refused before anything is solved; a point that fails is kept with its words."""
    with pytest.raises(ValueError, match="up to 10 classes that are exchangeable"):
        mf.sweep(NETWORK, mf.class_task(n_classes=11, n_samples=100), 0.01, off=[0.0], progress=False)
    with pytest.MonkeyPatch.context() as patch:
        from meanfield.theories.deep import solve as module

        patch.setattr(module, "coding_and_starts", lambda *_: (_ for _ in ()).throw(module.NotCovered("no such luck")))
        diagram = mf.sweep(NETWORK, BINARY, tau=[0.01, 0.02], progress=False)
    assert diagram.status.tolist() == ["not converged"] * 2
    assert "no such luck" in diagram.messages[0]
    assert np.isnan(diagram.objective).all()
    with pytest.raises(mf.ConvergenceError, match="no such luck"):
        diagram.posterior(0)


def test_transitions_of_the_saturated_codes():
    """tau = 0: 111 enters at y_- = 7/2 - sqrt(10), whatever the class sizes; tau = 0.02: a quadratic programme."""
    network = mf.Network("sigmoid", depth=3)
    (found,) = mf.sweep(network, ONE_HOT, 0.0, off=[0.2, 0.5], progress=False).transitions()
    assert found.value == pytest.approx(7 / 2 - math.sqrt(10), abs=1e-9)
    assert (found.label, found.codes, found.parameter) == ("1-1-1 enters", ("111",), "off")
    diagram = mf.sweep(network, ONE_HOT, 0.02, off=[-0.2, 0.1, 0.4], progress=False)
    labels = {t.label: t.value for t in diagram.transitions()}
    assert labels == {
        "1-0-0 leaves": pytest.approx(-0.0506, abs=1e-4),
        "1-1-1 enters": pytest.approx(0.2887, abs=1e-4),
    }
    ax = diagram.plot()
    assert len(ax.lines) >= 4
    plt.close("all")


@pytest.mark.parametrize(
    ("off", "taus", "places"),
    [
        # 0.0322 in the table; 0.032133 by the primal problem over pairs in NumPy, too
        (
            0.0,
            [0.01, 0.1, 0.6, 2.0, 3.0],
            {"1-0-0 enters": 0.03213, "1-1-1 enters": 0.480, "1-0-1 leaves, 1-1-0 leaves": 2.81},
        ),
        (0.5, [0.01, 0.12, 0.18, 0.25], {"0-1-1 leaves": 0.161, "1-0-1 leaves, 1-1-0 leaves": 0.194}),
    ],
)
def test_transitions_of_the_saturated_codes_in_tau(off, taus, places):
    diagram = mf.sweep(mf.Network("sigmoid", depth=2), ONE_HOT.with_(off=off), tau=taus, progress=False)
    found = {transition.label: transition.value for transition in diagram.transitions()}
    for label, place in places.items():
        assert found[label] == pytest.approx(place, abs=5.1 * 10.0 ** -(len(str(place).split(".")[1]) + 1)), found


def test_a_degenerate_point_is_told():
    """At y_- = -1/2 complements tie; beside it only pairs have weight."""
    diagram = mf.sweep(NETWORK, ONE_HOT, 0.0, off=[-0.6, -0.5, -0.4], progress=False)
    (found,) = diagram.transitions()
    assert found.value == pytest.approx(-0.5, abs=1e-6)
    assert 0.0 < found.width < 1e-5
    assert found.before == found.after == ("011", "101", "110")
    assert found.label == "0-0-1, 0-1-0, 1-0-0 at this point only"
    assert diagram.unique.tolist() == [True, False, True]
    certificate = mf.solve(NETWORK, ONE_HOT.with_(off=-0.5)).certificate
    assert (certificate.unique, certificate.nullity) == (False, 1)
    ax = diagram.plot()  # curves pass the point by
    assert all(-0.5 not in line.get_xdata() for line in ax.lines if len(line.get_xdata()) > 2)
    assert [text.get_text() for text in ax.texts] == [found.label]
    plt.close("all")


def test_a_sweep_passes_to_the_branch_without_codes():
    """Where a point starts from the one before, which is held to its certificate."""
    task = mf.class_task(targets=[1, -1], n_samples=100)
    tau = [0.42, 0.44, 0.46, 0.5]
    diagram = mf.sweep(mf.Network("sigmoid", depth=2), task, tau=tau, progress=False)
    assert diagram.certified.all()
    alone = mf.solve(mf.Network("sigmoid", depth=2), task, tau=0.46)
    assert diagram.objective[2] == pytest.approx(alone.objective, abs=1e-8)


def test_pictures_of_layers(frozen, chains):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot.figure_layers(frozen, chains, n_neurons=20)
        images = [ax for ax in figure.axes if ax.images]
        assert len(images) == 8
        assert images[0].images[0].get_clim() == images[1].images[0].get_clim()  # there is one bar for both layers
        assert [ax.images[0].colorbar is None for ax in images[:2]] == [True, False]
        for ax, view in ((images[2], frozen.kernel(1)), (images[3], frozen.kernel(2))):
            shown = np.asarray(ax.images[0].get_array())
            assert shown[0, 1] == pytest.approx(view.block[0, 0])
            assert shown[0, -1] == pytest.approx(view.block[0, 1])
        ax = plot.plot_sharpening({"theory": frozen, "sampled": chains})
        np.testing.assert_allclose(ax.lines[0].get_ydata(), [np.mean(frozen.separation(i)["on"]) for i in (1, 2)])
        figure.canvas.draw()
    shallow = mf.solve(mf.Network("sigmoid", 3), BINARY.with_(n_samples=np.inf), 0.01)
    with pytest.raises(ValueError, match="same depth"):
        plot.figure_layers(frozen, shallow)
    single = mf.solve(mf.Network("sigmoid"), BINARY)
    of_layers = "of every layer: give posteriors of deep networks or Chains, got"
    for draw, message in (
        (plot.figure_layers, of_layers),
        (plot.plot_sharpening, "posteriors must be a Chains or DeepPosterior or Mapping, got"),
        (lambda one: plot.plot_sharpening({"one": one}), of_layers),
    ):
        with pytest.raises(ValueError, match=message):
            draw(single)
    plt.close("all")


def test_drawn_neurons_are_spread_over_the_codes_like_independent_ones(frozen):
    """Of 400 neurons each code has its share, within the scatter of a binomial."""
    for seed in range(4):
        neurons = frozen.sample_neurons(400, rng=seed, samples_per_class=1)
        count = np.bincount(neurons.code, minlength=2)
        active = neurons.activations[:, 0] > 0.5
        assert below((count[0] - 400 * 0.54) / math.sqrt(400 * 0.54 * 0.46), what="share of a code")
        np.testing.assert_array_equal(np.array(neurons.part_names)[neurons.code[active]], "1-0")


@pytest.mark.parametrize(
    ("depth", "taus", "place", "phi"),
    [(2, [0.4, 0.45], 0.4228733, -118.18319), (3, [0.48, 0.5], 0.4895404, -102.12993)],
)
def test_codes_are_lost_in_a_first_order_transition(depth, taus, place, phi):
    """tau_c is 0.43 and 0.49 in the reduced theory; on both sides the solver reports the branch with the larger Phi."""
    diagram = mf.sweep(mf.Network("sigmoid", depth), BINARY, tau=taus, progress=False)
    (found,) = diagram.transitions()
    assert (found.kind, found.parameter, found.before, found.after) == ("first order", "tau", ("coding",), ())
    curves = [line for line in diagram.plot().lines if len(line.get_xdata()) > 2]
    assert curves
    assert all(np.isnan(y[np.searchsorted(x, found.value)]) for x, y in (c.get_data() for c in curves))
    assert found.value == pytest.approx(place, abs=1e-6)
    assert found.width < 1e-8
    assert f"Phi = {phi}" in found.label
    names = []
    for tau in (found.value - 1e-5, found.value + 1e-5):  # Phi of both agree to 1e-5
        post = mf.solve(mf.Network("sigmoid", depth), BINARY, tau)
        (rival,) = post.certificate.branches
        assert 0.0 < post.free_energy - rival.free_energy < 0.01
        names.append(rival.name)
    assert names == ["uncoded", "coding"]


def test_a_branch_that_ends_beyond_its_transition(monkeypatch):
    """Codes end at tau = 0.682, and are followed from 0.62 to 0.685 first; the value is that of solves on both sides.

    Where nothing can be followed that is said, with the interval, and the rest of the sweep is still looked through.
    """
    diagram = mf.sweep(mf.Network("sigmoid", 2, readout_exponent=0.8), BINARY, tau=[0.62, 0.75], progress=False)
    monkeypatch.setattr(first_order, "_SHORTEST", 0.1)
    (found,) = diagram.transitions()
    assert found.value == pytest.approx(0.629012865, abs=1e-8)
    assert "Phi = -79.425379" in found.label
    monkeypatch.setattr(first_order, "newton", lambda system, x, *_, **__: Found(x, 1.0, None, 0))
    with pytest.warns(RuntimeWarning, match=r"between tau = 0\.62 and 0\.75 .* the coding branch was lost"):
        assert diagram.transitions() == ()


def test_planes_of_many_samples_have_curves_where_weights_vanish():
    """Code 111 enters at y_- = 7/2 - sqrt(10) at tau = 0; where it has one neuron in a thousand is 1.3e-3 beyond."""
    diagram = mf.sweep(NETWORK, ONE_HOT, tau=[0.0, 0.05], off=np.linspace(0.2, 0.6, 5), progress=False)
    (curve,) = diagram.boundaries()
    places = {point.parameters["tau"]: point.parameters["off"] for point in curve.points}
    assert places[0.0] == pytest.approx(3.5 - math.sqrt(10.0), abs=1e-5)
    (transition,) = diagram.row(0, 1).transitions()
    assert places[0.05] == pytest.approx(transition.value, abs=1e-5)


def test_the_sharpness_of_codes_is_refused_in_words_at_infinitely_many_samples():
    with pytest.raises(ValueError, match="not there at P = infinity, where neurons are a sum of deltas"):
        mf.solve(NETWORK, BINARY.with_(n_samples=math.inf)).separation(1)


def test_picture_of_branches():
    """At tau = .6 both starts lead to the solution that continues the prior: codes have ended before."""
    diagram = mf.sweep(NETWORK, BINARY, tau=[0.4, 0.6], progress=False)
    (branch,) = diagram.posterior(0).certificate.branches
    assert branch.name == "uncoded"
    assert not diagram.posterior(0).certificate.continues_prior
    assert diagram.posterior(1).certificate.continues_prior
    ax = plot.plot_branches(diagram)
    shown = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert shown["coding"] == [diagram.objective[0]]
    np.testing.assert_array_equal(shown["reported"], diagram.objective)
    np.testing.assert_allclose(shown["uncoded"], [branch.free_energy / 100, diagram.objective[1]])
    with pytest.raises(ValueError, match="only deep networks"):
        plot.plot_branches(mf.sweep(mf.Network("sigmoid"), ONE_HOT, off=[0.2], progress=False))
    plt.close("all")
