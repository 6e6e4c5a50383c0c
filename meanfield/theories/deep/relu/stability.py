"""Second-order check of the saddle of all layers at N = infinity (relu/THEORY.md, "What the certificate proves").

Outliers are constraints Ehat <= 0 on the minimum over conjugates and t. With them the equations are the stationarity of

    Lambda(x, beta) = Phi_bulk(x) + sum_{l, o} (N_l / N) Ehat(beta_o; x),

in which the squared length of beta_o is a multiplier (Ehat is homogeneous of degree two) and its direction a maximum.
Over z = (K~, delta~, t; beta) the Hessian of Lambda therefore has as many negative eigenvalues as there are coordinates
of outliers where Phi has its minimum under the constraints, and the Schur complement of z is the curvature over the
kernels of that minimum: the bordered Hessian of a constrained problem.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from scipy.linalg import solve_continuous_lyapunov

from meanfield.theories.deep.certificate import OrderError, SecondOrder
from meanfield.theories.deep.relu.average import COARSE, ReluRule
from meanfield.theories.deep.relu.coordinates import ReluOrder, directions
from meanfield.theories.deep.relu.outlier import NO_LENGTH, condensed
from meanfield.theories.deep.relu.system import SHORT, Lacking, ReluSystem
from meanfield.validation import FloatArray

__all__ = ["gradient", "order_errors", "second_order"]

_OUTER = ("kernel", "d")
_OUTLIERS = ("lower", "top")
_STEP = 1e-4  # of the differences, of an unknown
_UNCERTAIN = 0.1  # antisymmetric part from which on nothing is said
_NO_STEP = 1e-14  # singular value of a Jacobian, relative to the largest, that counts as none
_TINY = 1e-300
_RIGID = 1e-8  # curvature along an outlier that counts as none
_CLEAR = 3.0  # times the error of the Hessian, from which on a curvature has a sign
_NOT_A_MAXIMUM = 1e-3  # and one that is no error of the differences


def gradient(system: ReluSystem, x: FloatArray, rule: ReluRule) -> FloatArray:
    """d Lambda / dx at N = infinity: what the equations are violated by, in the metric of Phi."""
    order, found = system.unpack(x), system.mapped(x, rule)
    apart = ReluOrder(*(getattr(found, f.name) - getattr(order, f.name) for f in fields(order)))
    return _in_metric(system, apart) + _at_fixed_outliers(system, order)


def _in_metric(system: ReluSystem, apart: ReluOrder) -> FloatArray:
    """Differences between both sides of the equations, each with the derivative of Phi that it stands for."""
    n, ratios = system.problem.n, system.problem.ratios
    partner = {
        "kernel": ("tilde", "delta"),
        "d": ("tilde", "delta"),
        "tilde": ("kernel", "d"),
        "delta": ("kernel", "d"),
    }
    parts = []
    for name, layer, basis, unit in system.blocks:
        if name in partner:
            block, own = (getattr(apart, p)[layer] for p in partner[name])
            if name in ("kernel", "tilde"):
                slope = 0.5 * (np.outer(n, n) * block + np.diag(n * own))
            else:
                slope = 0.5 * n * (np.diag(block) + own)
        elif name == "t":
            slope = n[:, None] * apart.t
        else:
            slope = getattr(apart, name)
            slope = slope if layer < 0 else slope[layer]
        weight = unit * ratios[layer]
        parts.append(weight * (basis.reshape(len(basis), slope.size) @ slope.ravel()))
    return np.concatenate(parts)


def _at_fixed_outliers(system: ReluSystem, order: ReluOrder) -> FloatArray:
    """d (sum_o Ehat) / dk~ at given beta, less what it is at stationary ones, (n ghat_b) (n ghat_b)^T / 2.

    b = R beta with R the symmetric root of k~: <n ghat_b beta^T, dR> with R dR + dR R = dk~ is <X, dk~> with
    R X + X R the symmetric part of n ghat_b beta^T.
    """
    parts = []
    for name, layer, basis, unit in system.blocks:
        slope = np.zeros(basis.shape[1:])
        if name == "tilde":
            setting, outliers = system.setting(order, layer), order.outliers(layer)
            pushed = np.array([setting.n * condensed(setting, beta).activation for beta in outliers])
            mixed = pushed.reshape(len(outliers), len(setting.n)).T @ outliers
            if mixed.any():
                slope = solve_continuous_lyapunov(setting.root, 0.5 * (mixed + mixed.T)) - 0.5 * pushed.T @ pushed
        parts.append(unit * system.problem.ratios[layer] * (basis.reshape(len(basis), slope.size) @ slope.ravel()))
    return np.concatenate(parts)


def _hessian(system: ReluSystem, x: FloatArray, rule: ReluRule) -> FloatArray:
    """Derivatives of `gradient`: those under the integrals, and of what has no integral by differences."""
    order = system.unpack(x)
    moved = directions(system.blocks, order)
    found = system.change(order, moved, rule, averaged=False)
    columns = []
    for i in range(len(x)):
        apart = ReluOrder(*(getattr(found, f.name)[i] - getattr(moved, f.name)[i] for f in fields(order)))
        step = _STEP * max(abs(float(x[i])), 1e-2)
        ends = []
        for sign in (1.0, -1.0):
            beside = x.copy()
            beside[i] += sign * step
            ends.append(_at_fixed_outliers(system, system.unpack(beside)))
        columns.append(_in_metric(system, apart) + (ends[0] - ends[1]) / (2.0 * step))
    return np.array(columns)


def second_order(system: ReluSystem, x: FloatArray, rule: ReluRule) -> SecondOrder:
    """Signs of the curvature of Phi at a solution at N = infinity, the inner one in the directions that keep Ehat = 0.

    Its error is the largest antisymmetric part of the Hessian; NaN where that leaves a sign open.

    Raises
    ------
    BulkDiverges
        If the averages cannot be computed beside the solution.
    """
    hessian = _hessian(system, x, rule)
    names = np.repeat([name for name, *_ in system.blocks], [len(basis) for _, _, basis, _ in system.blocks])
    outlier = np.isin(names, _OUTLIERS)
    outer = np.flatnonzero(np.isin(names, _OUTER))
    inner = np.flatnonzero(~outlier & ~np.isin(names, _OUTER))
    held = np.flatnonzero(outlier & (np.abs(x) > NO_LENGTH))  # one that is not there is no constraint
    size = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    # Along its length an outlier has no curvature of its own: its unit is that of its coupling.
    size[held] = np.maximum((np.abs(hessian[inner][:, held]) / size[inner][:, None]).max(axis=0), 1e-300)
    unit = hessian / np.outer(size, size)
    used = np.concatenate([inner, held, outer])
    error = 0.5 * float(np.abs(unit - unit.T)[np.ix_(used, used)].max())
    unit = 0.5 * (unit + unit.T)
    both = np.concatenate([inner, held])
    mixed = unit[np.ix_(both, outer)]
    schur = unit[np.ix_(outer, outer)] - mixed.T @ np.linalg.solve(unit[np.ix_(both, both)], mixed)
    high = np.linalg.eigvalsh(0.5 * (schur + schur.T))
    own, coupling = unit[np.ix_(inner, inner)], unit[np.ix_(inner, held)]
    if not error <= _UNCERTAIN:
        return SecondOrder(error=error)
    least, largest = _constrained(own, coupling, unit[np.ix_(held, held)]), float(np.linalg.eigvalsh(own)[-1])
    if min(abs(least), abs(float(high[-1]))) < _CLEAR * error:  # their signs are not known
        return SecondOrder(error=error)
    return SecondOrder(least / largest, float(high[-1] / np.abs(high).max()), error)


def _constrained(own: FloatArray, coupling: FloatArray, held: FloatArray) -> float:
    """Smallest curvature over the conjugates and t once outliers are maximised over.

    Maximising adds what is positive, without limit along the length of an outlier: there a constraint is left. An
    outlier that is not a maximum returns its own, negative.
    """
    values, axes = np.linalg.eigh(-held) if len(held) else (np.empty(0), np.empty((0, 0)))
    if len(values) and values[0] < -_NOT_A_MAXIMUM:
        return float(values[0])
    along = coupling @ axes
    total = own + (along / np.maximum(values, _RIGID)) @ along.T
    return float(np.linalg.eigvalsh(total)[0])


def order_errors(
    system: ReluSystem, x: FloatArray, rule: ReluRule, check: ReluRule, left: Lacking | None = None
) -> tuple[OrderError, ...]:
    """How far the order parameters x, solved for with `rule`, are from where the equations of `check` hold: a step of
    Newton's method with the Jacobian of coarse lattices.

    Along a soft direction a small residual leaves a large error. K and d of the last layer, which are no unknowns,
    include what both lattices differ by. `left` is what both lattices lack (remote modes).

    Raises
    ------
    BulkDiverges
        If the averages do not exist there.
    """
    jacobian = system.jacobian(x, COARSE, system.residual(x, COARSE))
    inverse = np.linalg.pinv(jacobian, rcond=_NO_STEP)
    open_ = system.residual(x, check)
    if left is not None:
        open_ = open_ + system.pack(left.order)
    step = -inverse @ open_
    order, change, depth = system.unpack(x), system.unpack(step), system.problem.depth
    largest: dict[tuple[str, int], float] = {}
    for name, layer, basis, _ in system.blocks:
        if not len(basis):
            continue
        have, moved = (getattr(one, name) if layer < 0 else getattr(one, name)[layer] for one in (order, change))
        outliers = name in _OUTLIERS
        size = max(float(np.abs(have).max()), SHORT if outliers else _TINY)
        largest["outliers" if outliers else name, layer % depth + 1] = float(np.abs(moved).max()) / size
    last, there = (system.layer(system.unpack(at), depth - 1, way) for at, way in ((x, rule), (x + step, check)))
    kernel = there.b_b if left is None else there.b_b + left.last
    for name, have, moved in (("kernel", last.b_b, kernel), ("d", last.bb, there.bb)):
        largest[name, depth] = float(np.abs(moved - have).max() / max(float(np.abs(have).max()), _TINY))
    return tuple(OrderError(name, layer, value) for (name, layer), value in largest.items())
