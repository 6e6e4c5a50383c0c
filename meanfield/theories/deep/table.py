"""A deep posterior as text."""

from __future__ import annotations

import math
from typing import Protocol

from meanfield.posterior.parts import Code
from meanfield.posterior.posterior import Ended
from meanfield.posterior.table import number_row
from meanfield.problem.problem import OfClasses
from meanfield.theories.deep.solution import DeepCertificate, DeepSolution


class DeepAnswer(OfClasses, Ended, Protocol):
    """The posterior of a deep network, which asks this module for its text."""

    @property
    def solution(self) -> DeepSolution: ...
    @property
    def scheme(self) -> str: ...
    @property
    def codes(self) -> tuple[Code, ...]: ...
    @property
    def certificate(self) -> DeepCertificate: ...
    @property
    def free_energy(self) -> float: ...


def deep_table(posterior: DeepAnswer) -> str:
    """Task, kernels of every layer, codes of the last one, Phi and certificate."""
    network, task, solution = posterior.network, posterior.task, posterior.solution
    fractions = ", ".join(f"{p:.4g}" for p in task.fractions)
    layers = {"layer_sigmas": network.layer_sigmas, "width_ratios": network.width_ratios}
    own = "".join(
        f", {name} = ({', '.join(f'{x:g}' for x in value)})" for name, value in layers.items() if value is not None
    )
    lines = [
        f"{posterior.scheme} coding in {network.depth} layers: {network.activation.name}, {task.n_classes} classes "
        f"({fractions}), {task.n_outputs} outputs",
        f"P = {task.n_samples:g}, tau = {posterior.tau:g}, sigma_a = {network.sigma_a:g}, "
        f"sigma_w = {network.sigma_w:g}, "
        f"readout prior sigma_a^2 / P^{network.beta:.4g}{own}",
        "",
        "kernels (samples of two classes; last column: what the diagonal has beyond)",
    ]
    for layer in range(network.depth):
        for c, label in enumerate(task.class_names):
            name = f"layer {layer + 1}" if c == 0 else ""
            row = number_row(solution.kernel[layer][c])
            lines.append(f"{name:<8} {label[:8]:<8} {row} | {solution.d[layer][c]:9.5f}")
    if posterior.codes:
        shares = "given shares" if solution.frozen else "shares"
        lines += ["", f"codes of the last layer ({shares}; readout | mean activation on each class)"]
        for code in posterior.codes:
            row = f"{number_row(code.readout)} | {number_row(code.activation)}"
            lines.append(f"{code.label} {code.weight:>10.6f} | {row}")
    proof = posterior.certificate
    lines += ["", f"Phi = {posterior.free_energy:.10g}   ({posterior.status})"]
    if math.isinf(task.n_samples):
        lines.append(f"certificate: residual {proof.residual:.1e}, duality gap {proof.duality_gap:.1e}")
    else:
        lines.append(
            f"certificate: residual {proof.residual:.1e} by an independent quadrature "
            f"(solver {proof.solver_residual:.1e})"
            f", Phi to {proof.quadrature_error:.1e}"
        )
    softest = proof.softest
    if softest is not None:
        lines.append(f"order parameters to {softest.value:.1e} (largest: {softest.name} of layer {softest.layer})")
    if not math.isnan(proof.outer_curvature):
        verdict = "passed" if proof.inner_curvature > 0.0 > proof.outer_curvature else "NOT passed"
        lines.append(
            f"second order {verdict}: over conjugates {proof.inner_curvature:.1e}, "
            f"over kernels {proof.outer_curvature:.1e}"
        )
    lines += [f"searched: {text}" for text in proof.searched]
    if posterior.message and posterior.status != "optimal":
        lines.append(posterior.message)
    return "\n".join([*lines, *(f"note: {note}" for note in posterior.notes)])
