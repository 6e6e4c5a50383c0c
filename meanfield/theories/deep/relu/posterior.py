"""The posterior of a deep network of rectifiers: a bulk and outliers in every layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.finite_width import OneLoop
from meanfield.posterior.neurons import Neurons, positive_count, sample_counts
from meanfield.posterior.parts import Code, Outlier
from meanfield.posterior.posterior import NotAvailable
from meanfield.posterior.table import number_row
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.deep.layered import LayeredPosterior
from meanfield.theories.deep.layers.rules import NotCovered
from meanfield.theories.deep.relu.classes import order_of
from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.draw import draw_bulk, draw_site
from meanfield.theories.deep.relu.one_loop import NotSmall, relu_one_loop
from meanfield.theories.deep.relu.outlier import NO_ACTIVATION, condensed
from meanfield.theories.deep.relu.reduction import relu_problem
from meanfield.theories.deep.relu.search.start import prior_variances
from meanfield.theories.deep.relu.setting import BulkDiverges, ReluSetting
from meanfield.theories.deep.relu.solution import ReluSolution
from meanfield.theories.deep.relu.system import ReluProblem, ReluSystem
from meanfield.validation import FloatArray, IntArray, read_only
from meanfield.validation import generator as new_generator

__all__ = ["ReluPosterior"]


@dataclass(frozen=True, eq=False)
class ReluPosterior(LayeredPosterior):
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

    _named: ClassVar[tuple[str, ...]] = ("outlier_field", "outlier_activation", "outlier_readout")
    _instead: ClassVar[str] = "layer_bulk(layer), layer_outliers(layer), kernel(layer) and certificate.branches"
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
        layer = self._layer(layer) - 1
        s, top = self.solution, layer == self.network.depth - 1
        mean = s.bulk_activation[layer]
        problem = self._reduced[0]
        prior = problem.phi.mean(prior_variances(problem)[layer])
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
        layer = self._layer(layer) - 1
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
    def readout_covariance(self) -> FloatArray:
        """(m, m) second moment of the readout over all neurons, less its mean."""
        mean = self.solution.bulk_readout  # outliers add O(1/sqrt(N)) to it
        return read_only(self.solution.second_readout - np.outer(mean, mean))

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
            raise NotAvailable(
                "one_loop() of deep rectifiers is that of a width, outliers being single neurons: solve with width=N."
            )
        problem, index, span = self._reduced
        if problem.phi.tabulated or problem.phi.slopes != (0.0, 1.0):
            raise NotAvailable("one_loop() of deep networks of unbounded activations is there for max(z, 0) only.")
        if len(problem.n) != 2:
            raise NotAvailable("one_loop() of deep rectifiers is there for two classes of different targets.")
        try:
            return relu_one_loop(*self._system, index, span)
        except (NotCovered, NotSmall, BulkDiverges, np.linalg.LinAlgError) as error:
            raise ConvergenceError(f"the term of order 1/N was not found: {error}.", self) from error

    @cached_property
    def _system(self) -> tuple[ReluSystem, ReluOrder]:
        """The equations at this width, and the solution in their terms."""
        problem, _, span = self._reduced
        words = tuple("".join(word[c] for c in self._first) for word in self.solution.patterns)
        system = ReluSystem(replace(problem, width=self.width), words)
        return system, order_of(self.solution, system, self._first, span)

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
        layer, n = self._layer(layer) - 1, positive_count("n", n)
        s, task = self.solution, self.task
        present = self._present(layer)
        count = len(present)
        if n <= count:
            raise ValueError(f"n = {n} neurons cannot hold {count} outliers and a bulk; ask for more neurons.")
        generator = new_generator("rng", rng)
        labels = np.repeat(np.arange(task.n_classes), sample_counts(task.fractions, samples_per_class))
        (system, order), (_, index, span) = self._system, self._reduced
        setting = system.setting(order, layer)
        beta, h = draw_bulk(setting, system.walls(order, layer), n - count, generator)
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
        return [int(o) for o in np.flatnonzero(size > NO_ACTIVATION)]

    def _condensed_field(self, setting: ReluSetting, layer: int, o: int) -> FloatArray:
        b = self.solution.outlier_field[layer][o][self._first]
        return condensed(setting, np.linalg.lstsq(setting.root, b, rcond=1e-10)[0]).h

    @cached_property
    def _reduced(self) -> tuple[ReluProblem, IntArray, FloatArray]:
        return relu_problem(self.network, self.task, self.tau)

    @cached_property
    def _first(self) -> IntArray:
        """The first class of each of different targets."""
        return np.unique(self._reduced[1], return_index=True)[1]

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
        s, proof = self.solution, self.certificate
        lines = [
            *self._said_of_problem(),
            "N = infinity" if math.isinf(self.width) else f"N = {self.width:g}",
            "",
            "kernels (samples of two classes | the same without outliers | what the diagonal has beyond)",
            *self._said_of_kernels(s.kernel, s.bulk_kernel),
        ]
        outliers = [(layer, o) for layer in range(1, self.network.depth + 1) for o in self.layer_outliers(layer)]
        if outliers:
            unit = "sqrt(N)" if self.network.uniform else "sqrt(N_l)"
            head = f"outliers in units of {unit} (readout, below the last layer the conjugate field | activation)"
            lines += ["", head]
        for layer, o in outliers:
            lines.append(f"layer {layer}  {o.label} {number_row(o.readout)} | {number_row(o.activation)}")
        said = (
            f"certificate: residual {proof.residual:.1e} by independent lattices (solver {proof.solver_residual:.1e}), "
            f"Phi to {proof.quadrature_error:.1e}, largest Ehat {proof.bound_gap:.1e}"
        )
        return "\n".join([*lines, "", *self._said_of_proof(said)])
