"""What the solver for unbounded activations on any data hands back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meanfield.solvers.general.solution import GeneralSolution

__all__ = ["OutlierSolution"]


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

    outlier_pattern: Any = field(default_factory=lambda: np.empty((0, 0), dtype=np.int8))
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
