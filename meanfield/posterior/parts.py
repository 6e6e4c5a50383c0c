"""What a single-neuron posterior is made of: codes and outliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meanfield.activations.cumulant import cumulant
from meanfield.problem.layers import layer_index
from meanfield.problem.network import Network
from meanfield.validation import FloatArray


@dataclass(frozen=True, eq=False)
class Code:
    """A readout a_gamma shared by a fraction P_gamma of the neurons.

    Attributes
    ----------
    pattern : str
        One character per class, "1" where the neuron is active: the mean activation lies above the midpoint of the
        range of phi (for unbounded phi: above its value under the prior).
    weight : float
        P_gamma.
    readout : (m,) array
        a_gamma.
    activation, activation_variance : (C,) arrays
        Mean G'(a_gamma.t_c) and variance G''(a_gamma.t_c) of the activation on a sample of class c; at finite P with
        the spread of the readout around a_gamma included (taken as Gaussian where there are several codes).
    covariance : (m, m) array or None
        Covariance of the readout around a_gamma; None for P = infinity, where it vanishes.
    """

    pattern: str
    weight: float
    readout: FloatArray
    activation: FloatArray
    activation_variance: FloatArray
    covariance: FloatArray | None = None

    @property
    def label(self) -> str:
        """The pattern as it is written in text, "1-1-0"."""
        return "-".join(self.pattern)

    def __repr__(self) -> str:
        return f"Code({self.label}, weight={self.weight:.6g}, readout={_row(self.readout)})"


@dataclass(frozen=True, eq=False)
class Outlier:
    """One neuron (or a few sharing it) with readout sqrt(N) abar and preactivations sqrt(N) zbar.

    Attributes
    ----------
    pattern : str
        "1" for the classes that drive it, phi(zbar_c) > 0.
    weight : float
        w_o = |abar_o|^2, all that is fixed if several neurons share the outlier.
    readout : (m,) array
        abar_o.
    preactivation, activation : (C,) arrays
        zbar_oc and phi(zbar_oc), both in units of sqrt(N).
    """

    pattern: str
    weight: float
    readout: FloatArray
    preactivation: FloatArray
    activation: FloatArray

    @property
    def label(self) -> str:
        """The pattern as it is written in text, "1-1-0"."""
        return "-".join(self.pattern)

    def __repr__(self) -> str:
        return f"Outlier({self.label}, weight={self.weight:.6g}, readout={_row(self.readout)})"


_ROUNDING = 1e-10  # of the range of phi
_STRAY = 0.05  # share of the neurons that may follow none of the codes, as some of sampled networks do


def by_pattern(codes: Sequence[Code], fractions: Mapping[str, float]) -> FloatArray:
    """(codes,) fractions from those of the patterns, normalised; codes of the same pattern share as in equilibrium."""
    total: dict[str, float] = {}
    for code in codes:
        total[code.pattern] = total.get(code.pattern, 0.0) + code.weight
    given = {pattern.replace("-", ""): value for pattern, value in fractions.items()}
    found = np.array([given.get(code.pattern, 0.0) * code.weight / total[code.pattern] for code in codes])
    if not found.sum() > 0.0:
        raise ValueError(f"none of {', '.join(given)} is a code with weight; there are {', '.join(total)}.")
    left = {pattern: value for pattern, value in given.items() if pattern not in total and value > 0.0}
    if sum(left.values()) > _STRAY * sum(given.values()):
        raise ValueError(
            f"{sum(left.values()) / sum(given.values()):.1%} of the neurons have codes that the solution lacks, "
            f"{', '.join(sorted(left))}; there are {', '.join(total)}. Where neurons are not on or off in every class "
            "codes do not freeze: take the equilibrium (in comparisons: fractions='equilibrium')."
        )
    return np.asarray(found / found.sum())


def activity_threshold(network: Network) -> float:
    """Mean activation above which a neuron counts as active: the midpoint of the range of phi.

    Where phi is unbounded there is no midpoint; there it is the mean under the prior.
    """
    middle = network.activation.midpoint
    if middle is None:
        middle = float(cumulant(network.activation, network.k).direct(np.zeros(1))[1][0])
    return middle


def prior_variance(network: Network, layer: int = -1) -> float:
    """Variance of a preactivation of a layer under the prior, sigma_l^2 <phi^2> of the layer below."""
    k = network.k
    for scale in network.scales[1 : layer_index(layer, network.depth) + 1]:
        _, mean, variance = (float(x[0]) for x in cumulant(network.activation, k, tabulate=False).direct(np.zeros(1)))
        k = scale**2 * (variance + mean**2)
    return k


def code_pattern(network: Network, activation: FloatArray) -> str:
    """Pattern of a code with mean activations (C,): "1" above `activity_threshold` (a.t_c > 0 for unbounded phi).

    A readout of zero leaves all classes at the threshold, up to rounding: 0-0-0.
    """
    phi = network.activation
    span = 1.0 if phi.midpoint is None else phi.supremum - phi.infimum
    middle = activity_threshold(network) + _ROUNDING * span
    return "".join("1" if x > middle else "0" for x in activation)


def _row(array: FloatArray) -> str:
    return "(" + ", ".join(f"{x:.4f}" for x in array) + ")"
