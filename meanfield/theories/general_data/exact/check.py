"""How far a solution is from the exact theory, measured on samples of the exact single-neuron measure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.general_data.exact.coverage import climbed, cover, gather, modes
from meanfield.theories.general_data.exact.moves import anneal
from meanfield.theories.general_data.exact.particles import ParticleSolution, particle_solution
from meanfield.theories.general_data.exact.proposal import FEW, Mixture, adapt, mixture_of, refit
from meanfield.theories.general_data.exact.quadrature import MAX_RANK, has_jumps, nodes
from meanfield.theories.general_data.exact.sample import At, Dual, Sample, Shift
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, IntArray

__all__ = ["Measured", "Sampler", "first_sample", "scale_of"]

RMS, LARGEST = 0.003, 0.01  # of the outputs, in units of `scale_of` the targets
_UNIT_AT_MOST = 30.0
_RMS_NOISE, _LARGEST_NOISE = 0.0015, 0.004  # standard errors beyond which more points are drawn
_SIGMAS = 3.0
_LEAST_EFFECTIVE, _LEAST_SHARE = 400.0, 0.02  # number of points, and their share of all, that a measurement needs
_HEAVIEST = 0.05  # largest weight of a point
_FEWEST, _MOST = 4096, 65536  # points
_VALUES = 1.5e6  # n P of a first sample
_FITS = 2  # annealed samples that a proposal is fitted to
_ANNEALED = 8192  # the same, of samples that are annealed
_FITTINGS, _WELL = 8, 0.4  # of a proposal in few dimensions, at most, and the effective share that is enough
_MOST_HEAVY, _OUTWEIGHS = 40, 150.0  # points that maxima are looked for at, and how many others they outweigh
_MORE = 0.3  # ln Z by which a sample has seen more than another one
_BUDGET = 4e7  # n P of the largest


class Measured(NamedTuple):
    """The difference between a solution and the exact theory.

    Attributes
    ----------
    rms : float
        Of e = f - f_exact over samples and outputs, beyond its noise.
    largest : float
        max |e|, beyond three standard errors.
    noise, largest_noise : float
        Root mean square, and maximum, of the standard errors of e.
    effective : float
        Effective number of points (infinite for a quadrature).
    log_z : float
        ln Z of the exact measure at the solution's t.
    missed : float
        Weight of codes that scouting found outside the solution.
    even : bool
        Whether the weights of the sample are even enough for its noise to be believed.
    reliable : bool
        Whether that is so, and the noise small enough for a verdict.
    seeds : float or None
        Root mean square of the difference between the outputs of two runs, where particles found t from the prior.
    new_noise : float or None
        Of a corrected solution, root mean square of the standard errors of outputs on inputs like new ones.
    """

    rms: float
    largest: float
    noise: float
    largest_noise: float
    effective: float
    log_z: float
    missed: float
    even: bool
    reliable: bool
    seeds: float | None = None
    new_noise: float | None = None

    def within(self, scale: float) -> bool:
        """Whether the solution may be called one."""
        return self.reliable and self.rms <= RMS * scale and self.largest <= LARGEST * scale


def first_sample(samples: int) -> int:
    """Points of a first sample."""
    return int(np.clip(_VALUES / samples, _FEWEST, _MOST // 4))


def scale_of(targets: FloatArray) -> float:
    """Unit of errors of outputs: the largest target y; where y < 1 the one of sampling, 1, but not above 30 y.

    So an error is never accepted beyond a tenth of the targets, however small they are.
    """
    largest = float(np.abs(targets).max())
    return max(largest, min(1.0, _UNIT_AT_MOST * largest)) or 1.0


class Sampler:
    """Samples of the exact measure for one problem, from the mixture of a solution.

    Parameters
    ----------
    solution : GeneralSolution
    labels : (P,) integers or None
        Classes, for the scouts.
    rng : Generator
    mixture : Mixture, optional
        Instead of the solution's own.
    """

    reach = math.inf  # |a| of the neurons that are meant

    def __init__(
        self,
        solution: GeneralSolution,
        labels: IntArray | None,
        rng: np.random.Generator,
        mixture: Mixture | None = None,
    ) -> None:
        self.solution, self.labels, self.rng = solution, labels, rng
        fractions = solution.code_weight if solution.frozen else None
        self.dual = Dual(solution.targets, solution.prior, solution.tau, fractions, self.reach)
        self.mixture = mixture_of(solution) if mixture is None else mixture
        self.missed = 0.0
        self.fits = 0
        self.scouting = True
        self.annealing = False  # weights alone turned out too uneven
        p = solution.n_samples
        self.first = first_sample(p)
        self.most = int(np.clip(_BUDGET / p, 4 * _FEWEST, _MOST))

    def quadrature(self, t: FloatArray, shift: float = 0.0) -> Sample | None:
        """Nodes instead of points, where there are few coordinates."""
        s = self.solution
        if s.features.shape[1] > MAX_RANK or self.dual.fractions is not None:
            return None
        return nodes(s.activation, s.features, s.prior, t, shift)

    def sample(self, n: int, t: FloatArray) -> Sample:
        """A sample for use near t."""
        if self.annealing:
            found = anneal(self.solution, self.mixture, t, min(n, _ANNEALED), self.rng, reach=self.reach)
            return found if self.dual.fractions is None else replace(found, group=self.mixture.codes(found.points))
        return self.mixture.sample(self.solution, n, self.rng, self.dual.fractions is not None)

    def shift(self, sample: Sample, t: FloatArray) -> tuple[Shift, At]:
        """e at t, from this sample."""
        return self.dual.shift(sample, t)

    def minimise(self, sample: Sample, t: FloatArray, least_effective: float = 0.0) -> tuple[FloatArray, At, bool]:
        """`Dual.minimised`."""
        return self.dual.minimise(sample, t, least_effective=least_effective)

    def answer(self, sample: Sample, at: At, t: FloatArray, half_t: FloatArray | None = None) -> ParticleSolution:
        """The solution at the minimum of a sample; `half_t` are those of its halves."""
        return particle_solution(self.solution, sample, at, t, self.mixture.codes(sample.points), 1, half_t)

    def scout(self, t: FloatArray) -> None:
        """Add codes that the proposal does not reach."""
        sample = self.sample(self.first, t)
        at = self.dual.at(sample, t)
        log_z = (
            at.log_z
            if self.dual.fractions is None
            else Dual(self.dual.targets, self.dual.prior, self.dual.tau).at(sample, t).log_z
        )
        jumps = has_jumps(self.solution.activation)  # then there are no maxima to climb to
        found = (gather if jumps else modes)(self.solution, t, self.labels, self.rng)
        check_time()
        self.mixture, self.missed = cover(self.mixture, self.solution, t, log_z, found, self.rng)

    def fit(self, t: FloatArray, n: int, first: Mixture | None = None) -> tuple[Sample, At] | None:
        """A sample of n points at t from the best of proposals fitted to their own samples, again and again.

        Stops where weights are even enough. A fit that turns out worse than what it was fitted to is not followed: too
        narrow Gaussians leave out places of which their own points know nothing. Nor is one that knows of less: where a
        later sample has a larger Z the weights of the earlier one were even for want of points. Single points that
        outweigh hundreds of others are on maxima that the proposal lacks. `first` is tried before the present.
        """
        waiting, best = [self.mixture] if first is None else [self.mixture, first], None
        for attempt in range(_FITTINGS):
            check_time()
            trial = waiting.pop()
            sample = trial.sample(self.solution, n, self.rng)
            at = self.dual.at(sample, t)
            if math.isfinite(at.log_z) and (best is None or _better(at, best[1])):
                self.mixture, best = trial, (sample, at)
            if best is None:
                return None
            if best[1].effective >= _WELL * n:
                break
            if not waiting:
                points, share = best[0].points, best[1].share
                more = self._heaviest(t, *best) if attempt % 2 == 0 else None
                fit = adapt(self.mixture, points, share) if attempt % 2 else more
                waiting.append(refit(self.mixture, points, share, self.rng) if fit is None else fit)
        return best

    def _heaviest(self, t: FloatArray, sample: Sample, at: At) -> Mixture | None:
        """The proposal with the maxima at which points outweigh hundreds of others; None if there are none."""
        if has_jumps(self.solution.activation):
            return None
        order = np.argsort(-at.share)[:_MOST_HEAVY]
        heavy = order[at.share[order] * len(at.share) > _OUTWEIGHS]
        found = climbed(self.solution, t, sample.points[heavy])
        wider, _ = cover(self.mixture, self.solution, t, at.log_z, found, self.rng)
        return wider if len(wider.weight) > len(self.mixture.weight) else None

    @property
    def few(self) -> bool:
        """Whether weights have so few dimensions that mixtures follow any measure."""
        return self.solution.features.shape[1] <= FEW and self.dual.fractions is None

    def measure(self, t: FloatArray) -> Measured:
        """e at t; more points, and a proposal adapted to them, where they say too little."""
        exact = self.quadrature(t)
        if exact is not None:
            return self._by_quadrature(exact, t)
        if self.dual.fractions is None and self.scouting:
            self.scout(t)
        n: int | None = self.first
        best: Measured | None = None
        while n is not None:
            check_time()
            sample = self.sample(n, t)
            shift, at = self.shift(sample, t)
            result = summary(shift, at, self.missed, scale_of(self.solution.targets))
            if best is None or (result.even, -result.noise) > (best.even, -best.noise):
                best = result
            if best.reliable:
                break
            n = self.improve(sample, at, n, result.even)
        assert best is not None
        return best

    def improve(self, sample: Sample, at: At, n: int, even: bool) -> int | None:
        """Make the next sample better than this one of n points; its size, or None where there is no more to do.

        More points from a proposal with their moments; then annealing, and a proposal fitted to what that finds.
        """
        if self.most <= self.first:
            return None
        if self.dual.fractions is not None:
            if self.annealing:
                return None
            self.adapt(sample, at)  # components keep their codes; fits might leave one without any
            self.annealing = n >= self.most
            return min(4 * n, self.most)
        if self.annealing:
            self.annealing = False
            self.fits += 1
            self.mixture = refit(self.mixture, sample.points, at.share, self.rng)
            return self.most
        if n < self.most and (even or (self.fits == 0 and n == self.first)):
            self.adapt(sample, at)
            return min(4 * n, self.most)
        if self.fits >= _FITS:
            return None
        self.annealing = True
        return self.most

    def adapt(self, sample: Sample, at: At) -> None:
        if at.effective > 3.0 * sample.points.shape[1] + 50.0:
            self.mixture = adapt(self.mixture, sample.points, at.share)

    def _by_quadrature(self, exact: Sample, t: FloatArray) -> Measured:
        shift, at = self.dual.shift(exact, t)
        other = self.quadrature(t, 0.5)
        assert other is not None
        error = np.abs(self.dual.shift(other, t)[0].outputs - shift.outputs)
        found = summary(Shift(shift.outputs, error), at, 0.0, scale_of(self.solution.targets))
        return found._replace(effective=math.inf, reliable=found.noise <= _RMS_NOISE)


def _better(at: At, known: At) -> bool:
    """Whether a sample says more than another one of as many points."""
    if abs(at.log_z - known.log_z) > _MORE:
        return at.log_z > known.log_z
    return at.effective > known.effective


def summary(shift: Shift, at: At, missed: float, scale: float) -> Measured:
    e, error = np.abs(shift.outputs), shift.error
    noise, largest_noise = math.sqrt(np.mean(error**2)), float(error.max())
    effective = at.effective
    even = (
        bool(np.isfinite(e).all())
        and effective >= max(_LEAST_EFFECTIVE, _LEAST_SHARE * len(at.share))
        and float(at.share.max()) <= _HEAVIEST
    )
    reliable = even and noise <= _RMS_NOISE * scale and largest_noise <= _LARGEST_NOISE * scale
    rms = math.sqrt(max(0.0, float(np.mean(e**2 - error**2))))
    largest = max(0.0, float((e - _SIGMAS * error).max()))
    return Measured(rms, largest, noise, largest_noise, effective, at.log_z, missed, even, reliable)
