"""P -> infinity: the saturated dual at the readout exponent 1, the reduced problem at 1 / L."""

from __future__ import annotations

import math

import numpy as np

from meanfield.posterior.status import Status
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.deep.certificate import DeepCertificate
from meanfield.theories.deep.coverage import refuses
from meanfield.theories.deep.large_p.reduced import reduced_solve, usual_starts
from meanfield.theories.deep.large_p.saturated import saturated_solve
from meanfield.theories.deep.layers.rules import code_words
from meanfield.theories.deep.prior import prior_kernels
from meanfield.theories.deep.search.silent import falls_silent
from meanfield.theories.deep.solution import DeepSolution
from meanfield.theories.deep.system import DeepProblem

__all__ = ["deep_problem", "in_the_limit", "limit_solution", "unresolved"]

_EXACT = 1e-8
_MANY = 1e6  # samples, from which on the limit is named where a solve fails
# Exponents beyond which float64 leaves less than 1e-6, and how many times larger than what tells classes apart a kernel
# may be, of which sums are right to 1e-14 or so.
_RESOLVED, _APART = 1e9, 4e6
_SILENT = "Phi is larger where the neurons of layer {} of steps fall silent but for a share that vanishes, at ln P"


def limit_solution(network: Network, task: ClassTask, tau: float) -> DeepSolution:
    """The limit of a network with bounded phi for its readout exponent, 1 or 1 / L."""
    return _saturated(network, task, tau) if network.beta == 1.0 else _reduced(network, task, tau)


def unresolved(network: Network, task: ClassTask) -> str | None:
    """Why float64 does not bear so many samples, in words; None if it does.

    Exponents of the weights are of order P^beta and have to be known to 1e-6 or so; of the kernel of the first layer
    the part P^(1/L - 1) tells the classes apart (residuals of 1e-8, 1e-7 and 3e-6 were reached at P = 1e13, 1e14 and
    1e15, L = 2).
    """
    samples = task.n_samples
    exponents, kernel = samples**network.beta, samples ** (1.0 - 1.0 / network.depth)
    if exponents <= _RESOLVED and kernel <= _APART:
        return None
    what = (
        f"exponents of the weights of neurons are of order P^{network.beta:.3g} = {exponents:.1g}"
        if exponents > _RESOLVED
        else f"what tells the classes apart is 1 / {kernel:.1g} of the kernel of the first layer"
    )
    return f"{samples:.3g} samples are beyond what float64 resolves: {what}"


def in_the_limit(network: Network, task: ClassTask, tau: float) -> str:
    """What to do where a solve with many samples failed, to be put behind the reason."""
    if task.n_samples < _MANY or refuses(network, task.with_(n_samples=math.inf), tau) is not None:
        return ""
    return "; n_samples=math.inf has the answer but for corrections that vanish as P grows"


def deep_problem(network: Network, task: ClassTask, tau: float) -> DeepProblem:
    """All classes, none merged."""
    fractions, targets = np.array(task.fractions), np.array(task.targets)
    return DeepProblem(
        network.activation, network.depth, fractions, targets, tau, network.sigma_a**2, network.k,
        tuple(sigma**2 for sigma in network.scales[1:]), network.beta, network.ratios,
    )  # fmt: skip


def _reduced(network: Network, task: ClassTask, tau: float) -> DeepSolution:
    """Exponent 1 / L: t ~ P^(1/L - 1) vanishes, and with it the training residual at any tau."""
    problem = deep_problem(network, task, tau)
    common, own, _ = prior_kernels(problem)
    starts = usual_starts(problem)
    found = reduced_solve(problem, starts)
    n_classes, m, lower = task.n_classes, task.n_outputs, network.depth - 1
    order = np.argsort(-np.round(found.weight, 9), kind="stable")
    weight = np.maximum(found.weight[order], 0.0) / np.maximum(found.weight, 0.0).sum()
    readout, activation, variance = found.readout[order], found.activation[order], found.variance[order]
    scale = max(1.0, float(np.abs(task.targets).max()))
    good = found.residual <= _EXACT * scale and found.excess <= _EXACT and found.weight.min() > -_EXACT
    ones = np.ones((n_classes, n_classes))
    silent = _falls_silent(problem)
    rate = f"P^(1/{network.depth})"
    last = found.kappa[-1]
    notes = [
        f"Phi is in units of {rate}; t vanishes like P^(1/{network.depth} - 1) times "
        f"{np.array2string(found.t, precision=6)}",
        f"the kernel of layer l < {network.depth} is that of the prior and P^(l/{network.depth} - 1) kappa_l; "
        f"kappa_{lower} = {np.array2string(last, precision=6)}",
    ]
    if found.nullity:
        notes.append(
            f"the weights of the codes are not unique ({found.nullity} free); those of largest entropy are given"
        )
    return DeepSolution(
        kernel=np.array([*(c * ones for c in common[:-1]), (activation.T * weight) @ activation]),
        d=np.array([*(np.full(n_classes, x) for x in own[:-1]), weight @ variance]),
        tilde=np.zeros((lower, n_classes, n_classes)),
        delta=np.zeros((lower, n_classes)),
        t=np.zeros((n_classes, m)),
        free_energy=found.objective,
        readout=readout,
        weight=weight,
        covariance=np.zeros((len(weight), m, m)),
        activation=activation,
        activation_variance=variance,
        patterns=tuple(code_words(network.activation, activation).tolist()),
        second_readout=np.einsum("g,gi,gj->ij", weight, readout, readout),
        certificate=DeepCertificate.of(
            found.residual,
            found.residual,
            max(found.excess, 0.0),
            nullity=found.nullity,
            searched=(
                f"the best of {starts} descents of laws of codes along each number of directions; that no other has "
                "a larger Phi is not proven",
            ),
        ),
        status=Status.NO_MAXIMUM if silent else Status.OPTIMAL if good else Status.RESIDUAL,
        message=(
            f"{_SILENT.format(lower)} and not {rate}; use readout_exponent=1, two layers, or a phi with a scale"
            if silent
            else "the conditions of the reduced problem hold, and no other maximum of the exponent is higher; global "
            "optimality over the kernels is not proven"
            if good
            else f"residual {found.residual:.1e}; the exponent is higher by {found.excess:.1e} at another code"
        ),
        notes=tuple(notes),
        n_samples=math.inf,
        tau=tau,
    )


def _falls_silent(problem: DeepProblem) -> bool:
    return problem.depth > 2 and falls_silent(problem.phi)


def _saturated(network: Network, task: ClassTask, tau: float) -> DeepSolution:
    """Exponent 1."""
    phi = network.activation
    found = saturated_solve(
        np.array(task.fractions), np.array(task.targets), tau, network.sigma_a, phi.infimum, phi.supremum
    )
    largest = float(np.abs(task.targets).max())
    accepted = min(1e-8 * max(1.0, largest), 1e-4 * largest)  # tiny targets have to be met, too
    closed = abs(found.gap) <= 1e-8 * abs(found.objective)  # both are proportional to the square of the targets
    good = closed and found.residual <= accepted
    failed = f"duality gap {found.gap:.1e}"
    if closed:
        failed = f"residual {found.residual:.1e} of targets up to {largest:.1e}, at most {accepted:.1e} is accepted"
    problem = deep_problem(network, task, tau)
    common, own, _ = prior_kernels(problem)
    n_classes, m, lower = task.n_classes, task.n_outputs, network.depth - 1
    top = (found.words.T * found.weight) @ found.words
    kernel = np.array([*(c * np.ones((n_classes, n_classes)) for c in common[:-1]), top])
    middle = 0.5 * (phi.infimum + phi.supremum)
    notes = ["the last layer is saturated; the class structure of the layers below vanishes in this limit"]
    if _falls_silent(problem):
        notes.append(
            f"{_SILENT.format(lower)}, beyond the order of P that decides on readouts: below them is the prior"
        )
    if found.nullity:
        notes.append(
            f"the weights of the codes are not unique ({found.nullity} free); those of largest entropy were selected, "
            "the limit of the theory at finite P"
        )
    return DeepSolution(
        kernel=kernel,
        d=np.array([*(np.full(n_classes, x) for x in own[:-1]), np.zeros(n_classes)]),
        tilde=np.zeros((lower, n_classes, n_classes)),
        delta=np.zeros((lower, n_classes)),
        t=found.t,
        free_energy=found.objective,
        readout=found.readout,
        weight=found.weight,
        covariance=np.zeros((len(found.weight), m, m)),
        activation=found.words,
        activation_variance=np.zeros_like(found.words),
        patterns=tuple("".join("1" if x > middle else "0" for x in word) for word in found.words),
        second_readout=np.einsum("g,gi,gj->ij", found.weight, found.readout, found.readout),
        certificate=DeepCertificate.of(
            found.residual, found.residual, 0.0, duality_gap=found.gap, nullity=found.nullity
        ),
        status=Status.OPTIMAL if good else Status.RESIDUAL if closed else Status.DUALITY_GAP,
        message="a convex problem, certified by its duality gap" if good else failed,
        notes=tuple(notes),
        n_samples=math.inf,
        tau=tau,
    )
