"""Derivatives of the averages of one class (relu/THEORY.md, "The Jacobian").

With weight exp(n g) an average of f has by a parameter p the derivative <(f exp(n g))_p exp(-n g)> - <f> <n g_p>: what
is summed is the first of these. g is the logarithm of a Gaussian average, so that g_d = (g_hh + g_h^2) / 2 and
g_delta = (g_bb + g_b^2) / 2, and derivatives by the middle and the variance of h are those by h, or those of its law.
"""

from __future__ import annotations

from meanfield.numerics.jit import jit

__all__ = [
    "BY_B", "BY_D", "BY_DELTA", "BY_MIDDLE", "BY_SPREAD", "N_LOCAL", "N_OPERATED", "averaged", "changes", "flushed",
    "operated",
]  # fmt: skip

BY_B, BY_MIDDLE, BY_SPREAD, BY_D, BY_DELTA = 7, 14, 21, 28, 35  # where each begins in what `operated` adds to
N_OPERATED = 42
# Of a class, along a line of the lattice: by b, the middle of h, the same times the field along the line, the variance
# of h, d and delta.
LOCAL_B, LOCAL_MIDDLE, LOCAL_ALONG, LOCAL_SPREAD, LOCAL_D, LOCAL_DELTA, N_LOCAL = 0, 1, 2, 3, 4, 5, 6


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
def changes(out, weight, value, alpha, p):
    """Adds to `out` what a node adds to the derivatives of the sums of its line.

    Parameters
    ----------
    out : (C 6, 1 + ...) array
        By what one class depends on, `LOCAL_...`; along the second axis the weight and what `averaged` sums.
    weight : float
    value : (C, 42) array
        Averages of each class and their derivatives.
    alpha : float
        The field along the line.
    p : int
        Shared fields.
    """
    n_classes = value.shape[0]
    for own in range(n_classes):
        for local in range(N_LOCAL):
            w, at = weight, BY_B
            if local == LOCAL_D:
                at = BY_D
            elif local == LOCAL_DELTA:
                at = BY_DELTA
            elif local > LOCAL_B:
                if p == 0 or (local == LOCAL_MIDDLE and p == 1):
                    continue
                at = BY_SPREAD if local == LOCAL_SPREAD else BY_MIDDLE
                if local == LOCAL_ALONG:
                    w *= alpha
            line = own * N_LOCAL + local
            r = w * value[own, at]
            out[line, 0] += r
            k = 1
            for i in (1, 4):  # g_b and g_h: itself, products of two classes, and its own derivative
                if i == 1:
                    for c in range(n_classes):
                        out[line, k] += w * value[own, at + 1] if c == own else r * value[c, 1]
                        k += 1
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
                for c in range(n_classes):
                    out[line, k] += w * value[own, at + i + 2] if c == own else r * value[c, i + 2]
                    k += 1


@jit
def averaged(out, weight, value):
    """Adds what a node adds to the sums of the weight and, with it, of g_b, g_b g_b^T, g_bb, g_h g_h^T, g_hh."""
    n_classes = value.shape[0]
    out[0] += weight
    for c in range(n_classes):
        out[1 + c] += weight * value[c, 1]
    at = 1 + n_classes
    for i in (1, 4):  # g_b and g_h: products of two classes, and its own derivative
        for c in range(n_classes):
            for e in range(n_classes):
                out[at] += weight * (value[c, i + 1] if c == e else value[c, i] * value[e, i])
                at += 1
        for c in range(n_classes):
            out[at] += weight * value[c, i + 2]
            at += 1


@jit
def flushed(total, slopes, local, changed, field, q, p):
    """Adds the sums of a line, and their derivatives, to those of `flood`; `field` has all fields but that along it.

    Rows of `slopes`: by root (C, q), u (C, p), spread (C,) where p > 0, d, delta.
    """
    base = local.size
    n_classes = (total.size - base - q * q) // q if q else changed.shape[0] // N_LOCAL
    _row(total, local, 1.0, field, n_classes, q)
    at = base + q * n_classes
    for k in range(q):
        for l in range(q):
            total[at] += local[0] * field[k] * field[l]
            at += 1
    if slopes.shape[0] == 0:
        return
    row = 0
    for own in range(n_classes):
        for k in range(q):
            _row(slopes[row], changed[own * N_LOCAL + LOCAL_B], field[k], field, n_classes, q)
            row += 1
    for own in range(n_classes):
        for k in range(p):
            if k == p - 1:
                _row(slopes[row], changed[own * N_LOCAL + LOCAL_ALONG], 1.0, field, n_classes, q)
            else:
                _row(slopes[row], changed[own * N_LOCAL + LOCAL_MIDDLE], field[q + k], field, n_classes, q)
            row += 1
    for local_row in (LOCAL_SPREAD, LOCAL_D, LOCAL_DELTA):
        if local_row == LOCAL_SPREAD and p == 0:
            continue
        for own in range(n_classes):
            _row(slopes[row], changed[own * N_LOCAL + local_row], 1.0, field, n_classes, q)
            row += 1


@jit
def _row(out, line, factor, field, n_classes, q):
    """Adds the sums of a line and, from those of g_b, of gamma g_b^T."""
    for k in range(line.size):
        out[k] += factor * line[k]
    at = line.size
    for j in range(q):
        for c in range(n_classes):
            out[at] += factor * field[j] * line[1 + c]
            at += 1
