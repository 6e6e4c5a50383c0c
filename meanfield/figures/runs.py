"""Sampled networks beside a theory, as the figures need them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypedDict

from meanfield.figures.gallery import Scale
from meanfield.posterior.posterior import Posterior
from meanfield.sampling.chains import Chains
from meanfield.sampling.compare import Comparison, compare
from meanfield.sampling.sample import sample
from meanfield.sampling.trend import Trend, finite_size_trend

__all__ = ["Runs", "effort", "sampled"]


@dataclass(frozen=True, eq=False)
class Runs:
    """Chains of several widths, each held against the theory."""

    chains: tuple[Chains, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def widest(self) -> Chains:
        """Of the last width."""
        return self.chains[-1]

    def without(self, beginning: str) -> Runs:
        """Without the statistics whose names begin like this, on which the theory has no word."""
        kept = (tuple(row for row in one.rows if not row.name.startswith(beginning)) for one in self.comparisons)
        return Runs(self.chains, tuple(replace(one, rows=rows) for one, rows in zip(self.comparisons, kept)))

    @property
    def trend(self) -> Trend:
        """What remains as N -> infinity."""
        return finite_size_trend(self.comparisons)

    @property
    def said(self) -> str:
        """That in words."""
        trend = self.trend
        return f"1/N extrapolated: max |z| = {trend.max_z:.2f} over {len(trend.rows)} statistics"


class Effort(TypedDict):
    """Options of `meanfield.sample` that say how long it takes."""

    draws: int
    warmup: int
    thin: int
    chains: int
    progress: bool


def effort(scale: Scale, *, draws: tuple[int, int], warmup: tuple[int, int], thin: int, chains: int) -> Effort:
    """Options of `sample`; of draws and warm-up the small and the full number."""
    return Effort(draws=scale.size(*draws), warmup=scale.size(*warmup), thin=thin, chains=chains, progress=False)


def sampled(
    posterior: Posterior,
    widths: Iterable[int],
    scale: Scale,
    how: Effort,
    *,
    start: object = None,
    inputs: object = None,
) -> Runs:
    """Chains of these widths at the problem of a posterior, started from it unless told otherwise."""
    start = posterior if start is None else start
    problem = posterior.network, posterior.task
    chains = tuple(
        sample(*problem, width, posterior.tau, rng=scale.seed, start=start, inputs=inputs, **how) for width in widths
    )
    return Runs(chains, tuple(compare(posterior, one, inputs=inputs) for one in chains))
