"""Which problems the theory of deep networks covers."""

from __future__ import annotations

import math

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.posterior.registry import Elsewhere
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.symmetry import exchangeable
from meanfield.theories.deep.system import LATTICE_CLASSES, MOST_FIELDS, fields_on_lattices, kinds_of
from meanfield.validation import FloatArray

__all__ = ["refuses", "refuses_few", "refuses_shares"]

MOST_ALIKE = 10  # classes that are exchangeable
_DEEP_CLASSES = 4  # of different targets, on more than two layers
_ONE = 1e-9  # samples that a class of one may differ from that by
_SLIGHTLY = 1.0 + 1e-6  # times as many samples, at which the equations leave nothing open


def refuses(network: Network, task: ClassTask | DataTask, tau: float) -> str | None:
    """Why this theory does not cover a problem, in words; None if it does."""
    phi = network.activation
    if isinstance(task, DataTask):
        return Elsewhere("deep nonlinear networks are solved on class tasks only")
    if network.depth == 1:
        return Elsewhere("this is for two and more hidden layers")
    if network.scaling != "non-lazy":
        return Elsewhere("the network is lazy")
    linear = phi.parts == "gaussian"
    if linear and float(phi(0.0)) != 0.0:
        return "affine activations with an offset are not covered; subtract the offset"
    if not linear and not phi.bounded:
        return (
            f"{phi.name} is unbounded: in deep networks its neurons may condense in every layer, which is available "
            "for phi without jumps that comes to straight asymptotes within |z| = 60 and has up to three kinks "
            "(softplus, GELU, ELU, ReLU, leaky ReLU); bounded and linear activations are covered, too"
        )
    if math.isinf(task.n_samples):
        if linear:
            return "linear deep networks are solved at a finite n_samples"
        if network.beta not in (1.0, 1.0 / network.depth):
            return (
                "at n_samples = inf deep networks are solved for the readout exponents 1 and 1 / depth; give a finite "
                "n_samples, or one of them as readout_exponent"
            )
        if network.beta != 1.0 and phi.parity != "odd" and not _odd_around_its_middle(phi):
            return (
                f"at n_samples = inf and the exponent 1 / depth {phi.name} would have to be odd, up to a constant; "
                "give a finite n_samples, or readout_exponent=1"
            )
        return None
    problem = problem_of(network, task, tau)[0]
    few = refuses_few(task, problem.n)
    if few is not None or linear:
        return few
    kinds, alike = len(problem.n), exchangeable(problem.n, problem.y)
    if kinds > LATTICE_CLASSES and alike:
        if kinds > MOST_ALIKE:
            return (
                f"deep nonlinear networks are solved for up to {MOST_ALIKE} classes that are exchangeable, got "
                f"{kinds}; at n_samples = inf there is no such limit"
            )
    elif network.depth > 2 and kinds > _DEEP_CLASSES:
        return (
            "deep nonlinear networks of more than two hidden layers are solved for up to "
            f"{_DEEP_CLASSES} classes of different targets, got {kinds}: none of the starts that were tried leads to a "
            f"solution of more; one-hot classes of one size are solved up to {MOST_ALIKE}, two hidden layers up to "
            f"{_most(task.n_outputs, 2)} with {task.n_outputs} outputs, and at n_samples = inf there is no such limit"
        )
    elif kinds > LATTICE_CLASSES and (fields := fields_on_lattices(kinds, task.n_outputs, network.depth)) > MOST_FIELDS:
        return (
            f"deep nonlinear networks of {network.depth} hidden layers and {task.n_outputs} outputs are solved for up "
            f"to {_most(task.n_outputs, network.depth)} classes of different targets, got {kinds}: a layer would have "
            f"{fields} fields and conjugates to be integrated over, {MOST_FIELDS} are possible; one-hot classes of one "
            f"size are solved up to {MOST_ALIKE}, and at n_samples = inf there is no such limit"
        )
    return None


def refuses_few(task: ClassTask, n: FloatArray) -> str | None:
    """Why so few samples n (C,) in the classes of different targets are not covered, in words; None if they are."""
    if np.any(np.abs(n - 1.0) < _ONE):  # Z depends on Kbar + d and k~ + delta of such a class alone
        return (
            "deep networks on class tasks are solved for more than one sample per class: a single one has no kernel "
            "between samples, and the equations leave open which part of its own that would be; Phi, outputs and "
            "diagonals of the kernels are those of slightly more samples, such as "
            f"n_samples={_SLIGHTLY * task.n_samples:.9g}"
        )
    return None


def refuses_shares(network: Network, task: ClassTask) -> str | None:
    """Why given shares of codes are not covered, in words; None if they are."""
    kinds, phi = kinds_of(task.targets), network.activation
    y, p = task.targets, task.fractions
    mirrored = [(c, e) for c in range(len(y)) for e in range(c) if (y[c] == -y[e]).all() and y[c].any()]
    if phi.parity == "odd" and phi.bounded and mirrored and (kinds > 2 or any(p[c] != p[e] for c, e in mirrored)):
        return (
            f"{phi.name} is odd, so that classes of opposite targets are each other's mirror image; given shares of "
            "codes tell them apart, which is available for two classes of equal size; use an activation with "
            "phi(0) != 0, such as sigmoid"
        )
    if not kinds_alike(task) or kinds <= _most(task.n_outputs, network.depth):
        return None
    return (
        "given shares of codes tell exchangeable classes apart; such are solved for up to "
        f"{_most(task.n_outputs, network.depth)} classes of different targets with {task.n_outputs} outputs on "
        f"{network.depth} hidden layers, got {kinds}"
    )


def _most(n_outputs: int, depth: int) -> int:
    """Classes of different targets whose layers are not too many fields to be integrated over."""
    numbers = range(LATTICE_CLASSES + 1, (_DEEP_CLASSES if depth > 2 else MOST_FIELDS) + 1)
    return max(
        (one for one in numbers if fields_on_lattices(one, n_outputs, depth) <= MOST_FIELDS), default=LATTICE_CLASSES
    )


def kinds_alike(task: ClassTask) -> bool:
    """Whether classes of different targets are exchangeable, those of equal targets taken together."""
    targets, index = np.unique(np.array(task.targets), axis=0, return_inverse=True)
    return exchangeable(np.bincount(index.ravel(), weights=task.fractions).astype(float), targets)


def _odd_around_its_middle(phi: Activation) -> bool:
    z = np.concatenate([np.linspace(0.0, 12.0, 97), np.geomspace(12.0, 1e5, 400)])
    return bool(np.abs(phi(z) + phi(-z) - 2.0 * float(phi(0.0))).max() < 1e-12)
