"""Machine-written by ``python -m meanfield.activations.generate`` from symbolic/equations.py; do not edit.

The equations that `meanfield.equations` shows, and their derivatives, in units of sigma_a = 1. Shapes: p (C,),
t, y (C, m), readouts a (n, m), weight (n,), fields of the neurons (n, C). For outliers the readouts are unit vectors
u_o, the weights w_o, the fields those of `growth_fields`.
"""

from meanfield.numerics.jit import jit

__all__ = [
    "linear_part",
    "order_residual",
    "neuron_residual",
    "neuron_jacobian",
    "output_by_readouts",
    "output_by_weights",
    "neuron_change",
    "field_gradient",
    "minus_hessian",
    "mean_activations",
    "curvature_along",
    "cubic_along",
]


@jit
def linear_part(p, y, tau, t):
    """-sum_c p_c t_c.y_c + tau/2 sum_c p_c |t_c|^2."""
    n_class = t.shape[0]
    n_output = t.shape[1]
    linear = 0.0
    for c in range(n_class):
        for q in range(n_output):
            linear += -p[c]*t[c, q]*y[c, q]
            linear += (0.5)*tau*p[c]*t[c, q]**2
    return linear


@jit
def order_residual(y, tau, t, output):
    """tau t_c - y_c; linear in y and tau."""
    n_class = t.shape[0]
    n_output = t.shape[1]
    for d in range(n_class):
        for r in range(n_output):
            output[d, r] = -y[d, r]
            output[d, r] += tau*t[d, r]


@jit
def neuron_residual(first, p, t, a, weight, gradient, output):
    """dh/da (n, m); adds what the neurons contribute to output (C, m)."""
    n_neuron = a.shape[0]
    n_class = t.shape[0]
    n_output = t.shape[1]
    for alpha in range(n_neuron):
        for r in range(n_output):
            gradient[alpha, r] = -a[alpha, r]
    for c in range(n_class):
        for alpha in range(n_neuron):
            for r in range(n_output):
                gradient[alpha, r] += first[alpha, c]*t[c, r]
    for gamma in range(n_neuron):
        for d in range(n_class):
            for r in range(n_output):
                output[d, r] += a[gamma, r]*first[gamma, d]*weight[gamma]/p[d]


@jit
def neuron_jacobian(first, second, p, t, a, weight, gradient_by_t, gradient_by_a, height_by_t, output_by_t):
    """Derivatives of `neuron_residual` and h by t, last indices [c, s] (output: same class, added), by own a."""
    n_neuron = a.shape[0]
    n_class = t.shape[0]
    n_output = t.shape[1]
    for alpha in range(n_neuron):
        for r in range(n_output):
            for e in range(n_class):
                for s in range(n_output):
                    gradient_by_t[alpha, r, e, s] = a[alpha, s]*second[alpha, e]*t[e, r]
    for alpha in range(n_neuron):
        for r in range(n_output):
            for e in range(n_class):
                gradient_by_t[alpha, r, e, r] += first[alpha, e]
    for alpha in range(n_neuron):
        for r in range(n_output):
            for s in range(n_output):
                gradient_by_a[alpha, r, s] = 0.0
    for alpha in range(n_neuron):
        for r in range(n_output):
            gradient_by_a[alpha, r, r] += -1.0
    for c in range(n_class):
        for alpha in range(n_neuron):
            for r in range(n_output):
                for s in range(n_output):
                    gradient_by_a[alpha, r, s] += second[alpha, c]*t[c, r]*t[c, s]
    for alpha in range(n_neuron):
        for e in range(n_class):
            for s in range(n_output):
                height_by_t[alpha, e, s] = a[alpha, s]*first[alpha, e]
    for gamma in range(n_neuron):
        for d in range(n_class):
            for r in range(n_output):
                for s in range(n_output):
                    output_by_t[d, r, s] += a[gamma, r]*a[gamma, s]*second[gamma, d]*weight[gamma]/p[d]


@jit
def output_by_readouts(first, second, t, a, weight, p, output_by_a):
    """Derivatives of output (C, m) of `neuron_residual` by the readouts, at [d, r, alpha, s]."""
    n_neuron = a.shape[0]
    n_class = t.shape[0]
    n_output = t.shape[1]
    for d in range(n_class):
        for r in range(n_output):
            for beta in range(n_neuron):
                for s in range(n_output):
                    output_by_a[d, r, beta, s] = a[beta, r]*second[beta, d]*t[d, s]*weight[beta]/p[d]
    for d in range(n_class):
        for r in range(n_output):
            for beta in range(n_neuron):
                output_by_a[d, r, beta, r] += first[beta, d]*weight[beta]/p[d]


@jit
def output_by_weights(first, p, a, output_by_weight):
    """Derivatives of output (C, m) of `neuron_residual` by the weights, at [d, r, alpha]."""
    n_neuron = a.shape[0]
    n_class = p.shape[0]
    n_output = a.shape[1]
    for d in range(n_class):
        for r in range(n_output):
            for beta in range(n_neuron):
                output_by_weight[d, r, beta] = a[beta, r]*first[beta, d]/p[d]


@jit
def neuron_change(zeroth, first, p, t, a, weight, change_p, change_0, change_1, gradient, height, output):
    """Changes of `neuron_residual` (output: added) and of h with p (C,) and with G, G' at fixed kappa (n, C)."""
    n_neuron = a.shape[0]
    n_class = t.shape[0]
    n_output = t.shape[1]
    for alpha in range(n_neuron):
        for r in range(n_output):
            gradient[alpha, r] = 0.0
    for c in range(n_class):
        for alpha in range(n_neuron):
            for r in range(n_output):
                gradient[alpha, r] += change_1[alpha, c]*p[c]*t[c, r]
                gradient[alpha, r] += change_p[c]*first[alpha, c]*t[c, r]/p[c]
    for alpha in range(n_neuron):
        height[alpha] = 0.0
    for c in range(n_class):
        for alpha in range(n_neuron):
            height[alpha] += change_0[alpha, c]*p[c]
            height[alpha] += change_p[c]*zeroth[alpha, c]/p[c]
    for gamma in range(n_neuron):
        for d in range(n_class):
            for r in range(n_output):
                output[d, r] += a[gamma, r]*change_1[gamma, d]*weight[gamma]


@jit
def field_gradient(first, t, gradient):
    """d(h + |a|^2 / 2)/da (m,) of one neuron."""
    n_class = t.shape[0]
    n_output = t.shape[1]
    for r in range(n_output):
        gradient[r] = 0.0
    for c in range(n_class):
        for r in range(n_output):
            gradient[r] += first[c]*t[c, r]


@jit
def minus_hessian(second, t, hessian):
    """-d2h/da2 (m, m) of one neuron."""
    n_class = t.shape[0]
    n_output = t.shape[1]
    for r in range(n_output):
        for s in range(n_output):
            hessian[r, s] = 0.0
    for r in range(n_output):
        hessian[r, r] += 1.0
    for c in range(n_class):
        for r in range(n_output):
            for s in range(n_output):
                hessian[r, s] += -second[c]*t[c, r]*t[c, s]


@jit
def mean_activations(second, p, t, a, by_t, by_a):
    """Derivatives of G'(kappa_c) by t_c and by a, both at [c, r]."""
    n_class = t.shape[0]
    n_output = t.shape[1]
    for d in range(n_class):
        for r in range(n_output):
            by_t[d, r] = a[r]*second[d]/p[d]
    for d in range(n_class):
        for r in range(n_output):
            by_a[d, r] = second[d]*t[d, r]/p[d]


@jit
def curvature_along(second, third, t, a, v, kappa_v, by_t, by_a):
    """Derivatives of d2h v, v fixed, by t at [r, c, s] and by a at [r, s]; kappa_v = t v."""
    n_class = t.shape[0]
    n_output = t.shape[1]
    for r in range(n_output):
        for d in range(n_class):
            for s in range(n_output):
                by_t[r, d, s] = second[d]*t[d, r]*v[s]
                by_t[r, d, s] += a[s]*kappa_v[d]*t[d, r]*third[d]
    for r in range(n_output):
        for d in range(n_class):
            by_t[r, d, r] += kappa_v[d]*second[d]
    for r in range(n_output):
        for s in range(n_output):
            by_a[r, s] = 0.0
    for c in range(n_class):
        for r in range(n_output):
            for s in range(n_output):
                by_a[r, s] += kappa_v[c]*t[c, r]*t[c, s]*third[c]


@jit
def cubic_along(third, fourth, t, a, v, kappa_v, by_t, by_a, by_v):
    """Third and fourth derivative of h along v; fills those of the third by t, a and v."""
    n_class = t.shape[0]
    n_output = t.shape[1]
    cubic = 0.0
    quartic = 0.0
    for c in range(n_class):
        cubic += kappa_v[c]**3*third[c]
    for c in range(n_class):
        quartic += fourth[c]*kappa_v[c]**4
    for d in range(n_class):
        for r in range(n_output):
            by_t[d, r] = a[r]*fourth[d]*kappa_v[d]**3
            by_t[d, r] += 3*kappa_v[d]**2*third[d]*v[r]
    for r in range(n_output):
        by_a[r] = 0.0
    for c in range(n_class):
        for r in range(n_output):
            by_a[r] += fourth[c]*kappa_v[c]**3*t[c, r]
    for r in range(n_output):
        by_v[r] = 0.0
    for c in range(n_class):
        for r in range(n_output):
            by_v[r] += 3*kappa_v[c]**2*t[c, r]*third[c]
    return cubic, quartic
