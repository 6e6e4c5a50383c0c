"""Derivatives of the averages of one class (relu/THEORY.md, "The Jacobian").

With weight exp(n g) an average of f has by a parameter p the derivative <(f exp(n g))_p exp(-n g)> - <f> <n g_p>: what
is summed is the first of these. g is the logarithm of a Gaussian average, so that g_d = (g_hh + g_h^2) / 2 and
g_delta = (g_bb + g_b^2) / 2, and derivatives by the middle and the variance of h are those by h, or those of its law.
"""

from __future__ import annotations

from meanfield.numerics.jit import jit

__all__ = ["BY_B", "BY_D", "BY_DELTA", "BY_MIDDLE", "BY_SPREAD", "N_OPERATED", "changes", "operated"]

BY_B, BY_MIDDLE, BY_SPREAD, BY_D, BY_DELTA = 7, 14, 21, 28, 35  # where each begins in what `operated` adds to
N_OPERATED = 42


@jit
def _add(out, k, w, f, f_b, f_h, f_hh, f_d, f_delta, s_b, s_h, s_hh, s_d, s_delta, at, square, prior):
    out[7 + k] += w * (f_b + s_b * f)
    if prior:
        out[14 + k] += w * at * f
        out[21 + k] += w * square * f
    else:
        out[14 + k] += w * (f_h + s_h * f)
        out[21 + k] += w * (0.5 * f_hh + s_h * f_h + s_hh * f)
    out[28 + k] += w * (f_d + s_d * f)
    out[35 + k] += w * (f_delta + s_delta * f)


@jit
def operated(site, w, h, middle, spread, n, d, out):
    """Adds to out[7:] the derivatives by b, the middle and the variance of h, d and delta of 1, g_b, g_b^2, g_bb, g_h,
    g_h^2, g_hh at one place, times w; `site` is that of `site_slopes`.

    Of the two ways to take a derivative by the law of h that of the narrower factor, h's law or exp(n g), would cancel.
    """
    g_b, g_bb, g_h, g_hh, g_bh = site[1], site[2], site[3], site[4], site[5]
    g_bbb, g_bbh, g_bhh, g_hhh = site[6], site[7], site[8], site[9]
    g_bbbb, g_bbhh, g_hhhh = site[10], site[11], site[12]
    s_b, s_h, s_hh = n * g_b, n * g_h, 0.5 * (n * g_hh + n * n * g_h * g_h)
    s_d, s_delta = 0.5 * n * (g_hh + g_h * g_h), 0.5 * n * (g_bb + g_b * g_b)
    prior, at, square = spread * n > d, 0.0, 0.0
    if prior:
        at = (h - middle) / spread
        square = 0.5 * (at * at - 1.0 / spread)
    b_d, b_delta = 0.5 * g_bhh + g_h * g_bh, 0.5 * g_bbb + g_b * g_bb
    h_d, h_delta = 0.5 * g_hhh + g_h * g_hh, 0.5 * g_bbh + g_b * g_bh
    bb_d, bb_delta = 0.5 * g_bbhh + g_bh * g_bh + g_h * g_bbh, 0.5 * g_bbbb + g_bb * g_bb + g_b * g_bbb
    hh_d, hh_delta = 0.5 * g_hhhh + g_hh * g_hh + g_h * g_hhh, 0.5 * g_bbhh + g_bh * g_bh + g_b * g_bhh
    _add(out, 0, w, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, s_b, s_h, s_hh, s_d, s_delta, at, square, prior)
    _add(out, 1, w, g_b, g_bb, g_bh, g_bhh, b_d, b_delta, s_b, s_h, s_hh, s_d, s_delta, at, square, prior)
    _add(
        out, 2, w, g_b * g_b, 2.0 * g_b * g_bb, 2.0 * g_b * g_bh, 2.0 * (g_bh * g_bh + g_b * g_bhh), 2.0 * g_b * b_d,
        2.0 * g_b * b_delta, s_b, s_h, s_hh, s_d, s_delta, at, square, prior,
    )  # fmt: skip
    _add(out, 3, w, g_bb, g_bbb, g_bbh, g_bbhh, bb_d, bb_delta, s_b, s_h, s_hh, s_d, s_delta, at, square, prior)
    _add(out, 4, w, g_h, g_bh, g_hh, g_hhh, h_d, h_delta, s_b, s_h, s_hh, s_d, s_delta, at, square, prior)
    _add(
        out, 5, w, g_h * g_h, 2.0 * g_h * g_bh, 2.0 * g_h * g_hh, 2.0 * (g_hh * g_hh + g_h * g_hhh), 2.0 * g_h * h_d,
        2.0 * g_h * h_delta, s_b, s_h, s_hh, s_d, s_delta, at, square, prior,
    )  # fmt: skip
    _add(out, 6, w, g_hh, g_bhh, g_hhh, g_hhhh, hh_d, hh_delta, s_b, s_h, s_hh, s_d, s_delta, at, square, prior)


@jit
def changes(out, weight, value, field, q):
    """Adds to `out` what a node adds to the derivatives of all averages.

    Parameters
    ----------
    out : (k, 1 + ...) array
        By root (C, q), u (C, p), spread (C,) where p > 0, d, delta, in this order; along the second axis the weight and
        what `flood` sums, without gamma gamma^T.
    weight : float
    value : (C, 42) array
        Averages of each class and their derivatives.
    field : (q + p,) array
    q : int
    """
    n_classes = value.shape[0]
    dims = field.size
    row = 0
    for kind in range(dims + 3):
        if kind == dims and dims == q:
            continue  # no fields h, hence no variance of them
        at = BY_B if kind < q else BY_MIDDLE
        if kind >= dims:
            at = BY_SPREAD if kind == dims else BY_D if kind == dims + 1 else BY_DELTA
        w = weight * (field[kind] if kind < dims else 1.0)
        for own in range(n_classes):
            # Parameters of one field are `n_fields` apart.
            line = own * q + kind if kind < q else n_classes * q + own * (dims - q) + kind - q
            if kind >= dims:
                line = n_classes * dims + row * n_classes + own
            r = w * value[own, at]
            out[line, 0] += r
            k = 1
            for c in range(n_classes):
                out[line, k] += w * value[own, at + 1] if c == own else r * value[c, 1]
                k += 1
            k = _pairs(out, line, k, w, r, value, own, at, 1)
            for c in range(n_classes):
                out[line, k] += w * value[own, at + 3] if c == own else r * value[c, 3]
                k += 1
            k = _pairs(out, line, k, w, r, value, own, at, 4)
            for c in range(n_classes):
                out[line, k] += w * value[own, at + 6] if c == own else r * value[c, 6]
                k += 1
            for j in range(q):
                for c in range(n_classes):
                    out[line, k] += field[j] * (w * value[own, at + 1] if c == own else r * value[c, 1])
                    k += 1
        if kind >= dims:
            row += 1


@jit
def _pairs(out, line, k, w, r, value, own, at, i):
    """The same for products of two classes, of quantity i, whose square is i + 1; the next place."""
    n_classes = value.shape[0]
    for c in range(n_classes):
        for e in range(n_classes):
            if c == e:
                out[line, k] += w * value[own, at + i + 1] if c == own else r * value[c, i + 1]
            elif c == own:
                out[line, k] += w * value[own, at + i] * value[e, i]
            elif e == own:
                out[line, k] += w * value[own, at + i] * value[c, i]
            else:
                out[line, k] += r * value[c, i] * value[e, i]
            k += 1
    return k
