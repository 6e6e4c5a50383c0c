"""The proof that comes with the solution of a deep network."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from meanfield.archive import Header
from meanfield.posterior.certificate import Certificate, Proof
from meanfield.posterior.claims import certificate_from
from meanfield.validation import entry

__all__ = ["ANSWER", "PRIOR", "SAME", "Branch", "CodeCut", "DeepCertificate", "OrderError", "SecondOrder"]

# Where a second solution is looked for, and outcomes by which it is the one reported.
PRIOR, SAME, ANSWER = "the branch without codes that continues the prior", "the same solution", "the answer"
_CURVATURES = ("inner_curvature", "outer_curvature", "curvature_error")  # of SecondOrder, as entries of a file


@dataclass(frozen=True, eq=False)
class Branch(Proof):
    """A solution of the saddle equations that was found: its name, Phi, and its own residual."""

    name: str
    free_energy: float
    residual: float


@dataclass(frozen=True, eq=False)
class OrderError(Proof):
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


@dataclass(frozen=True, eq=False)
class SecondOrder(Proof):
    """Curvatures of Phi at a solution, in units of its blocks, among perturbations that respect the symmetry.

    Attributes
    ----------
    inner : float
        Smallest eigenvalue over the conjugates and t, relative to the largest; positive at a minimum.
    outer : float
        Largest eigenvalue over the kernels after that minimisation, relative to the largest in size; negative at a
        maximum.
    error : float
        Largest difference of both Hessians relative to sqrt(H_ii H_jj), of rectifiers the largest antisymmetric part;
        NaN where there is one only.
    """

    inner: float = math.nan
    outer: float = math.nan
    error: float = math.nan

    @property
    def known(self) -> bool:
        """Whether the curvatures were computed, and are resolved by the second derivatives."""
        return not (math.isnan(self.inner) or math.isnan(self.outer))

    @property
    def passed(self) -> bool:
        """Whether the solution is a maximum over the kernels of the minimum over the conjugates and t."""
        return self.inner > 0.0 and self.outer < 0.0

    def said(self) -> list[str]:
        """What has to be said of it: that it failed, or is not known."""
        if self.passed:
            return []
        if not self.known:
            return ["the second-order check was not done: the equations hold too roughly for it"]
        return ["the second-order check failed: not a maximum over the kernels of the minimum over conjugates"]

    def words(self) -> str:
        """The outcome in one line."""
        if self.known:
            verdict = "passed" if self.passed else "NOT passed"
            return f"second order {verdict}: over conjugates {self.inner:.1e}, over kernels {self.outer:.1e}"
        if math.isnan(self.error):
            return "second order not computed"
        return f"second order not resolved: second derivatives to {self.error:.1e}"


@dataclass(frozen=True, eq=False)
class DeepCertificate(Certificate):
    """The proof that comes with a solution of a deep network.

    Attributes
    ----------
    kkt_residual : float
        Largest violation of the saddle equations, relative to the size of each block of order parameters, with all
        averages computed by another quadrature (finer and shifted lattices, other nodes in z) than the solver's; of
        rectifiers outputs relative to the largest target. At P = infinity that of the stationarity condition.
    solver_residual : float
        The same with the solver's own quadrature.
    quadrature_error : float
        |Phi - Phi'| / max(1, |Phi|) between the two quadratures.
    second_order : SecondOrder
        Curvature of Phi over the conjugates and t (positive: a minimum), and over the kernels after that minimisation
        (negative: a maximum), with the error of the second derivatives; also `inner_curvature`, `outer_curvature` and
        `curvature_error`. NaN if not computed.
    bound_gap : float
        Of rectifiers the largest violation of Ehat <= 0 per |beta|^2 / 2 found over all directions of all layers, else
        NaN. Where it is zero up to rounding no outlier is missing.
    global_check : bool
        Whether a duality gap or, of rectifiers, Ehat <= 0 was shown; that no other solution has a larger Phi is proven
        by the former alone.
    order_error : float
        Largest error of the order parameters, each relative to the largest of its kind and layer: Newton's step from
        the reported ones, with residual and exact Jacobian of the other quadrature. Where Phi is nearly flat in some
        direction this is much larger than the residual. Of K and d of the last layer, which are no unknowns: what that
        step changes in them, and their distance between two quadratures. Outliers shorter than a tenth of sqrt(N) count
        absolutely. Certified answers have it below `rtol` as
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
    second_order: SecondOrder = SecondOrder()
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
        second_order: SecondOrder = SecondOrder(),
        duality_gap: float = math.nan,
        branches: tuple[Branch, ...] = (),
        order_errors: tuple[OrderError, ...] = (),
        searched: tuple[str, ...] = (),
        nullity: int = 0,
        cuts: tuple[CodeCut, ...] = (),
        bound_gap: float = math.nan,
        bounded: bool = False,
    ) -> DeepCertificate:
        """`bounded`: whether there is no bound gap but for rounding; weights are unique unless `nullity` is given."""
        return cls(
            residual,
            duality_gap,
            bound_gap,
            bounded or math.isfinite(duality_gap),
            nullity == 0,
            nullity=nullity,
            solver_residual=solver_residual,
            quadrature_error=quadrature_error,
            second_order=second_order,
            branches=branches,
            order_error=max((error.value for error in order_errors), default=math.nan),
            order_errors=order_errors,
            searched=searched,
            cuts=cuts,
        )

    @property
    def inner_curvature(self) -> float:
        """Smallest relative curvature over the conjugates and t."""
        return self.second_order.inner

    @property
    def outer_curvature(self) -> float:
        """Largest relative curvature over the kernels."""
        return self.second_order.outer

    @property
    def curvature_error(self) -> float:
        """Error of the second derivatives."""
        return self.second_order.error

    @property
    def continues_prior(self) -> bool:
        """Whether the solution is the one that continues the prior, as far as that was looked for."""
        return any(text in (f"{PRIOR}: {ANSWER}", f"{PRIOR}: {SAME}") for text in self.searched)

    @property
    def softest(self) -> OrderError | None:
        """The order parameters with the largest error."""
        return max(self.order_errors, key=lambda error: error.value, default=None)

    @property
    def residual(self) -> float:
        """`kkt_residual`."""
        return self.kkt_residual

    def pack(self) -> dict[str, Any]:
        """Entries of a file."""
        entries = asdict(self)
        curvatures = entries.pop("second_order").values()
        return entries | dict(zip(_CURVATURES, curvatures, strict=True))

    @classmethod
    def unpack(cls, claimed: Header, status: str) -> DeepCertificate:
        """From the entries of a file; ValueError for what is missing, unknown or of another type.

        Files may be older than some entries, which are NaN or empty then.
        """
        rest, own = dict(claimed), dict[str, Any]()
        for name in ("solver_residual", "quadrature_error"):
            own[name] = entry(rest, name, (int, float))
        old = dict.fromkeys((*_CURVATURES, "order_error"), math.nan) | rest
        own["order_error"] = entry(old, "order_error", (int, float))
        own["second_order"] = SecondOrder(*(entry(old, name, (int, float)) for name in _CURVATURES))
        try:
            for name, kind in (("branches", Branch), ("order_errors", OrderError), ("cuts", CodeCut)):
                own[name] = tuple(kind(**item) for item in entry({name: []} | rest, name, list))
        except TypeError as error:
            raise ValueError(f"its {name} are none: {error}.") from None
        own["searched"] = tuple(str(way) for way in entry({"searched": []} | rest, "searched", list))
        return cls(
            **vars(certificate_from({k: v for k, v in rest.items() if k not in (*own, *_CURVATURES)}, status)), **own
        )
