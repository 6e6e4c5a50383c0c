"""What the printed tables of all theories have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from meanfield.validation import FloatArray

if TYPE_CHECKING:
    from meanfield.posterior.certificate import Certificate
    from meanfield.posterior.data_posterior import DataPosterior

__all__ = ["data_table", "number_row"]


def number_row(row: FloatArray) -> str:
    """Numbers in columns of nine characters."""
    return "".join(f"{x:9.4f}" for x in row)


def _error(proof: Certificate) -> str:
    if proof.output_error is None or proof.output_error_se is None:
        return ""
    seeds = "" if proof.seed_difference is None else f", two runs differ by {proof.seed_difference:.1e}"
    error = f"{proof.output_error:.1e} +- {proof.output_error_se:.0e}"
    return f", outputs within {error} (rms) of the exact theory{seeds}"


def data_table(
    posterior: DataPosterior, middle: Sequence[str], *, temperature: str = "tau", objective: str = "min J"
) -> str:
    """Task, the theory's own lines, objective and certificate of a posterior on data."""
    network, task, proof = posterior.network, posterior.task, posterior.certificate
    layers = f"{network.depth} hidden layer{'s' * (network.depth > 1)}"
    gap = "" if math.isnan(proof.duality_gap) else f", duality gap {proof.duality_gap:.1e}"
    lines = [
        f"{posterior.scheme} coding: {network.activation.name}, {layers}, {network.scaling} scaling, "
        f"sigma_a = {network.sigma_a:g}, sigma_w = {network.sigma_w:g}",
        f"{task!r}, {temperature} = {posterior.tau:g}",
        "",
        *middle,
        f"{objective} = {posterior.objective:.10g}   ({posterior.status})",
        f"certificate: residual {proof.kkt_residual:.1e}{gap}{_error(proof)}",
        f"largest training residual {np.abs(posterior.residual).max():.3g}",
    ]
    if posterior.message and posterior.status != "optimal":
        lines.append(posterior.message)
    return "\n".join([*lines, *(f"note: {note}" for note in posterior.notes)])
