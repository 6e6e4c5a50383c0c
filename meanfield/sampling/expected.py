"""What the theory predicts for the observables of sampled networks: the same functionals, at the same P and tau.

Fractions of codes that are frozen in the chains enter through `Posterior.frozen`, one solution for every chain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from meanfield.posterior.certificate import UnstableFractions
from meanfield.posterior.division import pattern_of
from meanfield.posterior.parts import Code
from meanfield.posterior.posterior import NotAvailable, Posterior
from meanfield.sampling.statistics import Draws, layer_suffix
from meanfield.validation import FloatArray

__all__ = ["expected", "theory_patterns"]

_MIN_SHARE = 0.02  # codes with less are too rare to be compared one by one

Values = dict[str, FloatArray]  # of the observables, by name


def theory_patterns(posterior: Posterior) -> tuple[str, ...]:
    """Codes (with at least 2 % of the neurons) or outliers that are compared one by one; chosen by the theory alone."""
    if posterior.bulk is not None:
        return tuple(dict.fromkeys(outlier.pattern for outlier in posterior.outliers))
    share: dict[str, float] = {}
    if posterior.task.n_classes == 0:  # data without classes: codes have no patterns
        return ()
    for code in posterior.codes:
        share[code.pattern] = share.get(code.pattern, 0.0) + code.weight
    return tuple(pattern for pattern, weight in share.items() if weight >= _MIN_SHARE)


def expected(
    posterior: Posterior,
    draws: Draws,
    patterns: Sequence[str],
    shares: FloatArray | None = None,
    inputs: object = None,
    left_out: dict[str, float] | None = None,
    width: int | None = None,
    untold: list[str] | None = None,
) -> Values:
    """Values of `statistics.observables`, by name; with a leading axis for the chains where they differ.

    Parameters
    ----------
    posterior : Posterior
    draws : Draws
    patterns : sequence of str
    shares : (k, 2^C) array, optional
        Fractions of all code words in every chain; the equilibrium if left out (and for phi that are not bounded).
    inputs : raw inputs, optional
        Where the predictor was recorded.
    left_out : dict, optional
        Receives, by pattern, the largest share among the chains of the codes that the theory was solved without:
        codes that are not locally stable, of neurons that are just passing from one code to another.
    width : int, optional
        N of networks at which kernels and residuals are given, up to terms of order 1/N^2, and nothing else.
    untold : list of str, optional
        Receives why the codes of neurons that are told as in samples are not known at equilibrium, and are left out.

    Raises
    ------
    ConvergenceError
        If there is no solution at the fractions of some chain, or codes that are not stable have more than 2 % of its
        neurons together.
    """
    values: Values = {}
    try:
        equilibrium = posterior.by_activation(draws.counts)
    except NotAvailable as error:
        equilibrium = posterior
        if untold is not None:
            untold.append(str(error))
    if posterior.bulk is None and width is None and not untold:
        for code in equilibrium.codes:  # the equilibrium, whatever the fractions are
            if code.pattern in patterns:
                name = f"fraction {code.label}"
                values[name] = np.asarray(values.get(name, 0.0) + np.float64(code.weight))
    if shares is None:
        return values | _observables(equilibrium, draws, () if untold else patterns, inputs, width)
    distinct, chain = np.unique(shares, axis=0, return_inverse=True)
    found = []
    for share in distinct:
        fractions = {pattern_of(int(word), draws.counts.size): share[word] for word in np.flatnonzero(share)}
        found.append(_observables(_frozen(equilibrium, fractions, left_out), draws, patterns, inputs, width))
    for name, value in {name: value for one in found for name, value in one.items()}.items():
        # A chain without neurons of a code has no theory for it either.
        missing = np.full(np.shape(value), np.nan)
        values[name] = np.stack([found[i].get(name, missing) for i in chain.ravel()])
    return values


def _frozen(posterior: Posterior, fractions: dict[str, float], left_out: dict[str, float] | None) -> Posterior:
    """The theory at these fractions, without codes that are not locally stable if they are rare."""
    kept = dict(fractions)
    while True:
        try:
            return posterior.frozen(kept)
        except UnstableFractions as error:
            if error.pattern not in kept:
                raise
            del kept[error.pattern]
            dropped = {pattern: float(share) for pattern, share in fractions.items() if pattern not in kept}
            if not kept or sum(dropped.values()) > _MIN_SHARE:
                raise
            if left_out is not None:
                for pattern, share in dropped.items():
                    left_out[pattern] = max(share, left_out.get(pattern, 0.0))


def _observables(
    posterior: Posterior, draws: Draws, patterns: Sequence[str], inputs: object, width: int | None
) -> Values:
    """Values of the observables under this posterior, by name."""
    if width is not None:
        return _at_width(posterior, width)
    residual = np.asarray(posterior.residual)
    if len(residual) != draws.counts.size:
        residual = (np.eye(draws.counts.size)[draws.labels] / draws.counts).T @ residual
    values: Values = {"residual": residual}
    depth = posterior.network.depth
    for layer in range(1, depth + 1):
        kernel, where = posterior.kernel(layer=layer), layer_suffix(layer, depth)
        if not kernel.per_class:
            kernel = replace(kernel, labels=draws.labels)
        values[f"kernel between samples{where}"] = kernel.block
        values[f"kernel diagonal{where}"] = kernel.block_diagonal
        if depth > 1 and kernel.per_class:
            values[f"kernel excess{where}"] = kernel.block_diagonal - np.diag(kernel.block)
    if posterior.network.scaling != "lazy":
        weighted = [code.weight * code.readout for code in posterior.codes if code.weight > 0.0]
        mean = sum(weighted, np.zeros(posterior.task.n_outputs))
        values["readout mean"] = mean
        values["readout second moment"] = posterior.readout_covariance + np.outer(mean, mean)
    if posterior.bulk is None:
        for code in posterior.codes:
            same = [other for other in posterior.codes if other.pattern == code.pattern]
            if code.pattern in patterns and len(same) == 1:
                values |= _of_code(code, code.label)
    else:
        values |= _of_code(posterior.bulk, "bulk")
        for pattern in patterns:
            values |= _of_outliers(posterior, pattern)
    if inputs is not None:
        mean, variance = posterior.predict(inputs, variance=True, width=draws.width)
        values |= {"prediction": mean, "prediction variance times N": draws.width * np.asarray(variance)}
    return values


def _at_width(posterior: Posterior, width: int) -> Values:
    """Those that the theory has at order 1/N."""
    found, depth = posterior.one_loop().at(width), posterior.network.depth
    values: Values = {"residual": posterior.task.targets - found.outputs}
    for layer, (block, own) in enumerate(zip(found.kernel, found.d), 1):
        where = layer_suffix(layer, depth)
        values[f"kernel between samples{where}"] = block
        values[f"kernel diagonal{where}"] = np.diag(block) + own
        values[f"kernel excess{where}"] = own
    return values


def _of_code(code: Code, label: str) -> Values:
    values: Values = {f"readout {label}": code.readout, f"activation {label}": code.activation}
    return values if code.covariance is None else values | {f"covariance {label}": code.covariance}


def _of_outliers(posterior: Posterior, pattern: str) -> Values:
    """Totals over the outliers that share a pattern, as `statistics` forms them over neurons."""
    label, driven = "-".join(pattern), [c for c, bit in enumerate(pattern) if bit == "1"]
    same = [outlier for outlier in posterior.outliers if outlier.pattern == pattern]
    weight = sum(outlier.weight for outlier in same)
    readout = sum(math.sqrt(outlier.weight) * outlier.readout for outlier in same) / math.sqrt(weight)
    activation = np.sqrt(sum(outlier.activation[driven] ** 2 for outlier in same))
    return {
        f"outlier weight {label}": np.asarray(weight),
        f"outlier readout {label}": np.asarray(readout),
        f"outlier activation {label}": activation,
    }
