"""What a file claims of a deep network of rectifiers."""

from __future__ import annotations

import math

import numpy as np

from meanfield.posterior.claims import check_covariances, same
from meanfield.theories.deep.relu.average import FARTHEST
from meanfield.theories.deep.relu.classes import arrays_of
from meanfield.theories.deep.relu.posterior import ReluPosterior
from meanfield.theories.deep.relu.setting import BulkDiverges

__all__ = ["check_relu"]

_EXACT = 1e-6


def check_relu(posterior: ReluPosterior) -> None:
    """Refuse a solution that does not belong to its network and task; an uncertified one is held to shapes only.

    Recomputed are the saddle equations, the free energy and the averages of all layers, y = (s [K_L diag(n) +
    diag(d_L)] + tau) t and the outputs as the sum of bulk and outliers. At finite N y holds up to the weight at the end
    of the bulk and up to fluctuations of outliers along their rays, which are not in a saddle: 1 / N each of
    sum_c n_c t_c.y_c.

    Raises
    ------
    ValueError
    """
    s, task, network = posterior.solution, posterior.task, posterior.network
    depth, (n_classes, m), o = network.depth, task.targets.shape, len(s.patterns)
    square = (n_classes, n_classes)
    shapes = {
        "kernel": (depth, *square), "bulk_kernel": (depth, *square), "d": (depth, n_classes),
        "tilde": (depth - 1, *square), "delta": (depth - 1, n_classes), "t": (n_classes, m),
        "bulk_activation": (depth, n_classes), "bulk_readout": (m,), "bulk_covariance": (m, m),
        "bulk_output": (n_classes, m), "outlier_field": (depth, o, n_classes),
        "outlier_activation": (depth, o, n_classes), "outlier_preactivation": (depth, o, n_classes),
        "outlier_readout": (o, m), "barrier": (depth,), "second_readout": (m, m),
    }  # fmt: skip
    for name, shape in shapes.items():
        if np.shape(getattr(s, name)) != shape:
            raise ValueError(f"its {name} has shape {np.shape(getattr(s, name))}, expected {shape}.")
    if s.n_samples != task.n_samples:
        raise ValueError(f"its solution is of {s.n_samples:g} samples, its task of {task.n_samples:g}.")
    if any(len(word) != n_classes or set(word) - {"0", "1"} for word in s.patterns) or not s.width >= 1.0:
        raise ValueError("its outliers or its width are none.")
    if posterior.status != "optimal":
        return
    for name in shapes:
        if name != "barrier" and not np.isfinite(getattr(s, name)).all():
            raise ValueError(f"its {name} is not finite.")
    if not math.isfinite(s.free_energy):
        raise ValueError("its free energy is not finite.")
    check_covariances("kernel", s.kernel)
    check_covariances("covariance of the bulk", s.bulk_covariance[None])
    check_covariances("second moment of the readout", s.second_readout[None])
    counts = task.fractions * task.n_samples
    variance = network.readout_variance(task.n_samples)
    matrix = variance * (s.kernel[-1] * counts + np.diag(s.d[-1])) + s.tau * np.eye(n_classes)
    largest = float(np.abs(task.targets).max())
    end = 0.0 if math.isinf(s.width) else 1e3 * math.exp(-float(s.barrier.min()))
    along = len(posterior.layer_outliers(depth)) / s.width
    size = counts[:, None] * np.linalg.norm(s.t, axis=1, keepdims=True)
    off = np.abs(matrix @ s.t - task.targets) - along / np.maximum(size, 1e-300)
    same("t", np.maximum(off, 0.0), 0.0, _EXACT + end, largest)
    outputs = s.bulk_output + s.outlier_activation[-1].T @ s.outlier_readout
    same("outputs", outputs + s.tau * s.t, task.targets, _EXACT, largest)
    _check_saddle(posterior)


def _check_saddle(posterior: ReluPosterior) -> None:
    """On the lattices of the solver, which end the bulk further out where that is needed."""
    s, (system, order) = posterior.solution, posterior._system
    allowed = _EXACT + 10.0 * s.certificate.kkt_residual
    try:
        x, rule = system.pack(order), system.fine_rule(order)
        residual = system.error(x, rule)
        while residual > _EXACT and rule.far < FARTHEST:
            rule = rule._replace(far=2.0 * rule.far)
            residual = system.error(x, rule)
        phi = system.free_energy(x, rule)
    except (BulkDiverges, np.linalg.LinAlgError) as error:
        raise ValueError(f"the averages of its saddle equations do not exist: {error}") from None
    if not residual <= allowed:
        raise ValueError(f"the saddle equations are violated by {residual:.1e}, its certificate says less.")
    same("free energy", phi, s.free_energy, _EXACT, max(1.0, abs(s.free_energy)))
    _, index, span = posterior._reduced
    for name, found in arrays_of(system, order, rule, index, span).items():
        claimed = getattr(s, name)
        if name == "barrier":  # infinite at N = infinity
            found, claimed = (np.where(np.isinf(one), 0.0, one) for one in (found, claimed))
        same(name, found, claimed, allowed, float(np.abs(found).max(initial=0.0)))
