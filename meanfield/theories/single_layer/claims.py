"""What a file claims of a class task, checked against the equations."""

from __future__ import annotations

import math

import numpy as np

from meanfield.activations.cumulant import cumulant
from meanfield.posterior.claims import check_covariances, check_weights, same
from meanfield.theories.single_layer.finite.exchange_averages import exchange_averages
from meanfield.theories.single_layer.finite.halves_averages import halves_averages
from meanfield.theories.single_layer.kinds.classes import class_kinds, kinds_of
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
from meanfield.theories.single_layer.readout.lattice import readout_lattice
from meanfield.validation import real_number

__all__ = ["check_posterior"]

_EXACT = 1e-7  # relative error of equations that hold to rounding
_NEARLY = 1e-4  # of averages over narrow clouds of readouts
_ROUGHLY = 0.05  # where clouds of readouts are taken as Gaussian


def check_posterior(posterior: SingleNeuronPosterior) -> None:
    """Refuse a solution that is not one of its network and task; an uncertified one is held to shapes and signs only.

    Raises
    ------
    ValueError
    """
    s, task, network = posterior.solution, posterior.task, posterior.network
    real_number("tau", s.tau, at_least=0.0)
    if s.t.shape != task.targets.shape:
        raise ValueError(f"its t has shape {s.t.shape}, the targets have {task.targets.shape}.")
    if s.n_samples != task.n_samples:
        raise ValueError(f"its solution is of {s.n_samples:g} samples, its task of {task.n_samples:g}.")
    gaussian = s.gaussian_covariance is not None
    if gaussian != (network.activation.parts == "gaussian") or (s.outlier_weight.size and gaussian):
        raise ValueError(f"its readouts are not those of the activation {network.activation.name[:60]!r}.")
    if s.status != "optimal":
        return
    for name in ("t", "readout", "outlier_direction"):
        if not np.isfinite(getattr(s, name)).all():
            raise ValueError(f"its {name} is not finite.")
    if not (math.isfinite(s.objective) and math.isfinite(s.level) and s.certificate.global_check):
        raise ValueError("it claims to be optimal without a finite objective, or without the global check.")
    if s.gaussian_covariance is not None:
        return
    check_weights("weights", s.weight)
    check_weights("outlier weights", s.outlier_weight, None)
    if s.outlier_weight.size and network.activation.parts != "outliers":
        raise ValueError(f"it has outliers, which {network.activation.name[:60]!r} cannot have.")
    if np.abs((s.outlier_direction**2).sum(axis=1) - 1.0).max(initial=0.0) > 1e-6:
        raise ValueError("its outlier directions are no unit vectors.")
    if s.covariance is not None:
        check_covariances("covariance", s.covariance)
    if (s.covariance is None) != math.isinf(task.n_samples):
        raise ValueError("codes have a covariance at a finite number of samples, and only there.")
    if s.kind is not None and not np.array_equal(s.kind, kinds_of(task.fractions, task.targets)):
        raise ValueError("its codes are orbits of classes that its task does not let exchange.")
    _check_equations(posterior)


def _check_equations(posterior: SingleNeuronPosterior) -> None:
    """y_c - tau t_c = <a phi>_c, and J; at P -> infinity also h(a; t) = s and dh/da = 0 at every code."""
    s, task, network = posterior.solution, posterior.task, posterior.network
    t, p, y = s.t, task.fractions, task.targets
    single_site = cumulant(network.activation, network.k)
    scale = float(np.abs(y).max()) + s.tau * float(np.abs(t).max())
    outliers = sum((np.outer(o.activation, o.readout) for o in posterior.outliers), np.zeros_like(t))
    if math.isinf(task.n_samples):
        value, first, _ = single_site.direct(s.readout @ t.T)  # (n, C)
        output = (s.weight[:, None] * first).T @ s.readout
        if s.kind is not None:
            output = class_kinds(p, y).averaged_output(output)
        output = output + outliers
        level = value @ p - 0.5 * (s.readout**2).sum(axis=1) / network.sigma_a**2
        slope = (p * first) @ t - s.readout / network.sigma_a**2
        present = s.weight > 1e-9
        same("level", level[present], s.level, _EXACT, abs(s.level))
        # The bulk of unbounded phi is a code like any other.
        same("readout", slope[present], 0.0, 1e-6, float(np.abs(s.readout).max(initial=0.0)) / network.sigma_a**2)
        objective = s.level - p @ (t * y).sum(axis=1) + 0.5 * s.tau * p @ (t**2).sum(axis=1)
        same("objective", objective, s.objective, _EXACT, abs(objective))
        same("t", output + s.tau * t, y, _EXACT, scale)
        return
    with np.errstate(over="ignore", invalid="ignore"):
        lattice = readout_lattice(network, task, s)
        if lattice is None:  # not where it would be too large, either
            lattice = readout_lattice(network, task, s, math.inf)
            off = math.expm1(min(task.n_samples * _NEARLY * max(1.0, abs(s.objective)), 100.0))
            if lattice is not None and readout_lattice(network, task, s, off) is None:
                raise ValueError("its objective does not belong to the solution.")
    if lattice is not None:
        readouts, weight = lattice
        first = single_site.direct(readouts @ t.T)[1]
        same("t", (weight[:, None] * first).T @ readouts + outliers + s.tau * t, y, _NEARLY, scale)
        same("mean readout", weight @ readouts, s.weight @ s.readout, 0.01, float(np.abs(readouts).max()))
        return
    averages = exchange_averages(network, task, s) or halves_averages(network, task, s)
    if averages is not None:
        same("t", averages.residual, 0.0, _NEARLY, scale)
        same("objective", averages.objective, s.objective, _NEARLY, max(1.0, abs(s.objective)))
    output = np.zeros_like(t)
    for code in posterior.codes:  # <a phi> = <a> <phi> + Cov(a) t <G''> for a Gaussian cloud
        spread = code.activation_variance[:, None] * (t @ np.asarray(code.covariance))
        output = output + code.weight * (np.outer(code.activation, code.readout) + spread)
    if s.kind is not None:
        output = class_kinds(p, y).averaged_output(output)
    same("t", output + outliers + s.tau * t, y, 5 * _ROUGHLY, scale)
    least = -p @ (t * y).sum(axis=1) + 0.5 * s.tau * p @ (t**2).sum(axis=1) + s.level
    spare = 5.0 * task.n_outputs * math.log1p(task.n_samples) / task.n_samples + _ROUGHLY
    same("objective", least, s.objective, spare, abs(least))
