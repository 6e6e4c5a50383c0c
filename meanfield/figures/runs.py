"""Sampled networks beside a theory, as the figures need them.

At full size chains are drawn in rounds until they suffice, and kept in a folder: what was interrupted goes on from
there, and what is finished is not sampled or solved again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypedDict, cast

import numpy as np

from meanfield.figures.gallery import Scale
from meanfield.posterior.archive import load_posterior
from meanfield.posterior.posterior import Posterior
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.sampling.chains import DRAWN, Chains
from meanfield.sampling.compare import Comparison, compare
from meanfield.sampling.sample import sample
from meanfield.sampling.trend import Trend, finite_size_trend
from meanfield.solve import solve

__all__ = ["Effort", "Runs", "effort", "networks", "sampled", "solved"]

ROUNDS = 4  # of draws, at most
_ENOUGH = 30.0  # degrees of freedom of a standard error
_SHARE = 0.8  # of the statistics that have to have them: by chance chains seem to disagree in one of twenty
_AGAIN = 30  # iterations in which a further round finds its step size


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
        """What remains as N -> infinity: a line in 1/N through two widths, a parabola through three."""
        return finite_size_trend(self.comparisons, order=min(len(self.comparisons) - 1, 2))

    @property
    def said(self) -> str:
        """That in words."""
        trend = self.trend
        curve = "line" if trend.order == 1 else "parabola"
        widths = ", ".join(map(str, trend.widths))
        return (
            f"extrapolated by a {curve} in 1/N through N = {widths}: max |z| = {trend.max_z:.2f} over "
            f"{len(trend.rows)} statistics"
        )


class Effort(TypedDict):
    """Options of `meanfield.sample` that say how long it takes."""

    draws: int
    warmup: int
    thin: int
    chains: int


def effort(
    scale: Scale, *, draws: tuple[int, int], warmup: tuple[int, int], thin: int, chains: tuple[int, int]
) -> Effort:
    """Options of `sample`, each but `thin` the small and the full number; full draws are those of one round."""
    return Effort(draws=scale.size(*draws), warmup=scale.size(*warmup), thin=thin, chains=scale.size(*chains))


def networks(
    network: Network,
    task: ClassTask | DataTask,
    width: int,
    tau: float,
    scale: Scale,
    how: Effort,
    *,
    start: object = "annealed",
    inputs: object = None,
    length: float = 1.5,
) -> Chains:
    """Chains of one width, one round of them; from the folder of a full run if they are there."""
    iterations = how["warmup"] + how["draws"] * how["thin"]
    n_samples = f"{task.n_samples:g}"
    scale.say(
        f"{network.activation.name}, L = {network.depth}, {network.scaling}, N = {width}, P = {n_samples}: "
        f"{how['chains']} chains of {iterations} iterations"
    )
    begin = time.monotonic()
    found = sample(
        network, task, width, tau, rng=scale.seed, start=start, inputs=inputs, length=length,
        checkpoint=scale.kept, progress=None if scale.full else False, **how,
    )  # fmt: skip
    scale.say(f"  {time.monotonic() - begin:.0f} s")
    return found


def sampled(
    posterior: Posterior,
    widths: Iterable[int],
    scale: Scale,
    how: Effort,
    *,
    start: object = None,
    inputs: object = None,
    length: float = 1.5,
    rounds: int | None = None,
) -> Runs:
    """Chains of these widths at the problem of a posterior, started from it unless told otherwise.

    At full size rounds of draws follow each other until four in five errors have thirty degrees of freedom, `rounds` at
    most (`ROUNDS` if None).
    """
    most = (ROUNDS if rounds is None else rounds) if scale.full else 1
    start = posterior if start is None else start
    problem = posterior.network, posterior.task
    chains, comparisons = [], []
    for width in widths:
        found = networks(*problem, width, posterior.tau, scale, how, start=start, inputs=inputs, length=length)
        compared = compare(posterior, found, inputs=inputs)
        for k in range(1, most):
            share = _sure(compared)
            if share >= _SHARE:
                break
            scale.say(f"  {100 * share:.0f} % of the errors have {_ENOUGH:g} degrees of freedom: round {k + 1}")
            again = cast("Effort", how | {"warmup": _AGAIN})
            own = replace(scale, seed=_seed(scale.seed, k))
            more = networks(*problem, width, posterior.tau, own, again, start=found, inputs=inputs, length=length)
            found = _joined(found, more)
            compared = compare(posterior, found, inputs=inputs)
        chains.append(found)
        comparisons.append(compared)
    return Runs(tuple(chains), tuple(comparisons))


def _sure(compared: Comparison) -> float:
    """Share of the statistics whose error is known well enough."""
    return float(np.mean([row.dof >= _ENOUGH for row in compared.tested]))


def _seed(seed: int, k: int) -> int:
    """Of the k-th further round."""
    return int(np.random.SeedSequence([seed, k]).generate_state(1)[0])


def _joined(first: Chains, more: Chains) -> Chains:
    """Chains with the draws of others that continued them."""
    drawn: dict[str, Any] = {
        name: np.concatenate([getattr(first, name), getattr(more, name)], axis=1) for name in DRAWN
    }
    settings = first.settings | {"draws": first.n_draws + more.n_draws}
    return replace(first, **drawn, step_size=more.step_size, state_last=more.state_last, settings=settings)


def solved(
    scale: Scale,
    network: Network,
    task: ClassTask | DataTask,
    tau: float,
    *,
    by: Callable[..., Posterior] | None = None,
    **options: Any,
) -> Posterior:
    """`meanfield.solve`, from the folder of a full run if it is there; read again, it is certified again.

    `by` is what solves instead.
    """
    name, by = ("solve", solve) if by is None else (by.__name__, by)
    if scale.kept is None:
        return by(network, task, tau, **options)
    digest = hashlib.sha256()
    described, arrays = (task.to_dict(), {}) if isinstance(task, ClassTask) else task.to_arrays()
    said = [name, network.to_dict(), described, tau, {key: repr(value) for key, value in sorted(options.items())}]
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    for key in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    path = scale.kept / f"solution-{digest.hexdigest()[:16]}.npz"
    if path.exists():
        try:
            return cast("Posterior", load_posterior(path))
        except ValueError:  # of another version
            pass
    found = by(network, task, tau, **options)
    if found.status == "optimal":
        scale.kept.mkdir(parents=True, exist_ok=True)
        found.save(path)
    return found
