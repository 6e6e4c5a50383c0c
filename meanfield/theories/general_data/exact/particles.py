"""The exact theory on a weighted sample: what the correction hands back in place of a mixture of Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from meanfield.posterior.status import Status
from meanfield.theories.general_data.exact.sample import At, Dual, Sample
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray

__all__ = ["ParticleSolution", "frozen_particles", "particle_solution"]

_NEGLIGIBLE = 1e-7  # weight of all points that are left out


@dataclass(frozen=True, eq=False)
class ParticleSolution(GeneralSolution):
    """A `GeneralSolution` whose components are weighted points in weight space instead of Gaussians.

    Of the fields of a mixture, `readout` is E[a | w_i] (the readout scatters around it with variance s2), `weight` W_i
    and `phi` phi(F w_i); `spread` is zero, `gain`, `s` and `nu` are empty.

    Attributes
    ----------
    particles : (n, r) array
        w_i, in the coordinates of the features.
    start : (P, m) array
        t of the approximation that was corrected.
    reach : float
        Largest |a| of the neurons that the particles stand for; infinite unless phi is unbounded.
    """

    particles: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    start: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    reach: float = math.inf


def particle_solution(
    solution: GeneralSolution, sample: Sample, at: At, t: FloatArray, group: IntArray | None, steps: int
) -> ParticleSolution:
    """The solution at t on a sample; `group` is the code of each point."""
    order = np.argsort(-at.share, kind="stable")
    count = int(np.searchsorted(np.cumsum(at.share[order]), 1.0 - _NEGLIGIBLE)) + 1
    kept = np.sort(order[:count])
    share = at.share[kept] / at.share[kept].sum()
    labels, group = np.unique(np.asarray(group)[kept], return_inverse=True)
    weight: FloatArray = np.bincount(group, share, len(labels)).astype(np.float64)
    rank = np.argsort(np.argsort(-weight, kind="stable"), kind="stable")
    group = rank[group]
    weight = np.sort(weight)[::-1]
    mean, phi = at.mean[kept], sample.phi[kept]
    scatter, along = at.scatter[kept], at.along[kept]
    m = t.shape[1]
    inside = [share * (group == g) / weight[g] for g in range(len(weight))]
    readout = np.array([w @ mean for w in inside])
    covariance = np.array([
        ((mean.T * (w * along)) @ mean - np.multiply.outer(a, a) + (w @ scatter) * np.eye(m))
        for a, w in zip(readout, inside)
    ])  # fmt: skip
    residual = float(np.abs(solution.tau * t - solution.targets + phi.T @ (share[:, None] * mean)).max())
    n = len(share)
    return ParticleSolution(
        activation=solution.activation,
        features=solution.features,
        targets=solution.targets,
        prior=solution.prior,
        tau=solution.tau,
        t=t,
        objective=at.value,
        readout=mean,
        weight=share,
        phi=phi,
        spread=np.zeros((n, 1)),
        gain=np.empty((n, 0)),
        s=np.empty((n, 0)),
        nu=np.empty((n, 0)),
        basin=group,
        soft=np.full(n, -1),
        soft_x=np.zeros(n),
        directions=np.empty((0, solution.features.shape[1])),
        code_weight=weight,
        code_readout=readout,
        code_covariance=covariance,
        code_phi=np.array([w @ phi for w in inside]),
        residual=residual,
        extrapolated_weight=0.0,
        ambiguous_weight=0.0,
        outlier_direction=np.empty((0, m)),
        outlier_weight=np.empty(0),
        outlier_w=np.empty((0, solution.features.shape[1])),
        frozen=solution.frozen,
        method="particles",
        n_nodes=n,
        iterations=solution.iterations + steps,
        particles=sample.points[kept],
        start=solution.t,
    )


def frozen_particles(solution: ParticleSolution, fractions: FloatArray) -> ParticleSolution:
    """The same with given fractions of the neurons in each code; points keep their code."""
    from dataclasses import replace

    mean = solution.prior * (solution.phi @ solution.t)
    base = np.log(solution.weight) - (0.5 / solution.prior) * (mean**2).sum(axis=1)
    sample = Sample(solution.particles, solution.phi, base, solution.basin)
    dual = Dual(solution.targets, solution.prior, solution.tau, fractions)
    t, at, converged = dual.minimise(sample, np.array(solution.t))
    status = Status.OPTIMAL if converged else Status.NOT_CONVERGED
    at = at._replace(value=at.value if math.isfinite(at.value) else math.nan)
    found = particle_solution(replace(solution, frozen=True), sample, at, t, sample.group, 0)
    return replace(found, status=status, message="" if converged else "Newton's method found no minimum.")
