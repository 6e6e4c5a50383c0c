"""Deep theory: tables of reference numbers that were computed by other means (importance sampling, prototypes).

Every row has its source, the quantity, the value as printed there and the accuracy that is stated there: for three
classes what frozen Sobol points reproduce. Numbers that differ by more are listed with the value found here.
"""

import math

import numpy as np
import pytest
from deep_grids import two_layers

import meanfield as mf
from meanfield.theories.deep.solve import solve_deep

ONE_HOT = mf.class_task(n_classes=3, n_samples=99)
BINARY = mf.class_task(targets=[1, -1], n_samples=100)
POSTER = {"100": 0.27, "010": 0.135, "001": 0.14, "110": 0.15, "101": 0.16, "011": 0.145}
SHORTER = {"010": 0.01, "011": 0.28, "100": 0.28, "101": 0.19, "110": 0.19, "111": 0.05}
LONGER = {"001": 0.10, "010": 0.045, "011": 0.215, "100": 0.285, "101": 0.175, "110": 0.165, "111": 0.015}
SINGLE = {"100": 0.77, "001": 0.13, "010": 0.09, "011": 0.01}
CHAIN = {"001": 0.09, "010": 0.02, "011": 0.24, "100": 0.257, "101": 0.183, "110": 0.194, "111": 0.016}


def sigmoid(depth, exponent=None):
    return mf.Network("sigmoid", depth, readout_exponent=exponent)


def unequal(off, samples=200):
    y = np.where(np.eye(3, dtype=bool), 1.0, off)
    return mf.class_task([0.5, 0.25, 0.25], targets=y, n_samples=samples)


# case: network, task, tau, fractions
CASES = {
    "L3 y0": (sigmoid(3), unequal(0.0), 0.005, None),
    "L3 y-1/2": (sigmoid(3), unequal(-0.5), 0.002, None),
    "L3 y-1/2 warmer": (sigmoid(3), unequal(-0.5), 0.02, None),
    "L3 chain": (sigmoid(3), unequal(0.0), 0.005, CHAIN),
    "L3 published": (sigmoid(3), unequal(-0.5), 1e-4, POSTER),
    "half y1/2": (sigmoid(2, 0.5), unequal(0.5, 100), 0.05, None),
    "half y0": (sigmoid(2, 0.5), unequal(0.0, 100), 0.05, None),
    "half 99": (sigmoid(2, 0.5), ONE_HOT, 0.02, None),
    "half 396": (sigmoid(2, 0.5), ONE_HOT.with_(n_samples=396), 0.02, None),
    "half 1584": (sigmoid(2, 0.5), ONE_HOT.with_(n_samples=1584), 0.02, None),
    "L2 y0": (sigmoid(2), unequal(0.0), 0.005, None),
    "L2 y-1/2": (sigmoid(2), unequal(-0.5), 0.002, None),
    "L2 chain": (sigmoid(2), unequal(0.0), 0.005, SHORTER),
    "L3 wider chain": (sigmoid(3), unequal(0.0), 0.005, LONGER),
    "L3 y-1/2 chain": (sigmoid(3), unequal(-0.5), 0.002, SINGLE),
    "half 99 warm": (sigmoid(2, 0.5), ONE_HOT, 0.05, None),
    "half": (sigmoid(2, 0.5), BINARY, 0.05, None),
    "third": (sigmoid(3, 1 / 3), BINARY, 0.05, None),
    "third 800": (sigmoid(3, 1 / 3), BINARY.with_(n_samples=800), 0.02, None),
    **{f"half {P}": (sigmoid(2, 0.5), BINARY.with_(n_samples=P), 0.02, None) for P in (100, 400, 1600, 6400)},
    **{f"L2 {P}": (sigmoid(2), BINARY.with_(n_samples=P), 0.01, None) for P in (100, 400, 1600, 6400)},
    **{f"L3 {P}": (sigmoid(3), BINARY.with_(n_samples=P), 0.01, None) for P in (100, 400, 1600)},
    **{f"half tau {tau}": (sigmoid(2, 0.5), BINARY, tau, None) for tau in (0.1, 0.2, 0.3, 0.5, 0.8)},
}

EQUILIBRIUM = "three classes 1/2 1/4 1/4, exponent 1, equilibrium, mixtures of Student-t"
FROZEN = "three classes 1/2 1/4 1/4, exponent 1, given shares"
HALF = "exponent 1/2, adaptive importance sampling"
TWO = "two classes, exponent 1, tensor grids"
MANY = "three equal classes, exponent 1/2, many samples: in units of the limit"

# What point sets and their sizes reproduce: K_1, the common part of K_2 at L = 3, shares of codes that tie (1 %).
COMMON, SOFT, TIED = 4e-4, 2e-3, 2e-3


class Relative(float):
    """Accuracy relative to the number itself."""


SAMPLED = Relative(1e-3)  # importance sampling at the exponents 1/2 and 1/3: points adapted until nothing moves by more
GRIDS = Relative(1e-4)  # tensor grids of two classes

# source, case, quantities, values as printed there, accuracy stated there (None: nothing is)
ROWS = [
    (EQUILIBRIUM, "L3 y0", "K1 11, K1 12, K1 22, K1 23", "0.2714 0.2368 0.2761 0.2321", COMMON),
    (EQUILIBRIUM, "L3 y0", "d1 1, d1 2, d2 1, d2 2", "0.0946 0.0808 0.0083 0.0066", None),
    (EQUILIBRIUM, "L3 y0", "K2 11, K2 12, K2 22, K2 23", "0.383 0.231 0.391 0.224", SOFT),
    (EQUILIBRIUM, "L3 y0", "K3 11, K3 12, K3 22, K3 23", "0.6602 0.3332 0.6613 0.3340", None),
    (EQUILIBRIUM, "L3 y0", "t 11, t 12, t 21, t 22, t 23", "4.4299 -1.4537 -2.9075 8.6829 -2.8350", 2e-4),
    (EQUILIBRIUM, "L3 y0", "a2", "2.0942", None),
    (EQUILIBRIUM, "L3 y0", "Phi", "-741.854", 2e-3),
    (EQUILIBRIUM, "L3 y0", "P 110, P 011", "0.3330 0.3341", None),
    (EQUILIBRIUM, "L3 y0", "a 110 1, a 110 2, a 110 3, a 011 1, a 011 2", "1.478 1.435 -1.420 -1.437 1.452", None),
    (EQUILIBRIUM, "L3 y-1/2", "K1 11, K1 12, K1 22, K1 23", "0.2730 0.2360 0.2777 0.2308", COMMON),
    (EQUILIBRIUM, "L3 y-1/2", "d1 1, d1 2, d2 1, d2 2", "0.0939 0.0793 0.0072 0.0056", None),
    (EQUILIBRIUM, "L3 y-1/2", "K2 11, K2 12, K2 22, K2 23", "0.398 0.232 0.408 0.225", SOFT),
    (EQUILIBRIUM, "L3 y-1/2", "K3 11, K3 12, K3 22, K3 23", "0.5005 0.1671 0.4967 0.1669", TIED),
    (EQUILIBRIUM, "L3 y-1/2", "t 11, t 12, t 21, t 22, t 23", "5.928 -2.964 -5.928 11.844 -5.916", None),
    (EQUILIBRIUM, "L3 y-1/2", "a2", "4.3600", None),
    (EQUILIBRIUM, "L3 y-1/2", "Phi", "-1427.21", 2e-3),
    (EQUILIBRIUM, "L3 y-1/2", "P 100, P 011, P 110", "0.168 0.168 0.166", 1e-3),
    (EQUILIBRIUM, "L3 y-1/2", "a 100 1, a 100 2, a 110 1, a 110 3", "2.953 -1.476 1.476 -2.950", None),
    (EQUILIBRIUM, "L3 y-1/2 warmer", "Phi", "-1225.64", 1e-2),
    (EQUILIBRIUM, "L3 y-1/2 warmer", "t 11, t 22", "5.0446 10.084", 3e-4),
    (EQUILIBRIUM, "L3 y-1/2 warmer", "K3 11, K3 12, K3 22, K3 23", "0.5235 0.1670 0.4836 0.1669", TIED),
    (FROZEN, "L3 chain", "K1 11, K1 12, K1 22, K1 23", "0.27078 0.23640 0.27632 0.23502", COMMON),
    (FROZEN, "L3 chain", "d1 1, d1 2, d2 1, d2 2", "0.09423 0.08145 0.00833 0.00687", None),
    (FROZEN, "L3 chain", "K2 11, K2 12, K2 22, K2 23", "0.3677 0.2256 0.4023 0.2466", SOFT),
    (FROZEN, "L3 chain", "K3 11, K3 12", "0.64179 0.21167", None),
    (FROZEN, "L3 chain", "t 11, t 12, t 13, t 21, t 22, t 23", "3.710 -1.174 -.835 -2.348 11.612 -4.567", 3e-4),
    (FROZEN, "L3 chain", "a2", "2.3016", None),
    (FROZEN, "L3 published", "K1 11, K1 22, K1 33, K1 12, K1 23", "0.273 0.278 0.278 0.236 0.232", None),
    (FROZEN, "L3 published", "K2 11, K2 22, K2 33, K2 12, K2 23", "0.390 0.412 0.412 0.225 0.237", 1e-3),
    (
        FROZEN,
        "L3 published",
        "K3 11, K3 22, K3 33, K3 12, K3 13, K3 23",
        "0.577 0.429 0.444 0.151 0.161 0.145",
        None,
    ),
    (FROZEN, "L3 published", "a 100 1, a 100 2, a 100 3, a 110 1, a 110 2", "2.55 -1.25 -1.31 1.02 2.12", None),
    (HALF, "half y1/2", "K1 11, K1 12, K1 22, K1 23", "0.27627 0.23954 0.28150 0.23587", 2e-5),
    (HALF, "half y1/2", "d1 1, d1 2, d2 1, d2 2", "0.0936 0.0800 0.0069 0.0058", None),
    (HALF, "half y1/2", "K2 11, K2 12, K2 22, K2 23", "0.60993 0.51338 0.60903 0.50993", 5e-5),
    (HALF, "half y1/2", "t 11, t 12, t 21, t 22, t 23", "0.6982 -0.2236 -0.4537 1.3029 -0.3732", 1e-4),
    (HALF, "half y1/2", "a2", "2.1543", 3e-4),
    (HALF, "half y1/2", "Phi", "-58.550", 1e-3),
    (HALF, "half y1/2", "P 111, P 011, P 101, P 100", "0.308 0.226 0.2275 0.0059", None),
    (HALF, "half y0", "Phi", "-89.94", 3e-3),
    (HALF, "half y0", "t 11, t 12, t 21, t 22, t 23", "0.667 -0.247 -0.495 1.274 -0.439", None),
    (HALF, "half y0", "K1 11, K1 12, K1 22, K1 23", "0.2865 0.2279 0.2937 0.2215", COMMON),
    (HALF, "half tau 0.1", "Phi", "-62.744", None),
    (HALF, "half tau 0.2", "Phi", "-60.859", None),
    (HALF, "half tau 0.3", "Phi", "-59.030", None),
    (HALF, "half tau 0.5", "Phi", "-55.500", None),
    (HALF, "half tau 0.8", "Phi", "-50.36", None),
    (MANY, "half 99", "t^ 11, t^ 12, kappa, a 110 1, a 110 3", "9.945 -3.689 0.641 1.752 -1.877", None),
    (MANY, "half 396", "t^ 11, t^ 12, kappa, a 110 1, a 110 3", "9.792 -3.673 0.693 1.734 -1.904", None),
    (MANY, "half 1584", "t^ 11, t^ 12, kappa, a 110 1, a 110 3", "9.741 -3.657 0.721 1.734 -1.911", None),
    (HALF, "half", "K1 11, K1 12, d1 1, K2 11, K2 12", "0.28106 0.21591 0.08187 0.40591 0.09592", SAMPLED),
    (HALF, "half", "d2 1, t 11, a2, Phi", "0.00413 0.62485 6.15316 -63.712", SAMPLED),
    (HALF, "half", "a 10 1, sd 10 1, phi 10 1, phi 10 2, kurtosis1", "2.454 0.365 0.893 0.107 1.50", None),
    (HALF, "half", "k~1 11, k~1 12, delta1 1", "0.1109 -0.1027 -0.4479", None),
    (HALF, "half 99 warm", "K1 11, K1 12, d1 1, K2 11, K2 12", "0.29145 0.22859 0.07573 0.52340 0.31560", SAMPLED),
    (HALF, "half 99 warm", "d2 1, t 11, t 12, a2", "0.00379 0.98736 -0.36481 3.16907", SAMPLED),
    (HALF, "half 99 warm", "P 110, a 110 1, a 110 3, sd 110 1", "0.312 1.717 -1.812 0.36", SAMPLED),
    (HALF, "half 99 warm", "phi 110 1, phi 110 3, kurtosis1", "0.895 0.108 1.78", None),
    # of the light codes, whose neighbours reach to them
    (HALF, "half 99 warm", "P 100, a 100 1, a 100 2, phi 100 1, phi 100 2", "0.022 2.629 -0.818 0.902 0.133", 1e-2),
    (HALF, "third", "K1 11, K1 12, d1 1, K2 11, K2 12", "0.26427 0.23307 0.09344 0.29047 0.19322", SAMPLED),
    (HALF, "third", "d2 1, K3 11, K3 12, d3 1, t 11, a2", "0.01359 0.39405 0.11043 0.00092 0.32203 7.04115", SAMPLED),
    (HALF, "third", "phi 10 1, phi 10 2, kurtosis1, kurtosis2", "0.874 0.126 2.02 1.45", None),
    (HALF, "third", "a 10 1, sd 10 1", "2.597 0.564", None),
    # a of this code is printed there again, as 2.593
    (HALF, "third", "t^ 11, kappa^2, kappa^1, h 10 1", "6.94 0.226 0.336 0.964", None),
    (HALF, "third 800", "t^ 11, kappa^2, kappa^1, h 10 1, a 10 1", "6.64 0.257 0.361 1.002 2.566", None),
    (HALF, "half 100", "t^ 11, kappa^1, h 10 1, a 10 1", "6.283 0.3295 1.062 2.485", SAMPLED),
    (HALF, "half 400", "t^ 11, kappa^1, h 10 1, a 10 1", "6.232 0.3444 1.087 2.486", SAMPLED),
    (HALF, "half 1600", "t^ 11, kappa^1, h 10 1, a 10 1", "6.209 0.3522 1.099 2.4865", SAMPLED),
    (HALF, "half 6400", "t^ 11, kappa^1, h 10 1, a 10 1", "6.198 0.3561 1.106 2.487", SAMPLED),
    (TWO, "L2 100", "K1 11, K1 12, d1 1, K2 11, K2 12", "0.30465 0.19274 0.06641 0.48652 0.01352", None),
    (TWO, "L2 100", "d2 1, t 11, a2, Phi", "0.00014 4.0568 3.9022 -262.222", GRIDS),
    (TWO, "L2 100", "a 10 1, sd 10 1, phi 10 1, phi 10 2, h 10 1", "1.9728 0.1014 0.9863 0.0137 1.848", None),
    (TWO, "L2 100", "k~1 11, k~1 12, delta1 1", "0.1234 -0.1081 -0.8046", GRIDS),
    (TWO, "L2 100", "on1, off1, kurtosis1, kurtosis2", "0.729 0.269 1.195 1.000", None),
    (TWO, "L3 100", "K1 11, K1 12, d1 1, K2 11, K2 12", "0.27364 0.22325 0.08677 0.35608 0.13904", None),
    (TWO, "L3 100", "d2 1, K3 11, K3 12, d3 1", "0.00790 0.49292 0.00710 0.00001", None),
    (TWO, "L3 100", "t 11, a2, Phi, a 10 1, sd 10 1", "3.9539 3.8076 -241.229 1.9487 0.1007", None),
    (
        TWO,
        "L3 100",
        "k~1 11, k~1 12, delta1 1, k~2 11, k~2 12, delta2 1",
        "0.1071 -0.1002 -0.3835 0.0444 -0.0341 -0.5508",
        GRIDS,
    ),
    (TWO, "L3 100", "kurtosis1, kurtosis2", "1.672 1.082", None),
    (TWO, "L3 100", "on1, off1, on2, off2", "0.640 0.356 0.822 0.170", 2e-3),
    (
        TWO,
        "L2 100",
        "kappa1, h 10 1, sdh, phi 10 2, d1 1, nkd, Phi/P",
        "0.05595 1.848 0.152 0.01370 0.0664 0.768 -2.62222",
        GRIDS,
    ),
    (TWO, "L2 400", "t 11, a 10 1, h 10 1, sdh, phi 10 2", "3.9409 1.9456 2.110 0.103 0.00629", GRIDS),
    (TWO, "L2 400", "kappa1, d1 1, nkd, Phi/P", "0.03302 0.0814 0.863 -2.30457", GRIDS),
    (TWO, "L2 1600", "t 11, a 10 1, h 10 1, sdh, phi 10 2", "3.8897 1.9335 2.348 0.068 0.00292", GRIDS),
    (TWO, "L2 1600", "kappa1, d1 1, nkd, Phi/P", "0.01863 0.0913 0.922 -2.12886", GRIDS),
    (TWO, "L2 6400", "t 11, a 10 1, h 10 1, sdh, phi 10 2", "3.8664 1.9279 2.563 0.045 0.00137", GRIDS),
    (TWO, "L2 6400", "kappa1, d1 1, nkd, Phi/P", "0.01027 0.0972 0.957 -2.03307", GRIDS),
    (
        TWO,
        "L3 100",
        "h 10 1, sdh, phi 10 2, kappa1, kappa2, nkd, Phi/P",
        "2.015 0.188 0.00715 0.0252 0.1085 0.899 -2.41229",
        GRIDS,
    ),
    (TWO, "L3 400", "t 11, a 10 1, h 10 1, sdh, phi 10 2", "3.8793 1.9310 2.324 0.150 0.00223", GRIDS),
    (TWO, "L3 400", "kappa1, kappa2, d1 1, d2 1, nkd, Phi/P", "0.0115 0.0906 0.0963 0.0105 0.951 -2.12568", GRIDS),
    (TWO, "L3 1600", "t 11, a 10 1, h 10 1, sdh, phi 10 2", "3.8569 1.9256 2.594 0.119 0.00072", GRIDS),
    (TWO, "L3 1600", "kappa1, kappa2, d1 1, d2 1, nkd, Phi/P", "0.0050 0.0712 0.1010 0.0131 0.976 -2.00624", GRIDS),
    (EQUILIBRIUM, "L2 y0", "K1 11, K1 12, K1 22, K1 23", "0.3013 0.2220 0.3085 0.2137", COMMON),
    (EQUILIBRIUM, "L2 y0", "d1 1, d1 2, K2 11, K2 12, K2 22, K2 23", "0.0827 0.0545 0.6554 0.3341 0.6567 0.3335", None),
    (EQUILIBRIUM, "L2 y0", "t 11, t 12, t 21, t 22, t 23", "4.4997 -1.4880 -2.9760 8.7906 -2.8630", 2e-4),
    (EQUILIBRIUM, "L2 y0", "a2, P 110, P 011, Phi, sd 110 1", "2.1206 0.3332 0.3336 -783.278 0.071", None),
    (EQUILIBRIUM, "L2 y0", "a 110 1, a 110 2, a 110 3, a 011 1, a 011 2", "1.486 1.439 -1.430 -1.454 1.462", None),
    (EQUILIBRIUM, "L2 y0", "phi 110 1, phi 110 3", "0.992 0.008", None),
    (EQUILIBRIUM, "L2 y0", "on1, off1", "0.724 0.270", 6e-3),
    (EQUILIBRIUM, "L2 y-1/2", "K1 11, K1 12, K1 22, K1 23", "0.3079 0.2189 0.3151 0.2100", COMMON),
    (EQUILIBRIUM, "L2 y-1/2", "d1 1, d1 2", "0.0804 0.0493", None),
    (EQUILIBRIUM, "L2 y-1/2", "K2 11, K2 12, K2 22, K2 23", "0.4992 0.1685 0.4961 0.1676", TIED),
    (EQUILIBRIUM, "L2 y-1/2", "t 11, t 12, t 21, t 22, t 23", "5.975 -2.988 -5.975 11.905 -5.930", None),
    (EQUILIBRIUM, "L2 y-1/2", "a2, Phi, sd 100 1", "4.3868 -1475.76 0.071", None),
    (EQUILIBRIUM, "L2 y-1/2", "P 100, P 011, P 110", "0.168 0.168 0.166", TIED),
    (EQUILIBRIUM, "L2 y-1/2", "a 100 1, a 100 2, a 110 1, a 110 2, a 110 3", "2.967 -1.484 1.482 1.475 -2.957", 1e-3),
    (EQUILIBRIUM, "L2 y-1/2", "phi 100 1, phi 100 2", "0.9965 0.0036", 2e-4),
    (EQUILIBRIUM, "L3 y0", "sd 110 1, phi 110 1, phi 110 3", "0.071 0.996 0.0046", 2e-4),
    (EQUILIBRIUM, "L3 y0", "on1, off1, on2, off2", "0.642 0.355 0.839 0.163", 2e-3),
    (EQUILIBRIUM, "L3 y-1/2", "sd 100 1, phi 100 1, phi 100 2", "0.071 0.998 0.0018", 2e-4),
    (EQUILIBRIUM, "L3 y-1/2", "on1, off1, on2, off2", "0.648 0.349 0.857 0.144", 2e-3),
    (FROZEN, "L3 wider chain", "K1 11, K1 12, K1 22, K1 23", "0.27074 0.23639 0.27650 0.23526", COMMON),
    (FROZEN, "L3 wider chain", "d1 1, d1 2, d2 1, d2 2", "0.09421 0.08144 0.00831 0.00686", None),
    (FROZEN, "L3 wider chain", "K2 11, K2 12, K2 22, K2 23", "0.3670 0.2232 0.3998 0.2471", SOFT),
    (FROZEN, "L3 wider chain", "K3 11, K3 12, a2", "0.63207 0.18283 2.3244", None),
    (FROZEN, "L3 wider chain", "t 11, t 12, t 13, t 21, t 22, t 23", "3.681 -1.006 -.926 -2.011 11.765 -4.436", 3e-4),
    (FROZEN, "L3 wider chain", "a 100 1, a 100 2, a 100 3, sd 100 1", "1.822 -.489 -.446 0.071", 1e-3),
    (FROZEN, "L3 wider chain", "phi 100 1, phi 100 2, phi 100 3", "0.994 0.007 0.009", None),
    (FROZEN, "L2 chain", "K1 11, K1 12, K1 22, K1 23, K2 11", "0.2919 0.2192 0.3147 0.2342 0.6918", COMMON),
    (FROZEN, "L2 chain", "t 11, t 12, t 13, t 22, a2", "3.558 -.993 -1.031 12.186 2.4706", 3e-4),
    (FROZEN, "L3 y-1/2 chain", "K3 11, t 21, t 22, t 23", "0.7585 -17.417 38.580 -21.163", None),
    (FROZEN, "L3 y-1/2 chain", "K2 11, K2 22, K2 23, a2", "0.334 0.408 0.287 8.4706", 1e-2),
    (
        FROZEN,
        "L3 published",
        "a 010 1, a 010 2, a 010 3, a 001 1, a 001 2, a 001 3",
        "-1.54 3.36 -1.82 -1.54 -1.77 3.32",
        None,
    ),
    (FROZEN, "L3 published", "a 110 3, a 101 1, a 101 2, a 101 3", "-3.13 1.01 -3.02 2.01", None),
    (FROZEN, "L3 published", "a 011 1, a 011 2, a 011 3, sd 100 1", "-3.08 1.59 1.49 0.071", None),
    (FROZEN, "L3 published", "on1, off1, on2, off2, on3, off3", "0.648 0.349 0.857 0.144 0.998 0.002", 2e-3),
]

# Numbers that differ from the sampled ones by more than is stated there, and what deterministic integrals give: the
# common part of K_2; residuals at shares of codes that are printed with two or three digits; and where rare codes were
# missed by the importance sampling, the weights and with them K_2 (P 100 was 0.0035 before they were looked for).
DIFFERENT = {
    ("L3 y-1/2", "K2 11"): 0.40103834,
    ("L3 y-1/2 warmer", "t 11"): 5.0450391,
    # A change of the shares by half a unit of their last digit moves t by up to 0.0003, 0.002, 0.0014, 0.004, 0.014.
    ("L3 chain", "t 11"): 3.7113557,
    ("L3 chain", "t 12"): -1.1721799,
    ("L3 chain", "t 13"): -0.83921099,
    ("L3 chain", "t 21"): -2.3443597,
    ("L3 chain", "t 22"): 11.610142,
    ("L3 chain", "t 23"): -4.5637185,
    ("L3 chain", "a2"): 2.3010899,
    ("half y1/2", "K2 11"): 0.60967962,
    ("half y1/2", "K2 12"): 0.51318501,
    ("half y1/2", "K2 22"): 0.60887651,
    ("half y1/2", "K2 23"): 0.50978973,
    ("half y1/2", "t 11"): 0.69837878,
    ("half y1/2", "P 101"): 0.22724161,
    ("half y1/2", "P 100"): 0.0061512448,
    ("half y0", "K1 11"): 0.28696143,
    ("half 99", "kappa"): 0.6403557,
    ("half 396", "t^ 12"): -3.6717832,
    ("half tau 0.1", "Phi"): -62.745073,
    ("third 800", "a 10 1"): 2.5665262,  # 2.566 there
    ("third", "K2 12"): 0.19345412,
    ("third", "h 10 1"): 0.96583833,  # of those with the word 10 by both fields; .96586 by Sobol points, errors 8e-5
    ("third", "kurtosis1"): 2.0138609,  # 2.02 where the noise of class means is taken to be Gaussian
    # kernels of layer 1 agree with plain grids to 1e-11 there, those of layer 2, its forces and h to 2e-9
    ("L2 1600", "kappa1"): 0.018672798,
    ("L2 1600", "sdh"): 0.069582509,
    ("L2 6400", "kappa1"): 0.010278306,
    ("L2 6400", "h 10 1"): 2.5639151,
    ("L2 6400", "sdh"): 0.047303652,
    ("L3 100", "kurtosis1"): 1.670202,
    ("L2 y0", "a2"): 2.1208793,
    ("L2 y-1/2", "K1 22"): 0.31566241,
    ("L2 y-1/2", "K1 23"): 0.21052021,
    ("L2 y-1/2", "d1 2"): 0.049242896,
    # Equations hold to 1.5e-4 by Sobol points at these shares, which are averages of a chain in hundredths.
    ("L2 chain", "K1 22"): 0.31420572,
    ("L2 chain", "t 11"): 3.5594779,
    ("L2 chain", "t 12"): -0.99696266,
    ("L2 chain", "t 13"): -1.0280719,
    ("L2 chain", "t 22"): 12.194882,
    ("L2 chain", "a2"): 2.4724469,
    ("L3 wider chain", "K1 22"): 0.27594554,
    ("L3 wider chain", "K1 23"): 0.23482806,
    ("L3 wider chain", "d2 2"): 0.0068730117,
}


# What integrations that share nothing with the solver find for numbers of `DIFFERENT`, given the order parameters
# around them, and their errors. First layers of three classes: a grid along the axes of k~ (two spacings and the edges
# of the grid say the error). Second ones: scrambled Sobol points (`deep_oracles.layer_means`, 8 x 2^14), with their
# standard errors. Two classes are integrated anew by the test below; "third" and the kurtosis of "L3 100" in
# `test_deep_independent.py`. Everything else is the solver's own value: t and <a^2> of given shares (equations hold by
# Sobol points to what is said there), shares of "half y1/2", d of the second layer, "half 99" and "half 396".
RECOMPUTED = {
    ("half y0", "K1 11"): (0.2869614299, 2e-9),
    # a grid of (a, h_1, h_2), cells cut where a mean activation passes the midpoint
    ("third 800", "a 10 1"): (2.566526016, 1e-7),
    ("L2 y-1/2", "K1 22"): (0.3156624100, 2e-9),
    ("L2 y-1/2", "K1 23"): (0.2105202115, 2e-9),
    ("L2 y-1/2", "d1 2"): (0.0492428948, 2e-9),
    ("L2 chain", "K1 22"): (0.314205714, 1e-8),
    ("L3 wider chain", "K1 22"): (0.2759449, 1e-6),
    ("L3 wider chain", "K1 23"): (0.2348273, 1e-6),
    ("half y1/2", "K2 11"): (0.609660, 2e-4),
    ("half y1/2", "K2 12"): (0.513042, 2e-4),
    ("half y1/2", "K2 22"): (0.608809, 2e-4),
    ("half y1/2", "K2 23"): (0.509937, 1e-4),
    ("L3 y-1/2", "K2 11"): (0.400881, 6e-4),
    # from last kernels of 8 x 2^16 Sobol points
    ("half y1/2", "t 11"): (0.698289, 1.7e-4),
    ("L3 y-1/2 warmer", "t 11"): (5.044913, 4.2e-4),
}


def field_mean(post, pattern):
    """<h> (C,) of a code of the last layer: K n <g_h>, from <z> = <h> + d <g_h>."""
    s, n = post.solution, post.task.n_samples * np.asarray(post.task.fractions)
    z = np.linspace(-8.0, 8.0, 2001)
    mean = [np.trapezoid(z * post.preactivation_density(pattern, c, z), z) for c in range(len(n))]
    return s.kernel[-2] @ (n * np.linalg.solve(s.kernel[-2] * n + np.diag(s.d[-2]), mean))


def field_square(post):
    """<h h^T> over all neurons of the last layer: K + K <d^2 w / dh dh> K."""
    s, n = post.solution, post.task.n_samples * np.asarray(post.task.fractions)
    forces = n[:, None] * n * s.tilde[-1] + np.diag(n * s.delta[-1])
    return s.kernel[-2] + s.kernel[-2] @ forces @ s.kernel[-2]


def of_layer(post, kind, layer, place):
    """K, d, k~, delta; kappa = (K_11 - K_12) / 2, kappa^ the same in units of its limit; on, off, kurtosis."""
    s = post.solution
    if kind in ("on", "off"):
        return float(np.mean(post.separation(layer)[kind]))
    if kind == "kurtosis":
        return post.separation(layer)["kurtosis"][0, 1]
    if kind.startswith("kappa"):
        kernel = s.kernel[layer - 1]
        grows = post.task.n_samples ** (1 - layer / post.network.depth) if kind.endswith("^") else 1.0
        return 0.5 * (kernel[0, 0] - kernel[0, 1]) * grows
    return {"K": s.kernel, "d": s.d, "k~": s.tilde, "delta": s.delta}[kind][(layer - 1, *place)]


def quantity(post, name):
    """A number of a posterior, by a name of `ROWS`."""
    s, kind, *at = post.solution, *name.split()
    samples = post.task.n_samples
    if kind in ("P", "a", "sd", "phi", "h"):
        (code,) = (code for code in post.codes if code.pattern == at[0])
        if kind == "P":
            return code.weight
        values = {"a": code.readout, "sd": np.sqrt(np.diag(code.covariance)), "phi": code.activation}
        return (field_mean(post, at[0]) if kind == "h" else values[kind])[int(at[1]) - 1]
    place = tuple(int(i) - 1 for i in at[0]) if at else ()
    if kind in ("t", "t^"):
        return s.t[place] * (samples ** (1 - 1 / post.network.depth) if kind == "t^" else 1.0)
    if kind[-1].isdigit() and kind != "a2":
        return of_layer(post, kind[:-1], int(kind[-1]), place)
    kernel = s.kernel[0]
    if kind == "sdh":
        return math.sqrt(field_square(post)[0, 0] - field_mean(post, "10")[0] ** 2)
    if kind == "nkd":
        return samples * post.task.fractions[0] * (s.tilde[0][0, 0] - s.tilde[0][0, 1]) * s.d[0][0]
    return {
        "a2": np.trace(s.second_readout) / post.task.n_outputs, "Phi": post.free_energy, "Phi/P": post.objective,
        "kappa": math.sqrt(samples) * (kernel[0, 0] - kernel[0, 1]),
    }[kind]  # fmt: skip


def reach(text, stated, n_classes):
    """Of a printed number: half a unit of its last digit, and what is stated, or 1e-4 (two classes: 1e-6) of it."""
    digits = len(text.partition(".")[2])
    own = abs(float(text)) * (1e-6 if n_classes == 2 else 1e-4)
    if isinstance(stated, Relative):
        stated = float(stated) * abs(float(text))
    return 0.501 * 10.0**-digits + (own if stated is None else stated)


@pytest.mark.parametrize("case", CASES)
def test_reference_numbers(case):
    network, task, tau, fractions = CASES[case]
    post = solve_deep(network, task, tau, fractions=fractions, second=False, competitors=False)
    assert post.status == "optimal"
    for source, at, names, values, stated in ROWS:
        if at != case:
            continue
        for name, text in zip(names.split(", "), values.split(), strict=True):
            got, away = quantity(post, name), reach(text, stated, task.n_classes)
            own = DIFFERENT.get((case, name))
            close = abs(got - float(text)) <= away
            assert close == (own is None), f"{source}: {name} = {got:.7g}, there {text}, reach {away:.1e}"
            assert own is None or got == pytest.approx(own, rel=3e-6), f"{source}: {name} = {got:.8g}"


@pytest.mark.parametrize("case", ["half tau 0.1", "L2 1600", "L2 6400"])
def test_numbers_found_here_on_plain_grids(case):
    """Numbers of two layers and two classes that differ from the source: all equations hold on plain grids.

    Other spacings change what the grids say by 1e-10; `quantity` has the deviation of h from a density, 3e-6 off.
    """
    network, task, tau, _ = CASES[case]
    post = solve_deep(network, task, tau, rtol=1e-8, second=False, competitors=False)
    own, violation = two_layers(post)
    assert violation < 1e-7
    assert own["Phi"] == pytest.approx(post.free_energy, rel=1e-9)
    names = {name for at, name in DIFFERENT if at == case}
    assert names <= own.keys()
    for name in names:
        assert DIFFERENT[case, name] == pytest.approx(own[name], rel=4e-6)


def test_rows_have_cases():
    named = {(row[1], name) for row in ROWS for name in row[2].split(", ")}
    assert set(DIFFERENT) <= named
    for key, (own, error) in RECOMPUTED.items():
        assert abs(DIFFERENT[key] - own) < 3.0 * error + 5e-9, key  # eight digits are written out there
    assert {row[1] for row in ROWS} == set(CASES)
