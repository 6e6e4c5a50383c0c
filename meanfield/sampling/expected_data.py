"""What the theory predicts for observables of networks sampled on data: `expected` for a `DataPosterior`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from meanfield.sampling.statistics import Draws
from meanfield.validation import FloatArray

if TYPE_CHECKING:
    from meanfield.posterior.data_posterior import DataPosterior

__all__ = ["expected_on_data"]


def expected_on_data(
    posterior: DataPosterior, draws: Draws, patterns: Sequence[str], shares: FloatArray | None, inputs: Any
) -> dict[str, Any]:
    """Values of `statistics.observables`, by name; with a leading axis for the chains where they differ.

    Fractions of codes that are frozen in the chains enter through `DataPosterior.frozen`, one solution for every chain.

    Parameters
    ----------
    posterior : DataPosterior
    draws : Draws
    patterns : sequence of str
    shares : (k, 2^C) array or None
        Fractions of the code words in every chain; None for the equilibrium.
    inputs : raw inputs or None
        Where the predictor was recorded.

    Raises
    ------
    ConvergenceError
        If there is no solution at the fractions of some chain.
    """
    values: dict[str, Any] = {}
    for code in posterior.codes:  # the equilibrium, whatever the fractions are
        if code.pattern in patterns:
            name = f"fraction {code.label}"
            values[name] = values.get(name, 0.0) + np.float64(code.weight)
    if shares is None:
        return values | _observables(posterior, draws, patterns, inputs)
    distinct, chain = np.unique(shares, axis=0, return_inverse=True)
    found = [
        _observables(posterior.frozen(_fractions(posterior, share)), draws, patterns, inputs) for share in distinct
    ]
    for name, value in {name: value for one in found for name, value in one.items()}.items():
        # A chain without neurons of a code has no theory for it either.
        missing = np.full(np.shape(value), np.nan)
        values[name] = np.stack([found[i].get(name, missing) for i in chain.ravel()])
    return values


def _observables(posterior: DataPosterior, draws: Draws, patterns: Sequence[str], inputs: Any) -> dict[str, Any]:
    """Values of the observables under this posterior, by name."""
    values: dict[str, Any] = {}
    indicator = np.eye(draws.counts.size)[draws.labels] / draws.counts  # (P, C), columns sum to 1
    values["residual"] = indicator.T @ posterior.residual
    values |= _kernel(np.asarray(posterior.kernel()), indicator, draws.counts)
    for code in posterior.codes:
        same = [other for other in posterior.codes if other.pattern == code.pattern]
        if code.pattern in patterns and len(same) == 1:
            values[f"readout {code.label}"] = code.readout
            values[f"activation {code.label}"] = code.activation
            if code.covariance is not None:
                values[f"covariance {code.label}"] = code.covariance
    if posterior.scheme != "lazy":
        mean = sum((code.weight * code.readout for code in posterior.codes), np.zeros(posterior.task.n_outputs))
        values["readout mean"] = mean
        values["readout second moment"] = posterior.readout_covariance + np.outer(mean, mean)
    if inputs is not None:
        mean, variance = posterior.predict(inputs, variance=True, width=draws.width)
        values |= {"prediction": mean, "prediction variance times N": draws.width * np.asarray(variance)}
    return values


def _fractions(posterior: DataPosterior, shares: FloatArray) -> FloatArray:
    """Fractions in the order of the codes of the theory; codes of the same pattern share as in equilibrium."""
    weight = np.array([code.weight for code in posterior.codes])
    patterns = [code.pattern for code in posterior.codes]
    total = {pattern: sum(weight[i] for i, other in enumerate(patterns) if other == pattern) for pattern in patterns}
    found = np.array([shares[int(p, 2)] * w / total[p] for p, w in zip(patterns, weight, strict=True)])
    return np.asarray(found / found.sum())


def _kernel(kernel: FloatArray, indicator: FloatArray, counts: Any) -> dict[str, FloatArray]:
    """Class means of a (P, P) kernel, over pairs of different samples and on the diagonal."""
    block, diagonal = indicator.T @ kernel @ indicator, indicator.T @ np.diag(kernel)
    own = np.diag_indices(len(block))
    block[own] = (counts * block[own] - diagonal) / np.maximum(counts - 1, 1)
    return {"kernel between samples": block, "kernel diagonal": diagonal}
