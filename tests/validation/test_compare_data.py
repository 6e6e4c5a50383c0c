"""Theory against networks sampled on data: kernels, readouts, codes, and the predictor with its variance."""

from dataclasses import replace

import numpy as np
import pytest
from margins import MAX_Z, below, beyond
from problems import fixed_rng

import meanfield as mf
from meanfield.sampling.expected import expected, theory_patterns
from meanfield.sampling.statistics import as_draws

TAU = 0.05


@pytest.fixture(scope="module")
def images():
    """Three classes of 12 noisy copies of one pattern each, and new ones."""
    rng = fixed_rng(0)
    patterns = rng.standard_normal((3, 40))
    X = 0.6 * np.repeat(patterns, 12, axis=0) + 0.8 * rng.standard_normal((36, 40))
    new = 0.6 * np.repeat(patterns, 2, axis=0) + 0.8 * rng.standard_normal((6, 40))
    return mf.data_task(X, labels=np.repeat([0, 1, 2], 12), on=1.0, off=0.0), new


def compared(name, images, width, **more):
    task, new = images
    network = mf.Network(name)
    posterior = mf.solve(network, task, TAU)
    chains = mf.sample(
        network, task, width, TAU, draws=120, warmup=150, thin=2, chains=4, rng=1, inputs=new, progress=False, **more
    )
    return posterior, chains


@pytest.mark.statistical
def test_linear_network_on_data(images):
    """Closed form; at two widths, since 1/N is seen."""
    found = []
    for width in (50, 100):
        posterior, chains = compared("linear", images, width)
        found.append(mf.compare(posterior, chains, inputs=images[1]))
    groups = {row.group for row in found[0].tested}
    assert groups == {"residual", "kernel", "readout", "predictor"}
    trend = mf.finite_size_trend(found)
    assert below(trend.max_z, MAX_Z)
    assert trend.passed()
    predictor = mf.compare(posterior, chains, statistics=["predictor"], inputs=images[1])
    assert len(predictor.tested) == 36
    assert "elements" not in predictor.table()  # 18 predictions and 18 variances: short enough to be listed


@pytest.mark.statistical
def test_sigmoid_network_on_data(images):
    posterior, chains = compared("sigmoid", images, 100, start="annealed")
    comparison = mf.compare(posterior, chains, inputs=images[1])
    rows = {row.name: row for row in comparison.rows}
    assert {row.group for row in comparison.tested} >= {"residual", "kernel", "readout", "codes", "predictor"}
    assert any("of each chain" in note for note in comparison.notes)
    for name in ("residual", "prediction", "prediction variance times N"):
        own = [row for row in comparison.tested if row.name.startswith(f"{name} [")]
        # of order 1/N, and the theory on data is approximate itself
        systematic = 0.03 * max(abs(row.theory) for row in own)
        assert below([(row.sample - row.theory) / np.hypot(row.standard_error, systematic) for row in own], what=name)
    for name, limit in (("kernel between samples [1,2]", 0.05), ("prediction [1,1]", 0.1)):
        assert below(rows[name].sample / rows[name].theory - 1, limit, name)


def test_every_chain_has_the_theory_at_its_own_fractions(images):
    posterior = mf.solve(mf.Network("sigmoid"), images[0], TAU)
    chains = mf.sample(mf.Network("sigmoid"), images[0], 20, TAU, draws=8, warmup=20, chains=2, rng=2, progress=False)
    draws, patterns = as_draws(chains), theory_patterns(posterior)
    words = [int(pattern, 2) for pattern in patterns]
    shares = np.zeros((3, 8))
    shares[0, words] = shares[2, words] = 1.0 / len(words)
    shares[1, words[1:]] = 1.0 / (len(words) - 1)  # no neuron has the first code
    values = expected(posterior, draws, patterns, shares, images[1])
    label = next(code.label for code in posterior.codes if code.pattern == patterns[0])
    assert values["residual"].shape == (3, 3, 3)
    assert np.isfinite(values[f"readout {label}"]).all(axis=1).tolist() == [True, False, True]
    for chain in range(3):
        alone = expected(posterior, draws, patterns, shares[[chain]], images[1])
        for name, value in alone.items():
            if np.ndim(value):
                assert np.array_equal(values[name][chain], value[0]), name
    assert np.abs(values["residual"][0] - values["residual"][1]).max() > 1e-4


@pytest.mark.statistical
def test_wrong_theories_and_other_data_are_refused_or_caught(images):
    posterior, chains = compared("linear", images, 200)
    task = images[0]
    other = mf.data_task(task.inputs + 0.01, Y=task.targets, labels=None)
    with pytest.raises(ValueError, match="differ"):
        mf.compare(mf.solve(mf.Network("linear"), other, TAU), chains)
    with pytest.raises(ValueError, match="a ClassTask, the samples for a DataTask"):
        mf.compare(mf.solve(mf.Network("linear"), mf.class_task(n_classes=3), TAU), chains)
    wrong = replace(posterior, solution=replace(posterior.solution, t=1.2 * posterior.solution.t))
    right = mf.compare(posterior, chains, statistics=["residual"])
    assert below(right.max_z, MAX_Z)
    assert beyond(mf.compare(wrong, chains, statistics=["residual"]).max_z, MAX_Z)
    assert not any(row.group == "predictor" and row.tested for row in mf.compare(posterior, chains).rows)
