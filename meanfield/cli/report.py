"""`meanfield validate`: sample networks, hold the theory against them, write down how far they are apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from meanfield.problem.network import Network
from meanfield.sampling.compare import LIMIT, Comparison, compare
from meanfield.sampling.drift import Drift, drift
from meanfield.sampling.sample import sample
from meanfield.sampling.trend import Trend, finite_size_trend

if TYPE_CHECKING:
    from meanfield.posterior.posterior import Posterior

__all__ = ["Case", "Plan", "validate", "write_report"]

STARTS = ("planted", "annealed")


@dataclass(frozen=True)
class Plan:
    """How networks are sampled.

    Attributes
    ----------
    widths, n_samples : tuples of int
        N and P, pair by pair.
    tau : float
    seeds : tuple of int
    chains, draws, warmup, thin : int
        Per seed.
    """

    widths: tuple[int, ...]
    n_samples: tuple[int, ...]
    tau: float
    seeds: tuple[int, ...]
    chains: int
    draws: int
    warmup: int
    thin: int


@dataclass(frozen=True, eq=False)
class Case:
    """One network and task from one kind of start.

    Attributes
    ----------
    network : Network
    start : {"planted", "annealed"}
    comparisons : tuple of Comparison, by width
    trends : tuple of Trend
        Fits in 1/N (two widths or more) and in 1/N, 1/N^2 (three or more).
    drift : Drift
        At the largest width.
    """

    network: Network
    start: str
    comparisons: tuple[Comparison, ...]
    trends: tuple[Trend, ...]
    drift: Drift

    @property
    def name(self) -> str:
        """Of the case, for headings and files."""
        return f"{self.network.activation.name}-{self.start}"

    def failures(self, limit: float = LIMIT) -> list[str]:
        """Statistics beyond `limit` at the largest width whose deviation does not vanish with 1/N either."""
        beyond = {row.name for row in self.comparisons[-1].tested if not abs(row.z) < limit}
        for trend in self.trends:
            beyond -= {row.name for row in trend.rows if abs(row.z) < limit}
        return sorted(beyond)

    @property
    def trend(self) -> Trend | None:
        """The fit in 1/N; None for a single width."""
        return self.trends[0] if self.trends else None


def validate(
    network: Network,
    posteriors: Sequence[Posterior],
    start: str,
    plan: Plan,
    report: Callable[[str], None] = lambda _: None,
) -> Case:
    """Sample at every width, compare, extrapolate.

    Parameters
    ----------
    network : Network
    posteriors : sequence of SingleNeuronPosterior
        Solutions at the P and tau of the plan, width by width.
    start : {"planted", "annealed"}
        Chains start from neurons drawn from the posterior, or are cooled from the prior.
    plan : Plan
    report : callable
        Receives a line of text as each width is done.
    """
    comparisons: list[Comparison] = []
    for width, posterior in zip(plan.widths, posteriors, strict=True):
        runs = [
            sample(
                network,
                posterior.task,
                width,
                plan.tau,
                draws=plan.draws,
                warmup=plan.warmup,
                chains=plan.chains,
                thin=plan.thin,
                rng=np.random.SeedSequence([seed, width]),
                start=posterior if start == "planted" else "annealed",
            )
            for seed in plan.seeds
        ]
        comparisons.append(compare(posterior, runs))
        report(f"{network.activation.name}, {start}: {comparisons[-1]!r}")
    trends = tuple(finite_size_trend(comparisons, order=order) for order in (1, 2)[: len(comparisons) - 1])
    return Case(network, start, tuple(comparisons), trends, drift(comparisons[-1].draws))


def write_report(folder: Path, cases: Sequence[Case], plan: Plan, limit: float = LIMIT) -> list[Path]:
    """Write report.md, its figures (pdf, png) and all numbers (json); returns the paths."""
    from meanfield.plot.sampling import figure_drift
    from meanfield.plot.style import save_figure

    written: list[Path] = []
    text = [_heading(cases, plan, limit)]
    for case in cases:
        text.append(f"## {case.network.activation.name}, {case.start} start\n")
        figures = [(f"{case.name}-N{case.comparisons[-1].width}", case.comparisons[-1].plot())]
        if case.trend is not None:
            figures.append((f"{case.name}-trend", case.trend.plot()))
        for stem, figure in figures:
            written += save_figure(figure, folder / stem)
            text.append(f"![{stem}]({stem}.png)\n")
        text.append(_verdict(case, limit))
        for found in (case.trend, *reversed(case.comparisons)):
            if found is not None:
                text.append(f"```\n{found.table(limit=limit)}\n```\n")
    drifts = {case.network.activation.name: case.drift for case in reversed(cases)}  # planted ones where there are both
    written += save_figure(figure_drift(list(reversed(drifts.values()))), folder / "drift")
    text += ["## Drift\n", "![drift](drift.png)\n", *(f"- {case.start}: {str(case.drift)[1:-1]}" for case in cases)]
    numbers = [
        {"name": case.name, "failures": case.failures(limit), "comparisons": [c.to_dict() for c in case.comparisons]}
        for case in cases
    ]
    report = folder / "report.md"
    report.write_text("\n".join(text) + "\n", encoding="utf-8")
    data = folder / "report.json"
    data.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return [report, data, *written]


def _heading(cases: Sequence[Case], plan: Plan, limit: float) -> str:
    samples = ", ".join(map(str, dict.fromkeys(plan.n_samples)))
    lines = [
        "# Theory against sampled networks\n",
        f"P = {samples}, tau = N T = {plan.tau:g}, {len(plan.seeds)} seed(s) of {plan.chains} chains "
        f"with {plan.draws} draws each. The theory is that of N -> infinity at this P and tau, at the fractions of "
        "codes of each chain where phi is bounded; deviations of order 1/N are expected and extrapolated away.\n",
        "| network | start | " + " | ".join(f"max abs z, N = {width}" for width in plan.widths) + " | extrapolated | |",
        "|---" * (len(plan.widths) + 4) + "|",
    ]
    for case in cases:
        scores = " | ".join(f"{comparison.max_z:.2f}" for comparison in case.comparisons)
        limit_score = "-" if case.trend is None else f"{case.trend.max_z:.2f}"
        failures = case.failures(limit)
        verdict = "agrees" if not failures else f"{len(failures)} beyond {limit:g}"
        lines.append(f"| {case.network.activation.name} | {case.start} | {scores} | {limit_score} | {verdict} |")
    return "\n".join(lines) + "\n"


def _verdict(case: Case, limit: float) -> str:
    failures = case.failures(limit)
    if failures:
        return f"Beyond {limit:g} standard errors, also after extrapolation: {', '.join(failures)}.\n"
    text = f"Every statistic is within {limit:g} standard errors, or its deviation vanishes with 1/N."
    if case.trend is not None and not case.trend.passed(limit) and len(case.trends) > 1:
        second = {row.name: row.z for row in case.trends[1].rows}
        curved = [(row.name, row.z, second[row.name]) for row in case.trend.rows if not abs(row.z) < limit]
        found = ", ".join(f"{name} (z = {z:.1f} without it, {curved_z:.1f} with it)" for name, z, curved_z in curved)
        text += f" Only with a term 1/N^2: {found}."
    return text + "\n"
