"""`sample`: Hamiltonian Monte Carlo on the weights of a network of finite width."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import asdict
from typing import cast

import numpy as np

from meanfield.numerics.jit import source_hash
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.progress import progress_bar
from meanfield.sampling.chains import Chains
from meanfield.sampling.hmc import Job, Settings, run_chain
from meanfield.sampling.plant import Drawable, planted, weights_of
from meanfield.sampling.problem import Record, SampledProblem, problem
from meanfield.validation import (
    FloatArray,
    executor_or_none,
    flag,
    folder_path,
    real_number,
    seed_like,
    short,
    whole_number,
)

__all__ = ["sample"]

_MOST_STEPS = 1000  # leapfrog steps of one trajectory


def sample(
    network: Network,
    task: ClassTask | DataTask,
    width: int,
    tau: float,
    *,
    draws: int = 500,
    warmup: int = 500,
    chains: int = 4,
    thin: int = 1,
    start: object = "annealed",
    inputs: object = None,
    rng: object = None,
    length: float = 1.5,
    target_acceptance: float = 0.8,
    executor: Executor | None = None,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Chains:
    """Sample the weight posterior of a finite network, P(Theta) ~ exp(-|y - f|^2 / 2T) times the prior.

    Every iteration draws the readout exactly from its Gaussian conditional and moves all weights along a Hamiltonian
    trajectory; the step size is tuned during warm-up only. Nothing of the theory is used.

    Parameters
    ----------
    network : Network
        Every depth, both scalings, any activation without jumps. In deep networks sigma_w is the prior scale of the
        weights of every hidden layer, unless `layer_sigmas` says otherwise.
    task : ClassTask or DataTask
        A class task needs a finite `n_samples` that makes whole numbers of samples per class; its inputs are
        orthogonal, so that preactivations are sampled instead of first-layer weights.
    width : int
        N, neurons of the last hidden layer, and of the others unless the network has `width_ratios`, whose product
        with N must be whole numbers.
    tau : float
        Rescaled temperature N T > 0; for the lazy scaling, as in `solve`, T itself.
    draws, warmup, chains, thin : int
        Kept draws per chain, iterations before the first, number of chains, iterations per kept draw.
    start : {"annealed", "prior"}, posterior, Neurons, or Chains
        Where chains start: the prior, cooled down to T during the first 60 % of warm-up; the prior at T at once;
        neurons drawn from a solution of the theory ("planted": numbers of neurons per code are its weights times N,
        rounded; of one hidden layer, or a deep network on a class task), or such neurons of one hidden layer; or the
        last draws of other chains, without cooling. Chains keep the code fractions they start with for very long where
        codes are separated by barriers.
    inputs : (n, N_0) array-like or images, optional
        New raw inputs of a `DataTask` at which predictions are recorded.
    rng : None, int, SeedSequence or Generator
        Every chain gets a stream of its own.
    length : float
        Mean length of a trajectory, in units of the prior standard deviation of the weights.
    target_acceptance : float
        For the tuning of the step size.
    executor : concurrent.futures.Executor, optional
        Where to run the chains, e.g. a ProcessPoolExecutor; threads of this process by default.
    progress : bool, optional
        Show a progress bar; by default on a terminal if tqdm is installed.
    checkpoint : path, optional
        Folder in which chains keep their state, every few seconds; called again with the same arguments, interrupted
        chains continue and end with exactly the results they would have had. Files of another problem, setting or
        version of this package are left alone, damaged ones redone with a warning. Needs `rng`, of which a SeedSequence
        or Generator is not advanced here: the second call has to find the streams of the first.

    Returns
    -------
    Chains

    Raises
    ------
    ValueError
        For a step activation, tau <= 0, class sizes that are not whole numbers, and arguments out of range.

    Notes
    -----
    Threads inside the BLAS library slow chains down; set OMP_NUM_THREADS=1 (or the variable of your BLAS). The same
    seed gives the same bits on one machine with one number of BLAS threads; elsewhere matrix products are rounded
    differently, and a chain of the same seed soon becomes another chain of the same posterior.

    Examples
    --------
    >>> import meanfield as mf
    >>> task = mf.class_task(n_classes=2, on=1, off=-1, n_samples=20)
    >>> mf.sample(mf.Network("sigmoid"), task, 30, 0.1, draws=20, warmup=50, chains=2, rng=0)  # doctest: +ELLIPSIS
    <Chains: 2 x 20 draws of sigmoid, L=1, N=30, P=20, tau=0.1, annealed start; acceptance 0...>
    """
    posed = problem(network, task, width, tau, inputs)
    counts = {"draws": draws, "warmup": warmup, "chains": chains, "thin": thin}
    for name, value in counts.items():
        whole_number(name, value, at_least=1, at_most=10_000 if name == "chains" else 10**9)
    executor, progress = executor_or_none("executor", executor), flag("progress", progress, none=True)
    rng = seed_like("rng", rng)
    target_acceptance = real_number("target_acceptance", target_acceptance, above=0.0)
    if target_acceptance >= 1.0:
        raise ValueError(f"target_acceptance must be below 1, got {target_acceptance:g}.")
    settings = Settings(
        draws=int(draws),
        warmup=int(warmup),
        thin=int(thin),
        length=real_number("length", length, above=0.0),
        target_acceptance=target_acceptance,
        max_steps=_MOST_STEPS,
        annealed=isinstance(start, str) and start == "annealed",
    )
    if checkpoint is not None and rng is None:
        raise ValueError("a checkpoint needs rng=, e.g. rng=0: without it a second call would be another experiment.")
    seeds = _spawn(rng, chains, advance=checkpoint is None)
    name, states = _starts(posed, start, seeds)
    folder = None if checkpoint is None else folder_path("checkpoint", checkpoint)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for seed, state in zip(seeds, states, strict=True):
        key = _fingerprint(posed, settings, seed, state)
        file = None if folder is None else folder / f"chain-{key}.npz"
        jobs.append(Job(posed, settings, seed, state, file, key))
    results = _run(jobs, executor, progress)
    described = asdict(settings) | {"start": name, "seed": [_describe(seed) for seed in seeds]}
    return Chains.join(task, posed, results, described)


def _spawn(rng: object, n: int, advance: bool = True) -> list[np.random.SeedSequence]:
    """Streams of n chains; unless to `advance`, a SeedSequence or Generator gives the same ones when asked again."""
    if isinstance(rng, np.random.Generator):
        sequence = cast(np.random.SeedSequence, rng.bit_generator.seed_seq)
    elif isinstance(rng, np.random.SeedSequence):
        sequence = rng
    else:
        sequence = np.random.SeedSequence(cast("int | None", rng))
    if not advance:
        sequence = np.random.SeedSequence(
            sequence.entropy,
            spawn_key=sequence.spawn_key,
            pool_size=sequence.pool_size,
            n_children_spawned=sequence.n_children_spawned,
        )
    return list(sequence.spawn(int(n)))


def _describe(seed: np.random.SeedSequence) -> str:
    return f"{seed.entropy}/{'.'.join(map(str, seed.spawn_key))}"


def _fingerprint(
    posed: SampledProblem, settings: Settings, seed: np.random.SeedSequence, state: FloatArray | None
) -> str:
    digest = hashlib.sha256()
    numbers = [posed.width, posed.tau, _describe(seed), asdict(settings), source_hash(run_chain.__code__.co_filename)]
    digest.update(json.dumps([posed.network.to_dict(), *numbers], sort_keys=True, default=str).encode())
    for array in (posed.features, posed.targets, posed.labels, posed.new_features, posed.new_residual, state):
        digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _starts(
    posed: SampledProblem, start: object, seeds: list[np.random.SeedSequence]
) -> tuple[str, list[FloatArray] | list[None]]:
    """What the start is called, and the weights of every chain (None: drawn from the prior)."""
    if isinstance(start, str):
        if start not in ("annealed", "prior"):
            raise ValueError(f'start must be "annealed", "prior", a posterior, neurons or chains, got {short(start)}.')
        return start, [None] * len(seeds)
    if isinstance(start, Chains):
        if start.state_last.shape != (len(seeds), posed.n_weights):
            raise ValueError(
                f"start= holds {start.n_chains} chains of {start.state_last.shape[1]} weights, but {len(seeds)} chains "
                f"of {posed.n_weights} weights are wanted; use the same width, samples and number of chains."
            )
        return "continued", [np.array(state) for state in start.state_last]
    if hasattr(start, "sample_neurons"):
        depth, own = posed.network.depth, int(getattr(start, "network", posed.network).depth)
        if own != depth:
            raise ValueError(
                f"start= is a posterior of a network of depth {own}, the network to be sampled of "
                f"depth {depth}; solve the theory for the same network."
            )
        # Children of the chain's own stream: independent of it and of the other chains.
        return "planted", [
            planted(posed, cast("Drawable", start), np.random.default_rng(seed.spawn(1)[0])) for seed in seeds
        ]
    if hasattr(start, "preactivations") and hasattr(start, "readouts"):
        if posed.network.depth != 1:
            raise ValueError("neurons of one layer do not make a deep network: give the posterior as start=.")
        return "planted", [weights_of(posed, start.readouts, [start.preactivations])] * len(seeds)
    raise ValueError(f'start must be "annealed", "prior", a posterior, neurons or chains, got {type(start).__name__}.')


def _run(jobs: list[Job], executor: Executor | None, progress: bool | None) -> list[Record]:
    """Results of all chains, in order; an interrupt stops chains in threads at their next iteration."""
    if executor is not None:
        with progress_bar(progress, len(jobs), unit="chain", title="sampling") as advance:
            futures = [executor.submit(run_chain, job) for job in jobs]
            try:
                for _ in as_completed(futures):
                    advance()
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
    stop = threading.Event()
    total = sum(job.settings.warmup + job.settings.draws * job.settings.thin for job in jobs)
    lock = threading.Lock()
    with (
        progress_bar(progress, total, unit="it", title="sampling") as advance,
        ThreadPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as pool,
    ):

        def report() -> None:
            with lock:
                advance()

        futures = [pool.submit(run_chain, job, stop.is_set, report) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
