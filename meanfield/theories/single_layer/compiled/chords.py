"""A bound on h(a; t) over boxes of kappa from chords of the convex G (sigma_a = 1)."""

from __future__ import annotations

from meanfield.numerics.jit import jit

__all__ = ["chord_bound"]


@jit
def chord_bound(p, inner, low, high, g_low, g_high, slope, field):
    """Upper bound on h where low <= kappa <= high, from G = `g_low`, `g_high` at these ends (C,); `inner` is t t^T.

    On an interval the convex G lies below any line that it does not exceed at the ends. With lines of slopes s_c
        h(a; t) <= max_a [-|a|^2 / 2 + sum_c p_c s_c kappa_c] + sum_c p_c max(G_- - s_c kappa_-, G_+ - s_c kappa_+),
    and the first maximum is |sum_c p_c s_c t_c|^2 / 2. Slopes start as those of the chords, and move where the
    maximiser has left the box, class by class. `slope` and `field` (C,) are scratch.
    """
    n_classes = p.shape[0]
    for c in range(n_classes):
        width = high[c] - low[c]
        slope[c] = (g_high[c] - g_low[c]) / width if width > 0.0 else 0.0
    for c in range(n_classes):
        field[c] = 0.0
        for d in range(n_classes):
            field[c] += inner[c, d] * p[d] * slope[d]
    for c in range(n_classes):
        outside = field[c] - min(max(field[c], low[c]), high[c])
        if outside != 0.0:
            step = -outside / (inner[c, c] * p[c])
            slope[c] += step
            for d in range(n_classes):
                field[d] += inner[d, c] * p[c] * step
    bound = 0.0
    for c in range(n_classes):
        line = max(g_low[c] - slope[c] * low[c], g_high[c] - slope[c] * high[c])
        bound += p[c] * (0.5 * slope[c] * field[c] + line)
    return bound
