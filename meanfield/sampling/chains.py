"""Samples of the weight posterior of a finite network: several chains, and how well they have converged."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meanfield.archive import Arrays, Header, read_archive, reading, write_archive
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.layers import layer_index
from meanfield.problem.network import Network
from meanfield.sampling import diagnostics
from meanfield.sampling.compiled import forward
from meanfield.sampling.problem import SampledProblem, class_means
from meanfield.validation import FloatArray, choice, entry, read_only, whole_number

__all__ = ["Chains", "Diagnostics"]

# Arrays of a chain with the draw as first axis, and those with one entry per chain.
DRAWN = (
    "readout",
    "class_activation",
    "lower_activation",
    "kernel_between",
    "kernel_diagonal",
    "residual",
    "prediction",
    "energy",
    "acceptance",
    "divergent",
    "steps",
)
PER_CHAIN = ("step_size", "state_first", "state_last")
_PROBLEM = ("features", "targets", "labels", "new_features", "new_residual")
_MOST_CLASSES = 4  # whose kernel elements are listed one by one


@dataclass(frozen=True, eq=False)
class Chains:
    """What `meanfield.sample` returns: c chains of d draws of a network of N neurons per layer (N_l in layer l).

    Neurons have no identity across chains: average only what does not depend on their order.

    Attributes
    ----------
    network : Network
    task : ClassTask or DataTask
    problem : SampledProblem
        What was sampled, in the numbers of the sampler.
    readout : (c, d, N, m) array
        a_i.
    class_activation : (c, d, N, C) array
        Mean of phi(z^L) over the samples of a class, for every neuron of the last layer.
    lower_activation : (c, d, L - 1, max N_l, C) array
        The same in the layers below; NaN beyond the N_l neurons of a layer that is narrower than others.
    kernel_between : (c, d, L, C, C) array
        (1/N) sum_i phi_i phi_i of two different samples, averaged over the pairs of such samples of two classes, per
        layer; NaN within a class of one sample.
    kernel_diagonal : (c, d, L, C) array
        (1/N) sum_i phi_i^2 averaged over the samples of a class; the excess d_l of the theory is this minus the
        diagonal of `kernel_between`.
    residual : (c, d, P, m) array
        y - f on the training samples; tau t in the theory.
    prediction : (c, d, n, m) array
        f on the new inputs.
    energy : (c, d) array
        E of the weights, with the prior in it.
    acceptance, divergent, steps : (c, d) arrays
        Mean acceptance probability, number of divergent trajectories and number of leapfrog steps since the last draw.
    step_size : (c,) array
        In units of the prior standard deviation of the weights.
    state_first, state_last : (c, D) arrays
        All weights of the first and the last draw, in units of their prior standard deviation.
    settings : dict
        How the chains were run: draws, warmup, thin, ..., start and seed.
    """

    network: Network
    task: ClassTask | DataTask
    problem: SampledProblem
    readout: FloatArray
    class_activation: FloatArray
    lower_activation: FloatArray
    kernel_between: FloatArray
    kernel_diagonal: FloatArray
    residual: FloatArray
    prediction: FloatArray
    energy: FloatArray
    acceptance: FloatArray
    divergent: FloatArray
    steps: FloatArray
    step_size: FloatArray
    state_first: FloatArray
    state_last: FloatArray
    settings: dict[str, object]

    def __post_init__(self) -> None:
        for name in (*DRAWN, *PER_CHAIN):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def width(self) -> int:
        """N, of the last layer."""
        return self.problem.width

    @property
    def tau(self) -> float:
        """N T; T itself for the lazy scaling."""
        return self.problem.tau

    @property
    def labels(self) -> NDArray[np.intp]:
        """(P,) class of every training sample; all 0 where the task has no classes."""
        return self.problem.labels

    @property
    def n_groups(self) -> int:
        """C, at least 1."""
        return self.problem.n_groups

    @property
    def n_chains(self) -> int:
        return int(self.energy.shape[0])

    @property
    def n_draws(self) -> int:
        """Per chain."""
        return int(self.energy.shape[1])

    @property
    def class_residual(self) -> FloatArray:
        """(c, d, C, m) mean of y - f over the samples of a class."""
        return np.asarray(class_means(self.labels, self.n_groups).T @ self.residual)

    def preactivations(self, layer: int = -1, at: str = "last") -> FloatArray:
        """(c, N_l, P) z^l on the training samples at the "first" or "last" draw; layers 1..L, -1: last."""
        return self._replay(layer, at)[0]

    def activations(self, layer: int = -1, at: str = "last") -> FloatArray:
        """(c, N_l, P) phi(z^l) on the training samples at the "first" or "last" draw; layers 1..L, -1: last."""
        return self._replay(layer, at)[1]

    def class_activations(self, layer: int = -1, at: str = "last") -> FloatArray:
        """(c, N_l, C) mean of phi(z^l) over the samples of a class at the "first" or "last" draw."""
        return np.asarray(self.activations(layer, at) @ class_means(self.labels, self.n_groups))

    def _replay(self, layer: int, at: str) -> tuple[FloatArray, FloatArray]:
        layer = layer_index(layer, self.network.depth)
        choice("at", at, ("first", "last"))
        work, target = self.problem.work(), self.problem.target()
        z, phi = [], []
        for state in self.state_last if at == "last" else self.state_first:
            x = np.array(state)
            forward(target, x, self.problem.readout(x), work)
            n = self.problem.widths[layer]
            z.append(work.z[layer, :n].copy())
            phi.append(work.phi[layer, :n].copy())
        return np.array(z), np.array(phi)

    def functionals(self) -> dict[str, FloatArray]:
        """Permutation-invariant functionals (c, d) by name: kernels of every layer, residuals, mean squared readout."""
        found: dict[str, FloatArray] = {"energy": self.energy}
        found["mean a^2"] = (self.readout**2).mean(axis=(2, 3))
        residual = self.class_residual
        for c in range(self.n_groups):
            for r in range(self.problem.n_outputs):
                found[f"residual {self._name(c)}, output {r + 1}"] = residual[:, :, c, r]
        for layer in range(self.network.depth):
            kernel, diagonal = self.kernel_between[:, :, layer], self.kernel_diagonal[:, :, layer]
            title = f"K{layer + 1}"
            within = np.diagonal(kernel, axis1=2, axis2=3)
            if self.n_groups <= _MOST_CLASSES:
                for c in range(self.n_groups):
                    for d in range(c, self.n_groups):
                        found[f"{title} {self._name(c)}, {self._name(d)}"] = kernel[:, :, c, d]
                    found[f"{title} {self._name(c)}, diagonal"] = diagonal[:, :, c]
            else:
                off = ~np.eye(self.n_groups, dtype=bool)
                found[f"{title} within classes"] = within.mean(axis=2)
                found[f"{title} between classes"] = kernel[:, :, off].mean(axis=2)
                found[f"{title} diagonal"] = diagonal.mean(axis=2)
        return {name: values for name, values in found.items() if np.isfinite(values).all()}

    def _name(self, c: int) -> str:
        names = self.task.class_names
        return f"class {names[c]}" if len(names) else "all"

    def diagnostics(self) -> Diagnostics:
        """Acceptance, divergences, and R-hat and effective sample sizes of all `functionals`; print it."""
        return Diagnostics.of(self)

    def to_dict(self) -> dict[str, FloatArray]:
        """All arrays by name, with axes (chain, draw, ...)."""
        return {name: np.array(getattr(self, name)) for name in (*DRAWN, *PER_CHAIN)}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to an npz file (without pickle); returns its path."""
        header: Header = {"network": self.network.to_dict(), "settings": self.settings}
        header |= {"width": self.width, "tau": self.tau, "n_groups": self.n_groups}
        arrays: Arrays = {**self.to_dict(), **{f"problem_{n}": getattr(self.problem, n) for n in _PROBLEM}}
        if isinstance(self.task, ClassTask):
            header["class_task"] = self.task.to_dict()
        else:
            header["data_task"], own = self.task.to_arrays()
            arrays |= {f"task_{name}": value for name, value in own.items()}
        return write_archive(path, "chains", header, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Chains:
        """Read a file of `save`.

        Raises
        ------
        ValueError
            If the file is not one of sampled chains.
        """
        from meanfield.sampling.claims import check_chains  # which builds the problem of the chains again

        header, arrays = read_archive(path, "chains")
        with reading(path, "set of chains"):
            chains = cls._unpacked(header, arrays)
            check_chains(chains)
        return chains

    @classmethod
    def _unpacked(cls, header: Header, arrays: Arrays) -> Chains:
        def part(prefix: str) -> Arrays:
            return {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}

        width, n_groups = (whole_number(f"its {name}", header[name], at_least=1) for name in ("width", "n_groups"))
        settings = entry(header, "settings", dict)
        network = Network.from_dict(entry(header, "network", dict))
        task: ClassTask | DataTask
        if "class_task" in header:
            task = ClassTask.from_dict(entry(header, "class_task", dict))
        else:
            task = DataTask.from_arrays(entry(header, "data_task", dict), part("task_"))
        problem = SampledProblem(
            network=network,
            width=width,
            tau=entry(header, "tau", (int, float)),
            n_groups=n_groups,
            **part("problem_"),
        )
        if "lower_activation" not in arrays and network.depth == 1:  # written before it was recorded
            c, d, n, groups = arrays["class_activation"].shape
            arrays["lower_activation"] = np.empty((c, d, 0, n, groups))
        own = {name: arrays[name] for name in (*DRAWN, *PER_CHAIN)}
        return cls(network=network, task=task, problem=problem, settings=settings, **own)

    @classmethod
    def join(
        cls,
        task: ClassTask | DataTask,
        problem: SampledProblem,
        chains: Sequence[Mapping[str, FloatArray | float]],
        settings: dict[str, object],
    ) -> Chains:
        """From the results of `run_chain`."""
        arrays = {name: np.array([chain[name] for chain in chains]) for name in (*DRAWN, *PER_CHAIN)}
        return cls(network=problem.network, task=task, problem=problem, settings=settings, **arrays)

    def __repr__(self) -> str:
        bad = int(self.divergent.sum())
        divergences = f", {bad} divergences" if bad else ""
        return (
            f"<Chains: {self.n_chains} x {self.n_draws} draws of {self.network.activation.name}, "
            f"L={self.network.depth}, N={self.width}, P={self.problem.n_samples}, tau={self.tau:g}, "
            f"{self.settings['start']} start; acceptance {self.acceptance.mean():.2f}{divergences}>"
        )


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """Convergence of chains; printing it gives a table.

    Attributes
    ----------
    names : tuple of str
        Functionals.
    mean, mcse, rhat, ess_bulk, ess_tail : (k,) arrays
        Mean over all draws, its Monte-Carlo standard error, rank-normalised split R-hat, effective sample sizes. Chains
        that keep different code fractions show as R-hat > 1 in what depends on these; see the theory.
    acceptance, step_size, steps : (c,) arrays
        Means per chain.
    divergences : (c,) array
    """

    names: tuple[str, ...]
    mean: FloatArray
    mcse: FloatArray
    rhat: FloatArray
    ess_bulk: FloatArray
    ess_tail: FloatArray
    acceptance: FloatArray
    step_size: FloatArray
    steps: FloatArray
    divergences: FloatArray

    @classmethod
    def of(cls, chains: Chains) -> Diagnostics:
        """Diagnostics of chains."""
        found = chains.functionals()
        draws = np.stack(list(found.values()), axis=2)
        return cls(
            names=tuple(found),
            mean=draws.mean(axis=(0, 1)),
            mcse=diagnostics.mcse_mean(draws),
            rhat=diagnostics.rhat(draws),
            ess_bulk=diagnostics.ess_bulk(draws),
            ess_tail=diagnostics.ess_tail(draws),
            acceptance=chains.acceptance.mean(axis=1),
            step_size=chains.step_size,
            steps=chains.steps.mean(axis=1),
            divergences=chains.divergent.sum(axis=1),
        )

    def __repr__(self) -> str:
        width = max(len(name) for name in self.names)
        lines = [f"{'':<{width}} {'mean':>12} {'std. error':>11} {'R-hat':>7} {'bulk ESS':>9} {'tail ESS':>9}"]
        for row in zip(self.names, self.mean, self.mcse, self.rhat, self.ess_bulk, self.ess_tail, strict=True):
            name, mean, mcse, rhat, bulk, tail = row
            lines.append(f"{name:<{width}} {mean:>12.6g} {mcse:>11.2g} {rhat:>7.3f} {bulk:>9.0f} {tail:>9.0f}")
        for c, values in enumerate(zip(self.acceptance, self.step_size, self.steps, self.divergences, strict=True)):
            lines.append(
                "chain {}: acceptance {:.2f}, step {:.3g}, {:.0f} leapfrog steps a draw, {:.0f} divergences".format(
                    c + 1, *values
                )
            )
        return "\n".join(lines)
