"""Chains of networks on data against the theory, each with the numbers of neurons per code that it froze into."""

from __future__ import annotations

import numpy as np
from scipy.stats import ttest_1samp


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
                "stray": 1 - fractions.sum(),
                "theory": mean,
                "sample": chains.prediction[c].mean(axis=0),
                "t": frozen.order_parameters["t"],
                "residual": chains.residual[c].mean(axis=0) / chains.tau,
                "variance": variance,
                "sample_variance": chains.prediction[c].var(axis=0, ddof=1),
            }
        )
    return rows


def places(rows, lazy):
    """Where on the line from the lazy (0) to the non-lazy outputs (1) sampled networks sit."""
    ways = [row["theory"] - lazy for row in rows]
    return [np.sum((row["sample"] - lazy) * way) / np.sum(way**2) for row, way in zip(rows, ways)]


def slopes(rows):
    """Of residual / tau on t, sample by sample."""
    return [np.sum(row["t"] * row["residual"]) / np.sum(row["t"] ** 2) for row in rows]


def agrees(values, expected, noticed):
    """Whether the mean over chains is `expected` (t test between chains), while `noticed` more or less would not pass.

    `noticed` is relative. Sampled networks differ from the theory by O(1/N) besides.
    """
    same, less, more = (
        ttest_1samp(values, place).pvalue for place in (expected, expected * (1 - noticed), expected * (1 + noticed))
    )
    return same > 1e-4 > max(less, more)
