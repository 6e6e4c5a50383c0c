"""What the general-data solver hands back: a mixture of Gaussians in weight space, with the codes it contains."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.posterior.status import Status
from meanfield.validation import FloatArray, IntArray, read_only

__all__ = ["MAX_EXTRAPOLATED", "GeneralSolution", "accepted_residual", "beyond_capacity", "verdict"]

MAX_EXTRAPOLATED = 0.02  # weight
_ACCEPTED = 1e-4  # a residual below this still counts as solved
_BEYOND = 0.1  # of the largest target
_MAX_METHOD_ERROR = 0.02  # of the largest target


@dataclass(frozen=True, eq=False)
class GeneralSolution:
    """Minimum t of the dual and the posterior of one neuron there.

    The posterior is the mixture sum_i w_i delta(a - a_i) P(w | a_i), each P(w | a_i) the Gaussian of expectation
    propagation with precision 1 + F^T diag(s_i) F and linear term F^T nu_i (along a soft direction u: that Gaussian
    across u, with u.w = x_i). A code is a set of components, the basin of one local maximum of P(a).

    Attributes
    ----------
    activation : Activation
    features : (P, r) array
        F.
    targets : (P, m) array
        Y.
    prior : float
        s2 = sigma_a^2 / P.
    tau : float
    t : (P, m) array
        Order parameters; the training residual y - f is tau t.
    objective : float
        J(t).
    readout : (n, m) array
        a_i of each component.
    weight : (n,) array
        w_i, summing to 1.
    phi, spread, gain : (n, P) array
        E phi, Var phi and Cov(phi, z) / Var z on the training inputs.
    s, nu : (n, P) array
        Sites.
    basin : (n,) integer array
        Code of each component.
    soft : (n,) integer array
        Row of `directions`, or -1.
    soft_x : (n,) array
        u.w of components with a soft direction.
    directions : (k, r) array
        Unit vectors u.
    cuts : (k, 5) array
        Restrictions of components to one side of a sample: component, sample, place c, width l, side (+1 or -1) of the
        factor Phi(side (z - c) / l).
    code_weight : (g,) array
        P_g, heaviest first.
    code_readout : (g, m) array
        Mean readout of each code.
    code_covariance : (g, m, m) array
        Covariance of the readout within each code.
    code_phi : (g, P) array
        E phi given the code.
    residual : float
        max |dJ/dt|, recomputed with expectation propagation from zero sites; the constraint Y = <a phi> + tau t.
    extrapolated_weight : float
        Weight of components where expectation propagation failed and a second-order expansion, or the variational
        bound, stands in.
    ambiguous_weight : float
        Weight of components where expectation propagation from zero sites finds another fixed point.
    outlier_direction : (o, m) array
        u_o (empty unless phi is unbounded).
    outlier_weight : (o,) array
        lam_o.
    outlier_w : (o, r) array
        Maximiser w_o at |u| = 1.
    frozen : bool
        Whether the code weights were given rather than those of equilibrium.
    status, message : str
        "optimal", or what went wrong and what to try.
    method : str
        "lattice": readout integrated on a lattice; "joint": expectation propagation over readout and weights.
    method_error : float
        max |<a phi>| between the joint expectation propagation and one at fixed readouts; 0 on the lattice.
    n_nodes, iterations : int
        Readout nodes, and steps of Newton's method.
    """

    activation: Activation
    features: FloatArray
    targets: FloatArray
    prior: float
    tau: float
    t: FloatArray
    objective: float
    readout: FloatArray
    weight: FloatArray
    phi: FloatArray
    spread: FloatArray
    gain: FloatArray
    s: FloatArray
    nu: FloatArray
    basin: IntArray
    soft: IntArray
    soft_x: FloatArray
    directions: FloatArray
    code_weight: FloatArray
    code_readout: FloatArray
    code_covariance: FloatArray
    code_phi: FloatArray
    residual: float
    extrapolated_weight: float
    ambiguous_weight: float
    outlier_direction: FloatArray
    outlier_weight: FloatArray
    outlier_w: FloatArray
    cuts: FloatArray = field(default_factory=lambda: np.empty((0, 5)))
    frozen: bool = False
    status: str = Status.OPTIMAL
    message: str = ""
    method: str = "lattice"
    method_error: float = 0.0
    n_nodes: int = 0
    iterations: int = 0

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                object.__setattr__(self, f.name, read_only(value))

    @property
    def n_samples(self) -> int:
        return len(self.t)

    @property
    def n_outputs(self) -> int:
        return int(self.t.shape[1])

    @property
    def n_codes(self) -> int:
        return len(self.code_weight)


def accepted_residual(tolerance: float) -> float:
    """max |dJ/dt| up to which a solution counts as one."""
    return max(_ACCEPTED, 10.0 * tolerance)


def beyond_capacity(targets: FloatArray) -> float:
    """max |dJ/dt| above which J(t) is too rough for Newton's method: EP has several fixed points, or none."""
    return _BEYOND * max(1.0, float(np.abs(targets).max()))


def verdict(
    residual: float,
    tolerance: float,
    targets: FloatArray,
    rank: int,
    tau: float,
    extrapolated: float,
    bounded: float,
    method_error: float = 0.0,
) -> tuple[str, str]:
    """Status and message: extrapolated and bounded are weights of neurons without a fixed point of EP."""
    failed = extrapolated + bounded
    accepted = accepted_residual(tolerance)
    if not residual <= accepted and residual > beyond_capacity(targets):
        return Status.EP_FAILED, (
            f"max |dJ/dt| = {residual:.2g}: expectation propagation has no fixed point, or several, as for neurons "
            f"beyond their capacity (P = {len(targets)} inputs of rank {rank}, tau = {tau:.3g}). Random labels of more "
            "samples than input dimensions and contradicting targets at small tau do this; a larger tau, more input "
            "dimensions or fewer samples help."
        )
    if not residual <= accepted:
        return (
            Status.NOT_CONVERGED,
            f"max |dJ/dt| = {residual:.2g}, at most {accepted:.2g} is accepted; try a larger tau.",
        )
    if failed > MAX_EXTRAPOLATED:
        return Status.EP_FAILED, (
            f"expectation propagation failed on readouts that carry {failed:.2g} of the weight ({bounded:.2g}: "
            f"variational bound, {extrapolated:.2g}: expanded from elsewhere): single neurons are near or beyond their "
            "capacity. Results are approximate; a larger tau or more inputs help."
        )
    if method_error > _MAX_METHOD_ERROR * max(1.0, float(np.abs(targets).max())):
        return Status.EP_FAILED, (
            f"codes are too shallow for Gaussians of readout and weights: <a phi> is known to {method_error:.2g} only; "
            "use method='lattice' of solve_general (at most five outputs), a larger tau, or more samples."
        )
    return Status.OPTIMAL, ""
