"""log Z(k) = ln E_{w ~ N(0, 1)} exp(sum_mu k_mu phi(z_mu)), z = offset + F w, by expectation propagation.

Sites exp(-S_mu z^2 / 2 + nu_mu z) of either sign, in feature space: A = 1 + F^T diag(S) F = L L^T and V = L^{-1} F^T
give the marginals (general_data/THEORY.md, "Expectation propagation"). At a fixed point d log Z / dk_mu = E_tilted phi.
The fall-back where none is found is in variational.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meanfield.numerics.copies import copy_matrix, copy_vector
from meanfield.numerics.jit import jit, jit_apart
from meanfield.theories.general_data.compiled.factor import factor_and_solve, solve_transposed
from meanfield.theories.general_data.compiled.generated.propagation import cavity, matching_site, site_share
from meanfield.theories.general_data.compiled.tilted import Scratch, scratch, tilted_moments

__all__ = [
    "EP",
    "FAILED",
    "VGA",
    "FactorMatrix",
    "Moments",
    "Workspace",
    "evaluate",
    "factors",
    "marginals",
    "step_to",
    "workspace",
]

EP, VGA, FAILED = 0, 1, 2

_MAX_VARIANCE = 10.0  # of a marginal or a cavity, in units of the prior variance
_SMALLEST_STEP = 0.02
_SMALLEST_DAMPING = 0.1


class FactorMatrix(NamedTuple):
    """Feature factor of the preactivations: z = offset + matrix w."""

    matrix: np.ndarray  # F (P, r)
    transposed: np.ndarray  # F^T (r, P), contiguous
    variance: np.ndarray  # (P,) prior variances |F_mu|^2
    offset: np.ndarray  # (P,)
    stop: np.ndarray  # (1,) integers; not 0: nobody waits for the result any more, which is FAILED


class Workspace(NamedTuple):
    """What one thread needs; after `infer` it holds the state of the last neuron."""

    weighted: np.ndarray  # (P, r)
    precision: np.ndarray  # (r, r), lower triangle L
    solved: np.ndarray  # V (r, P)
    centre: np.ndarray  # c (r,)
    mean: np.ndarray  # (P,) marginals of z
    variance: np.ndarray
    cavity_mean: np.ndarray
    cavity_variance: np.ndarray
    curvature: np.ndarray  # (P,) proposed sites S, nu
    linear: np.ndarray
    trial: np.ndarray  # (2, P) trial sites
    quadrature: Scratch


class Moments(NamedTuple):
    """Results of many neurons, one per row."""

    log_z: np.ndarray  # (n,)
    phi: np.ndarray  # (n, P) E phi
    spread: np.ndarray  # (n, P) Var phi
    gain: np.ndarray  # (n, P) Cov(phi, z) / Var z, so that Cov(phi_mu, phi_nu) ~ gain_mu Sigma_mu,nu gain_nu
    status: np.ndarray  # (n,) EP, VGA or FAILED
    iterations: np.ndarray  # (n,)
    lowest: np.ndarray  # (n,) smallest eigenvalue of A, an estimate from above


@jit
def workspace(n_samples, rank):
    """Workspace for `infer`."""
    p = n_samples
    return Workspace(
        np.empty((p, rank)),
        np.empty((rank, rank)),
        np.empty((rank, p)),
        np.empty(rank),
        np.empty(p),
        np.empty(p),
        np.empty(p),
        np.empty(p),
        np.empty(p),
        np.empty(p),
        np.empty((2, p)),
        scratch(),
    )


@jit
def marginals(features, s, nu, work):
    """Mean and variance of every z under prior times sites, in `work`; (ln det L, |c|^2 / 2 + site terms, ok)."""
    matrix = features.matrix
    n, rank = matrix.shape
    for i in range(n):
        for j in range(rank):
            work.weighted[i, j] = s[i] * matrix[i, j]
    np.dot(features.transposed, work.weighted, work.precision)
    for j in range(rank):
        work.precision[j, j] += 1.0
    copy_matrix(work.solved, features.transposed)
    if not factor_and_solve(work.precision, work.solved):
        return 0.0, 0.0, False
    log_det = 0.0
    for j in range(rank):
        log_det += math.log(work.precision[j, j])
    constant = 0.0
    for i in range(n):
        z0 = features.offset[i]
        constant += z0 * (nu[i] - 0.5 * s[i] * z0)
        work.mean[i] = z0
        work.variance[i] = 0.0
    for j in range(rank):
        row = work.solved[j]
        value = 0.0
        for i in range(n):
            value += row[i] * (nu[i] - s[i] * features.offset[i])
        work.centre[j] = value
        constant += 0.5 * value * value
        for i in range(n):
            work.mean[i] += value * row[i]
            work.variance[i] += row[i] * row[i]
    return log_det, constant, True


@jit
def _admissible(features, s, work):
    """Whether all marginal and cavity variances are positive and at most 10 prior variances."""
    for i in range(s.shape[0]):
        v, bound = work.variance[i], _MAX_VARIANCE * features.variance[i]
        if not v <= bound:
            return False
        # cavity = v / (1 - S v) <= bound, without dividing
        if not (1.0 - s[i] * v) * bound >= v:
            return False
    return True


@jit_apart(returns="UniTuple(float64, 2)")
def _propose(features, tilt, k, s, nu, work, phi, spread, gain):
    """Tilted moments at every cavity: proposed sites in `work`, the sites' share of log Z, and the mismatch."""
    log_z = 0.0
    error = 0.0
    for i in range(k.shape[0]):
        v, m = work.variance[i], work.mean[i]
        if features.variance[i] == 0.0:  # z is the offset, whatever w is
            log_zhat, _, _, phi[i], _, _ = tilted_moments(tilt, k[i], m, 1e-30, work.quadrature)
            spread[i] = gain[i] = work.curvature[i] = work.linear[i] = 0.0
            log_z += log_zhat
            continue
        mc, vc = cavity(m, v, s[i], nu[i])
        log_zhat, mt, vt, phi[i], spread[i], mixed = tilted_moments(tilt, k[i], mc, vc, work.quadrature)
        gain[i] = mixed / vt
        log_z += log_zhat - site_share(m, v, mc, vc)
        error = max(error, abs(mt - m) / math.sqrt(v), abs(vt / v - 1.0))
        work.curvature[i], work.linear[i] = matching_site(mt, vt, mc, vc)
    return log_z, error


@jit_apart(returns="Tuple((float64, float64, boolean))")
def step_to(features, s, nu, step, work, bounded):
    """Marginals at sites moved by `step` towards the proposal; (ln det L, rest, ok), the sites in work.trial."""
    for i in range(s.shape[0]):
        work.trial[0, i] = s[i] + step * (work.curvature[i] - s[i])
        work.trial[1, i] = nu[i] + step * (work.linear[i] - nu[i])
    log_det, constant, ok = marginals(features, work.trial[0], work.trial[1], work)
    return log_det, constant, ok and (not bounded or _admissible(features, work.trial[0], work))


@jit
def _iterate(features, tilt, k, s, nu, damping, tolerance, cap, work, phi, spread, gain):
    """EP from the sites s, nu, which are overwritten; (log Z, iterations, converged)."""
    previous = np.inf
    rises = 0
    copy_vector(work.curvature, s)
    copy_vector(work.linear, nu)
    for iteration in range(1, cap + 1):
        if features.stop[0] != 0:
            return 0.0, iteration, False
        step = damping
        while True:
            log_det, constant, ok = step_to(features, s, nu, step, work, True)
            if ok:
                break
            step *= 0.5
            if iteration == 1 or step < _SMALLEST_STEP:
                return 0.0, iteration, False
        copy_vector(s, work.trial[0])
        copy_vector(nu, work.trial[1])
        log_z, error = _propose(features, tilt, k, s, nu, work, phi, spread, gain)
        if not error < 1e10:
            return 0.0, iteration, False
        if error < tolerance:
            return log_z + constant - log_det, iteration, True
        # Errors may grow for a while on the way from a cold start; an oscillation shows as many rises.
        rises = rises + 1 if error > 0.9 * previous else 0
        previous = error
        if rises >= 4:
            damping = max(0.5 * damping, _SMALLEST_DAMPING)
            rises = 0
    return 0.0, cap, False


@jit
def _infer(features, tilt, k, s, nu, warm, dampings, tolerance, cap, work, phi, spread, gain):
    """log Z(k) with moments; sites `s`, `nu` (P,) are the start if `warm`, and the result.

    Returns (log Z, status, iterations). Attempts: from the sites given, then from zero sites with the other dampings.
    FAILED leaves NaN.
    """
    total = 0
    for attempt in range(dampings.shape[0]):
        if attempt == 0 and not warm:
            continue
        if attempt > 0:
            s[:] = 0.0
            nu[:] = 0.0
        log_z, count, ok = _iterate(
            features, tilt, k, s, nu, dampings[attempt], tolerance, cap, work, phi, spread, gain
        )
        total += count
        if ok:
            return log_z, EP, total
    phi[:] = np.nan
    spread[:] = np.nan
    gain[:] = np.nan
    return np.nan, FAILED, total


@jit_apart(returns="Tuple((float64, float64[::1]))")
def _lowest_eigenvector(factor, sweeps):
    """Smallest eigenvalue of L L^T (from above) and its unit eigenvector, by inverse iteration."""
    rank = factor.shape[0]
    x = np.empty(rank)
    for j in range(rank):
        x[j] = math.cos(1.0 + 2.3 * j)
    value = np.inf
    for _ in range(sweeps):
        x /= math.sqrt(np.sum(x * x))
        for i in range(rank):
            rest = x[i]
            for j in range(i):
                rest -= factor[i, j] * x[j]
            x[i] = rest / factor[i, i]
        value = min(value, 1.0 / np.sum(x * x))
        solve_transposed(factor, x)
    return value, x / math.sqrt(np.sum(x * x))


@jit
def evaluate(features, shift, x, tilt, rows, k, s, nu, origin, dampings, tolerance, cap, moments, soft):
    """log Z and moments for the given rows of k (n, P); the sites s, nu (n, P) are updated, `moments` filled in.

    z is offset by x_i shift (P,). origin (n,) says where the sites of row i come from: -1 nowhere, i from themselves,
    another row from that one (if EP succeeded there). `soft` (n, r), unless empty, receives the eigenvector of the
    smallest eigenvalue of A.
    """
    work = workspace(*features.matrix.shape)
    offset = np.empty_like(features.offset)
    local = FactorMatrix(features.matrix, features.transposed, features.variance, offset, features.stop)
    for i in rows:
        copy_vector(local.offset, features.offset + x[i] * shift)
        warm = origin[i] >= 0
        if warm and origin[i] != i:
            warm = moments.status[origin[i]] == EP
            copy_vector(s[i], s[origin[i]])
            copy_vector(nu[i], nu[origin[i]])
        moments.log_z[i], moments.status[i], moments.iterations[i] = _infer(
            local,
            tilt,
            k[i],
            s[i],
            nu[i],
            warm,
            dampings,
            tolerance[i],
            cap,
            work,
            moments.phi[i],
            moments.spread[i],
            moments.gain[i],
        )
        moments.lowest[i] = np.nan
        if soft.shape[0] > 0 or moments.status[i] != FAILED:
            if moments.status[i] == FAILED:
                marginals(local, s[i], nu[i], work)
            moments.lowest[i], direction = _lowest_eigenvector(work.precision, 30 if soft.shape[0] > 0 else 4)
            if soft.shape[0] > 0:
                copy_vector(soft[i], direction)


@jit
def factors(features, rows, s, nu, gain, solved, mean):
    """V D (n, r, P), D = diag(gain), with V = L^{-1} F^T; posterior mean of w (n, r)."""
    work = workspace(*features.matrix.shape)
    for i in rows:
        marginals(features, s[i], nu[i], work)
        for j in range(work.solved.shape[0]):
            for m in range(s.shape[1]):
                solved[i, j, m] = work.solved[j, m] * gain[i, m]
        copy_vector(mean[i], work.centre)
        solve_transposed(work.precision, mean[i])
