"""The posterior of a deep network of rectifiers: a bulk and outliers in every layer."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from meanfield.archive import write_archive
from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.finite_width import OneLoop
from meanfield.posterior.kernel import Kernel
from meanfield.posterior.neurons import Neurons, positive_count, sample_counts
from meanfield.posterior.parts import Code, Outlier
from meanfield.posterior.posterior import NotAvailable, SolvedPosterior
from meanfield.posterior.table import number_row
from meanfield.problem.class_task import ClassTask
from meanfield.problem.layers import layer_index
from meanfield.problem.network import Network
from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.draw import draw_bulk, draw_site
from meanfield.theories.deep.relu.one_loop import NotSmall, relu_one_loop
from meanfield.theories.deep.relu.outlier import condensed
from meanfield.theories.deep.relu.reduction import relu_problem
from meanfield.theories.deep.relu.setting import BulkDiverges, ReluSetting
from meanfield.theories.deep.relu.solution import ReluCertificate, ReluSolution
from meanfield.theories.deep.relu.system import ReluProblem, ReluSystem
from meanfield.theories.deep.rules import NotCovered
from meanfield.validation import FloatArray, IntArray, read_only
from meanfield.validation import generator as new_generator

__all__ = ["ReluPosterior"]

_GONE = 1e-6  # activation of an outlier, in units of sqrt(N), below which there is none


@dataclass(frozen=True, eq=False)
class ReluPosterior(SolvedPosterior):
    """Posterior of the neurons of every hidden layer of a network of rectifiers.

    Layers are numbered 1 .. L, or from the last by negative numbers.

    Parameters
    ----------
    network : Network
    task : ClassTask
    tau : float
    solution : ReluSolution
    """

    network: Network
    task: ClassTask
    tau: float
    solution: ReluSolution

    theory: ClassVar[str] = "deep"
    scheme: ClassVar[str] = "sparse"

    @property
    def width(self) -> float:
        """N of the finite-N saddle; infinite for the limit."""
        return self.solution.width

    @cached_property
    def codes(self) -> tuple[Code, ...]:
        """The bulk of the last layer."""
        return (self.bulk,)

    @cached_property
    def bulk(self) -> Code:
        """Neurons of the last layer that are no outliers."""
        return self.layer_bulk(-1)

    def layer_bulk(self, layer: int = -1) -> Code:
        """The bulk of a layer; below the last its readout is empty."""
        layer = self._layer(layer)
        s, top = self.solution, layer == self.network.depth - 1
        mean = s.bulk_activation[layer]
        prior = self._reduced[0].phi.mean(self.network.k)
        variance = np.maximum(np.diag(s.bulk_kernel[layer]) + s.d[layer] - mean**2, 0.0)
        return Code(
            "".join("1" if value > prior else "0" for value in mean), 1.0,
            s.bulk_readout if top else read_only(np.zeros(0)), read_only(mean), read_only(variance),
            s.bulk_covariance if top else read_only(np.zeros((0, 0))),
        )  # fmt: skip

    @property
    def outliers(self) -> tuple[Outlier, ...]:
        """Outliers of the last layer."""
        return self.layer_outliers(-1)

    def layer_outliers(self, layer: int = -1) -> tuple[Outlier, ...]:
        """Outliers of a layer, one per code.

        Below the last layer `readout` is the conjugate field b (C,) that the layers above exert, and `weight` the
        squared length of the activation, sum_c phi(zbar_c)^2; in the last layer |abar|^2.
        """
        layer = self._layer(layer)
        s, top = self.solution, layer == self.network.depth - 1
        readout = s.outlier_readout if top else s.outlier_field[layer]
        activation = s.outlier_activation[layer]
        weight = (readout**2 if top else activation**2).sum(axis=1)
        return tuple(
            Outlier(
                word, float(weight[o]), read_only(readout[o]), read_only(s.outlier_preactivation[layer][o]),
                read_only(activation[o]),
            )
            for o, word in enumerate(s.patterns)
            if o in self._present(layer)
        )  # fmt: skip

    @property
    def order_parameters(self) -> dict[str, object]:
        """kernel (L, C, C), d (L, C), tilde (L-1, C, C), delta (L-1, C), t (C, m), outlier_field (L, o, C),
        outlier_activation (L, o, C), outlier_readout (o, m)."""
        names = ("kernel", "d", "tilde", "delta", "t", "outlier_field", "outlier_activation", "outlier_readout")
        return {name: getattr(self.solution, name) for name in names}

    @property
    def free_energy(self) -> float:
        """Phi = ln p(Y) / N."""
        return self.solution.free_energy

    @property
    def objective(self) -> float:
        """Phi / P, the counterpart of min J of one hidden layer."""
        return self.solution.objective

    @property
    def readout_covariance(self) -> FloatArray:
        """(m, m) second moment of the readout over all neurons, less its mean."""
        mean = self.solution.bulk_readout  # outliers add O(1/sqrt(N)) to it
        return read_only(self.solution.second_readout - np.outer(mean, mean))

    @property
    def certificate(self) -> ReluCertificate:
        """The proof that comes with the solution."""
        return self.solution.certificate

    def kernel(self, layer: int = -1) -> Kernel:
        """Posterior kernel of a layer's activations on training samples."""
        layer = self._layer(layer)
        s = self.solution
        return Kernel(s.kernel[layer], read_only(np.diag(s.kernel[layer]) + s.d[layer]))

    def one_loop(self) -> OneLoop:
        """What fluctuations add to the saddle at N neurons per layer: `one_loop().at(post.width)`.

        Raises
        ------
        ValueError
            At N = infinity (outliers of different N have different fluctuations: solve with ``width=``), and for other
            than two classes of different targets.
        ConvergenceError
            Where N is so small that fluctuations move outliers by a good part of their distance.
        """
        if math.isinf(self.width):
            raise ValueError(
                "one_loop() of rectifiers is that of a given width, as outliers are single neurons: solve with width=N."
            )
        problem, index, span = self._reduced
        if problem.phi.tabulated or problem.phi.slopes != (0.0, 1.0):
            raise ValueError("one_loop() of unbounded activations is there for max(z, 0) only.")
        if len(problem.n) != 2:
            raise ValueError("one_loop() of deep rectifiers is there for two classes of different targets.")
        try:
            return relu_one_loop(*self._system, index, span)
        except (NotCovered, NotSmall, BulkDiverges, np.linalg.LinAlgError) as error:
            raise ConvergenceError(f"the term of order 1/N was not found: {error}.", self) from error

    @cached_property
    def _system(self) -> tuple[ReluSystem, ReluOrder]:
        """The equations at this width, and the solution in their terms."""
        problem, index, span = self._reduced
        s, n_classes = self.solution, len(problem.n)
        first = [int(np.flatnonzero(index == c)[0]) for c in range(n_classes)]
        lower = [
            np.linalg.lstsq(self._setting(layer)[0].root, s.outlier_field[layer][:, first].T, rcond=1e-10)[0].T
            for layer in range(problem.depth - 1)
        ]
        order = ReluOrder(
            s.kernel[:-1][:, first][:, :, first], s.d[:-1][:, first], s.tilde[:, first][:, :, first], s.delta[:, first],
            s.t[first] @ span, np.array(lower).reshape(problem.depth - 1, len(s.patterns), n_classes),
            s.outlier_readout @ span / math.sqrt(problem.readout_variance),
        )  # fmt: skip
        words = tuple("".join(word[c] for c in first) for word in s.patterns)
        return ReluSystem(replace(problem, width=self.width), words), order

    def sample_neurons(
        self, n: int, *, rng: object = None, samples_per_class: object = None, layer: int = -1
    ) -> Neurons:
        """Draw `n` neurons of a layer, outliers among them, with their responses to a few training samples.

        Neurons of layers below the last have no readout: `readouts` then has shape (n, 0). NotAvailable where phi is
        no rectifier (leaky ReLU, GELU): their bulk has modes far from the origin.
        """
        if not self._reduced[0].phi.rectifies:
            raise NotAvailable(
                f"neurons of deep networks of {self.network.activation.name} are not drawn: those far from the origin "
                "are behind a barrier. Kernels, outputs and readouts are there."
            )
        layer, n = self._layer(layer), positive_count("n", n)
        s, task = self.solution, self.task
        present = self._present(layer)
        count = len(present)
        if n <= count:
            raise ValueError(f"n = {n} neurons cannot hold {count} outliers and a bulk; ask for more neurons.")
        generator = new_generator("rng", rng)
        labels = np.repeat(np.arange(task.n_classes), sample_counts(task.fractions, samples_per_class))
        setting, index, span = self._setting(layer)
        beta, h = draw_bulk(setting, n - count, generator)
        b = beta @ setting.root.T
        b = np.vstack([b[:, index], math.sqrt(n) * s.outlier_field[layer][present]])
        # The class field of an outlier: at the kink h > 0 and z = 0, so that z = h - d g_h does not give it back.
        own = np.array([self._condensed_field(setting, layer, o) for o in present]).reshape(count, len(setting.n))
        h = np.vstack([h[:, index], math.sqrt(n) * own[:, index]])
        z = np.empty((n, labels.size))
        for c in range(task.n_classes):
            at = labels == c
            r = int(index[c])
            z[:, at] = draw_site(
                setting.phi, b[:, c], h[:, c], setting.d[r], setting.delta[r], generator, int(at.sum())
            )
        top = layer == self.network.depth - 1
        readouts = np.empty((n, 0))
        if top:
            variance = self.network.readout_variance(task.n_samples)
            rest = np.eye(len(span)) - span @ span.T
            bulk = math.sqrt(variance) * (beta @ span.T + generator.standard_normal((n - count, len(span))) @ rest)
            readouts = np.vstack([bulk, math.sqrt(n) * s.outlier_readout[present]])
        names = ["bulk", *(f"outlier {'-'.join(word)}" for word in (s.patterns[o] for o in present))]
        code = np.concatenate([np.zeros(n - count, dtype=np.intp), 1 + np.arange(count, dtype=np.intp)])
        phi = self.network.activation(z)
        return Neurons(readouts, code, tuple(names), z, np.asarray(phi), labels, task.class_names)

    def _present(self, layer: int) -> list[int]:
        """Outliers that a layer has: where its codes are the tail of the bulk there are none."""
        size = np.abs(self.solution.outlier_activation[layer]).max(axis=1, initial=0.0)
        return [int(o) for o in np.flatnonzero(size > _GONE)]

    def _condensed_field(self, setting: ReluSetting, layer: int, o: int) -> FloatArray:
        _, index, _ = self._reduced
        first = np.array([int(np.flatnonzero(index == c)[0]) for c in range(int(index.max()) + 1)])
        b = self.solution.outlier_field[layer][o][first]
        return condensed(setting, np.linalg.lstsq(setting.root, b, rcond=1e-10)[0]).h

    @cached_property
    def _reduced(self) -> tuple[ReluProblem, IntArray, FloatArray]:
        return relu_problem(self.network, self.task, self.tau)

    def _setting(self, layer: int) -> tuple[ReluSetting, IntArray, FloatArray]:
        """Fields of a layer, for classes of different targets."""
        problem, index, span = self._reduced
        first = np.array([int(np.flatnonzero(index == c)[0]) for c in range(int(index.max()) + 1)])
        s = self.solution
        order = ReluOrder(
            s.kernel[:-1][:, first][:, :, first], s.d[:-1][:, first], s.tilde[:, first][:, :, first], s.delta[:, first],
            s.t[first] @ span, np.zeros(0), np.zeros(0),
        )  # fmt: skip
        return ReluSystem(problem, ()).setting(order, layer), index, span

    # ---- printing, saving ------------------------------------------------------------------------

    def __repr__(self) -> str:
        found = ", ".join(f"{o.label} ({o.weight:.3g})" for o in self.outliers) or "(none in the last layer)"
        width = "" if math.isinf(self.width) else f", N = {self.width:g}"
        return (
            f"<ReluPosterior: {self.network.depth} layers{width}, sparse, bulk and outliers {found}; "
            f"Phi = {self.free_energy:.9g}, {self.status}>"
        )

    def table(self) -> str:
        """The posterior as a printed table, layer by layer."""
        network, task, s = self.network, self.task, self.solution
        width = "N = infinity" if math.isinf(self.width) else f"N = {self.width:g}"
        lines = [
            f"sparse coding in {network.depth} layers: {network.activation.name}, {task.n_classes} classes, "
            f"{task.n_outputs} outputs, {width}",
            f"P = {task.n_samples:g}, tau = {self.tau:g}, sigma_a = {network.sigma_a:g}, "
            f"sigma_w = {network.sigma_w:g}, readout prior sigma_a^2 / P^{network.beta:.4g}",
            "",
            "kernels (samples of two classes | the same without outliers | what the diagonal has beyond)",
        ]
        for layer in range(network.depth):
            for c, label in enumerate(task.class_names):
                name = f"layer {layer + 1}" if c == 0 else ""
                rows = f"{number_row(s.kernel[layer][c])} | {number_row(s.bulk_kernel[layer][c])}"
                lines.append(f"{name:<8} {label[:8]:<8} {rows} | {s.d[layer][c]:9.5f}")
        outliers = [(layer, o) for layer in range(1, network.depth + 1) for o in self.layer_outliers(layer)]
        if outliers:
            head = "outliers in units of sqrt(N) (readout, below the last layer the conjugate field | activation)"
            lines += ["", head]
        for layer, o in outliers:
            lines.append(f"layer {layer}  {o.label} {number_row(o.readout)} | {number_row(o.activation)}")
        proof = self.certificate
        lines += ["", f"Phi = {self.free_energy:.10g}   ({self.status})"]
        lines.append(
            f"certificate: residual {proof.residual:.1e} by independent lattices (solver {proof.solver_residual:.1e}), "
            f"largest Ehat {proof.bound_gap:.1e}"
        )
        if math.isnan(proof.inner_curvature):
            lines.append("second order not computed")
        else:
            lines.append(
                "second order, outliers being constraints on Phi: smallest curvature over conjugates and t "
                f"{proof.inner_curvature:.1e}, largest over kernels {proof.outer_curvature:.1e}"
            )
        if self.message and self.status != "optimal":
            lines.append(self.message)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to an ``.npz`` file (no pickle inside); returns its path."""
        header, arrays = self.solution.pack()
        header = {"network": self.network.to_dict(), "task": self.task.to_dict(), "solution": header}
        return write_archive(path, "posterior", header | {"theory": self.theory}, arrays)

    def _layer(self, layer: object) -> int:
        return layer_index(layer, self.network.depth)
