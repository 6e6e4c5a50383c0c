"""What the solver at finite P hands back, in units sigma_a = 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from meanfield.theories.single_layer.deferred import Later, pending, whole
from meanfield.validation import FloatArray

__all__ = ["DeferredSolution", "FiniteSolution", "deferred"]


@dataclass(frozen=True, eq=False)
class FiniteSolution:
    """Minimum of J at finite P with the codes it contains, in units sigma_a = 1.

    Attributes
    ----------
    t : (C, m) array
    objective : float
        J(t).
    level : float
        max_a h(a; t).
    weight : (n,) array
        Posterior mass of each code (basin of a local maximum of h), heaviest first.
    mode, mean : (n, m) array
        Maximum of h, and mean readout, of each code.
    covariance : (n, m, m) array
        Covariance of the readout within each code.
    outlier_direction : (o, m) array
    outlier_weight : (o,) array
    residual : float
        max_c |y_c - <a G'(a.t_c)> - sum_o w_o u_o g'(t_c.u_o)/2 - tau t_c| and, where codes are separated, violation
        of P_gamma = exp(P (l_gamma - s)) in units of l; recomputed with `direct` on another lattice, no coarser, plus
        the difference of the two lattices; for Laplace's method plus the effect of the order in 1/P left out.
    decrement : float
        Newton estimate of J(t) - min J.
    integration_error : float
        Relative error of the readout integral: Poisson bound or difference of two lattices, whichever is larger;
        for Laplace's method the square of its correction of order 1/P.
    method : str
        "lattice", "laplace", "exchange": sums over exchangeable classes, "halves": over two halves of the classes.
    n_nodes, iterations : int
    beside_cuts : float
        Share of the readouts that lie within a cell of the lattice of a cut between two codes.
    weight_error : float
        What `weight` is known to where codes overlap: measured on the lattice over all outputs.
    kind : (C,) array or None
        Where codes are orbits of exchangeable classes: the kind of every class.
    """

    t: FloatArray
    objective: float
    level: float
    weight: FloatArray
    mode: FloatArray
    mean: FloatArray
    covariance: FloatArray
    outlier_direction: FloatArray
    outlier_weight: FloatArray
    residual: float
    decrement: float
    integration_error: float
    method: str
    n_nodes: int
    iterations: int
    beside_cuts: float = 0.0
    weight_error: float = 1e-3
    kind: FloatArray | None = None


class DeferredSolution(FiniteSolution):
    """A solution whose codes are worked out when they are asked for."""

    weight: Any = Later()
    mode: Any = Later()
    mean: Any = Later()
    covariance: Any = Later()
    beside_cuts: Any = Later()
    weight_error: Any = Later()
    kind: Any = Later()

    def __reduce__(self) -> tuple[type[FiniteSolution], tuple[object, ...]]:
        return whole(FiniteSolution, self)


def deferred(t: FloatArray, codes: Callable[[], dict[str, Any]], **numbers: Any) -> FiniteSolution:
    """A solution of bounded phi, its order parameters t (C, m) and `numbers` known, with codes from `codes` when they
    are asked for."""
    m = t.shape[1]
    none = np.empty((0, m))
    solved = FiniteSolution(
        t=t,
        weight=np.empty(0),
        mode=none,
        mean=none,
        covariance=np.empty((0, m, m)),
        outlier_direction=none,
        outlier_weight=np.empty(0),
        **numbers,
    )
    return pending(DeferredSolution, solved, codes)
