"""How long a neuron keeps its code while the posterior is sampled.

The posterior does not change if neurons are exchanged. Where barriers of height O(P) separate the codes, for bounded
phi and for the outliers of ReLU, a neuron stays with the code it has: the permutation symmetry is broken, and
representations are frozen. The Gaussian readouts of a linear phi are connected by rotations that cost nothing:
representations drift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from meanfield.drawing import drawn
from meanfield.problem.layers import layer_index
from meanfield.sampling.observe import Observed
from meanfield.sampling.statistics import as_draws
from meanfield.validation import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drift", "drift"]


@dataclass(frozen=True, eq=False)
class Drift:
    """Codes of the same neurons along a chain, see `drift`.

    Attributes
    ----------
    name : str
        Of the activation.
    layer : int
        1..L.
    lags : (l,) integer array
        In draws.
    overlap, overlap_error : (l,) arrays
        sum_ic dM_ic(s) dM_ic(s + lag) over its value at lag 0, where M_ic is the mean activation of neuron i on class c
        and dM its deviation from the mean neuron: 1 if all neurons keep their code, 0 if codes are drawn afresh. The
        error is that between chains (NaN for a single one).
    coding : str
        Which neurons carry codes: "neurons" (all), or "outliers" where phi has a bulk that carries none.
    persistence : float
        Fraction of these, in the first draw, that have the same code word in the last draw, over all chains (NaN if
        there are none).
    persistence_error : float
        Standard error, from the scatter of the chains (binomial for a single chain).
    chance : float
        The same for unrelated neurons: the mean share of the codes they have.
    first, last : (N, C) arrays
        M in the first and the last draw of the first chain.
    words : (N,) integer array
        Code words in the first draw.
    """

    name: str
    layer: int
    lags: NDArray[np.intp]
    overlap: FloatArray
    overlap_error: FloatArray
    coding: str
    persistence: float
    persistence_error: float
    chance: float
    first: FloatArray
    last: FloatArray
    words: NDArray[np.intp]

    @property
    def final_overlap(self) -> float:
        """Overlap of the first and the last draw."""
        return float(self.overlap[-1])

    def plot(self) -> Figure:
        """Figure: the same neurons in the first and the last draw, and the overlap over the lag."""
        return drawn("sampling.figure_drift", [self])

    def __repr__(self) -> str:
        return (
            f"<Drift of {self.name}: {100 * self.persistence:.1f} % of the {self.coding} keep their code over "
            f"{self.lags[-1]} draws (chance {100 * self.chance:.1f} %), overlap {self.final_overlap:.3f}>"
        )


def drift(chains: object, *, layer: int = -1, n_lags: int = 20) -> Drift:
    """How codes of a hidden layer persist along the chains.

    Parameters
    ----------
    chains : Chains, sequence of Chains, or Observed
    layer : int
        1..L, or from the last by negative numbers.
    n_lags : int
        Lags between 0 and the length of the chain at which the overlap is computed.

    Raises
    ------
    ValueError
        For chains of a single draw, layers that do not exist, and as `as_draws`.
    """
    draws = as_draws(chains, whole=True)
    k, n_draws = draws.readout.shape[:2]
    if n_draws < 2:
        raise ValueError(f"drift needs chains of at least 2 draws, or snapshots of a network, got {n_draws}.")
    place = layer_index(layer, draws.network.depth) + 1
    whole = draws.records(place)
    if whole:
        m = draws.activation(place)
        lags = np.unique(np.rint(np.linspace(0, n_draws - 1, n_lags + 1)).astype(np.intp))
    else:  # networks that were observed: layers of other widths
        runs: Sequence[Observed] = chains if isinstance(chains, (list, tuple)) else [cast("Observed", chains)]
        ends = [np.concatenate([run.class_activations(place, at) for run in runs]) for at in ("first", "last")]
        m, lags = np.stack(ends, axis=1), np.array([0, 1])
    centred = m - m.mean(axis=(1, 2), keepdims=True)
    length = m.shape[1]
    norm = np.einsum("kdnc,kdnc->k", centred, centred) / length
    at_lag = []
    for lag in lags:
        pairs = np.einsum("kdnc,kdnc->k", centred[:, : length - lag], centred[:, lag:]) / (length - lag)
        at_lag.append(pairs / norm)
    division = draws.division
    words = division.words(m, draws.network, place)
    kept, expected, size = [], [], 0
    for chain in words:
        coding = division.carrying(chain[0])
        if coding.any():
            share = np.bincount(chain.ravel(), minlength=2 ** m.shape[3]) / chain.size
            kept.append(float(np.mean(chain[0][coding] == chain[-1][coding])))
            expected.append(float(np.mean(share[chain[0][coding]])))
            size += int(coding.sum())
    value = float(np.mean(kept)) if kept else math.nan
    many = len(kept) > 1
    error = np.std(kept, ddof=1) / np.sqrt(len(kept)) if many else np.sqrt(value * (1 - value) / max(size, 1))
    return Drift(
        name=draws.network.activation.name,
        layer=place,
        lags=lags,
        overlap=np.mean(at_lag, axis=1),
        overlap_error=np.std(at_lag, axis=1, ddof=1) / np.sqrt(k) if k > 1 else np.full(lags.size, np.nan),
        coding=division.carriers,
        persistence=value,
        persistence_error=float(error),
        chance=float(np.mean(expected)) if kept else math.nan,
        first=m[0, 0],
        last=m[0, -1],
        words=words[0, 0],
    )
