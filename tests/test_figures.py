"""The gallery of figures: names, panels, command line. The figures themselves are drawn by notebooks/paper.ipynb."""

import importlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.integrate import quad

import meanfield as mf
from meanfield.cli.main import main
from meanfield.figures import FIGURES, Drawing, Scale, digits, draw, runs, three_layers
from meanfield.figures.gallery import FULL_SECONDS
from meanfield.figures.panels import (
    draw_activations,
    draw_kernel_matrix,
    draw_readouts,
    marginal,
    mean_kernel,
    network_of,
    strongest,
)
from meanfield.figures.runs import Runs, effort, sampled, solved
from meanfield.sampling import hmc


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def posterior():
    task = mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.5, n_samples=16)
    return mf.solve(mf.Network("sigmoid"), task, tau=0.1)


@pytest.fixture(scope="module")
def chains(posterior):
    options = {"draws": 8, "warmup": 10, "thin": 1, "chains": 2, "progress": False, "start": posterior}
    return mf.sample(posterior.network, posterior.task, 24, 0.1, rng=0, **options)


def test_every_name_has_a_module_that_draws():
    for module, what in FIGURES.values():
        assert callable(importlib.import_module(f"meanfield.figures.{module}").draw)
        assert what


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="there is no figure 'fig9'; there are fig1"):
        draw("fig9")
    with pytest.raises(ValueError, match=r"there is no figure \['fig1'\]"):
        draw(["fig1"])
    with pytest.raises(ValueError, match=r"scale must be a Scale, of meanfield\.figures, got 'full'"):
        draw("drift", "full")


@pytest.mark.parametrize("output", [0, 1])
def test_the_marginal_of_a_readout_is_that_of_the_joint_density(posterior, output):
    grid = np.linspace(-4, 5, 4001)
    density = marginal(posterior, output, grid)
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-6)
    mean = sum(code.weight * code.readout[output] for code in posterior.codes)
    assert np.trapezoid(grid * density, grid) == pytest.approx(mean, abs=1e-6)
    second = posterior.readout_covariance[output, output] + mean**2
    assert np.trapezoid(grid**2 * density, grid) == pytest.approx(second, rel=1e-5)


def test_the_marginal_of_a_linear_network_is_gaussian():
    found = mf.solve(mf.Network("linear"), mf.class_task(n_classes=2, n_samples=20))
    variance = float(found.readout_covariance[0, 0])
    total = quad(lambda a: float(a**2 * marginal(found, 0, np.array([a]))[0]), -20, 20)[0]
    assert total == pytest.approx(variance, rel=1e-8)


def test_a_sampled_network_is_named_by_its_codes(chains):
    neurons = network_of(chains)
    means = chains.class_activations()[0]
    for code, row in zip(neurons.code, means, strict=True):
        assert neurons.part_names[code] == "-".join(str(int(x > 0.5)) for x in row)
    np.testing.assert_array_equal(neurons.activations, chains.activations()[0])
    power = (neurons.activations**2).mean(axis=1)
    assert power[strongest(neurons, 3)].tolist() == sorted(power.tolist(), reverse=True)[:3]


def test_neurons_are_shown_by_code_and_signs_upright(chains):
    neurons = network_of(chains)
    by_code, by_activity = (plt.figure().add_subplot() for _ in range(2))
    draw_activations(by_code, neurons)
    draw_activations(by_activity, neurons, strongest(neurons, 5))
    rows = np.argsort(-neurons.code, kind="stable")
    columns = np.argsort(neurons.labels, kind="stable")
    np.testing.assert_array_equal(by_code.images[0].get_array(), neurons.activations[np.ix_(rows, columns)])
    assert by_activity.images[0].get_array().shape[0] == 5
    borders = np.unique(neurons.code).size - 1
    assert len(by_code.lines) - len(by_activity.lines) == borders
    for names, turn in ((("+", "−"), 0), (("1", "2"), 90)):
        ax = plt.figure().add_subplot()
        draw_kernel_matrix(ax, mean_kernel(chains), chains.labels % 2, names)
        assert [label.get_rotation() for label in ax.get_yticklabels()] == [turn, turn]


def test_what_remains_is_a_line_through_two_widths_and_a_parabola_through_three(posterior):
    made = [
        mf.sample(posterior.network, posterior.task, n, 0.1, rng=n, start=posterior, draws=20, warmup=10, chains=2)
        for n in (16, 24, 32)
    ]
    compared = [mf.compare(posterior, one) for one in made]
    assert "a line in 1/N through N = 16, 24:" in Runs(tuple(made[:2]), tuple(compared[:2])).said
    parabola = Runs(tuple(made), tuple(compared))
    assert parabola.trend.order == 2
    assert "a parabola in 1/N through N = 16, 24, 32: max |z| = " in parabola.said


def test_a_panel_of_readouts(posterior, chains):
    ax = plt.figure().add_subplot()
    draw_readouts(ax, chains.readout[..., 0].ravel(), posterior, 0)
    assert len(ax.patches) == 60
    np.testing.assert_allclose(ax.lines[0].get_ydata(), marginal(posterior, 0, ax.lines[0].get_xdata()))


def test_a_drawing_reports_what_agrees(posterior, chains):
    comparison = mf.compare(posterior, chains)
    drawing = Drawing("fig4", plt.figure(), (comparison,), ("said",))
    assert drawing.max_z == comparison.max_z
    assert "N = 24, P = 16" in drawing.report()
    assert drawing.report().endswith("  said")
    assert np.isnan(Drawing("fig4", plt.figure()).max_z)
    assert (Scale().size(1, 2), Scale(full=True).size(1, 2)) == (1, 2)


def test_the_command_draws_and_reports(tmp_path, capsys, monkeypatch):
    module = importlib.import_module("meanfield.figures.stability")
    monkeypatch.setattr(module, "draw", lambda name, scale: Drawing(name, plt.figure(), (), (f"seed {scale.seed}",)))
    assert main(["figures", "--only", "drift", "--seed", "3", "--output", str(tmp_path / "out")]) == 0
    assert "seed 3" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["drift.pdf", "drift.png", "figures.txt"]
    assert main(["figures", "--only", "fig9", "--output", str(tmp_path)]) == 2
    assert "there is no figure 'fig9'" in capsys.readouterr().err
    assert main(["figures", "--seed", "-1", "--output", str(tmp_path)]) == 2
    assert main(["figures", "--data", str(tmp_path / "nowhere"), "--output", str(tmp_path)]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err


def test_another_nonlinearity_is_for_the_figure_that_takes_one(tmp_path, capsys, monkeypatch):
    seen = []

    def fake(name, scale):
        seen.append(scale.activation.name)
        return Drawing(name, plt.figure())

    monkeypatch.setattr(importlib.import_module("meanfield.figures.coding_transitions"), "draw", fake)
    folder = str(tmp_path / "out")
    assert main(["figures", "--only", "fig5", "--activation", "tanh", "--output", folder]) == 0
    assert seen == ["tanh"]
    for wrong in (["--activation", "tanh"], ["--only", "fig5", "--activation", "nonsense"]):
        assert main(["figures", *wrong, "--output", folder]) == 2
    assert "--only fig5" in capsys.readouterr().err
    with pytest.raises(ValueError, match="fig4"):
        draw("fig4", Scale(activation="tanh"))


def test_full_figures_say_how_long_they_take_and_reports_stay(tmp_path, capsys, monkeypatch):
    def fake(name, scale):
        scale.say(f"chains of {name} go to {scale.kept.name}")
        return Drawing(name, plt.figure(), (), (f"seed {scale.seed}",))

    monkeypatch.setattr(importlib.import_module("meanfield.figures.stability"), "draw", fake)
    monkeypatch.setattr(importlib.import_module("meanfield.figures.sparse"), "draw", fake)
    folder = str(tmp_path / "out")
    assert main(["figures", "--full", "--only", "drift", "sparse", "--output", folder]) == 0
    told = capsys.readouterr().err
    assert "min for 1 more" in told
    assert "chains of drift go to chains" in told
    assert main(["figures", "--full", "--only", "drift", "--seed", "5", "--output", folder]) == 0
    text = (tmp_path / "out" / "figures.txt").read_text(encoding="utf-8")
    assert [line.split(":")[0] for line in text.splitlines() if line and line[0] != " "] == ["sparse", "drift"]
    assert "seed 5" in text
    assert "seed 0" in text
    assert set(FULL_SECONDS) == set(FIGURES)


def test_who_stops_a_full_figure_hears_that_it_goes_on(tmp_path, capsys, monkeypatch):
    def stopped(name, scale):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("meanfield.figures.stability"), "draw", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(["figures", "--full", "--only", "drift", "--output", str(tmp_path / "out")])
    assert "stopped in drift; the same command goes on" in capsys.readouterr().err


def test_full_runs_go_on_until_errors_are_known_and_are_found_again(posterior, tmp_path, monkeypatch):
    told = []
    scale = Scale(full=True, kept=tmp_path / "chains", told=told.append)
    monkeypatch.setattr(runs, "ROUNDS", 3)
    monkeypatch.setattr(runs, "_SHARE", 2.0)  # never enough
    how = effort(scale, draws=(4, 8), warmup=(5, 10), thin=1, chains=(1, 2))
    first = sampled(posterior, [24], scale, how)
    assert first.widest.readout.shape[:2] == (2, 24)
    assert first.widest.settings["draws"] == first.widest.n_draws == 24
    assert [line for line in told if "degrees of freedom: round" in line][-1].endswith("round 3")
    assert len(list(scale.kept.iterdir())) == 6
    chain = mf.sample(
        posterior.network, posterior.task, 24, 0.1, rng=0, start=posterior, draws=8, warmup=10, chains=2, progress=False
    )
    np.testing.assert_array_equal(first.widest.readout[:, :8], chain.readout)
    np.testing.assert_array_equal(first.widest.state_first, chain.state_first)

    def sampled_again(self):
        raise AssertionError("chains that were kept are sampled again")

    monkeypatch.setattr(hmc._Chain, "advance", sampled_again)
    again = sampled(posterior, [24], scale, how)
    np.testing.assert_array_equal(again.widest.energy, first.widest.energy)
    monkeypatch.setattr(runs, "_SHARE", 0.0)
    assert sampled(posterior, [24], scale, how).widest.n_draws == 8


def test_small_runs_have_one_round_and_keep_nothing(posterior, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_SHARE", 2.0)
    monkeypatch.chdir(tmp_path)
    found = sampled(posterior, [24], Scale(), effort(Scale(), draws=(4, 8), warmup=(5, 9), thin=1, chains=(1, 2)))
    assert found.widest.readout.shape[:2] == (1, 4)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["classes", "data"])
def test_solutions_of_full_runs_are_kept(kind, tmp_path, monkeypatch):
    scale, network = Scale(full=True, kept=tmp_path), mf.Network("linear")
    task = mf.class_task(n_classes=2, n_samples=20)
    if kind == "data":
        task = mf.data_task(np.random.default_rng(0).standard_normal((6, 9)), np.arange(6.0), center=False)
    found = solved(scale, network, task, 0.02)
    monkeypatch.setattr(runs, "solve", None)
    again = solved(scale, network, task, 0.02)
    np.testing.assert_array_equal(again.solution.t, found.solution.t)
    with pytest.raises(TypeError, match="not callable"):
        solved(scale, network, task, 0.03)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"broken")
    with pytest.raises(TypeError, match="not callable"):  # solved again
        solved(scale, network, task, 0.02)


def test_at_a_temperature_a_deep_linear_network_misses_its_targets_by_tau_t(tmp_path, monkeypatch):
    """Depth 1 has a theory of its own at tau > 0; the iteration must agree with it, and hold at depth 2."""
    rng = np.random.default_rng(0)
    task = mf.data_task(rng.standard_normal((12, 30)), rng.standard_normal((12, 2)), center=False)
    direct = mf.solve(mf.Network("linear"), task, tau=0.01)
    found = digits._at_temperature(direct.network, task, 0.01, Scale())
    np.testing.assert_allclose(found.readout_covariance, direct.readout_covariance, rtol=1e-8)
    np.testing.assert_allclose(found.residual, direct.residual, atol=1e-9)
    new = rng.standard_normal((5, 30))
    np.testing.assert_allclose(found.predict(new), direct.predict(new), atol=1e-9)
    deep = digits._at_temperature(mf.Network("linear", depth=2), task, 0.01, kept := Scale(kept=tmp_path))
    monkeypatch.setattr(digits, "_given_outputs", _refused := lambda *_: pytest.fail("solved again"))
    _refused.__name__ = "_given_outputs"
    again = digits._at_temperature(mf.Network("linear", depth=2), task, 0.01, kept)
    np.testing.assert_array_equal(again.readout_covariance, deep.readout_covariance)
    assert (again.tau, again.task) == (0.01, task)
    outputs = deep.network.readout_variance(12) * deep.kernel(layer=2).elements @ deep.solution.t
    np.testing.assert_allclose(outputs + 0.01 * deep.solution.t, task.targets, atol=1e-8)


def test_where_the_outputs_do_not_settle_nothing_is_drawn():
    task = mf.data_task(np.eye(4)[:, :2] * 1e-2 + np.ones((4, 2)), np.arange(4.0), center=False, scale=None)
    with pytest.raises((mf.ConvergenceError, ValueError)):
        digits._at_temperature(mf.Network("linear", depth=2), task, 1.0, Scale())


def test_statistics_without_a_theory_are_left_out(posterior, chains):
    comparison = mf.compare(posterior, chains)
    runs = Runs((chains,), (comparison,)).without("kernel")
    left = [row.name for row in runs.comparisons[0].rows]
    assert left == [row.name for row in comparison.rows if not row.name.startswith("kernel")]
    assert len(left) < len(comparison.rows)


def test_halves_of_two_kernels():
    labels = np.array([1, 0, 1])
    both = three_layers._halves(np.full((3, 3), 2.0), np.full((3, 3), 1.0), labels)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(both[np.ix_(order, order)], np.where(np.triu(np.ones((3, 3)), 1), 2.0, 1.0))
    assert three_layers._contrast(np.array([[1.0, 0.2], [0.2, 1.0]]), np.array([1.0, 3.0])) == pytest.approx(0.4)
    assert three_layers._contrast(np.ones((2, 2)), np.ones(2)) == 0.0
