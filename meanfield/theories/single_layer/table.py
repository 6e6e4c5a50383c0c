"""A posterior as text that a person likes to read."""

from __future__ import annotations

import numpy as np

from meanfield.theories.single_layer.densities import Densities
from meanfield.theories.single_layer.kinds.orbit_code import OrbitCode
from meanfield.validation import FloatArray

_WIDEST = 12  # outputs plus classes that fit on a line of a terminal


def posterior_table(posterior: Densities, proof: list[str] | None = None) -> str:
    """Task, parts of the posterior, objective and certificate, a few lines each; `proof` in place of the last."""
    lines = [*_heading(posterior), ""]
    if posterior.scheme == "analog":
        lines += ["readouts ~ N(0, U), U ="] + ["  " + _numbers(row) for row in posterior.readout_covariance]
    else:
        lines += _parts(posterior)
    return "\n".join([*lines, "", *(_proof(posterior) if proof is None else proof)])


def _heading(posterior: Densities) -> list[str]:
    network, task = posterior.network, posterior.task
    targets = f"one-hot on {task.on:g}, off {task.off:g}" if task.is_one_hot else f"{task.n_outputs} outputs"
    shown = task.fractions if task.n_classes <= 2 * _WIDEST else sorted(set(task.fractions.tolist()), reverse=True)
    fractions = ", ".join(f"{p:.4g}" for p in shown[:_WIDEST]) + ", ..." * (len(shown) > 2 * _WIDEST)
    scales = f"sigma_a = {network.sigma_a:g}, sigma_w = {network.sigma_w:g}"
    return [
        f"{posterior.scheme} coding: {network.activation.name}, {task.n_classes} classes ({fractions}), {targets}",
        f"P = {task.n_samples:g}, tau = {posterior.tau:g}, {scales}",
    ]


def _parts(posterior: Densities) -> list[str]:
    if any(isinstance(code, OrbitCode) for code in posterior.codes):
        return _orbits(posterior)
    m, n_classes = posterior.task.n_outputs, posterior.task.n_classes
    show_readout = m + n_classes <= _WIDEST
    rows = []
    for i, code in enumerate(posterior.codes):
        name = "bulk" if posterior.scheme == "sparse" and i == 0 else code.label
        rows.append((name, code.weight, code.readout, code.activation))
    outliers = [(f"outlier {o.label}", o.weight, o.readout, o.activation) for o in posterior.outliers]
    width = max(len(row[0]) for row in rows + outliers)
    columns = f"{'readout a':^{9 * m}} | " * show_readout + f"{'mean activation on class':^{9 * n_classes}}"
    numbers = "".join(f"{r + 1:>9}" for r in range(m)) + " | " if show_readout else ""
    labels = "".join(f"{label[:8]:>9}" for label in posterior.task.class_names)
    lines = [f"{'':<{width}} {'':>10} | {columns}".rstrip(), f"{'':<{width}} {'weight':>10} | {numbers}{labels}"]
    lines.append("-" * len(lines[-1]))

    def line(name: str, weight: float, readout: FloatArray, activation: FloatArray) -> str:
        middle = _numbers(readout) + " | " if show_readout else ""
        return f"{name:<{width}} {weight:>10.6f} | {middle}{_numbers(activation)}"

    lines += [line(*row) for row in rows]
    if outliers:
        lines += [line(*row) for row in outliers]
        lines.append("outliers: weight |abar|^2; readout and activation in units of sqrt(N)")
    if not show_readout:
        lines.append("readouts: .codes[i].readout")
    return lines


def _orbits(posterior: Densities) -> list[str]:
    """Orbits of codes: how many classes of each kind are active, how strongly, and how many codes share the weight."""
    rows = []
    for code in posterior.codes:
        count = code.count if isinstance(code, OrbitCode) else 1
        on = np.array([character == "1" for character in code.pattern])
        levels = [f"{code.activation[part].mean():9.4f}" if part.any() else f"{'-':>9}" for part in (on, ~on)]
        rows.append((code.label, f"{code.weight:>10.6f} {count:>12.6g} | {levels[0]}{levels[1]}"))
    width = max(len(label) for label, _ in rows)
    head = f"{'':<{width}} {'weight':>10} {'codes':>12} | {'active':>9}{'inactive':>9}"
    lines = [head, "-" * len(head), *(f"{label:<{width}} {rest}" for label, rest in rows)]
    return [*lines, "rows: active classes of each kind of exchangeable classes, and their mean activations"]


def _proof(posterior: Densities) -> list[str]:
    c = posterior.certificate
    proven = f"no better readout exists ({c.boxes} boxes)" if c.boxes else "global minimum of a convex J"
    checked = proven if c.global_check else "global check NOT passed"
    unique = "weights unique" if c.unique else f"weights not unique ({c.nullity} free)"
    return [
        f"min J = {posterior.objective:.10g}   ({posterior.status})",
        f"certificate: residual {c.kkt_residual:.1e}, duality gap {c.duality_gap:.1e}, {checked}, {unique}",
        *([posterior.message] if posterior.message and posterior.status != "optimal" else []),
        *(f"note: {note}" for note in posterior.notes),
    ]


def _numbers(row: FloatArray) -> str:
    return "".join(f"{x:9.4f}" for x in row)
