"""What the deep solver hands back: order parameters of all layers, and the proof that comes with them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import numpy as np

from meanfield.archive import Arrays, Header
from meanfield.posterior.certificate import Certificate
from meanfield.posterior.status import Status
from meanfield.validation import FloatArray, read_only

__all__ = ["Branch", "CodeCut", "DeepCertificate", "DeepSolution", "OrderError"]


@dataclass(frozen=True)
class Branch:
    """A solution of the saddle equations that was found: its name, Phi, and its own residual."""

    name: str
    free_energy: float
    residual: float


@dataclass(frozen=True)
class OrderError:
    """Error of the order parameters of one kind ("kernel", "d", "tilde", "delta", "t") of a layer (1 .. L).

    `value` is that of the worst entry, relative to the largest of its kind and layer.
    """

    name: str
    layer: int
    value: float


@dataclass(frozen=True)
class CodeCut:
    """The part of the neurons of a code (`pattern`) of given share that are where it is cut from another code."""

    pattern: str
    share: float


@dataclass(frozen=True)
class DeepCertificate(Certificate):
    """The proof that comes with a deep solution.

    Attributes
    ----------
    kkt_residual : float
        Largest violation of the saddle equations, relative to the size of each block of order parameters, with all
        averages computed by another quadrature (finer and shifted lattices, other nodes in z) than the solver's. At
        P = infinity that of the stationarity condition.
    solver_residual : float
        The same with the solver's own quadrature.
    quadrature_error : float
        |Phi - Phi'| / max(1, |Phi|) between the two quadratures.
    inner_curvature, outer_curvature : float
        Smallest relative curvature of Phi over the conjugates and t (positive: a minimum), and largest over the kernels
        after that minimisation (negative: a maximum), among perturbations that respect the symmetry of the task; NaN if
        not computed.
    curvature_error : float
        Largest difference of the Hessian, relative to its diagonal, from that of the other quadrature.
    order_error : float
        Largest error of the order parameters, each relative to the largest of its kind and layer: Newton's step from
        the reported ones, with residual and exact Jacobian of the other quadrature. Where Phi is nearly flat in some
        direction this is much larger than the residual. Of K and d of the last layer, which are no unknowns: what that
        step changes in them, and their distance between two quadratures. Certified answers have it below `rtol` as
        well; at given shares of codes below 1e-4, and that of d of the last layer below 1e-2, as neurons between two
        codes count for neither. NaN where it was not computed: at P = infinity.
    order_errors : tuple of OrderError
        The same for every kind of order parameters of every layer.
    duality_gap : float
        At P = infinity the distance between bounds from both sides, else NaN: Phi is not convex in the kernels.
    branches : tuple of Branch
        Other solutions that were found; the one with the largest Phi is reported.
    searched : tuple of str
        Where solutions were looked for, and with what outcome; others are not excluded (`DeepPosterior.rivals` looks
        for more).
    cuts : tuple of CodeCut
        At given shares of codes: the part of each code's neurons that are within about a standard deviation of the
        prior of readouts from where its basin ends and another begins. The answer depends on where the cut is about as
        much, which a quadrature that cuts at the same place does not show. Largest close to an instability of the code.
        At equilibrium empty, unless codes are those of whole nodes: then the part of each code's neurons that may have
        another one (an estimate; by drawn neurons for more than three classes).
    """

    solver_residual: float = math.nan
    quadrature_error: float = math.nan
    inner_curvature: float = math.nan
    outer_curvature: float = math.nan
    curvature_error: float = math.nan
    branches: tuple[Branch, ...] = ()
    order_error: float = math.nan
    order_errors: tuple[OrderError, ...] = ()
    searched: tuple[str, ...] = ()
    cuts: tuple[CodeCut, ...] = ()

    @classmethod
    def of(
        cls,
        residual: float,
        solver_residual: float,
        quadrature_error: float,
        inner_curvature: float = math.nan,
        outer_curvature: float = math.nan,
        curvature_error: float = math.nan,
        duality_gap: float = math.nan,
        branches: tuple[Branch, ...] = (),
        order_errors: tuple[OrderError, ...] = (),
        searched: tuple[str, ...] = (),
        nullity: int = 0,
        cuts: tuple[CodeCut, ...] = (),
    ) -> DeepCertificate:
        """Global optimality is proven by a duality gap only; weights of codes are unique unless `nullity` is given."""
        return cls(
            residual,
            duality_gap,
            math.nan,
            math.isfinite(duality_gap),
            nullity == 0,
            nullity=nullity,
            solver_residual=solver_residual,
            quadrature_error=quadrature_error,
            inner_curvature=inner_curvature,
            outer_curvature=outer_curvature,
            curvature_error=curvature_error,
            branches=branches,
            order_error=max((error.value for error in order_errors), default=math.nan),
            order_errors=order_errors,
            searched=searched,
            cuts=cuts,
        )

    @property
    def softest(self) -> OrderError | None:
        """The order parameters with the largest error."""
        return max(self.order_errors, key=lambda error: error.value, default=None)

    @property
    def residual(self) -> float:
        """`kkt_residual`."""
        return self.kkt_residual


@dataclass(frozen=True, eq=False)
class DeepSolution:
    """Order parameters of a deep network, layer 1 first, in the notation of THEORY.md.

    Attributes
    ----------
    kernel : (L, C, C) array
        Kernel between two different samples of each pair of classes.
    d : (L, C) array
        What the diagonal of the kernel has beyond it.
    tilde, delta : (L - 1, C, C) and (L - 1, C) arrays
        Conjugates of the kernels of all layers but the last.
    t : (C, m) array
        Conjugate of the outputs; the training residual of class c is tau t_c.
    free_energy : float
        Phi, ln p(Y) / N; at P = infinity its leading part per sample, Phi / P.
    readout, weight, covariance : (n, m), (n,), (n, m, m) arrays
        Mean readout, share of the neurons, and covariance of the readout of each code of the last layer.
    activation, activation_variance : (n, C) arrays
        Mean and variance of the activation of a neuron with this code on a sample of each class.
    patterns : tuple of str
        Code words of the last layer, "1" where active, heaviest first.
    second_readout : (m, m) array
        <a a^T> over all neurons.
    frozen : bool
        Whether the shares of the codes were given.
    certificate : DeepCertificate
    status : Status
    message : str
    notes : tuple of str
    n_samples, tau : float
    """

    kernel: FloatArray
    d: FloatArray
    tilde: FloatArray
    delta: FloatArray
    t: FloatArray
    free_energy: float
    readout: FloatArray
    weight: FloatArray
    covariance: FloatArray
    activation: FloatArray
    activation_variance: FloatArray
    patterns: tuple[str, ...]
    second_readout: FloatArray
    certificate: DeepCertificate
    frozen: bool = False
    status: Status = Status.OPTIMAL
    message: str = ""
    notes: tuple[str, ...] = ()
    n_samples: float = float("inf")
    tau: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", Status.of(self.status))
        for name in _ARRAYS:
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def objective(self) -> float:
        """Phi / P, the counterpart of min J of one hidden layer."""
        return self.free_energy if np.isinf(self.n_samples) else self.free_energy / self.n_samples

    def pack(self) -> tuple[Header, dict[str, FloatArray]]:
        """Header and arrays, for `write_archive`."""
        header = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _ARRAYS}
        header["certificate"] = asdict(self.certificate)
        return header, {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def unpack(cls, header: dict, arrays: Arrays) -> DeepSolution:
        """Inverse of `pack`."""
        for name in _ARRAYS:
            if arrays[name].dtype.kind not in "fiu":
                raise ValueError(f"its {name} has dtype {arrays[name].dtype}, expected real numbers.")
        proof = dict(header["certificate"])
        proof["branches"] = tuple(Branch(**branch) for branch in proof["branches"])
        proof["searched"] = tuple(proof.get("searched", ()))
        proof["order_errors"] = tuple(OrderError(**error) for error in proof.get("order_errors", ()))
        proof["cuts"] = tuple(CodeCut(**cut) for cut in proof.get("cuts", ()))
        values: dict = {
            **header,
            "certificate": DeepCertificate(**proof),
            "notes": tuple(header["notes"]),
            "patterns": tuple(header["patterns"]),
        }
        return cls(**(values | {name: arrays[name] for name in _ARRAYS}))


_ARRAYS = (
    "kernel", "d", "tilde", "delta", "t", "readout", "weight", "covariance", "activation", "activation_variance",
    "second_readout",
)  # fmt: skip
