"""Codes and outliers of a network on data, and their table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from meanfield.posterior.parts import Code, Outlier, code_pattern
from meanfield.posterior.table import number_row
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.validation import FloatArray, read_only

if TYPE_CHECKING:
    from meanfield.posterior.data_posterior import DataPosterior

_WIDEST = 12  # outputs plus classes that fit on a line of a terminal


@dataclass(frozen=True, eq=False, repr=False)
class DataCode(Code):
    """A code on data: a basin of the readout posterior; `activation` is the mean over the samples of a class.

    Attributes
    ----------
    sample_activation : (P,) array
        Mean activation of its neurons on every training sample. Without classes `activation` is the same array, and the
        pattern a number.
    """

    sample_activation: FloatArray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, eq=False, repr=False)
class DataOutlier(Outlier):
    """An outlier on data; `preactivation` and `activation` are means over the samples of a class, in units of sqrt(N).

    Attributes
    ----------
    sample_activation : (P,) array
        phi(F w) on every training sample.
    """

    sample_activation: FloatArray = field(default_factory=lambda: np.empty(0))


def codes_of(network: Network, task: DataTask, solution: GeneralSolution) -> tuple[DataCode, ...]:
    """Codes of a `GeneralSolution`, in its order (heaviest first)."""
    second = np.array([
        solution.weight[mine] @ (solution.spread[mine] + solution.phi[mine] ** 2) / solution.weight[mine].sum()
        for mine in (solution.basin == g for g in range(solution.n_codes))
    ])  # fmt: skip
    codes = []
    for g in range(solution.n_codes):
        phi = solution.code_phi[g]
        mean, variance = _by_class(task, phi), _by_class(task, second[g] - phi**2)
        pattern = code_pattern(network, mean) if task.n_classes else str(g + 1)
        codes.append(
            DataCode(
                pattern,
                float(solution.code_weight[g]),
                read_only(solution.code_readout[g]),
                read_only(mean),
                read_only(variance),
                read_only(solution.code_covariance[g]),
                read_only(phi),
            )
        )
    return tuple(codes)


def outliers_of(network: Network, task: DataTask, solution: GeneralSolution) -> tuple[DataOutlier, ...]:
    """Outliers of a `GeneralSolution`, in its order."""
    left, right = network.activation.slopes
    found: list[DataOutlier] = []
    for direction, weight, w in zip(solution.outlier_direction, solution.outlier_weight, solution.outlier_w):
        z = math.sqrt(weight) * solution.features @ w
        phi = np.where(z > 0.0, right, left) * z
        mean = _by_class(task, phi)
        threshold = 0.1 * mean.max()
        pattern = "".join("1" if x > threshold else "0" for x in mean) if task.n_classes else str(len(found) + 1)
        readout = math.sqrt(weight) * direction
        classes = read_only(_by_class(task, z)), read_only(mean)
        found.append(DataOutlier(pattern, float(weight), read_only(readout), *classes, read_only(phi)))
    return tuple(found)


def ranked(network: Network, task: DataTask, solution: GeneralSolution) -> GeneralSolution:
    """The same solution with its outliers heaviest first; equal ones (six digits) by the classes they are on."""

    def rank(at: int) -> tuple[float, list[bool]]:
        outlier = found[at]
        return -float(f"{outlier.weight:.6g}"), [letter != "1" for letter in outlier.pattern if task.n_classes]

    if len(solution.outlier_weight) < 2:
        return solution
    found = outliers_of(network, task, solution)
    order = sorted(range(len(found)), key=rank)
    names = ("outlier_direction", "outlier_weight", "outlier_w", "outlier_pattern")
    changes: dict[str, Any] = {name: getattr(solution, name)[order] for name in names if hasattr(solution, name)}
    return replace(solution, **changes)


def _by_class(task: DataTask, values: FloatArray) -> FloatArray:
    if task.labels is None:
        return values
    return np.bincount(task.labels, values, task.n_classes) / np.bincount(task.labels, minlength=task.n_classes)


def parts_table(posterior: DataPosterior) -> list[str]:
    """Codes and outliers, a line each, with their readouts and mean activations where they fit."""
    task, m = posterior.task, posterior.task.n_outputs
    wide = m + task.n_classes <= _WIDEST
    rows: list[tuple[str, Code | Outlier]] = [
        ("bulk" if code is posterior.bulk else code.label, code) for code in posterior.codes
    ]
    rows += [(f"outlier {outlier.label}", outlier) for outlier in posterior.outliers]
    width = max(len(name) for name, _ in rows)
    head = f"{'':<{width}} {'weight':>10} | " + "".join(f"{f'a_{r + 1}':>9}" for r in range(m)) * wide
    if task.n_classes:
        head += " | " * wide + "".join(f"{name[:8]:>9}" for name in task.class_names)
    lines = [f"{'':<{width}} {'':>10} | " + "readout, mean activation on class".rjust(9), head, "-" * len(head)]
    for name, part in rows:
        line = f"{name:<{width}} {part.weight:>10.6f} | " + number_row(part.readout) * wide
        lines.append(line + (" | " * wide + number_row(part.activation)) * bool(task.n_classes))
    if posterior.outliers:
        lines.append("outliers: weight |abar|^2; readout and activation in units of sqrt(N)")
    return lines
