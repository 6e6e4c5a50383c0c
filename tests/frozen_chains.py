"""Chains of networks on data against the theory, each with the numbers of neurons per code that it froze into."""

from __future__ import annotations

import numpy as np
from margins import below, beyond
from scipy.stats import binom


def compared(posterior, chains, inputs):
    """Per chain: outputs on new inputs, order parameters and variances of theory and sample."""
    width = chains.width
    patterns = [code.pattern for code in posterior.codes]
    rows = []
    for c in range(len(chains.prediction)):
        active = chains.class_activation[c].mean(axis=0) > posterior.network.activation.midpoint
        found = ["".join("1" if x else "0" for x in neuron) for neuron in active]
        fractions = np.array([found.count(pattern) for pattern in patterns]) / width
        frozen = posterior.frozen(fractions)
        mean, variance = frozen.predict(inputs, variance=True, width=width)
        rows.append(
            {
                "fractions": fractions,
                "theory": mean,
                "sample": chains.prediction[c].mean(axis=0),
                "t": frozen.order_parameters["t"],
                "residual": chains.residual[c].mean(axis=0) / chains.tau,
                "variance": variance,
                "sample_variance": chains.prediction[c].var(axis=0, ddof=1),
            }
        )
    return rows


def without_code(theory, rows, width):
    """Whether no chain has more neurons that follow none of the codes than the theory allows.

    Of 20,000 neurons of the theory n do so; with n + 3 for n (2 sigma of the Poisson law of none), more than the limit
    are found in a chain once in a million. A theory that lacks a code has to be noticed in every chain where the code
    is common: where chance leaves it no more neurons than the limit less than once in a million, at its weight.
    """
    neurons = theory.sample_neurons(20_000, rng=0)
    labels, middle = np.asarray(theory.task.labels), theory.network.activation.midpoint
    active = np.stack([neurons.activations[:, labels == c].mean(axis=1) > middle for c in np.unique(labels)], axis=1)
    patterns = [[digit == "1" for digit in code.pattern] for code in theory.codes]
    stray = np.sum(~(active[:, None] == patterns).all(axis=2).any(axis=1))
    most = binom.isf(1e-6, width, (stray + 3) / 20_000)
    limit = (most + 0.5) / width
    fractions = np.array([row["fractions"] for row in rows])
    common = binom.cdf(most, width, [code.weight for code in theory.codes]) < 1e-6
    assert common.sum() > 1
    lacking = (1 - fractions.sum(axis=1))[:, None] + fractions[:, common]
    return below(1 - fractions.sum(axis=1), limit, "stray") and beyond(lacking, limit, "stray without a code")


def places(rows, lazy):
    """Where on the line from the lazy (0) to the non-lazy outputs (1) sampled networks sit."""
    ways = [row["theory"] - lazy for row in rows]
    return [np.sum((row["sample"] - lazy) * way) / np.sum(way**2) for row, way in zip(rows, ways)]


def slopes(rows):
    """Of residual / tau on t, sample by sample."""
    return [np.sum(row["t"] * row["residual"]) / np.sum(row["t"] ** 2) for row in rows]


def agrees(values, expected, noticed):
    """Whether the mean over chains is within half of `noticed` (relative) of `expected`: an error of `noticed` shows.

    Half of `noticed` holds O(1/N), by which sampled networks differ from the theory, and six standard errors. That the
    chains are many and long enough for it is checked up to six times the scatter of a standard error of so few.
    """
    values = np.asarray(values) / expected
    error = values.std(ddof=1) / np.sqrt(len(values))
    scatter = 1 / np.sqrt(2 * (len(values) - 1))
    most = (1 + 6 * scatter) * noticed / 12
    return below(values.mean() - 1, noticed / 2, "mean - 1") and below(error, most, "its standard error")
