"""Deep theory: tables of reference numbers that were computed by other means (importance sampling, prototypes).

Every row has its source, the quantity, the value as printed there and the accuracy that is stated there: for three
classes what frozen Sobol points reproduce. Numbers that differ by more are listed with the value found here.
"""

import math

import numpy as np
import pytest

import meanfield as mf
from meanfield.theories.deep.solve import solve_deep

ONE_HOT = mf.class_task(n_classes=3, n_samples=99)
BINARY = mf.class_task(targets=[1, -1], n_samples=100)
POSTER = {"100": 0.27, "010": 0.135, "001": 0.14, "110": 0.15, "101": 0.16, "011": 0.145}
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
    **{f"half tau {tau}": (sigmoid(2, 0.5), BINARY, tau, None) for tau in (0.1, 0.2, 0.3, 0.5, 0.8)},
}

EQUILIBRIUM = "three classes 1/2 1/4 1/4, exponent 1, equilibrium, mixtures of Student-t"
FROZEN = "three classes 1/2 1/4 1/4, exponent 1, given shares"
HALF = "exponent 1/2, adaptive importance sampling"
MANY = "three equal classes, exponent 1/2, many samples: in units of the limit"

# What point sets and their sizes reproduce: K_1, the common part of K_2 at L = 3, shares of codes that tie (1 %).
COMMON, SOFT, TIED = 4e-4, 2e-3, 2e-3

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
    ("half y1/2", "P 111"): 0.30695928,
    ("half y1/2", "P 011"): 0.22694178,
    ("half y1/2", "P 101"): 0.22797758,
    ("half y1/2", "P 100"): 0.005541009,
    ("half y0", "K1 11"): 0.28696143,
    ("half 99", "kappa"): 0.6403557,
    ("half 396", "t^ 12"): -3.6717832,
    ("half tau 0.1", "Phi"): -62.745073,
}


def quantity(post, name):
    """A number of a posterior, by a name of `ROWS`."""
    s, kind, *at = post.solution, *name.split()
    root = math.sqrt(post.task.n_samples)
    if kind in ("a2", "Phi", "kappa"):
        kernel = s.kernel[0]
        values = {"a2": np.trace(s.second_readout) / post.task.n_outputs, "Phi": post.free_energy}
        return values.get(kind, root * (kernel[0, 0] - kernel[0, 1]))
    if kind in ("P", "a"):
        (code,) = (code for code in post.codes if code.pattern == at[0])
        return code.weight if kind == "P" else code.readout[int(at[1]) - 1]
    place = tuple(int(i) - 1 for i in at[0])
    if kind in ("t", "t^"):
        return s.t[place] * (root if kind == "t^" else 1.0)
    return (s.kernel if kind[0] == "K" else s.d)[(int(kind[1]) - 1, *place)]


def reach(text, stated, n_classes):
    """Of a printed number: half a unit of its last digit, and what is stated, or 1e-4 (two classes: 1e-6) of it."""
    digits = len(text.partition(".")[2])
    own = abs(float(text)) * (1e-6 if n_classes == 2 else 1e-4)
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


def test_rows_have_cases():
    named = {(row[1], name) for row in ROWS for name in row[2].split(", ")}
    assert set(DIFFERENT) <= named
    assert {row[1] for row in ROWS} == set(CASES)
