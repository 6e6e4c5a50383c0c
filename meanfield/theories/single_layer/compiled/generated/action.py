"""Machine-written by ``python -m meanfield.activations.generate`` from symbolic/action.py; do not edit.

Single-neuron action h(a; t) = -|a|**2 / 2 + sum_c p_c G(kappa_c), kappa_c = a . t_c, in units of sigma_a = 1, and its
derivatives. Shapes: p (C,), t (C, m), a (m,); `table` and `direct` as in `meanfield.numerics.cumulant_table`. The
fields of a neuron are p_c G(kappa_c) and its derivatives by kappa_c, (C,) each: zeroth, first, second, third,
fourth.
"""

from meanfield.numerics.jit import jit
from meanfield.numerics.cumulant_table import cumulant2, cumulant4, direct2

__all__ = [
    "action_hessian",
    "action_fields",
    "action_fields4",
    "action_direct",
    "growth_fields",
]


@jit
def action_hessian(table, p, t, a, grad, minus_hess):
    """h; fills grad (m,) with dh/da_r and minus_hess (m, m) with -d2h/da_r da_s."""
    n_class, n_output = t.shape
    h = 0.0
    for q in range(n_output):
        h += -0.5*a[q]**2
    for r in range(n_output):
        grad[r] = -a[r]
    for r in range(n_output):
        for s in range(n_output):
            minus_hess[r, s] = 0.0
    for r in range(n_output):
        minus_hess[r, r] += 1.0
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
                minus_hess[r, s] += -g2*p[c]*t[c, r]*t[c, s]
    return h


@jit
def action_fields(table, p, t, a, first, second):
    """h; fills the first and second fields."""
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
        first[c] = g1*p[c]
        second[c] = g2*p[c]
    return h


@jit
def action_fields4(table, p, t, a, zeroth, first, second, third, fourth):
    """h; fills all fields."""
    n_class, n_output = t.shape
    h = 0.0
    for q in range(n_output):
        h += -0.5*a[q]**2
    for c in range(n_class):
        kappa = 0.0
        for q in range(n_output):
            kappa += a[q]*t[c, q]
        g0, g1, g2, g3, g4 = cumulant4(table, kappa)
        h += g0*p[c]
        zeroth[c] = g0*p[c]
        first[c] = g1*p[c]
        second[c] = g2*p[c]
        third[c] = g3*p[c]
        fourth[c] = g4*p[c]
    return h


@jit
def action_direct(direct, p, t, a, first):
    """h and cost = sum_c kappa_c dh/dkappa_c - h, without tables; fills the first fields."""
    n_class, n_output = t.shape
    h = 0.0
    cost = 0.0
    for q in range(n_output):
        h += -0.5*a[q]**2
    for q in range(n_output):
        cost += (0.5)*a[q]**2
    for c in range(n_class):
        kappa = 0.0
        for q in range(n_output):
            kappa += a[q]*t[c, q]
        g0, g1, _g2 = direct2(direct, kappa)
        h += g0*p[c]
        cost += -g0*p[c]
        cost += g1*kappa*p[c]
        first[c] = g1*p[c]
    return h, cost


@jit
def growth_fields(growth_plus, growth_minus, p, t, a, first, second):
    """q(a; t) = 1/2 sum_c p_c g(kappa_c), g with k in it; fills its first and second derivatives by kappa_c."""
    n_class, n_output = t.shape
    value = 0.0
    for c in range(n_class):
        kappa = 0.0
        for q in range(n_output):
            kappa += a[q]*t[c, q]
        growth = growth_plus if kappa > 0.0 else growth_minus
        g0, g1, g2 = 0.5*growth*kappa*kappa, growth*kappa, growth
        value += g0*p[c]
        first[c] = g1*p[c]
        second[c] = g2*p[c]
    return value
