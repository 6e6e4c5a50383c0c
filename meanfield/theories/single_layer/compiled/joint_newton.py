"""Newton on order parameters, readouts, directions and weights at once: codes on ridges beside cones (sigma_a = 1).

Where growth A(t) = sum_c p_c g_c t_c t_c^T is the identity on a space of directions, the weight of outliers there is a
matrix, W = sum_o w_o u_o u_o^T, and the constraint is (A - 1) V = 0 for a basis V of that space. Codes far out at the
edges of its cone of signs push some directions of it below one, by 1e-10 to 1e-6 at |a| of 1e2 to 1e4: within that
distance the maximum over directions, and where on its ridge a readout is highest, change by all they can. Equations
with readouts and directions eliminated are linear on that scale only. With all of them as unknowns they are bilinear,

    grad_a h(a; t) = 0,  h(a; t) = s,  (A - 1) V = 0,  sum P = 1,
    y_c = sum_k P_k a_k G'(a_k.t_c) + g_c W t_c + tau t_c,

and converge from where a bundle method ends. W is kept diagonal in the basis V, so that its columns are outliers.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.jit import jit, jit_apart
from meanfield.theories.single_layer.compiled.generated.action import action_fields
from meanfield.theories.single_layer.compiled.generated.stationarity import (
    field_gradient,
    neuron_jacobian,
    order_residual,
)
from meanfield.theories.single_layer.compiled.kkt import height_unit, room_for_derivatives

__all__ = ["combine_columns", "face_fields", "joint_newton"]

_STEPS = 15
_LARGEST = 300  # unknowns, of which a singular value decomposition is asked for
_RANK = 1e-13  # singular values below this, in units of the largest, are none
_SWEEPS = 12  # of scaling rows and columns
_DONE = 2e-14
_ENOUGH = 1e-11  # residual with which a point counts as solved
_TURN = 0.5  # most that a basis turns, and a readout moves in units of itself, in one step
_MOVED = 1e-6  # part of t in a direction that nothing fixes, from which on t counts as free


@jit
def face_fields(growths, p, t, u, first, second):
    """Fields of u where the growth of class c is growths[c], whatever the sign of t_c.u."""
    for c in range(t.shape[0]):
        second[c] = p[c] * growths[c]
        first[c] = second[c] * np.sum(t[c] * u)


@jit_apart(returns="none")
def _scaled(matrix, rows, columns):
    """Scale rows and columns of `matrix` (in place) until their largest entries are near one; fills the scales."""
    n, m = matrix.shape
    rows[:] = 1.0
    columns[:] = 1.0
    for _ in range(_SWEEPS):
        for i in range(n):
            size = 0.0
            for j in range(m):
                size = max(size, abs(matrix[i, j]))
            if size > 0.0:
                size = 1.0 / np.sqrt(size)
                rows[i] *= size
                for j in range(m):
                    matrix[i, j] *= size
        for j in range(m):
            size = 0.0
            for i in range(n):
                size = max(size, abs(matrix[i, j]))
            if size > 0.0:
                size = 1.0 / np.sqrt(size)
                columns[j] *= size
                for i in range(n):
                    matrix[i, j] *= size


@jit
def _change(left, singular, right, rows, columns, rhs):
    """Shortest solution of the scaled system."""
    size = columns.shape[0]
    change = np.zeros(size)
    for k in range(singular.shape[0]):
        if not singular[k] > _RANK * singular[0]:
            break
        part = 0.0
        for i in range(rows.shape[0]):
            part += left[i, k] * rows[i] * rhs[i]
        part /= singular[k]
        for j in range(size):
            change[j] += part * right[k, j]
    for j in range(size):
        change[j] *= columns[j]
    return change


@jit
def _free(singular, right, n):
    """How many directions that nothing fixes move t, the first n unknowns."""
    count = 0
    for k in range(singular.shape[0]):
        if not singular[k] > _RANK * singular[0]:
            count += np.max(np.abs(right[k, :n])) > _MOVED
    return count


@jit
def combine_columns(frame, axes, result):
    """The first columns of `result` become those of `frame` (m, m) times `axes` (dim, dim)."""
    dim = axes.shape[0]
    for r in range(frame.shape[0]):
        for i in range(dim):
            result[r, i] = 0.0
            for k in range(dim):
                result[r, i] += frame[r, k] * axes[k, i]


@jit_apart(returns="none")
def _turned(frame, dim, weights, off_diagonal, move):
    """Move the basis of a face, the first `dim` columns of `frame` (m, m), by `move` (m, dim), in place.

    W = diag(weights) + off_diagonal moves with it, and is diagonalised.
    """
    m = frame.shape[0]
    new = frame.copy()
    form = off_diagonal.copy()
    for i in range(dim):
        form[i, i] += weights[i]
        for r in range(m):
            new[r, i] += move[r, i]
    ortho, _ = np.linalg.qr(new)
    to = np.zeros((dim, dim))  # components of the moved basis in the orthonormal one
    for i in range(dim):
        for j in range(dim):
            for r in range(m):
                to[i, j] += ortho[r, i] * new[r, j]
    turned = np.zeros((dim, dim))
    for i in range(dim):
        for j in range(dim):
            for k in range(dim):
                for q in range(dim):
                    turned[i, j] += to[i, k] * form[k, q] * to[j, q]
    values, axes = np.linalg.eigh(turned)
    copy_matrix(frame, ortho)
    copy_vector(weights, values)
    combine_columns(ortho, axes, frame)


@jit_apart(returns="Tuple((boolean, float64, int64))")
def joint_newton(table, p, y, tau, t, s, readouts, weights, dims, growths, frames, face_weights):
    """Newton from the given point; t, readouts (K, m), weights (K,), frames and face_weights are updated in place.

    A face f has dims[f] directions, the first columns of frames[f] (m, m), orthonormal with the rest of it, of weights
    face_weights[f] (m,), and the growths[f] (C,) of the classes. Returns (ok, s, nullity of t).
    """
    n_classes, m = t.shape
    n, n_codes, n_faces = n_classes * m, readouts.shape[0], dims.shape[0]
    first_code = n + 1
    first_face = first_code + n_codes * (m + 1)
    size = first_face
    for f in range(n_faces):
        size += dims[f] * (dims[f] + 1) // 2 + dims[f] * (m - dims[f])
    if size > _LARGEST:
        return False, s, 0
    first, second, mixed, curvature, slope = room_for_derivatives(n_codes, n_classes, m)
    of_face = room_for_derivatives(m, n_classes, m)
    order = np.empty((n_classes, m))
    same_class = np.empty((n_classes, m, m))
    gradient = np.empty(m)
    rows, columns = np.empty(size), np.empty(size)
    previous = np.inf
    nullity = 0
    for _ in range(_STEPS):
        if exhausted(table.stop, size * size * size // 500):
            return False, s, 0
        matrix = np.zeros((size, size))
        rhs = np.zeros(size)
        same_class[:] = 0.0
        residual = 0.0
        order_residual(y, tau, t, order)
        rhs[n] = 1.0 - np.sum(weights)
        heights = np.empty(n_codes)
        for k in range(n_codes):
            heights[k] = action_fields(table, p, t, readouts[k], first[k], second[k])
        neuron_jacobian(first, second, p, t, readouts, weights, mixed, curvature, slope, same_class)
        for k in range(n_codes):
            a = readouts[k]
            i = first_code + k * (m + 1)
            field_gradient(first[k], t, gradient)
            for r in range(m):
                gradient[r] -= a[r]
                rhs[i + r] = -gradient[r]
                residual = max(residual, abs(gradient[r]))
                matrix[i + m, i + r] = gradient[r]
                for q in range(m):
                    matrix[i + r, i + q] = curvature[k, r, q]
            rhs[i + m] = s - heights[k]
            residual = max(residual, abs(rhs[i + m]) / height_unit(a))
            matrix[i + m, n] = -1.0
            matrix[n, i + m] = 1.0
            for c in range(n_classes):
                for q in range(m):
                    j = c * m + q
                    matrix[i + m, j] = slope[k, c, q]
                    matrix[j, i + m] = slope[k, c, q]
                    rhs[j] -= weights[k] * slope[k, c, q]
                    for r in range(m):
                        matrix[i + r, j] = mixed[k, r, c, q]
                        matrix[j, i + r] = weights[k] * mixed[k, r, c, q]
        i = first_face
        for f in range(n_faces):
            dim = dims[f]
            frame = frames[f]
            basis = np.ascontiguousarray(frame.T)
            first_f, second_f, mixed_f, curvature_f, slope_f = of_face
            for k in range(m):
                face_fields(growths[f], p, t, basis[k], first_f[k], second_f[k])
            shares = np.zeros(m)
            copy_vector(shares, face_weights[f, :dim])
            neuron_jacobian(first_f, second_f, p, t, basis, shares, mixed_f, curvature_f, slope_f, same_class)
            beyond = curvature_f[0] @ frame  # (A - 1) V and, further on, the rest
            inner = basis @ beyond
            for k in range(dim):  # W and V^T (A - 1) V = 0
                for q in range(k + 1):
                    factor = 0.5 if q == k else 1.0
                    rhs[i] = -factor * inner[k, q]
                    residual = max(residual, abs(inner[k, q]))
                    for c in range(n_classes):
                        for r in range(m):
                            value = 0.0
                            for z in range(m):
                                value += mixed_f[k, z, c, r] * basis[q, z]
                            matrix[i, c * m + r] = factor * value
                            matrix[c * m + r, i] = factor * value
                    i += 1
            for k in range(dim):  # what V turns by, and what is left of (A - 1) V = 0
                for q in range(dim, m):
                    j = i + q - dim
                    rhs[j] = -inner[q, k]
                    residual = max(residual, abs(inner[q, k]))
                    for z in range(dim, m):
                        matrix[j, i + z - dim] = inner[q, z]
                    for c in range(n_classes):
                        for r in range(m):
                            value = 0.0
                            for z in range(m):
                                value += mixed_f[k, z, c, r] * basis[q, z]
                            matrix[j, c * m + r] = value
                            matrix[c * m + r, j] = shares[k] * value
                i += m - dim
                for c in range(n_classes):
                    for r in range(m):
                        rhs[c * m + r] -= shares[k] * slope_f[k, c, r]
        for c in range(n_classes):
            for r in range(m):
                j = c * m + r
                rhs[j] -= p[c] * order[c, r]
                residual = max(residual, abs(rhs[j]) / p[c])
                matrix[j, j] += p[c] * tau
                for q in range(m):
                    matrix[j, c * m + q] += p[c] * same_class[c, r, q]
        residual = max(residual, abs(rhs[n]))
        if residual <= _DONE or (residual <= _ENOUGH and residual >= 0.3 * previous):
            return True, s, nullity
        if not residual < 1e8:
            break
        previous = residual
        _scaled(matrix, rows, columns)
        left, singular, right = np.linalg.svd(matrix, False)
        change = _change(left, singular, right, rows, columns, rhs)
        nullity = _free(singular, right, n)
        length = 1.0
        for k in range(n_codes):
            i = first_code + k * (m + 1)
            far = max(1.0, np.sqrt(np.sum(readouts[k] * readouts[k])))
            length = min(length, _TURN * far / max(np.sqrt(np.sum(change[i : i + m] ** 2)), 1e-300))
        i = first_face
        for f in range(n_faces):
            i += dims[f] * (dims[f] + 1) // 2
            for _ in range(dims[f] * (m - dims[f])):
                length = min(length, _TURN / max(abs(change[i]), 1e-300))
                i += 1
        for j in range(n):
            t[j // m, j % m] += length * change[j]
        s += length * change[n]
        for k in range(n_codes):
            i = first_code + k * (m + 1)
            for r in range(m):
                readouts[k, r] += length * change[i + r]
            weights[k] += length * change[i + m]
        i = first_face
        for f in range(n_faces):
            dim = dims[f]
            frame = frames[f]
            off_diagonal = np.zeros((dim, dim))
            move = np.zeros((m, dim))
            for k in range(dim):
                for q in range(k + 1):
                    off_diagonal[k, q] = length * change[i]
                    off_diagonal[q, k] = length * change[i]
                    i += 1
            for k in range(dim):
                for q in range(dim, m):
                    for r in range(m):
                        move[r, k] += length * change[i] * frame[r, q]
                    i += 1
            _turned(frame, dim, face_weights[f], off_diagonal, move)
    return False, s, 0
