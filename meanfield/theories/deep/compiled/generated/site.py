"""Machine-written by ``python -m meanfield.activations.generate`` from symbolic/deep.py; do not edit.

Derivatives of the single-site function g of a deep network in moments of one sample, and class functions
A_key = e^(-n g) d^key e^(n g), key = orders of the derivatives by (b, h, delta, d). Sample functions
e^(-n g) d_b^i d_h^j (g_xy e^(n g)), key = (x, y, i, j), x and y counted as (b, h, delta, d).
"""

from meanfield.numerics.jit import jit

__all__ = ["class_functions", "derivatives", "sample_functions"]

# Rows of `moments`: orders of phi and xi; of `derivatives`: in b and h; columns of `class_functions`.
MOMENTS = (
    (0, 1),
    (0, 2),
    (0, 3),
    (0, 4),
    (1, 0),
    (1, 1),
    (1, 2),
    (2, 0),
    (2, 1),
    (2, 2),
    (3, 0),
    (4, 0),
)
ORDERS = (
    (0, 1),
    (0, 2),
    (0, 3),
    (0, 4),
    (1, 0),
    (1, 1),
    (1, 2),
    (2, 0),
    (2, 1),
    (2, 2),
    (3, 0),
    (4, 0),
)
KEYS = (
    (0, 0, 0, 0),
    (1, 0, 0, 0),
    (0, 1, 0, 0),
    (2, 0, 0, 0),
    (1, 1, 0, 0),
    (0, 2, 0, 0),
    (0, 0, 1, 0),
    (0, 0, 0, 1),
    (3, 0, 0, 0),
    (2, 1, 0, 0),
    (1, 2, 0, 0),
    (1, 0, 1, 0),
    (1, 0, 0, 1),
    (0, 3, 0, 0),
    (0, 1, 1, 0),
    (0, 1, 0, 1),
    (4, 0, 0, 0),
    (2, 2, 0, 0),
    (2, 0, 1, 0),
    (2, 0, 0, 1),
    (0, 4, 0, 0),
    (0, 2, 1, 0),
    (0, 2, 0, 1),
    (0, 0, 2, 0),
    (0, 0, 1, 1),
    (0, 0, 0, 2),
)
SAMPLE_KEYS = (
    (0, 0, 0, 0),
    (0, 0, 1, 0),
    (0, 0, 2, 0),
    (0, 1, 0, 0),
    (0, 1, 0, 1),
    (0, 1, 1, 0),
    (0, 1, 1, 1),
    (0, 2, 0, 0),
    (0, 2, 1, 0),
    (0, 3, 0, 0),
    (0, 3, 1, 0),
    (1, 1, 0, 0),
    (1, 1, 0, 1),
    (1, 1, 0, 2),
    (1, 2, 0, 0),
    (1, 2, 0, 1),
    (1, 3, 0, 0),
    (1, 3, 0, 1),
    (2, 2, 0, 0),
    (2, 3, 0, 0),
    (3, 3, 0, 0),
)


@jit
def derivatives(moments, root_d, out):
    """Derivatives of g, rows as ORDERS, from moments, rows as MOMENTS; g_b lacks the middle of phi."""
    for k in range(moments.shape[1]):
        m_01 = moments[0, k]
        m_02 = moments[1, k]
        m_03 = moments[2, k]
        m_04 = moments[3, k]
        m_10 = moments[4, k]
        m_11 = moments[5, k]
        m_12 = moments[6, k]
        m_20 = moments[7, k]
        m_21 = moments[8, k]
        m_22 = moments[9, k]
        m_30 = moments[10, k]
        m_40 = moments[11, k]
        x0 = 1/root_d
        x1 = (1.0/(root_d*root_d))
        x2 = (m_01*m_01)
        x3 = 2*m_11
        x4 = 2*m_10
        x5 = (m_10*m_10)
        x6 = 2*m_01
        out[0, k] = m_01*x0
        out[1, k] = x1*(m_02 - x2 - 1)
        out[2, k] = (2*(m_01*m_01*m_01) - 3*m_01*m_02 + m_03)/(root_d*root_d*root_d)
        out[3, k] = 0.0
        out[3, k] += m_04
        out[3, k] += -6*(m_01*m_01*m_01*m_01)
        out[3, k] += -3*(m_02*m_02)
        out[3, k] += -4*m_01*m_03
        out[3, k] += 12*m_02*x2
        out[3, k] *= (1.0/(root_d*root_d*root_d*root_d))
        out[4, k] = m_10
        out[5, k] = x0*(-m_01*m_10 + m_11)
        out[6, k] = x1*(-m_01*x3 - m_02*m_10 + m_12 + x2*x4)
        out[7, k] = m_20 - x5
        out[8, k] = x0*(-m_01*m_20 - m_10*x3 + m_21 + x5*x6)
        out[9, k] = 0.0
        out[9, k] += m_22
        out[9, k] += -2*(m_11*m_11)
        out[9, k] += -m_12*x4
        out[9, k] += -m_21*x6
        out[9, k] += -m_02*m_20
        out[9, k] += -6*x2*x5
        out[9, k] += 2*m_20*x2
        out[9, k] += 2*m_02*x5
        out[9, k] += 8*m_01*m_10*m_11
        out[9, k] *= x1
        out[10, k] = 2*(m_10*m_10*m_10) - 3*m_10*m_20 + m_30
        out[11, k] = -6*(m_10*m_10*m_10*m_10) - 4*m_10*m_30 - 3*(m_20*m_20) + 12*m_20*x5 + m_40


@jit
def class_functions(site, n, out):
    """A_key, columns as KEYS, from the derivatives of g, rows as ORDERS, for a class of n samples."""
    for k in range(site.shape[1]):
        g_h = site[0, k]
        g_hh = site[1, k]
        g_hhh = site[2, k]
        g_hhhh = site[3, k]
        g_b = site[4, k]
        g_bh = site[5, k]
        g_bhh = site[6, k]
        g_bb = site[7, k]
        g_bbh = site[8, k]
        g_bbhh = site[9, k]
        g_bbb = site[10, k]
        g_bbbb = site[11, k]
        x0 = g_b*n
        x1 = g_h*n
        x2 = (g_b*g_b)
        x3 = n*x2
        x4 = (g_h*g_h)
        x5 = n*x4
        x6 = (0.5)*n
        x7 = g_bb*x0
        x8 = (g_b*g_b*g_b)
        x9 = (n*n)
        x10 = g_bb*x1
        x11 = 2*g_bh
        x12 = x2*x9
        x13 = g_hh*x0
        x14 = x4*x9
        x15 = (0.5)*g_bhh
        x16 = g_bh*g_h
        x17 = (0.5)*x4
        x18 = g_hh*x1
        x19 = (g_h*g_h*g_h)
        x20 = (0.5)*g_bbh
        x21 = g_bbb*x0
        x22 = (g_bb*g_bb)
        x23 = 3*n
        x24 = (g_b*g_b*g_b*g_b)
        x25 = (n*n*n)
        x26 = g_bb*x2
        x27 = 6*x9
        x28 = g_bb*g_hh
        x29 = n*x28
        x30 = g_bhh*x0
        x31 = g_bbh*x1
        x32 = (g_bh*g_bh)
        x33 = g_hh*x12
        x34 = g_bb*x14
        x35 = g_b*x16
        x36 = g_b*g_bbb
        x37 = (0.5)*x22
        x38 = g_bb*x3
        x39 = (0.5)*x9
        x40 = g_bb*x5
        x41 = (0.5)*g_bbhh + 2*x0*x16 + x12*x17 + x28*x6 + x32
        x42 = g_hhh*x1
        x43 = (g_hh*g_hh)
        x44 = (g_h*g_h*g_h*g_h)
        x45 = g_hh*x4
        x46 = g_hh*x3
        x47 = g_h*g_hhh
        x48 = (0.5)*x43
        x49 = g_hh*x5
        x50 = (0.25)*n
        out[k, 0] = 1
        out[k, 1] = x0
        out[k, 2] = x1
        out[k, 3] = n*(g_bb + x3)
        out[k, 4] = n*(g_bh + g_h*x0)
        out[k, 5] = n*(g_hh + x5)
        out[k, 6] = x6*(g_bb + x2)
        out[k, 7] = x6*(g_hh + x4)
        out[k, 8] = n*(g_bbb + 3*x7 + x8*x9)
        out[k, 9] = n*(g_bbh + g_h*x12 + x0*x11 + x10)
        out[k, 10] = n*(g_b*x14 + g_bhh + x1*x11 + x13)
        out[k, 11] = n*(g_b*g_bb + (0.5)*g_bbb + x6*x8 + (0.5)*x7)
        out[k, 12] = n*(x0*x17 + (0.5)*x13 + x15 + x16)
        out[k, 13] = n*(g_hhh + 3*x18 + x19*x9)
        out[k, 14] = n*(g_b*g_bh + (0.5)*x1*x2 + (0.5)*x10 + x20)
        out[k, 15] = n*(g_h*g_hh + (0.5)*g_hhh + (0.5)*x18 + x19*x6)
        out[k, 16] = n*(g_bbbb + 4*x21 + x22*x23 + x24*x25 + x26*x27)
        out[k, 17] = n*(g_bbhh + 2*n*x32 + x2*x25*x4 + x29 + 2*x30 + 2*x31 + x33 + x34 + 4*x35*x9)
        out[k, 18] = n*((0.5)*g_bbbb + n*x37 + x21 + x22 + x24*x39 + x26*x39 + x36 + (2.5)*x38)
        out[k, 19] = n*(g_bbh*g_h + x30 + (0.5)*x33 + (0.5)*x40 + x41)
        out[k, 20] = n*(g_hhhh + x23*x43 + x25*x44 + x27*x45 + 4*x42)
        out[k, 21] = n*(g_b*g_bhh + x31 + (0.5)*x34 + x41 + (0.5)*x46)
        out[k, 22] = n*((0.5)*g_hhhh + n*x48 + x39*x44 + x39*x45 + x42 + x43 + x47 + (2.5)*x49)
        out[k, 23] = n*((0.25)*g_bbbb + x22*x50 + x24*x50 + x26 + x36 + x37 + (0.5)*x38)
        out[k, 24] = 0.0
        out[k, 24] += x35
        out[k, 24] += (0.5)*x32
        out[k, 24] += (0.25)*x29
        out[k, 24] += (0.25)*x40
        out[k, 24] += (0.25)*x46
        out[k, 24] += (0.25)*g_bbhh
        out[k, 24] += g_b*x15
        out[k, 24] += g_h*x20
        out[k, 24] += (0.25)*x3*x4
        out[k, 24] *= n
        out[k, 25] = n*((0.25)*g_hhhh + x43*x50 + x44*x50 + x45 + x47 + x48 + (0.5)*x49)


@jit
def sample_functions(site, n, out):
    """Columns as SAMPLE_KEYS, from the derivatives of g, rows as ORDERS, for a class of n samples."""
    for k in range(site.shape[1]):
        g_h = site[0, k]
        g_hh = site[1, k]
        g_hhh = site[2, k]
        g_hhhh = site[3, k]
        g_b = site[4, k]
        g_bh = site[5, k]
        g_bhh = site[6, k]
        g_bb = site[7, k]
        g_bbh = site[8, k]
        g_bbhh = site[9, k]
        g_bbb = site[10, k]
        g_bbbb = site[11, k]
        x0 = g_b*g_bb
        x1 = (g_bb*g_bb)
        x2 = g_b*g_bbb
        x3 = 2*n
        x4 = (n*n)
        x5 = (g_b*g_b)*g_bb
        x6 = g_bh*g_h
        x7 = n*x6
        x8 = g_b*g_bh
        x9 = g_b*g_bhh
        x10 = g_bbh*g_h
        x11 = n*x10
        x12 = (g_bh*g_bh)
        x13 = g_b*x6
        x14 = (0.5)*g_bbb
        x15 = (0.5)*g_bhh
        x16 = g_b*x15
        x17 = g_b*x7 + (0.5)*g_bbhh + x12
        x18 = g_h*g_hh
        x19 = (g_hh*g_hh)
        x20 = g_h*g_hhh
        x21 = (g_h*g_h)*g_hh
        x22 = (0.5)*g_hhh
        out[k, 0] = g_bb
        out[k, 1] = g_bbb + n*x0
        out[k, 2] = g_bbbb + n*x1 + x2*x3 + x4*x5
        out[k, 3] = g_bh
        out[k, 4] = g_bhh + x7
        out[k, 5] = g_bbh + n*x8
        out[k, 6] = g_bbhh + n*x12 + n*x9 + x11 + x13*x4
        out[k, 7] = x0 + x14
        out[k, 8] = g_b*n*x14 + (0.5)*g_bbbb + n*x5 + x1 + x2
        out[k, 9] = x15 + x6
        out[k, 10] = n*x16 + x10 + x17
        out[k, 11] = g_hh
        out[k, 12] = g_hhh + n*x18
        out[k, 13] = g_hhhh + n*x19 + x20*x3 + x21*x4
        out[k, 14] = (0.5)*g_bbh + x8
        out[k, 15] = (0.5)*x11 + x17 + x9
        out[k, 16] = x18 + x22
        out[k, 17] = g_h*n*x22 + (0.5)*g_hhhh + n*x21 + x19 + x20
        out[k, 18] = (0.25)*g_bbbb + (0.5)*x1 + x2 + x5
        out[k, 19] = (0.25)*g_bbhh + (0.5)*x10 + (0.5)*x12 + x13 + x16
        out[k, 20] = (0.25)*g_hhhh + (0.5)*x19 + x20 + x21
