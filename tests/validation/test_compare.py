"""The comparison agrees with a right theory once 1/N is extrapolated away, and fails loudly for a wrong one."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from margins import MAX_Z, below, beyond

import meanfield as mf
from meanfield.sampling.compare import STATISTICS


@pytest.fixture(scope="module")
def comparisons(problem, chains):
    return [mf.compare(problem[2], found) for found in chains.values()]


def trend_of(posterior, chains):
    return mf.finite_size_trend(mf.compare(posterior, found) for found in chains.values())


# ---- a right theory ------------------------------------------------------------------------------------------------


@pytest.mark.statistical
def test_right_theory_agrees_after_extrapolation(comparisons):
    trend = mf.finite_size_trend(comparisons)
    assert len(trend.rows) > 60
    assert below(trend.max_z, MAX_Z)
    assert trend.passed()


@pytest.mark.statistical
def test_residuals_agree_already_at_finite_width(problem, chains):
    """To a thousandth of the targets; two standard errors of that (2e-4) are of order 1/N, so z would not do."""
    comparison = mf.compare(problem[2], chains[100], statistics=["residual"])
    assert len(comparison.rows) == 9
    assert below(max(abs(row.sample - row.theory) for row in comparison.rows), 1.2e-3, "deviation")


@pytest.mark.statistical
def test_deviations_shrink_like_one_over_n(comparisons):
    """Sum of all clear deviations at N = 100 over those at N = 50: 1/2 within its error."""
    trend = mf.finite_size_trend(comparisons)
    clear = [row for row in trend.rows if abs(row.deviation[0]) > 6 * row.standard_error[0]]
    assert len(clear) >= 5
    ratio = np.array([row.deviation[1] / row.deviation[0] for row in clear])
    error = np.array([np.hypot(*(row.standard_error / row.deviation[0])) for row in clear])
    weight = error**-2.0 / np.sum(error**-2.0)
    assert below(weight @ ratio - 0.5, 0.12, "ratio - 0.5")


@pytest.mark.statistical
def test_codes_have_the_readouts_and_covariances_of_the_theory(comparisons):
    """Within the O(1/N) deviation, in absolute terms."""
    rows = {row.name: row for row in comparisons[1].rows}
    for output, value in enumerate(problem_readout(comparisons[1].posterior)):
        assert below(rows[f"readout 1-1-0 [{output + 1}]"].sample - value, 0.04, "readout")
    row = rows["covariance 1-1-0 [1,1]"]
    assert below(row.sample / row.theory - 1, 0.1, "covariance")


def problem_readout(posterior):
    return next(code.readout for code in posterior.codes if code.pattern == "110")


# ---- wrong theories ------------------------------------------------------------------------------------------------


@pytest.mark.statistical
def test_t_off_by_five_percent_is_caught(problem, chains):
    posterior = problem[2]
    wrong = replace(posterior, solution=replace(posterior.solution, t=1.05 * posterior.solution.t))
    single = mf.compare(wrong, chains[100], statistics=["residual"])
    assert not single.passed()
    assert beyond(single.max_z, MAX_Z)
    trend = trend_of(wrong, chains)
    assert beyond(trend.max_z, MAX_Z, "planted |z| of the trend")
    assert not trend.passed()


@pytest.mark.statistical
def test_sigma_a_off_by_ten_percent_is_caught(problem, chains):
    network, task, _ = problem
    other = mf.solve(network.with_(sigma_a=1.1), task, 0.02)
    wrong = replace(other, network=network)  # it claims to be the theory of the network that was sampled
    single = mf.compare(wrong, chains[100], statistics=["residual"])
    assert not single.passed()
    assert beyond(single.max_z, MAX_Z)
    trend = trend_of(wrong, chains)
    assert beyond(trend.max_z, MAX_Z, "planted |z| of the trend")
    assert not trend.passed()


@pytest.mark.statistical
def test_tau_off_by_ten_percent_is_caught(problem):
    network, task, _ = problem
    wrong = replace(mf.solve(network, task, 0.022), tau=0.02)
    # Where chains disagree by chance, the scatter of their means counts: of four it shows nothing, of 24 enough.
    options = {"draws": 100, "chains": 24, "warmup": 150, "thin": 3, "start": problem[2], "progress": False}
    many = mf.sample(network, task, 100, 0.02, rng=0, **options)
    single = mf.compare(wrong, many, statistics=["residual"])
    assert not single.passed()
    assert beyond(single.max_z, MAX_Z)


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_theory_of_another_problem_is_refused(problem, chains):
    network, task, posterior = problem
    run = chains[50]
    cases = {
        "P = inf": mf.solve(network, task.with_(n_samples=np.inf), 0.02),
        "P = 64": mf.solve(network, task.with_(n_samples=64), 0.02),
        "tau = 0.03": mf.solve(network, task, 0.03),
        "off=0.4": mf.solve(network, task.with_(off=0.4), 0.02),
        "sigma_a=1.1": mf.solve(network.with_(sigma_a=1.1), task, 0.02),
    }
    for text, other in cases.items():
        with pytest.raises(ValueError, match=text):
            mf.compare(other, run)
    with pytest.raises(ValueError, match="statistics must be some of residual"):
        mf.compare(posterior, run, statistics=["loss"])
    with pytest.raises(ValueError, match="fractions must be"):
        mf.compare(posterior, run, fractions="frozen")
    with pytest.raises(ValueError, match="do not exist"):
        mf.compare(posterior, run, statistics=["outliers"])


def test_trends_need_different_widths(comparisons):
    for given in ([], comparisons[:1], [comparisons[0]] * 2):
        with pytest.raises(ValueError, match="two or more different widths"):
            mf.finite_size_trend(given)


# ---- what is shown -------------------------------------------------------------------------------------------------


def test_every_registered_statistic_is_compared(comparisons):
    assert {row.group for row in comparisons[0].rows} == set(STATISTICS) - {"outliers", "predictor"}
    names = [row.name for row in comparisons[0].rows]
    assert len(set(names)) == len(names)
    assert "kernel between samples [1,2]" in names
    assert "kernel between samples [2,1]" not in names


def test_equilibrium_fractions(problem, chains):
    """Given P_gamma in place of the fractions of the chains the theory is the same for all chains."""
    comparison = mf.compare(problem[2], chains[100], fractions="equilibrium")
    rows = {row.name: row for row in comparison.rows}
    assert rows["residual [1,1]"].theory == pytest.approx(problem[2].residual[0, 0])
    assert not any("fractions of codes of each chain" in note for note in comparison.notes)


def test_table_and_dictionary(comparisons):
    comparison = comparisons[0]
    table = comparison.table()
    assert "max |z|" in table
    assert "R-hat" in table
    worst = max(comparison.tested, key=lambda row: abs(row.z))
    line = next(line for line in table.splitlines() if line.startswith(f"{worst.name} "))
    assert f"{worst.z:.2f}" in line
    assert line.endswith("*") == (abs(worst.z) >= 5)
    plain = comparison.to_dict()
    assert plain["max_z"] == comparison.max_z == abs(worst.z)
    assert len(plain["rows"]) == len(comparison.rows)
    trend = mf.finite_size_trend(comparisons)
    assert "extrapolated" in trend.table()
    assert repr(trend).startswith("<Trend over N = 50, 100")


def test_figures(comparisons):
    import matplotlib.pyplot as plt

    figure = comparisons[0].plot()
    values, scores, readouts = figure.axes
    drawn = np.concatenate([container.lines[0].get_xydata() for container in values.containers])
    assert len(drawn) == len(comparisons[0].tested)
    assert max(np.abs(line.get_xdata()).max() for line in scores.lines) == pytest.approx(comparisons[0].max_z)
    labels = [text.get_text() for text in readouts.get_legend().get_texts()]
    assert labels == ["1-1-1", "1-1-0", "1-0-1", "0-1-1"]
    trend = mf.finite_size_trend(comparisons).plot()
    assert [tick.get_text() for tick in trend.axes[0].get_xticklabels()] == ["50", "100", r"$\infty$"]
    plt.close("all")


# ---- independence --------------------------------------------------------------------------------------------------


def test_sampling_shares_no_code_with_the_solvers():
    folder = Path(mf.__file__).parent / "sampling"
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                solver = name.startswith(("meanfield.solve", "meanfield.phases.diagram"))
                assert not solver, f"{path.name} imports {name}"
