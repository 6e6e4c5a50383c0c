"""From where a bundle method ends to a solution with cones of outliers and codes on ridges beside them (sigma_a = 1).

What carries weight is sorted: cuts at finite readouts into ridges, directions into the spaces on which growth is the
identity, one for each pattern of signs. `joint_newton` makes that exact, and W of each space becomes outliers again:
rays inside of the cone of its signs.
"""

from __future__ import annotations

import numpy as np

from meanfield.numerics.budget import exhausted
from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.jit import jit, jit_apart
from meanfield.numerics.linalg import nonnegative_least_squares
from meanfield.numerics.order import largest_first
from meanfield.theories.single_layer.compiled.ascent import NO_PUSH, find_maxima, linear_push
from meanfield.theories.single_layer.compiled.certificate import weight_nullity
from meanfield.theories.single_layer.compiled.dual import carrying
from meanfield.theories.single_layer.compiled.generated.stationarity import minus_hessian
from meanfield.theories.single_layer.compiled.joint_newton import combine_columns, joint_newton
from meanfield.theories.single_layer.compiled.outlier import worst_directions
from meanfield.theories.single_layer.compiled.returned import CUTS, SOLUTION
from meanfield.theories.single_layer.compiled.ridges import climb_ridges, highest_maximum
from meanfield.theories.single_layer.compiled.weights import weight_columns

__all__ = ["solve_cones"]

_NEAR, _HELD, _NEAR_HELD = 0.3, 5.0, 0.3  # cuts on one ridge: relative distance; kappa that is held, its distance
_EDGE = 1e-5  # kappa, in units of the largest, whose sign is open
_MOST_OPEN = 5  # such signs
_SPACES = 64  # patterns that are looked at
_INSIDE = 0.98  # part of a direction that lies in the space which it belongs to
_LEAST_RAY = 1e-9  # multiplier from which on a direction counts, in units of the targets
_LEAST_FACE = 1e-4  # the same of a face
_LEAST_RIDGE = (1e-3, 1e-5)  # and of a ridge
_FLAT, _ACCURATE = (10.0, 100.0), 1e-12  # growth this near to one, in units of the accuracy, is one
_SAME_RAY = 1e-10  # part by which rays have to differ in what they make of y
_CHANGES = 12  # of faces that turn out smaller
_LIGHT = 0.1  # weight of a ray, in units of the largest, that may be left of another on its way
_MOST_CLASSES = 60  # whose signs are bits of a number
_RAYS = 48  # of each face
_ANGLES = 16
_OUTSIDE = 1e-12  # kappa on the other side that is rounding
_VIOLATION = 2e-12  # as in `dual`
_ESCAPED = 1e-6
_WRONG = 3e-11  # residual of the equations for y with weights that are not negative
_WEIGHTLESS = 1e-13  # up to which a weight is none


@jit_apart(returns=f"Tuple(({CUTS}))")
def _ridges(t, cuts, multipliers, sizes, least):
    """One readout for each ridge, the mean of the cuts on it, and the weights that they carry."""
    n_cuts, m = cuts.shape
    mean = np.zeros((n_cuts, m))
    carried = np.zeros(n_cuts)
    total = np.zeros(n_cuts)
    count = 0
    for k in largest_first(multipliers[:n_cuts]):
        if not multipliers[k] > 1e-3 * least:
            break
        found = -1
        for i in range(count):
            near = 0.0
            far = 0.0
            for r in range(m):
                near += (mean[i, r] / carried[i] - cuts[k, r]) ** 2
                far += cuts[k, r] ** 2
            same = near <= _NEAR**2 * far
            for c in range(t.shape[0]):
                kappa = np.sum(t[c] * cuts[k])
                other = np.sum(t[c] * mean[i]) / carried[i]
                if min(abs(kappa), abs(other)) < _HELD and abs(kappa - other) > _NEAR_HELD:
                    same = False
            if same:
                found = i
                break
        if found < 0:
            found = count
            count += 1
        carried[found] += multipliers[k]
        total[found] += multipliers[k] / sizes[k]
        for r in range(m):
            mean[found, r] += multipliers[k] * cuts[k, r]
    readouts, weights = np.empty((count, m)), np.empty(count)
    kept = 0
    for i in range(count):
        if carried[i] > least:
            weights[kept] = total[i]
            for r in range(m):
                readouts[kept, r] = mean[i, r] / carried[i]
            kept += 1
    return readouts[:kept].copy(), weights[:kept].copy()


@jit
def _find_space(table, p, t, pattern, flat, patterns, dims, frames, count):
    """The number of the space of this pattern of signs, entered if it is new; returns (number or -1, count)."""
    for i in range(count):
        if patterns[i] == pattern:
            return i, count
    n_classes, m = t.shape
    if count == _SPACES:
        return -1, count
    second = np.empty(n_classes)
    for c in range(n_classes):
        second[c] = p[c] * (table.growth_plus if (pattern >> c) & 1 else table.growth_minus)
    minus = np.empty((m, m))
    minus_hessian(second, t, minus)
    gaps, axes = np.linalg.eigh(minus)
    order = np.argsort(np.abs(gaps))
    dims[count] = 1
    for i in range(m):
        if i > 0 and abs(gaps[order[i]]) < flat:
            dims[count] = i + 1
        for r in range(m):
            frames[count, r, i] = axes[r, order[i]]
    patterns[count] = pattern
    return count, count + 1


@jit_apart(returns="Tuple((int64, float64[:, :, ::1]))")
def _faces(table, p, t, directions, multipliers, flat, scale, patterns, dims, frames):
    """Sort directions into spaces in which growth is within `flat` of one; fills patterns, dims and frames.

    A direction at an edge, where the sign of some kappa_c is open, belongs to the largest space that it is in. Returns
    (number of faces, W (number, m, m)).
    """
    n_classes, m = t.shape
    count = 0
    forms = np.zeros((_SPACES, m, m))
    masses = np.zeros(_SPACES)
    kappa = np.empty(n_classes)
    for turn in range(2):  # those whose signs are plain come first
        for k in largest_first(multipliers):
            u = directions[k]
            if not multipliers[k] > _LEAST_RAY * scale or exhausted(table.stop, 1):
                break
            pattern = 0
            largest = 0.0
            for c in range(n_classes):
                kappa[c] = np.sum(t[c] * u)
                largest = max(largest, abs(kappa[c]))
                if kappa[c] > 0.0:
                    pattern |= 1 << c
            n_open = 0
            open_signs = np.zeros(_MOST_OPEN, np.int64)
            for c in range(n_classes):
                if abs(kappa[c]) < _EDGE * largest and n_open < _MOST_OPEN:
                    open_signs[n_open] = c
                    n_open += 1
            if (n_open > 0) != (turn == 1):
                continue
            best = -1
            for choice in range(1 << n_open):
                other = pattern
                for i in range(n_open):
                    if (choice >> i) & 1:
                        other ^= 1 << open_signs[i]
                number, count = _find_space(table, p, t, other, flat, patterns, dims, frames, count)
                if number < 0:
                    continue
                inside = 0.0
                for i in range(dims[number]):
                    inside += np.sum(frames[number, :, i] * u) ** 2
                if best >= 0 and inside < _INSIDE**2:
                    continue
                if best < 0 or (dims[number], masses[number]) > (dims[best], masses[best]):
                    best = number
            if best >= 0:
                masses[best] += multipliers[k]
                for r in range(m):
                    for q in range(m):
                        forms[best, r, q] += multipliers[k] * u[r] * u[q]
    kept = 0
    for i in range(count):
        if masses[i] > _LEAST_FACE * scale:
            patterns[kept] = patterns[i]
            dims[kept] = dims[i]
            copy_matrix(frames[kept], frames[i])
            copy_matrix(forms[kept], forms[i])
            kept += 1
    return kept, forms[:kept].copy()


@jit
def _inside(t, pattern, u):
    """How far `u` is outside of the cone of these signs, in units of the largest |kappa_c|; 0 inside."""
    outside = 0.0
    largest = 1e-300
    for c in range(t.shape[0]):
        kappa = np.sum(t[c] * u)
        largest = max(largest, abs(kappa))
        outside = max(outside, -kappa if (pattern >> c) & 1 else kappa)
    return outside / largest


@jit
def _add_ray(t, pattern, u, rays, count):
    """Add a unit vector along u or -u, where one of them is in the cone; returns the count."""
    length = np.sqrt(np.sum(u * u))
    if count == rays.shape[0] or not length > 0.0:
        return count
    for sign in (1.0, -1.0):
        v = u * (sign / length)
        if _inside(t, pattern, v) <= _OUTSIDE:
            copy_vector(rays[count], v)
            return count + 1
    return count


@jit
def _project(basis, direction, u):
    """Fill u with the part of a direction that lies in the span of orthonormal rows."""
    u[:] = 0.0
    for i in range(basis.shape[0]):
        part = np.sum(basis[i] * direction)
        for r in range(basis.shape[1]):
            u[r] += part * basis[i, r]


@jit_apart(returns="int64")
def _add_rays(t, pattern, basis, weights, directions, multipliers, rays, count):
    """Rays in the cone of these signs of which W = sum_i weights_i basis_i basis_i^T may be made; returns the count."""
    dim, m = basis.shape
    last = min(count + _RAYS, rays.shape[0])
    rays = rays[:last]
    for i in range(dim):
        count = _add_ray(t, pattern, basis[i], rays, count)
    if dim == 1:
        return count
    # W = R R^T with R = V sqrt(w) turned by any rotation: pairs that are in the cone make it exactly.
    for i in range(dim):
        for k in range(i):
            for number in range(1, _ANGLES):
                c, s = np.cos(np.pi * number / (2 * _ANGLES)), np.sin(np.pi * number / (2 * _ANGLES))
                a = basis[i] * np.sqrt(max(weights[i], 0.0))
                b = basis[k] * np.sqrt(max(weights[k], 0.0))
                count = _add_ray(t, pattern, c * a + s * b, rays, count)
                count = _add_ray(t, pattern, c * b - s * a, rays, count)
    # The edges of a plane cone, and the directions of the bundle method as far inside as they have to be.
    middle = np.zeros(m)
    u = np.empty(m)
    for k in largest_first(multipliers):
        if not multipliers[k] > 0.0:
            break
        _project(basis, directions[k], u)
        if np.sum(u * u) > _INSIDE**2 and _inside(t, pattern, u) <= _EDGE:
            for r in range(m):
                middle[r] += multipliers[k] * u[r]
    if dim == 2:
        for c in range(t.shape[0]):
            x, z = np.sum(t[c] * basis[0]), np.sum(t[c] * basis[1])
            count = _add_ray(t, pattern, z * basis[0] - x * basis[1], rays, count)
    length = np.sqrt(np.sum(middle * middle))
    if not length > 0.0 or _inside(t, pattern, middle) > 0.0:
        return count
    for k in largest_first(multipliers):
        if not multipliers[k] > 0.0 or count == rays.shape[0]:
            break
        _project(basis, directions[k], u)
        if not np.sum(u * u) > _INSIDE**2 or _inside(t, pattern, u) > _EDGE:
            continue
        share = 0.0
        for c in range(t.shape[0]):
            sign = 1.0 if (pattern >> c) & 1 else -1.0
            kappa, inner = sign * np.sum(t[c] * u), sign * np.sum(t[c] * middle) / length
            if kappa < 0.0 and inner > 0.0:
                share = max(share, -kappa / inner)
        for r in range(m):
            u[r] += (1.0 + 1e-12) * share * middle[r] / length
        count = _add_ray(t, pattern, u, rays, count)
    return count


@jit_apart(returns="none")
def _exactly_shared(columns, target, weights):
    """Go on from weights that solve normal equations: the same active set, with shortest solutions of the columns."""
    n_rows, n = columns.shape
    taken = weights > 0.0
    for _ in range(2 * n_rows + 10):
        rest = target - columns @ weights
        used = np.zeros((n_rows, n))
        for j in range(n):
            if taken[j]:
                for i in range(n_rows):
                    used[i, j] = columns[i, j]
        left, singular, right = np.linalg.svd(used, False)
        change = np.zeros(n)
        for k in range(singular.shape[0]):
            if singular[k] > _SAME_RAY * singular[0]:
                part = np.sum(left[:, k] * rest) / singular[k]
                for j in range(n):
                    if taken[j]:
                        change[j] += part * right[k, j]
        step, first = 1.0, -1
        for j in range(n):
            if taken[j] and weights[j] + step * change[j] < 0.0:
                step, first = -weights[j] / change[j], j
        for j in range(n):
            weights[j] = max(weights[j] + step * change[j], 0.0)
        if first >= 0:
            weights[first] = 0.0
            taken[first] = False
            continue
        rest = target - columns @ weights
        best, most = -1, 1e-15 * np.sqrt(np.sum(target * target))
        for j in range(n):
            gain = np.sum(columns[:, j] * rest)
            if not taken[j] and gain > most:
                best, most = j, gain
        if best < 0:
            break
        taken[best] = True


@jit_apart(returns="float64")
def _shared(table, p, y, tau, t, readouts, weights, rays, ray_weights):
    """Weights of rays, not negative, that make up for what the codes leave of y; returns the residual norm."""
    n_classes, m = t.shape
    n = readouts.shape[0]
    columns = np.empty((n_classes * m, n + rays.shape[0]))
    weight_columns(table, p, t, readouts, rays, columns)
    rest = np.empty(n_classes * m)
    for i in range(n_classes * m):
        rest[i] = y[i // m, i % m] - tau * t[i // m, i % m]
        for k in range(n):
            rest[i] -= columns[i, k] * weights[k]
    if rays.shape[0] == 0:
        return np.sqrt(np.sum(rest * rest))
    of_rays = columns[:, n:].copy()
    if nonnegative_least_squares(of_rays, rest, ray_weights, table.stop) == np.inf:
        return np.inf
    _exactly_shared(of_rays, rest, ray_weights)
    rest -= of_rays @ ray_weights
    return np.sqrt(np.sum(rest * rest))


@jit_apart(returns="none")
def _diagonalised(frame, dim, form, turned, values):
    """Turn the first `dim` columns of `frame` such that W = `form` (m, m) is diagonal; fills turned and values."""
    m = frame.shape[0]
    inner = np.zeros((dim, dim))
    for i in range(dim):
        for k in range(dim):
            for r in range(m):
                for q in range(m):
                    inner[i, k] += frame[r, i] * form[r, q] * frame[q, k]
    found, axes = np.linalg.eigh(inner)
    copy_matrix(turned, frame)
    copy_vector(values, found)
    combine_columns(frame, axes, turned)


@jit_apart(returns="int64")
def _with_less(dims, frames, forms, patterns, n_faces, face_weights, converged):
    """Take a direction from a face (all in place); returns the number of faces, -1 where there is nothing to take.

    One of negative weight is no outlier: its space is smaller than it seemed. Where Newton's method has gone astray,
    the one that carried least before, in units of what its face carried; then rays that carried little.
    """
    least, worst = -_WRONG, -1
    if converged:
        for f in range(n_faces):
            if np.min(face_weights[f, : dims[f]]) < least:
                least, worst = np.min(face_weights[f, : dims[f]]), f
    if worst < 0:
        least, apart, lightest, heaviest = np.inf, -1, np.inf, 0.0
        for f in range(n_faces):
            turned, values = np.empty(frames[f].shape), np.empty(dims[f])
            _diagonalised(frames[f], dims[f], forms[f], turned, values)
            total = np.sum(values)
            heaviest = max(heaviest, total)
            if total < lightest:
                lightest, apart = total, f
            if dims[f] > 1 and values[0] < least * total:
                least, worst = values[0] / total, f
        if worst < 0:  # there are rays only
            if not lightest < _LIGHT * heaviest:
                return -1
            worst = apart
    dim = dims[worst] - 1
    if dim > 0:
        turned, values = np.empty(frames[worst].shape), np.empty(dim + 1)
        _diagonalised(frames[worst], dim + 1, forms[worst], turned, values)
        for i in range(dim + 1):  # the lightest goes last
            for r in range(turned.shape[0]):
                frames[worst, r, i] = turned[r, dim - i]
        dims[worst] = dim
        return n_faces
    n_faces -= 1
    patterns[worst], dims[worst] = patterns[n_faces], dims[n_faces]
    copy_matrix(frames[worst], frames[n_faces])
    copy_matrix(forms[worst], forms[n_faces])
    return n_faces


@jit_apart(returns=SOLUTION)
def _solution(
    table, p, y, tau, low, high, t, s, readouts, weights, patterns, dims, frames, forms, directions, carried, search
):  # fmt: skip
    """Solution with these readouts, faces and W (F, m, m) to start from; returns as `active_set`."""
    n_classes, m = t.shape
    none, no_weights = np.empty((0, m)), np.empty(0)
    failed = (False, t, none, no_weights, none, no_weights, s, 0, 0)
    n_faces = forms.shape[0]
    start, start_weights, start_s, start_t = readouts.copy(), weights.copy(), s, t.copy()
    rays = np.empty((n_faces * _RAYS, m))
    ray_weights = np.empty(rays.shape[0])
    t_nullity, n_rays = 0, 0
    for _ in range(_CHANGES):
        growths, face_weights = np.empty((n_faces, n_classes)), np.zeros((n_faces, m))
        turned = np.empty((n_faces, m, m))
        for f in range(n_faces):
            for c in range(n_classes):
                growths[f, c] = table.growth_plus if (patterns[f] >> c) & 1 else table.growth_minus
            _diagonalised(frames[f], dims[f], forms[f], turned[f], face_weights[f])
        converged, s, t_nullity = joint_newton(
            table, p, y, tau, t, s, readouts, weights, dims[:n_faces], growths, turned, face_weights
        )
        n_rays = 0
        if converged and np.min(weights) >= 0.0:
            for f in range(n_faces):
                basis = np.ascontiguousarray(turned[f, :, : dims[f]].T)
                n_rays = _add_rays(t, patterns[f], basis, face_weights[f], directions, carried, rays, n_rays)
            norm = _shared(table, p, y, tau, t, readouts, weights, rays[:n_rays].copy(), ray_weights[:n_rays])
            if norm < _WRONG:
                break
        n_faces = _with_less(dims, frames, forms, patterns, n_faces, face_weights, converged)
        if n_faces < 0:
            return failed
        copy_matrix(t, start_t)
        copy_matrix(readouts, start)
        copy_vector(weights, start_weights)
        s = start_s
    else:
        return failed
    outliers, outlier_weights = carrying(rays[:n_rays].copy(), ray_weights[:n_rays].copy(), _WEIGHTLESS)
    readouts, weights = carrying(readouts, weights, _WEIGHTLESS)
    worst, worst_values = np.empty((64, m)), np.empty(64)
    n_worst, _, _ = worst_directions(table, p, t, 1.0 + _VIOLATION, worst, worst_values)
    if n_worst > 0:
        return failed
    for k in range(outliers.shape[0]):
        if linear_push(table, p, t, outliers[k]) > NO_PUSH:
            return failed
    maxima, heights, searched = search
    limit = s + _VIOLATION * (1.0 + abs(s))
    count = find_maxima(table, p, t, low, high, readouts, True, maxima, heights)
    count, escaped = climb_ridges(table, p, t, maxima, heights, count)
    if escaped > limit + _ESCAPED or highest_maximum(maxima, heights, count) > limit:
        return failed
    searched[0] = count
    nullity = weight_nullity(table, p, t, readouts, outliers)
    return True, t, readouts, weights, outliers, outlier_weights, s, nullity, t_nullity


@jit_apart(returns=SOLUTION)
def solve_cones(table, p, y, tau, low, high, t, s, cuts, sizes, directions, multipliers, off, search):
    """Solution from where the bundle method of `moving_cuts` is; returns as `active_set`.

    multipliers (K + O,) of cuts (K, m) with their sizes, and of directions (O, m); `off`: accuracy of the objective.
    """
    n_classes, m = t.shape
    none, no_weights = np.empty((0, m)), np.empty(0)
    solution = (False, t, none, no_weights, none, no_weights, s, 0, 0)
    if n_classes > _MOST_CLASSES:
        return solution
    scale = max(np.max(np.abs(y)), 1e-9)
    carried = multipliers[cuts.shape[0] :]
    tried = np.zeros((len(_FLAT) * len(_LEAST_RIDGE), 3), np.int64)
    for way in range(tried.shape[0]):
        least = _LEAST_RIDGE[way % len(_LEAST_RIDGE)] * scale
        readouts, weights = _ridges(t, cuts, multipliers, sizes, least)
        if readouts.shape[0] == 0:
            continue
        weights /= np.sum(weights)
        patterns, dims = np.zeros(_SPACES, np.int64), np.zeros(_SPACES, np.int64)
        frames = np.zeros((_SPACES, m, m))
        flat = _FLAT[way // len(_LEAST_RIDGE)] * max(off, _ACCURATE)
        n_faces, forms = _faces(table, p, t, directions, carried, flat, scale, patterns, dims, frames)
        tried[way, 0], tried[way, 1], tried[way, 2] = readouts.shape[0], n_faces, np.sum(dims[:n_faces])
        again = False
        for other in range(way):
            again = again or np.all(tried[other] == tried[way])
        if again:
            continue
        solution = _solution(
            table, p, y, tau, low, high, t.copy(), s, readouts, weights, patterns, dims[:n_faces], frames[:n_faces],
            forms, directions, carried, search,
        )  # fmt: skip
        if solution[0]:
            break
    return solution
