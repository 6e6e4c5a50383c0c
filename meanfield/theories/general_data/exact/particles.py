"""The exact theory on a weighted sample: what the correction hands back in place of a mixture of Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from meanfield.posterior.status import Status
from meanfield.theories.general_data.exact.readout import readout_given
from meanfield.theories.general_data.exact.sample import At, Dual, Sample
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray

__all__ = ["ParticleSolution", "frozen_particles", "halves", "particle_solution"]

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
    random : bool
        Whether particles were drawn, or are nodes of a quadrature.
    family : (n,) integer array
        Particles of different families are independent.
    half : (n,) integer array
        Which of two independent samples a particle is from; empty where there is only one.
    half_t : (2, P, m) array
        t at the minimum of J on either half.
    """

    particles: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    start: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    reach: float = math.inf
    random: bool = True
    family: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    half: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    half_t: FloatArray = field(default_factory=lambda: np.empty((0, 0, 0)))

    @property
    def sample(self) -> Sample:
        """The particles, with the weights that they have at t = 0."""
        level = readout_given(self.prior * (self.phi @ self.t), self.prior, self.reach).level
        family = self.family if len(self.family) else None
        half = self.half if len(self.half) else None
        return Sample(self.particles, self.phi, np.log(self.weight) - level, self.basin, self.random, family, half)

    @property
    def dual(self) -> Dual:
        """J(t) on them."""
        return Dual(self.targets, self.prior, self.tau, self.code_weight if self.frozen else None, self.reach)


def particle_solution(
    solution: GeneralSolution,
    sample: Sample,
    at: At,
    t: FloatArray,
    group: IntArray | None,
    steps: int,
    half_t: FloatArray | None = None,
) -> ParticleSolution:
    """The solution at t on a sample; `group` is the code of each point, `half_t` the minimum on either half."""
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
        random=sample.random,
        family=kept if sample.family is None else sample.family[kept],
        half=np.empty(0, dtype=np.int64) if sample.half is None else sample.half[kept],
        half_t=np.empty((0, *t.shape)) if half_t is None else half_t,
    )


def halves(sample: Sample) -> list[Sample]:
    """The two independent samples that a sample consists of; none where it does not."""
    if sample.half is None:
        return []
    return [sample.part(np.flatnonzero(sample.half == half)) for half in (0, 1)]


def frozen_particles(solution: ParticleSolution, fractions: FloatArray) -> ParticleSolution:
    """The same with given fractions of the neurons in each code; points keep their code."""
    sample = solution.sample
    dual = replace(solution.dual, fractions=fractions)
    t, at, converged = dual.minimise(sample, np.array(solution.t))
    ends = [dual.minimise(part, t) for part in halves(sample)]
    known = all(arrived for _, _, arrived in ends)
    half_t = np.array([own for own, _, _ in ends]) if ends and known else None
    status = Status.OPTIMAL if converged else Status.NOT_CONVERGED
    at = at._replace(value=at.value if math.isfinite(at.value) else math.nan)
    if half_t is None:
        sample = replace(sample, half=None)
    found = particle_solution(replace(solution, frozen=True), sample, at, t, sample.group, 0, half_t)
    return replace(found, status=status, message="" if converged else "Newton's method found no minimum.")
