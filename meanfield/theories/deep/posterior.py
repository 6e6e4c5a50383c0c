"""The posterior of a deep network on a class task, layer by layer."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from meanfield.activations.density import _pieces
from meanfield.archive import write_archive
from meanfield.posterior.kernel import Kernel
from meanfield.posterior.neurons import Neurons, positive_count, sample_counts
from meanfield.posterior.parts import Code
from meanfield.posterior.posterior import SolvedPosterior
from meanfield.posterior.registry import theory_named
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.rules import Detail
from meanfield.theories.deep.solution import DeepCertificate, DeepSolution
from meanfield.theories.deep.states import layer_nodes, states_of
from meanfield.theories.deep.system import Order, System
from meanfield.theories.deep.table import deep_table
from meanfield.validation import FloatArray, IntArray, read_only, real_array, short
from meanfield.validation import generator as new_generator

__all__ = ["DeepPosterior"]

_DRAW = np.linspace(-6.5, 6.5, 261)
_MOST_NODES = 3000  # of one density


@dataclass(frozen=True, eq=False)
class DeepPosterior(SolvedPosterior):
    """Posterior of the neurons of every hidden layer; what `solve_deep` returns.

    Layers are numbered 1 .. L, or from the last by negative numbers.

    Parameters
    ----------
    network : Network
    task : ClassTask
    tau : float
    solution : DeepSolution
    """

    network: Network
    task: ClassTask
    tau: float
    solution: DeepSolution

    theory: ClassVar[str] = "deep"

    # ---- what was found --------------------------------------------------------------------------

    @property
    def scheme(self) -> str:
        """ "redundant" (codes) for bounded phi, "analog" (Gaussian readouts) for linear phi."""
        return "analog" if self.network.activation.parts == "gaussian" else "redundant"

    @cached_property
    def codes(self) -> tuple[Code, ...]:
        """Codes of the last layer, heaviest first; none in linear networks."""
        s = self.solution
        spread = None if math.isinf(s.n_samples) else s.covariance
        return tuple(
            Code(
                s.patterns[i], float(s.weight[i]), read_only(s.readout[i]), read_only(s.activation[i]),
                read_only(s.activation_variance[i]), None if spread is None else read_only(spread[i]),
            )
            for i in range(len(s.patterns))
        )  # fmt: skip

    def layer_codes(self, layer: int = -1) -> tuple[Code, ...]:
        """Codes of any layer: neurons grouped by the classes on which their mean activation is above the midpoint.

        Below the last layer a code is soft: the group of neurons, not a delta; its "readout" is the mean field b (C,)
        that the layers above exert.
        """
        layer = self._layer(layer) - 1
        if layer == self.network.depth - 1:
            return self.codes
        detail, words = self._nodes(layer)
        states = states_of(detail, words)
        root = self._system.setting(self._order, layer).root
        at = self._index
        return tuple(
            Code(
                "".join(states.patterns[i][c] for c in at), float(states.share[i]),
                read_only((root @ states.beta[i])[at]), read_only(states.activation[i][at]),
                read_only(states.variance[i][at]), read_only((root @ states.covariance[i] @ root.T)[np.ix_(at, at)]),
            )
            for i in range(len(states.patterns))
        )  # fmt: skip

    @property
    def order_parameters(self) -> dict[str, object]:
        """kernel (L, C, C), d (L, C), tilde (L-1, C, C), delta (L-1, C), t (C, m), readout and weight of the codes."""
        s = self.solution
        names = ("kernel", "d", "tilde", "delta", "t", "readout", "weight")
        return {name: getattr(s, name) for name in names}

    @property
    def free_energy(self) -> float:
        """Phi = ln p(Y) / N at leading order; at P = infinity Phi / P."""
        return self.solution.free_energy

    @property
    def objective(self) -> float:
        """Phi / P, the counterpart of min J of one hidden layer."""
        return self.solution.objective

    @property
    def readout_covariance(self) -> FloatArray:
        """(m, m) covariance of the readout over all neurons."""
        s = self.solution
        mean = s.weight @ s.readout if len(s.weight) else np.zeros(self.task.n_outputs)
        return read_only(s.second_readout - np.outer(mean, mean))

    @property
    def certificate(self) -> DeepCertificate:
        """The proof that comes with the solution."""
        return self.solution.certificate

    # ---- kernels and laws ------------------------------------------------------------------------

    def kernel(self, layer: int = -1) -> Kernel:
        """Posterior kernel of a layer's activations on training samples."""
        layer = self._layer(layer) - 1
        s = self.solution
        return Kernel(s.kernel[layer], read_only(np.diag(s.kernel[layer]) + s.d[layer]))

    def separation(self, layer: int = -1) -> dict[str, FloatArray]:
        """How sharp the code of a layer is: class-mean activation of active and of inactive neurons, per class (C,),
        and kurtosis (C, C) of the difference of two class means over neurons (1: two deltas, 3: Gaussian).

        The means are those given the field b of a neuron; the kurtosis includes the spread over h and over samples.
        """
        detail, _ = self._nodes(self._layer(layer) - 1)
        at, middle = self._index, self._middle
        w, mean = detail.share[:, None], detail.activation
        on = mean > middle
        with np.errstate(invalid="ignore"):
            active = (w * mean * on).sum(axis=0) / (w * on).sum(axis=0)
            silent = (w * mean * ~on).sum(axis=0) / (w * ~on).sum(axis=0)
        gap = mean[:, :, None] - mean[:, None, :]
        gap = gap - np.tensordot(detail.share, gap, 1)
        own = np.maximum(detail.activation_square - mean**2, 0.0) + detail.noise / self._system.problem.n
        spread = own[:, :, None] + own[:, None, :]
        spread[:, np.arange(spread.shape[1]), np.arange(spread.shape[1])] = 0.0
        second = np.tensordot(detail.share, gap**2 + spread, 1)
        fourth = np.tensordot(detail.share, gap**4 + 6.0 * gap**2 * spread + 3.0 * spread**2, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            kurtosis = fourth / second**2
        return {"on": active[at], "off": silent[at], "kurtosis": kurtosis[np.ix_(at, at)]}

    def readout_density(self, a: object) -> FloatArray:
        """Density of the readout at `a`, shape (..., m).

        Raises
        ------
        ValueError
            At P = infinity (a sum of deltas) and for a wrong shape.
        """
        a = real_array("a", a)
        m = self.task.n_outputs
        if a.shape[-1:] != (m,):
            raise ValueError(f"a must have shape (..., m) with m = {m}, got {a.shape}.")
        if self.scheme == "analog":
            inverse, (_, log_det) = np.linalg.inv(self.readout_covariance), np.linalg.slogdet(self.readout_covariance)
            return np.asarray(
                np.exp(
                    -0.5 * np.einsum("...i,ij,...j->...", a, inverse, a) - 0.5 * (log_det + m * math.log(2 * math.pi))
                )
            )
        self._finite("the readout posterior")
        if self.solution.frozen:
            raise ValueError("with given shares of the codes the readout has a density per code only; read .codes.")
        system, order, top = self._system, self._order, self.network.depth - 1
        scale = math.sqrt(system.problem.readout_variance)
        flat = a.reshape(-1, m) / scale
        log_weight = system.layers[top].log_density(system.setting(order, top), flat)
        log_z = system.averages(order, top)[0].log_z
        density = np.exp(log_weight - log_z - 0.5 * m * math.log(2 * math.pi)) / scale**m
        return np.asarray(density.reshape(a.shape[:-1]))

    def preactivation_density(self, code: object, cls: int | str, grid: object, layer: int = -1) -> FloatArray:
        """Density of the preactivation on a training sample of class `cls` over the neurons of a code (None: all).

        Parameters
        ----------
        code : None, int, str or Code
            Index or pattern in `layer_codes(layer)`.
        cls : int or str
        grid : array-like
        layer : int
        """
        z = real_array("grid", grid)
        return np.asarray(self._density(code, cls, self._layer(layer) - 1)(z.ravel()).reshape(z.shape))

    def activation_density(self, code: object, cls: int | str, grid: object, layer: int = -1) -> FloatArray:
        """Density of the activation phi(z), as `preactivation_density`."""
        value = real_array("grid", grid)
        density, phi = self._density(code, cls, self._layer(layer) - 1), self.network.activation
        total = np.zeros(value.shape)
        for piece in _pieces(phi, -12.0, 12.0):
            if piece.flat:
                continue
            inside = (value > min(piece.ends)) & (value < max(piece.ends))
            z = piece.invert(phi, value[inside])
            with np.errstate(divide="ignore"):
                total[inside] += density(z) / np.abs(phi.derivative(z))
        return total

    def _density(self, code: object, cls: int | str, layer: int) -> Any:
        """z -> density of z for class `cls` under a code."""
        self._finite("the law of an activation")
        system, order = self._system, self._order
        c = int(self._index[self._find_class(cls)])
        detail, words = self._nodes(layer)
        chosen = np.ones(len(words), dtype=bool) if code is None else words == self._word(code, layer)
        share = np.where(chosen, detail.share, 0.0)
        rows = np.argsort(-share)[:_MOST_NODES]
        rows = rows[share[rows] > 1e-12 * share.max()]
        share = share[rows] / share[rows].sum()
        setting = system.setting(order, layer)
        beta = detail.beta[rows]
        h, joint, g = system.layers[layer].class_law(setting, beta, c)
        b = beta @ setting.root[c]
        d, delta = float(setting.d[c]), float(setting.delta[c])
        phi = self.network.activation

        def density(z: FloatArray) -> FloatArray:
            out = np.empty(len(z))
            for start in range(0, len(z), 256):
                at = z[start : start + 256]
                gauss = np.exp(-0.5 * (at - h[:, None]) ** 2 / d) / math.sqrt(2 * math.pi * d)
                value = phi(at)
                top = g.min(axis=1, keepdims=True)
                inside = (joint * np.exp(top - g)) @ gauss
                tilt = np.exp(np.clip(b[:, None] * value + 0.5 * delta * value**2 - top, -700.0, 700.0))
                out[start : start + 256] = share @ (inside * tilt)
            return out

        return density

    def sample_neurons(
        self, n: int, *, rng: object = None, samples_per_class: object = None, layer: int = -1
    ) -> Neurons:
        """Draw `n` neurons of a layer from the theory, with their responses to a few training samples of every class.

        Neurons of layers below the last have no readout: `readouts` then has shape (n, 0).
        """
        self._finite("sampling neurons")
        layer = self._layer(layer) - 1
        n = positive_count("n", n)
        generator = new_generator("rng", rng)
        labels = np.repeat(np.arange(self.task.n_classes), sample_counts(self.task.fractions, samples_per_class))
        system, order = self._system, self._order
        detail, words = self._nodes(layer)
        setting = system.setting(order, layer)
        pick = np.sort(generator.choice(len(words), size=n, p=detail.share / detail.share.sum()))
        b, h, row = self._drawn(layer, detail.beta[pick], words[pick], generator)
        phi = self.network.activation
        z = np.empty((n, labels.size))
        for column, c in enumerate(self._index[labels]):
            x = h[:, c, None] + math.sqrt(setting.d[c]) * _DRAW
            value = phi(x)
            exponent = b[:, c, None] * value + 0.5 * setting.delta[c] * value**2 - 0.5 * _DRAW**2
            total = np.cumsum(np.exp(exponent - exponent.max(axis=1, keepdims=True)), axis=1)
            level = generator.random((n, 1)) * total[:, -1:]
            at = (total < level).sum(axis=1)
            step = math.sqrt(setting.d[c]) * (_DRAW[1] - _DRAW[0])
            z[:, column] = x[np.arange(n), at] + step * (generator.random(n) - 0.5)
        label = {word: "-".join(word[c] for c in self._index) for word in words.tolist()}
        full = list(dict.fromkeys([*(code.label for code in self.layer_codes(layer + 1)), *label.values()]))
        part = np.array([full.index(label[word]) for word in words[pick[row]]], dtype=np.intp)
        readouts = np.empty((n, 0))
        if layer == self.network.depth - 1:
            readouts = b @ np.linalg.pinv(order.t).T if self.task.n_outputs else readouts
        return Neurons(readouts, part, tuple(full), z, np.asarray(phi(z)), labels, self.task.class_names)

    def _drawn(
        self, layer: int, beta: FloatArray, words: FloatArray, generator: np.random.Generator
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Fields b and h of neurons at nodes, and which node each came from; numbers of neurons per code are kept."""
        setting = self._system.setting(self._order, layer)
        found = []
        for word in dict.fromkeys(words.tolist()):
            rows = np.flatnonzero(words == word)
            b, h, row = self._system.layers[layer].draw(setting, beta[rows], generator)
            found.append((b, h, rows[row]))
        b, h, row = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(row, kind="stable")
        return b[order], h[order], row[order]

    def stability(self) -> dict[str, float]:
        """How far each code of the last layer is from losing its stability: the smallest of its fields.

        A neuron with readout a has the field b_c = a.t_c on class c, which has to keep the sign of the code (positive
        where it is active). At b_c = 0 the neuron changes its code; given fractions are admissible only while this is
        positive for every code that has neurons.
        """
        if self.scheme == "analog":
            return {}
        sign = np.array([[1.0 if bit == "1" else -1.0 for bit in code.pattern] for code in self.codes])
        fields = np.array([code.readout for code in self.codes]) @ self.solution.t.T
        return {code.pattern: float(value) for code, value in zip(self.codes, (sign * fields).min(axis=1))}

    def frozen(self, fractions: object) -> DeepPosterior:
        """The theory with given shares of the last layer's codes, as a sampler has frozen them.

        Fractions are admissible only while every code among them is locally stable, see `stability`.

        Parameters
        ----------
        fractions : mapping of pattern to number, or (codes,) array-like
            Shares of the codes, normalised.

        Raises
        ------
        UnstableFractions
            If neurons with one of these codes would leave it.
        ConvergenceError
            If no certified solution was found.
        """
        return cast(DeepPosterior, theory_named(self.theory).frozen(self, fractions))  # type: ignore[attr-defined]

    # ---- printing, saving ------------------------------------------------------------------------

    def __repr__(self) -> str:
        found = ", ".join(f"{code.label} ({code.weight:.3g})" for code in self.codes[:4])
        found += ", ..." * (len(self.codes) > 4)
        body = f"codes {found}" if self.codes else "Gaussian readouts"
        return (
            f"<DeepPosterior: {self.network.depth} layers, {self.scheme}, {body}; Phi = {self.free_energy:.9g}, "
            f"{self.status}>"
        )

    def table(self) -> str:
        """The posterior as a printed table, layer by layer."""
        return deep_table(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to an ``.npz`` file (no pickle inside); returns its path."""
        header, arrays = self.solution.pack()
        header = {"network": self.network.to_dict(), "task": self.task.to_dict(), "solution": header}
        return write_archive(path, "posterior", header | {"theory": self.theory}, arrays)

    # ---- helpers ---------------------------------------------------------------------------------

    @cached_property
    def _reduced(self) -> tuple[System, IntArray]:
        problem, index = problem_of(self.network, self.task, self.tau, merge=not self.solution.frozen)
        shares = None
        if self.solution.frozen:
            shares = dict(zip(self.solution.patterns, self.solution.weight.tolist()))
        return System(problem, fractions=shares), index

    @property
    def _system(self) -> System:
        return self._reduced[0]

    @property
    def _index(self) -> IntArray:
        return self._reduced[1]

    @cached_property
    def _order(self) -> Order:
        s, index = self.solution, self._index
        first = np.array([int(np.flatnonzero(index == c)[0]) for c in range(index.max() + 1)])
        return Order(
            s.kernel[:-1][:, first][:, :, first], s.d[:-1][:, first], s.tilde[:, first][:, :, first],
            s.delta[:, first], s.t[first],
        )  # fmt: skip

    @cached_property
    def _kept(self) -> dict[int, tuple[Detail, FloatArray]]:
        return {}

    def _nodes(self, layer: int) -> tuple[Detail, FloatArray]:
        self._finite("the law of a layer's neurons")
        if self.scheme == "analog":
            raise ValueError("neurons of a linear network are Gaussian; read kernel and readout_covariance.")
        if layer not in self._kept:
            self._kept[layer] = layer_nodes(self._system, self._order, layer)
        return self._kept[layer]

    @property
    def _middle(self) -> float:
        middle = self.network.activation.midpoint
        return 0.0 if middle is None else middle

    def _finite(self, what: str) -> None:
        if math.isinf(self.task.n_samples):
            raise ValueError(f"{what} is a sum of deltas at P = infinity; read .codes, or give a finite n_samples.")

    def _word(self, code: object, layer: int) -> str:
        """Pattern over the reduced classes of a code of a layer."""
        known = self.layer_codes(layer + 1)
        if isinstance(code, Code):
            code = code.pattern
        if isinstance(code, (int, np.integer)) and not isinstance(code, bool) and 0 <= code < len(known):
            code = known[int(code)].pattern
        pattern = code.replace("-", "") if isinstance(code, str) else ""
        if pattern not in {c.pattern for c in known}:
            raise ValueError(
                f"there is no code {short(code)} in layer {layer + 1}; there are {', '.join(c.pattern for c in known)}."
            )
        first = [int(np.flatnonzero(self._index == c)[0]) for c in range(self._index.max() + 1)]
        return "".join(pattern[c] for c in first)
