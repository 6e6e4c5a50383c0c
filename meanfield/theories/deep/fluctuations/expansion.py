"""What the terms of order 1/N of bounded phi and of rectifiers share: from L and its derivatives to coefficients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import block_diag, qr

from meanfield.posterior.finite_width import FiniteWidth, OneLoop
from meanfield.theories.deep.fluctuations.sectors import TWO, Sector
from meanfield.theories.deep.layers.rules import Averages, NotCovered
from meanfield.theories.deep.reduction import Members
from meanfield.theories.deep.system import DeepProblem, Order, System
from meanfield.validation import BoolArray, FloatArray, read_only

__all__ = ["assembled", "by_sources", "differences", "directions", "log_fluctuations"]


def log_fluctuations(found: Sequence[Sector]) -> float:
    """L = -1/2 ln det of the second derivatives of Phi by all perturbations."""
    return -0.5 * sum(sector.multiplicity * sector.log_determinant for sector in found)


def differences(
    at: Callable[[FloatArray], tuple[float, FloatArray]], z: FloatArray, steps: FloatArray, central: BoolArray
) -> tuple[FloatArray, FloatArray]:
    """Derivatives of a number (k,) and of observables (k, observables), both of which `at` gives, along `steps` of z
    (k, size) in units of these: central differences, or those of the side of the steps alone."""
    here = np.empty(0) if central.all() else _joined(at(z))
    found = []
    for step, both in zip(steps, central):
        if both:
            found.append(0.5 * (_joined(at(z + step)) - _joined(at(z - step))))
        else:
            found.append(2.0 * _joined(at(z + step)) - 0.5 * _joined(at(z + 2.0 * step)) - 1.5 * here)
    return np.array([one[0] for one in found]), np.array([one[1:] for one in found])


def _joined(found: tuple[float, FloatArray]) -> FloatArray:
    return np.append(found[0], found[1])


def directions(system: System, x: FloatArray, steps: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Independent steps (k, k) of order parameters x, of the size `steps` (k,), and which may be taken to either side.

    Kernels, their conjugates and d stay positive: a matrix that has an eigenvalue near zero moves by positive ones
    only, the squares of its eigenvectors and of sums of these, made symmetric.
    """
    order, blocks, central = system.unpack(x), [], []
    for name, layer, at in system.blocks:
        size = at.stop - at.start
        unit, sides = np.eye(size), np.ones(size, dtype=bool)
        if name in ("kernel", "tilde"):
            matrix = getattr(order, name)[layer]
            unit = _positive(system, matrix)
            for i, row in enumerate(unit):
                moved = np.tensordot(row * steps[at], system.matrices, 1)
                sides[i] = np.linalg.eigvalsh(matrix - moved)[0] > 0.0
        elif name == "d":
            sides = x[at] > steps[at]
        blocks.append(unit * steps[at])
        central.append(sides)
    return np.asarray(block_diag(*blocks)), np.concatenate(central)


def _positive(system: System, matrix: FloatArray) -> FloatArray:
    """Coordinates (k, k) of independent positive matrices, of size 1."""
    vectors = np.linalg.eigh(matrix)[1].T
    sums = [one + other for i, one in enumerate(vectors) for other in vectors[:i]]
    rows = np.array([system.matrix_coordinates(np.outer(v, v)) for v in [*vectors, *sums]])
    rows = rows / np.abs(rows).max(axis=1, keepdims=True)
    return np.asarray(rows[np.sort(qr(rows.T, pivoting=True)[2][: rows.shape[1]])])


def by_sources(
    system: System, by_pair: Callable[[int, int], float], by_class: Callable[[int], float], square: float
) -> FloatArray:
    """What kernel and d of the last layer and <|a|^2> (`square`) change by at fixed order parameters.

    `by_pair` is dL / dk~_ce, `by_class` dL / ddelta~_c of the last layer; of entries that the symmetry of the task
    makes equal one is asked for. A source of k~_ce is one of n_c n_e K_ce, of k~_cc one of n_c (n_c K_cc + d_c) / 2, of
    delta~_c one of n_c (K_cc + d_c) / 2.

    Raises
    ------
    NotCovered
        If a class has less than two samples.
    """
    n = system.problem.n
    if n.min() < 2.0 - TWO:
        raise NotCovered("a class of less than two samples has no kernel between them")
    slopes, own = np.zeros((len(n), len(n))), np.zeros(len(n))
    for basis in system.matrices:
        c, e = np.argwhere(basis)[0]
        slopes[basis > 0.0] = by_pair(int(c), int(e))
    for row in system.vectors:
        own[row > 0.0] = by_class(int(np.flatnonzero(row)[0]))
    kernel = slopes / np.outer(n, n)
    np.fill_diagonal(kernel, 2.0 * (np.diag(slopes) - own) / (n**2 - n))
    return np.concatenate([kernel.ravel(), 2.0 * own / n - np.diag(kernel), [square]])


def assembled(
    problem: DeepProblem,
    order: Order,
    change: Order,
    layers: Sequence[Averages],
    observed: FloatArray,
    top: FloatArray,
    found: Sequence[Sector],
    members: Members,
    span: FloatArray,
    width: float = math.inf,
) -> OneLoop:
    """Coefficients for classes that are `members` of the problem's and outputs (m,) spanned by `span` (m, q).

    `observed` and `top`: kernel and d of the last layer and <|a|^2> at order parameters `order`, and their
    coefficients; `change`: those of the order parameters; `width`: that of the solution.
    """
    n_classes = len(problem.n)
    size = n_classes**2
    kernel = np.append(change.kernel, top[:size].reshape(1, n_classes, n_classes), axis=0)
    d = np.append(change.d, top[None, size:-1], axis=0)
    own = np.array([one.kernel for one in layers])
    limit = FiniteWidth(
        width, read_only(members.matrices(own)), read_only(members.variances(np.array([one.d for one in layers]))),
        read_only(members.outputs(problem.y - problem.tau * order.t) @ span.T), float(observed[-1]),
    )  # fmt: skip
    curvatures = {one.name: one.curvature for one in found if one.multiplicity > 0.0}
    t = members.outputs(change.t) @ span.T
    return OneLoop(
        read_only(members.matrices(kernel)), read_only(members.variances(d)), read_only(-problem.tau * t), read_only(t),
        float(top[-1]), log_fluctuations(found),
        {name: (signs.inner, signs.outer) for name, signs in curvatures.items()}, limit,
    )  # fmt: skip
