"""One Markov chain: Hamiltonian Monte Carlo on all weights, with exact draws of the readout in between.

Every iteration draws the readout from its Gaussian conditional, then moves all weights along a leapfrog trajectory of
random length. Masses are 1 in units of the prior: the number of weights, not the stiffness of the readout, limits the
step. (Sigmoid, N = P = 100: neither a readout mass of 4 or 16, at tau = 0.02 and 0.001, nor integrating the readout
out, at tau = 0.02, allows larger steps; a gradient of the latter costs 5.6 times as much.) The step size is tuned by
dual averaging (Hoffman and Gelman, JMLR 15:1593 (2014)) during warm-up only, in the first part of which the network is
cooled from the prior.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from meanfield.archive import read_archive, write_archive
from meanfield.sampling.compiled import forward, trajectory
from meanfield.sampling.problem import Record, SampledProblem
from meanfield.validation import FloatArray, entry

__all__ = ["Interrupted", "Job", "Settings", "run_chain"]

_WORST = 1000.0  # change of the energy that counts as a divergence
_COOLING = 0.6  # of warm-up
_SECONDS = 2.0  # between checkpoints
_SHARE = 0.2  # of the time that checkpoints may take


class Interrupted(Exception):
    """The chain was asked to stop; its checkpoint, if it has one, is up to date."""


@dataclass(frozen=True)
class Settings:
    """How a chain is run; see `meanfield.sample`."""

    draws: int
    warmup: int
    thin: int
    length: float
    target_acceptance: float
    max_steps: int
    annealed: bool


@dataclass(frozen=True)
class Job:
    """One chain to run: its problem, where it starts (None: the prior), its random stream, its checkpoint file."""

    problem: SampledProblem
    settings: Settings
    seed: np.random.SeedSequence
    start: FloatArray | None = None
    checkpoint: Path | None = None
    key: str = ""


@dataclass
class DualAveraging:
    """Step size whose acceptance averages to a target."""

    target: float
    log_step: float
    centre: float
    log_mean: float = 0.0
    error: float = 0.0
    count: int = 0

    @classmethod
    def begin(cls, target: float, step: float) -> DualAveraging:
        """Start from a guess of the step size."""
        return cls(target, math.log(step), math.log(2.0 * step), math.log(step))

    def update(self, acceptance: float) -> None:
        """Take the acceptance probability of one trajectory into account."""
        self.count += 1
        weight = 1.0 / (self.count + 10.0)
        self.error += weight * (self.target - acceptance - self.error)
        self.log_step = self.centre - 20.0 * math.sqrt(self.count) * self.error
        self.log_mean += self.count**-0.75 * (self.log_step - self.log_mean)


def run_chain(job: Job, stop: Callable[[], bool] | None = None, report: Callable[[], None] | None = None) -> Record:
    """Run a chain, or the rest of it if its checkpoint file exists.

    Parameters
    ----------
    job : Job
    stop : function, optional
        Asked before every iteration; True ends the chain with `Interrupted`.
    report : function, optional
        Called after every iteration.

    Returns
    -------
    dict
        Arrays with the draw as first axis (see `SampledProblem.observe`), "acceptance", "divergent", "steps" likewise,
        "step_size", "state_first" and "state_last".
    """
    chain = _Chain(job)
    total = job.settings.warmup + job.settings.draws * job.settings.thin
    for _ in range(chain.iteration, total):
        if stop is not None and stop():
            chain.save()
            raise Interrupted
        chain.advance()
        if report is not None:
            report()
        chain.save_now_and_then()
    chain.save()
    return chain.result()


class _Chain:
    """State of a running chain."""

    def __init__(self, job: Job) -> None:
        self.job, self.problem, self.settings = job, job.problem, job.settings
        self.target, self.work = self.problem.target(), self.problem.work()
        self.rng = np.random.Generator(np.random.PCG64(job.seed))
        self.gradient = np.empty(self.problem.n_weights)
        self.records: dict[str, list[FloatArray | float]] = {}
        self.tally = np.zeros(3)  # acceptance, divergences, leapfrog steps since the last kept draw
        self.iteration = 0
        self.adaptation = DualAveraging.begin(self.settings.target_acceptance, 0.1)
        self.state_first = np.empty(0)
        self._next_save = time.monotonic() + _SECONDS
        self._cannot_save = False
        if job.checkpoint is not None and job.checkpoint.exists() and self._load(job.checkpoint):
            return
        if job.start is None:
            self.x = self.rng.standard_normal(self.problem.n_weights)
        else:
            self.x = np.array(job.start, dtype=np.float64)

    def coldness(self) -> float:
        """beta of this iteration: from where the data are barely felt to 1 / T while the network is cooled."""
        last, cooling = self.problem.coldness, _COOLING * self.settings.warmup
        if not self.settings.annealed or self.iteration >= cooling:
            return last
        hot = min(last, 1.0 / float(np.sum(self.problem.targets**2) + 1e-300))
        return float(hot * (last / hot) ** (self.iteration / cooling))

    def advance(self) -> None:
        """One iteration."""
        settings, problem = self.settings, self.problem
        beta = self.coldness()
        forward(self.target, self.x, problem.readout(self.x), self.work)
        problem.readout(self.x)[:] = problem.draw_readout(self.work.phi[-1, : problem.width], beta, self.rng)
        warm = self.iteration < settings.warmup
        step = math.exp(self.adaptation.log_step if warm else self.adaptation.log_mean)
        momentum = self.rng.standard_normal(problem.n_weights)
        jitter, uniform = self.rng.random(2)
        n_steps = int(min(max(1.0, round(settings.length * (0.5 + jitter) / step)), settings.max_steps))
        moved = self.x.copy()
        change = trajectory(self.target, moved, momentum, beta, step, n_steps, _WORST, self.work, self.gradient)
        acceptance = math.exp(min(0.0, -change))
        if uniform < acceptance:
            self.x = moved
        self.tally += (acceptance, math.isinf(change), n_steps)
        if warm:
            self.adaptation.update(acceptance)
        self.iteration += 1
        if warm and self.iteration == math.ceil(_COOLING * settings.warmup):  # the last temperature is reached
            self.adaptation = DualAveraging.begin(settings.target_acceptance, math.exp(self.adaptation.log_step))
        if warm and self.iteration == settings.warmup:
            self.tally[:] = 0
        if not warm and (self.iteration - settings.warmup) % settings.thin == 0:
            self._keep()

    def _keep(self) -> None:
        problem = self.problem
        forward(self.target, self.x, problem.readout(self.x), self.work)
        acceptance, divergent, steps = self.tally
        observed = problem.observe(self.x, self.work, self.rng)
        observed |= {"acceptance": acceptance / self.settings.thin, "divergent": divergent, "steps": steps}
        for name, value in observed.items():
            self.records.setdefault(name, []).append(value)
        self.tally[:] = 0
        if not self.state_first.size:
            self.state_first = self.x.copy()

    def result(self) -> Record:
        """Everything recorded."""
        arrays: Record = {name: np.array(values) for name, values in self.records.items()}
        return arrays | {
            "step_size": math.exp(self.adaptation.log_mean),
            "state_first": self.state_first,
            "state_last": self.x,
        }

    def save_now_and_then(self) -> None:
        """Write the checkpoint if the last one is some seconds old, less often where writing takes long."""
        if self.job.checkpoint is None or time.monotonic() < self._next_save:
            return
        begun = time.monotonic()
        self.save()
        now = time.monotonic()
        self._next_save = now + max(_SECONDS, (now - begun) / _SHARE)

    def save(self) -> None:
        """Write the checkpoint, from which the chain continues as if it had never stopped."""
        if self.job.checkpoint is None:
            return
        state = self.rng.bit_generator.state
        header = {
            "key": self.job.key,
            "iteration": self.iteration,
            "adaptation": asdict(self.adaptation),
            "random": {"state": {k: str(v) for k, v in state["state"].items()}}
            | {name: state[name] for name in ("bit_generator", "has_uint32", "uinteger")},
        }
        arrays = {f"record_{name}": np.array(values) for name, values in self.records.items()}
        arrays |= {"x": self.x, "state_first": self.state_first, "tally": self.tally}
        try:
            write_archive(self.job.checkpoint, "chain", header | {"digest": _digest(header, arrays)}, arrays)
        except OSError as error:
            if not self._cannot_save:
                self._cannot_save = True
                warnings.warn(
                    f"the checkpoint {self.job.checkpoint} cannot be written ({error}); the chain runs on without it.",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _load(self, path: Path) -> bool:
        """Continue from a checkpoint; False, with a warning, if it is damaged."""
        try:
            header, arrays = read_archive(path, "chain")
            digest = header.pop("digest")
            if header.get("key") != self.job.key or digest != _digest(header, arrays):
                raise ValueError("it is not what was written")
            adaptation = DualAveraging(**entry(header, "adaptation", dict))
            random = entry(header, "random", dict)
            iteration = entry(header, "iteration", int)
            self.rng.bit_generator.state = random | {"state": {k: int(v) for k, v in random["state"].items()}}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(
                f"the checkpoint {path} is damaged ({error}); its chain starts again.", RuntimeWarning, stacklevel=2
            )
            self.rng = np.random.Generator(np.random.PCG64(self.job.seed))
            return False
        self.iteration, self.adaptation = iteration, adaptation
        self.x, self.state_first, self.tally = (arrays.pop(name) for name in ("x", "state_first", "tally"))
        self.records = {name.removeprefix("record_"): list(values) for name, values in arrays.items()}
        return True


def _digest(header: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> str:
    """Of everything that a checkpoint holds: what has this and the right key was written by `_Chain.save`."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {arrays[name].shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
