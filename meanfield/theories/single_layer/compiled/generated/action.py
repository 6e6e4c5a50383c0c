"""Machine-written by ``python -m meanfield.activations.generate`` from symbolic/action.py; do not edit.

Single-neuron action h(a; t) = -|a|**2 / 2 + sum_c p_c G(kappa_c), kappa_c = a . t_c, in units of sigma_a = 1, and its
derivatives. Shapes: p (C,), t (C, m), a (m,); `table` as in `meanfield.numerics.cumulant_table`.
"""

from meanfield.numerics.jit import jit
from meanfield.numerics.cumulant_table import cumulant2, cumulant4

__all__ = ["action", "action_gradient", "action_hessian", "action_mixed", "action_curvature", "action_third"]


@jit
def action(table, p, t, a):
    """h(a; t)."""
    n_class, n_output = t.shape
    h = 0.0
    for q in range(n_output):
        h += -0.5*a[q]**2
    for c in range(n_class):
        kappa = 0.0
        for q in range(n_output):
            kappa += a[q]*t[c, q]
        g0, _g1, _g2 = cumulant2(table, kappa)
        h += g0*p[c]
    return h


@jit
def action_gradient(table, p, t, a, grad):
    """h; fills grad (m,) with dh/da_r."""
    n_class, n_output = t.shape
    h = 0.0
    for q in range(n_output):
        h += -0.5*a[q]**2
    for r in range(n_output):
        grad[r] = -a[r]
    for c in range(n_class):
        kappa = 0.0
        for q in range(n_output):
            kappa += a[q]*t[c, q]
        g0, g1, _g2 = cumulant2(table, kappa)
        h += g0*p[c]
        for r in range(n_output):
            grad[r] += g1*p[c]*t[c, r]
    return h


@jit
def action_hessian(table, p, t, a, grad, hess):
    """h; fills grad (m,) and hess (m, m) with d2h/da_r da_s."""
    n_class, n_output = t.shape
    h = 0.0
    for q in range(n_output):
        h += -0.5*a[q]**2
    for r in range(n_output):
        grad[r] = -a[r]
    for r in range(n_output):
        for s in range(n_output):
            hess[r, s] = 0.0
    for r in range(n_output):
        hess[r, r] += -1.0
    for c in range(n_class):
        kappa = 0.0
        for q in range(n_output):
            kappa += a[q]*t[c, q]
        g0, g1, g2 = cumulant2(table, kappa)
        h += g0*p[c]
        for r in range(n_output):
            grad[r] += g1*p[c]*t[c, r]
        for r in range(n_output):
            for s in range(n_output):
                hess[r, s] += g2*p[c]*t[c, r]*t[c, s]
    return h


@jit
def action_mixed(table, p, t, a, first, mixed):
    """h; fills first (C,) with G'(kappa_c) and mixed (C, m, m) with d2h/da_r dt_cs at [c, r, s]."""
    n_class, n_output = t.shape
    h = 0.0
    for q in range(n_output):
        h += -0.5*a[q]**2
    for c in range(n_class):
        kappa = 0.0
        for q in range(n_output):
            kappa += a[q]*t[c, q]
        g0, g1, g2 = cumulant2(table, kappa)
        h += g0*p[c]
        first[c] = g1
        for r in range(n_output):
            for s in range(n_output):
                mixed[c, r, s] = g2*a[s]*p[c]*t[c, r]
        for r in range(n_output):
            mixed[c, r, r] += g1*p[c]
    return h


@jit
def action_curvature(table, p, t, a, curvature):
    """h; fills curvature (C, m, m) with d2h/dt_cr dt_cs (0 between different classes)."""
    n_class, n_output = t.shape
    h = 0.0
    for q in range(n_output):
        h += -0.5*a[q]**2
    for c in range(n_class):
        kappa = 0.0
        for q in range(n_output):
            kappa += a[q]*t[c, q]
        g0, _g1, g2 = cumulant2(table, kappa)
        h += g0*p[c]
        for r in range(n_output):
            for s in range(n_output):
                curvature[c, r, s] = g2*a[r]*a[s]*p[c]
    return h


@jit
def action_third(table, p, t, a, grad, hess, third):
    """h; fills grad (m,), hess (m, m) and third (m, m, m) with d3h/da_r da_s da_u."""
    n_class, n_output = t.shape
    h = 0.0
    for q in range(n_output):
        h += -0.5*a[q]**2
    for r in range(n_output):
        grad[r] = -a[r]
    for r in range(n_output):
        for s in range(n_output):
            hess[r, s] = 0.0
    for r in range(n_output):
        hess[r, r] += -1.0
    for r in range(n_output):
        for s in range(n_output):
            for u in range(n_output):
                third[r, s, u] = 0.0
    for c in range(n_class):
        kappa = 0.0
        for q in range(n_output):
            kappa += a[q]*t[c, q]
        g0, g1, g2, g3, _g4 = cumulant4(table, kappa)
        h += g0*p[c]
        for r in range(n_output):
            grad[r] += g1*p[c]*t[c, r]
        for r in range(n_output):
            for s in range(n_output):
                hess[r, s] += g2*p[c]*t[c, r]*t[c, s]
        for r in range(n_output):
            for s in range(n_output):
                for u in range(n_output):
                    third[r, s, u] += g3*p[c]*t[c, r]*t[c, s]*t[c, u]
    return h
