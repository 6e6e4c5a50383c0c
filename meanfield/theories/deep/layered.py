"""What the posteriors of all deep networks on class tasks have in common, those of rectifiers included."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NoReturn

import numpy as np

from meanfield.archive import write_archive
from meanfield.posterior.kernel import Kernel
from meanfield.posterior.parts import Code, Outlier
from meanfield.posterior.posterior import NotAvailable, SolvedPosterior
from meanfield.posterior.table import number_row
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.deep.certificate import DeepCertificate
from meanfield.theories.deep.solution import LayeredSolution
from meanfield.validation import FloatArray, read_only

if TYPE_CHECKING:
    from meanfield.theories.deep.certificate import Branch
    from meanfield.theories.deep.search.fold import BranchEnd

__all__ = ["LayeredPosterior"]


class LayeredPosterior(SolvedPosterior):
    """Order parameters, kernels and Phi of a solution, its file and most of its text.

    Layers are numbered 1 .. L, or from the last by negative numbers.
    """

    network: Network
    task: ClassTask
    tau: float
    solution: LayeredSolution

    theory: ClassVar[str] = "deep"
    _named: ClassVar[tuple[str, ...]]  # order parameters that a theory has beyond kernels, conjugates and t
    _instead: ClassVar[str]  # what a theory has where another has something else

    @property
    def order_parameters(self) -> dict[str, object]:
        """kernel (L, C, C), d (L, C), tilde (L-1, C, C), delta (L-1, C), t (C, m); for bounded phi readout and weight
        of the codes, for unbounded outlier_field (L, o, C), outlier_activation (L, o, C), outlier_readout (o, m)."""
        names = ("kernel", "d", "tilde", "delta", "t", *self._named)
        return {name: getattr(self.solution, name) for name in names}

    @property
    def free_energy(self) -> float:
        """Phi = ln p(Y) / N at leading order; at P = infinity Phi / P."""
        return self.solution.free_energy

    @property
    def objective(self) -> float:
        """Phi / P, the counterpart of min J of one hidden layer."""
        return self.solution.objective

    @property
    def certificate(self) -> DeepCertificate:
        """The proof that comes with the solution."""
        return self.solution.certificate

    @property
    def width(self) -> float:
        """Neurons per layer: N of a saddle at finite N (rectifiers and their like), else infinite."""
        return math.inf

    def kernel(self, layer: int = -1) -> Kernel:
        """Posterior kernel of a layer's activations on training samples."""
        layer = self._layer(layer) - 1
        s = self.solution
        return Kernel(s.kernel[layer], read_only(np.diag(s.kernel[layer]) + s.d[layer]))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to an ``.npz`` file (no pickle inside); returns its path."""
        header, arrays = self.solution.pack()
        header = {"network": self.network.to_dict(), "task": self.task.to_dict(), "solution": header}
        return write_archive(path, "posterior", header | {"theory": self.theory}, arrays)

    # ---- what one of the two kinds of answers has ------------------------------------------------

    def _lacks(self, name: str) -> NoReturn:
        raise NotAvailable(
            f"{name} is not there for deep networks of {self.network.activation.name}, whose coding is {self.scheme}; "
            f"there are {self._instead}."
        )

    def layer_codes(self, layer: int = -1) -> tuple[Code, ...]:
        """Codes of a layer; for bounded activations."""
        self._lacks("layer_codes")

    def separation(self, layer: int = -1) -> dict[str, FloatArray]:
        """How sharp the code of a layer is; for bounded activations."""
        self._lacks("separation")

    def stability(self) -> dict[str, float]:
        """How far each code is from losing its stability; for bounded activations."""
        self._lacks("stability")

    def uncoded_end(self) -> BranchEnd:
        """Where the solution that continues the prior ends; for bounded activations."""
        self._lacks("uncoded_end")

    def rivals(self, starts: int = 8, *, rng: object = None) -> tuple[Branch, ...]:
        """Solutions found from many starts; for bounded activations."""
        self._lacks("rivals")

    def layer_bulk(self, layer: int = -1) -> Code:
        """The bulk of a layer; for rectifiers and their like."""
        self._lacks("layer_bulk")

    def layer_outliers(self, layer: int = -1) -> tuple[Outlier, ...]:
        """Outliers of a layer; for rectifiers and their like."""
        self._lacks("layer_outliers")

    # ---- text ------------------------------------------------------------------------------------

    def _said_of_problem(self) -> list[str]:
        """Network and task."""
        network, task = self.network, self.task
        fractions = ", ".join(f"{p:.4g}" for p in task.fractions)
        layers = {"layer_sigmas": network.layer_sigmas, "width_ratios": network.width_ratios}
        own = "".join(
            f", {name} = ({', '.join(f'{x:g}' for x in value)})" for name, value in layers.items() if value is not None
        )
        return [
            f"{self.scheme} coding in {network.depth} layers: {network.activation.name}, {task.n_classes} classes "
            f"({fractions}), {task.n_outputs} outputs",
            f"P = {task.n_samples:g}, tau = {self.tau:g}, sigma_a = {network.sigma_a:g}, "
            f"sigma_w = {network.sigma_w:g}, readout prior sigma_a^2 / P^{network.beta:.4g}{own}",
        ]

    def _said_of_kernels(self, *shown: FloatArray) -> list[str]:
        """Rows of the kernels of every layer, and what their diagonals have beyond."""
        lines = []
        for layer in range(self.network.depth):
            for c, label in enumerate(self.task.class_names):
                name = f"layer {layer + 1}" if c == 0 else ""
                rows = " | ".join(number_row(kernel[layer][c]) for kernel in shown)
                lines.append(f"{name:<8} {label[:8]:<8} {rows} | {self.solution.d[layer][c]:9.5f}")
        return lines

    def _said_of_proof(self, *certified: str) -> list[str]:
        """Phi, the certificate, and what else is to be said."""
        proof = self.certificate
        lines = [f"Phi = {self.free_energy:.10g}   ({self.status})", *certified]
        softest = proof.softest
        if softest is not None:
            lines.append(f"order parameters to {softest.value:.1e} (largest: {softest.name} of layer {softest.layer})")
        if math.isfinite(self.task.n_samples) or proof.second_order.known:
            lines.append(proof.second_order.words())
        lines += [f"searched: {text}" for text in proof.searched]
        if self.message and self.status != "optimal":
            lines.append(self.message)
        return [*lines, *(f"note: {note}" for note in self.notes)]
