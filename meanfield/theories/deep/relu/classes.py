"""Between the problem's classes and outputs, which are those of different targets and their span, and the task's."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from meanfield.theories.deep.relu.average import ReluRule
from meanfield.theories.deep.relu.coordinates import ReluOrder
from meanfield.theories.deep.relu.outlier import condensed
from meanfield.theories.deep.relu.solution import ReluSolution
from meanfield.theories.deep.relu.system import ReluSystem
from meanfield.validation import FloatArray, IntArray

__all__ = ["arrays_of", "order_of"]


def order_of(s: ReluSolution, system: ReluSystem, first: IntArray, span: FloatArray) -> ReluOrder:
    """Order parameters of the problem from those of a task, `first` (C,) being a class of each of different targets."""
    order = replace(
        system.problem.nothing(len(s.patterns)), kernel=s.kernel[:-1][:, first][:, :, first], d=s.d[:-1][:, first],
        tilde=s.tilde[:, first][:, :, first], delta=s.delta[:, first], t=s.t[first] @ span,
        top=s.outlier_readout @ span / math.sqrt(system.problem.readout_variance),
    )  # fmt: skip
    for layer, lower in enumerate(order.lower):
        root = system.setting(order, layer).root
        lower[:] = np.linalg.lstsq(root, s.outlier_field[layer][:, first].T, rcond=1e-10)[0].T
    return order


def arrays_of(
    system: ReluSystem, order: ReluOrder, rule: ReluRule, index: IntArray, span: FloatArray
) -> dict[str, FloatArray]:
    """The arrays of a solution, `index` (C,) being which class of the problem each of the task is."""
    problem = system.problem
    layers = [system.layer(order, i, rule) for i in range(problem.depth)]
    settings = [system.setting(order, i) for i in range(problem.depth)]
    at = np.ix_(index, index)
    s = problem.readout_variance
    root_s = math.sqrt(s)
    top = layers[-1]
    rest = s * (np.eye(len(span)) - span @ span.T)  # outputs outside the span of the targets keep their prior
    mean = root_s * settings[-1].root.T @ (problem.n * top.inner.b)
    preactivation = []
    for setting, layer, i in zip(settings, layers, range(problem.depth)):
        parts = [condensed(setting, beta) for beta in order.outliers(i)]
        z = np.array([part.h + setting.d * part.force for part in parts])
        low, high = problem.phi.slopes
        falls = (low < 0.0) & (z < 0.0)
        z = np.where(layer.activation > 0.0, layer.activation / np.where(falls, low, high), np.where(z > 0.0, 0.0, z))
        preactivation.append(z[:, index])
    return {
        "kernel": np.array([layer.b_b[at] for layer in layers]),
        "d": np.array([layer.bb[index] for layer in layers]),
        "tilde": np.array([tilde[at] for tilde in order.tilde]).reshape(-1, len(index), len(index)),
        "delta": order.delta[:, index],
        "t": order.t[index] @ span.T,
        "second_readout": rest + s * span @ top.beta_beta @ span.T,
        "bulk_kernel": np.array([layer.inner.b_b[at] for layer in layers]),
        "bulk_activation": np.array([layer.inner.b[index] for layer in layers]),
        "bulk_readout": span @ mean,
        "bulk_covariance": rest + span @ (s * top.inner.beta_beta - np.outer(mean, mean)) @ span.T,
        "bulk_output": root_s * (top.beta_b - order.top.T @ top.activation).T[index] @ span.T,
        "outlier_field": np.array(
            [(order.outliers(i) @ settings[i].root.T)[:, index] for i in range(problem.depth)]
        ),
        "outlier_activation": np.array([layer.activation[:, index] for layer in layers]),
        "outlier_preactivation": np.array(preactivation),
        "outlier_readout": root_s * order.top @ span.T,
        "barrier": np.array([layer.barrier for layer in layers]),
    }  # fmt: skip
