"""What a file claims of a deep network: shapes, signs, saddle equations, free energy; closed forms at P = infinity."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from meanfield.posterior.claims import check_covariances, check_weights, same
from meanfield.theories.deep.limits import deep_problem
from meanfield.theories.deep.posterior import DeepPosterior
from meanfield.theories.deep.prior import prior_kernels

__all__ = ["check_deep"]

_EXACT = 1e-6  # relative error of what is recomputed
_ADDED_UP = 1e-4, 1e-3  # the same of sums over codes; of lattices around peaks, and of given shares
_REFINED = 2e-3, 1e-5  # of equations and free energy on lattices around peaks, which the solver may have refined
_ENUMERATED = 14  # classes, up to which all code words are tried


def check_deep(posterior: DeepPosterior) -> None:
    """Refuse a solution that is not one of its network and task; an uncertified one is held to shapes only.

    Recomputed are the saddle equations and the free energy at finite P, there also y = (s [K_L diag(n) + diag(d_L)] +
    tau) t with s the variance of the readout prior; at P = infinity kernels, outputs, and with exponent 1 the objective
    and that no code is better. Moments of codes at finite P are held to add up to those of all neurons.

    Raises
    ------
    ValueError
    """
    s, task, network = posterior.solution, posterior.task, posterior.network
    depth, (n_classes, m), n = network.depth, task.targets.shape, len(s.patterns)
    shapes = {
        "kernel": (depth, n_classes, n_classes), "d": (depth, n_classes), "tilde": (depth - 1, n_classes, n_classes),
        "delta": (depth - 1, n_classes), "t": (n_classes, m), "readout": (n, m), "weight": (n,),
        "activation": (n, n_classes), "activation_variance": (n, n_classes), "second_readout": (m, m),
    }  # fmt: skip
    for name, shape in shapes.items():
        if np.shape(getattr(s, name)) != shape:
            raise ValueError(f"its {name} has shape {np.shape(getattr(s, name))}, expected {shape}.")
    for pattern in s.patterns:
        if not isinstance(pattern, str) or len(pattern) != n_classes or set(pattern) - {"0", "1"}:
            raise ValueError(f"its pattern {pattern!r:.40} is no code word of {n_classes} classes.")
    if s.n_samples != task.n_samples:
        raise ValueError(f"its solution is of {s.n_samples:g} samples, its task of {task.n_samples:g}.")
    if posterior.status != "optimal":
        return
    for name in (*shapes, "covariance"):
        if not np.isfinite(getattr(s, name)).all():
            raise ValueError(f"its {name} is not finite.")
    if n and np.shape(s.covariance) != (n, m, m):
        raise ValueError(f"its covariance has shape {np.shape(s.covariance)}, expected {(n, m, m)}.")
    if not math.isfinite(s.free_energy):
        raise ValueError("its free energy is not finite.")
    if n:
        check_weights("weights", s.weight)
    check_covariances("kernel", s.kernel)
    check_covariances("second moment of the readout", s.second_readout[None])
    if math.isinf(task.n_samples):
        _check_limit(posterior)
        return
    if not s.frozen:  # cheap, so before what takes integrals
        variance = network.readout_variance(task.n_samples)
        counts = task.fractions * task.n_samples
        matrix = variance * (s.kernel[-1] * counts + np.diag(s.d[-1])) + s.tau * np.eye(n_classes)
        same("t", matrix @ s.t, task.targets, _EXACT, float(np.abs(task.targets).max()))
    if n:
        _check_moments(posterior)
    _check_saddle(posterior)


def _check_moments(posterior: DeepPosterior) -> None:
    """Moments of the codes add up to those of all neurons: <a a^T>, and <phi^2> = Kbar_cc + d_c."""
    s = posterior.solution
    allowed = _ADDED_UP[int(s.frozen or posterior._system.around_peaks)]
    second = np.einsum("g,gij->ij", s.weight, s.covariance) + np.einsum("g,gi,gj->ij", s.weight, s.readout, s.readout)
    same("codes' readouts", second, s.second_readout, allowed, max(1.0, float(np.abs(second).max())))
    same("codes' activations", *s.squares(), allowed, 1.0)


def _check_saddle(posterior: DeepPosterior) -> None:
    s, system = posterior.solution, posterior._system
    x = system.pack(posterior._order)
    found = system.evaluate(x)
    residual = float(np.abs(system.residual(x, found)).max())  # in units of the blocks, as the certificate has it
    own, exact = _REFINED if system.around_peaks else (1e-6, 1e-6)
    if not residual <= own + 10.0 * s.certificate.kkt_residual:
        raise ValueError(f"the saddle equations are violated by {residual:.1e}, its certificate says less.")
    same("free energy", system.free_energy(x, found), s.free_energy, exact, max(1.0, abs(s.free_energy)))


def _check_limit(posterior: DeepPosterior) -> None:
    """What holds at P = infinity: all of it is linear algebra."""
    s, task, network = posterior.solution, posterior.task, posterior.network
    common, own, _ = prior_kernels(deep_problem(network, task, posterior.tau))
    ones, zero = np.ones((task.n_classes, task.n_classes)), np.zeros(task.n_classes)
    for layer in range(network.depth - 1):
        same("kernel", s.kernel[layer], common[layer] * ones, _EXACT, 1.0)
        same("d", s.d[layer], own[layer] + zero, _EXACT, 1.0)
    same("kernel", s.kernel[-1], (s.activation.T * s.weight) @ s.activation, _EXACT, 1.0)
    same("d", s.d[-1], s.weight @ s.activation_variance, _EXACT, 1.0)
    second = np.einsum("g,gi,gj->ij", s.weight, s.readout, s.readout)
    scale = max(1.0, float(np.abs(second).max()))
    same("second moment of the readout", s.second_readout, second, _EXACT, scale)
    for name in ("tilde", "delta", "covariance"):
        same(name, getattr(s, name), np.zeros_like(getattr(s, name)), _EXACT, 1.0)
    outputs = np.einsum("g,gc,gm->cm", s.weight, s.activation, s.readout) + posterior.tau * s.t
    same("outputs", outputs, task.targets, _EXACT, max(1.0, float(np.abs(task.targets).max())))
    if network.beta == 1.0:
        _check_words(posterior)


def _check_words(posterior: DeepPosterior) -> None:
    """Saturated codes: a = sigma_a^2 sum_c p_c phi_c t_c, heights |a|^2 / (2 sigma_a^2) equal, none higher."""
    s, task, network = posterior.solution, posterior.task, posterior.network
    phi, variance = network.activation, network.sigma_a**2
    field = task.fractions[:, None] * s.t
    readout = variance * s.activation @ field
    scale = max(1.0, float(np.abs(readout).max()))
    same("readout", s.readout, readout, _EXACT, scale)
    heights = 0.5 * np.sum(readout**2, axis=1) / variance
    level = float(heights.max())
    size = max(1.0, level)
    same("heights of the codes", heights, np.full_like(heights, level), _EXACT, size)
    linear = float(np.sum(field * (0.5 * posterior.tau * s.t - task.targets)))
    same("objective", linear + level, s.free_energy, _EXACT, max(size, abs(linear)))
    if task.n_classes <= _ENUMERATED:
        words = np.array(list(product((phi.infimum, phi.supremum), repeat=task.n_classes)))
        best = float((0.5 * variance * np.sum((words @ field) ** 2, axis=1)).max())
        if best > level + _EXACT * size:
            raise ValueError(f"another code is higher by {best - level:.1e}.")
