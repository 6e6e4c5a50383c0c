"""What the solver for unbounded activations on any data hands back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meanfield.theories.general_data.joint.neuron import Joint
from meanfield.theories.general_data.lattice.nodes import basins
from meanfield.theories.general_data.neuron import components
from meanfield.theories.general_data.outliers.lattice import LatticeBulk
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray

__all__ = ["OutlierSolution", "joint_parts", "node_parts"]


@dataclass(frozen=True, eq=False)
class OutlierSolution(GeneralSolution):
    """A `GeneralSolution` whose mixture is the bulk, with outliers and the certificate of their cone.

    Attributes
    ----------
    outlier_pattern : (o, P) array
        Sign of z = F w_o on the training inputs; 0 where the sample rests on the kink.
    limit : float
        P / 2 sigma_a^2, the largest q(u; t) allowed.
    cone_excess : float
        Largest q found over all starts, divided by `limit`, minus 1. The search is not exhaustive: a lower bound.
    cone_starts, cone_hits, cone_failed : int
        Starts of the last search of the cone, how many of them ended at the largest q (to 1e-6), and how many at no
        local maximum.
    slackness : float
        max_o lam_o |q_o - limit| / limit.
    outlier_violation : float
        Of the conditions that define (u_o, w_o), relative, recomputed.
    ep_mismatch : float
        Largest difference between a marginal and its tilted distribution, in units of the marginal.
    separation : float
        ln of how much less dense the readout posterior is at |a| = sigma_a along the maxima of q near the limit than at
        its own maximum: large where bulk and outliers are different things, near 0 where one turns into the other.
    reach : float
        Largest |a| that counts as bulk (infinite where the bulk is separated).
    """

    outlier_pattern: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.int8))
    limit: float = 0.0
    cone_excess: float = 0.0
    cone_starts: int = 0
    cone_hits: int = 0
    cone_failed: int = 0
    slackness: float = 0.0
    outlier_violation: float = 0.0
    ep_mismatch: float = 0.0
    separation: float = math.inf
    reach: float = math.inf


def joint_parts(bulk: Joint, t: FloatArray, features: FloatArray) -> dict[str, Any]:
    """The joint Gaussian of (a, w) as a mixture over 2 m readouts with its mean and covariance."""
    m = bulk.readout.size
    root = np.linalg.cholesky(bulk.covariance)
    a = bulk.readout + math.sqrt(m) * np.concatenate([root.T, -root.T])
    n = len(a)
    s = np.tile(bulk.q[:, 1, 1], (n, 1))
    nu = bulk.nu[:, 1] - bulk.q[:, 0, 1] * (a @ t.T)
    inner = bulk.factor[:, m:]
    # E[w | a] = w_0 + Cov(w, a) Cov(a, a)^-1 (a - a_0)
    shift = (a - bulk.readout) @ np.linalg.solve(bulk.covariance, bulk.factor[:, :m].T @ inner)
    phi = bulk.phi + bulk.gain * (shift @ features.T)
    return {
        "readout": a,
        "weight": np.full(n, 1.0 / n),
        "phi": phi,
        "spread": np.tile(np.maximum(bulk.spread, 0.0), (n, 1)),
        "gain": np.tile(bulk.gain, (n, 1)),
        "s": s,
        "nu": nu,
        "basin": np.zeros(n, dtype=np.int64),
        "code_weight": np.ones(1),
        "code_readout": bulk.readout[None],
        "code_covariance": bulk.covariance[None],
        "code_phi": bulk.phi[None],
        "method": "joint",
        "n_nodes": n,
        "extrapolated_weight": 0.0,
        "ambiguous_weight": 0.0,
    }


def node_parts(bulk: LatticeBulk) -> dict[str, Any]:
    nodes = bulk.nodes.take(np.flatnonzero(bulk.nodes.inside))
    weight, a = nodes.weight, nodes.at.readout
    label = basins(nodes, 1e-3)
    share = np.bincount(label, weight)
    order = np.argsort(-share, kind="stable")
    rank = np.argsort(order)
    inside = [weight * (label == g) / share[g] for g in order]
    mean = np.array([w @ a for w in inside])
    parts = components(nodes.at, weight)
    return {
        "readout": parts.readout,
        "weight": parts.weight / parts.weight.sum(),
        "phi": parts.phi,
        "spread": parts.spread,
        "gain": parts.gain,
        "s": parts.s,
        "nu": parts.nu,
        "basin": rank[label][parts.node],
        "code_weight": share[order],
        "code_readout": mean,
        "code_covariance": np.array([((a - c).T * w) @ (a - c) for w, c in zip(inside, mean)]),
        "code_phi": np.array([w @ nodes.at.phi for w in inside]),
        "method": "lattice",
        "n_nodes": len(weight),
        "extrapolated_weight": bulk.extrapolated,
        "ambiguous_weight": 0.0,
    }
