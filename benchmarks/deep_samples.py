"""Deep networks: theory against sampled networks of several widths, extrapolated to infinite width.

    python benchmarks/deep_samples.py FOLDER [case ...] [--sample]

Chains are kept in FOLDER and found there again, unfinished ones continued; with --sample nothing is compared.
"annealed": cooled from the prior, nothing of the theory is used, and the theory is taken at the fractions of codes into
which each chain froze; else chains start from neurons drawn from the theory at the fractions given here (None: at
equilibrium). Chains of 400 and more neurons are shorter and never annealed. Rectifiers are compared with the saddle at
their own width, without and with the term of order 1/N, or, where there is none, with N = infinity.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np

import meanfield as mf
from meanfield.sampling.statistics import estimate
from meanfield.sampling.trend import weighted_fit

BINARY = mf.class_task(targets=[1, -1], n_samples=100)
TWO, THREE = mf.Network("sigmoid", 2), mf.Network("sigmoid", 3)
RELU = mf.Network("relu", 2)


def unequal(off):
    """Classes of 50, 25 and 25 samples, one-hot targets."""
    return mf.class_task([0.5, 0.25, 0.25], off=off, n_samples=100)


def four(targets):
    """Classes of 40, 30, 20 and 10 samples."""
    return mf.class_task([0.4, 0.3, 0.2, 0.1], targets=targets, n_samples=100)


ALL_THREE = {"110": 0.265, "101": 0.265, "011": 0.265, "111": 0.205}
SINGLES = {"100": 0.24, "010": 0.14, "001": 0.14, "110": 0.16, "101": 0.16, "011": 0.16}
PAIRS = {"110": 0.33, "101": 0.33, "011": 0.28, "100": 0.06}
THREE_CODES = {"0110": 0.411, "1100": 0.339, "1001": 0.25}  # as at equilibrium
# name: network, task, tau, widths, start
CASES = {
    "L2-C2": (TWO, BINARY, 0.01, (100, 200, 400), "annealed"),
    "L2-C3-y0": (TWO, unequal(0.0), 0.005, (100, 200), PAIRS),
    "L2-C3-y0.5": (TWO, unequal(0.5), 0.005, (100, 200), ALL_THREE),
    "L2-C3-y-0.5": (TWO, unequal(-0.5), 0.005, (100, 200), SINGLES),
    "L3-C2": (THREE, BINARY, 0.01, (100, 200), {"10": 0.54, "01": 0.46}),
    "L2-C2-half": (TWO.with_(readout_exponent=1 / 2), BINARY, 0.05, (100, 200), None),
    "L3-C2-third": (THREE.with_(readout_exponent=1 / 3), BINARY, 0.05, (100, 200), None),
    "L3-C3-y0": (THREE, unequal(0.0), 0.005, (100, 200), PAIRS),
    "L3-C3-y0.5": (THREE, unequal(0.5), 0.005, (100, 200), ALL_THREE),
    "L3-C3-y-0.5": (THREE, unequal(-0.5), 0.005, (100, 200), SINGLES),
    "L2-C3-half": (
        TWO.with_(readout_exponent=1 / 2), mf.class_task(n_classes=3, n_samples=99), 0.05, (100, 200), None,
    ),
    "L2-C3-y0.5-half": (TWO.with_(readout_exponent=1 / 2), unequal(0.5), 0.05, (100, 200), None),
    "L3-C3-third": (THREE.with_(readout_exponent=1 / 3), unequal(0.0), 0.05, (100, 200), None),
    "L2-C4-m2": (TWO, four([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.3], [0.2, -0.8]]), 0.1, (100, 200), THREE_CODES),
    "relu-L2-C2": (RELU, BINARY, 0.05, (400,), None),
    "relu-L2-wide": (RELU.with_(layer_sigmas=(0.8,), width_ratios=(2.0,)), BINARY, 0.05, (200,), None),
    "relu-L2-m2": (RELU, mf.class_task(targets=[[1.0, 0.2], [-1.0, 0.3]], n_samples=120), 0.05, (200, 400, 800), None),
    "relu-L3-C2": (mf.Network("relu", 3), BINARY, 0.05, (100, 200, 400), None),
    "relu-L3-bulk": (
        mf.Network("relu", 3), mf.class_task(targets=[1.0, 0.5], n_samples=100), 0.1, (200, 400), None,
    ),
    "relu-L2-C3-m1": (RELU, mf.class_task(targets=[1.0, 0.3, -1.0], n_samples=120), 0.05, (200, 400), None),
    "leaky-L2-C2": (mf.Network(mf.activation("leaky_relu", slope=0.3), 2), BINARY, 0.05, (100, 200), "annealed"),
    "gelu-L2-C2": (mf.Network("gelu", 2), BINARY, 0.05, (100, 200), "annealed"),
    "relu-L2-C3": (RELU, mf.class_task(n_classes=3, n_samples=120), 0.05, (100, 200, 400), None),
}  # fmt: skip
AT_INFINITY = ("relu-L3-C2", "relu-L2-C3")  # rectifiers whose saddle at finite width ends above N = 1e4
KINKED = {"warmup": 150, "thin": 1, "length": 0.8, "target_acceptance": 0.8}
KINKED_CHAINS = {  # chains and draws by depth and N
    2: {100: (4, 1000), 200: (4, 800), 400: (2, 400), 800: (2, 400)},
    3: {100: (4, 500), 200: (4, 400), 400: (2, 250)},
}
STANDS_OUT = 1.75  # class means of a first-layer neuron that differ by more: between the tail of the bulk and outliers
WIDE = {"draws": 120, "thin": 3}  # at N >= 400
OPTIONS = {"draws": 250, "thin": 4, "chains": 2, "target_acceptance": 0.85}
WARMUP = {True: 1000, False: 300}  # of annealed and of planted chains


def theory(name, folder, width=None):
    """The theory of a case: at the fractions of its planted chains, or at equilibrium; of rectifiers at its width."""
    network, task, tau, _, start = CASES[name]
    rectifier = network.activation.name == "relu"
    path = folder / (f"{name}-saddle{width}.npz" if rectifier and name not in AT_INFINITY else f"{name}.npz")
    if path.exists():
        return mf.load(path)
    begun = time.time()
    given = {"width": width} if rectifier else {"fractions": start if isinstance(start, dict) else None}
    given = {} if name in AT_INFINITY else given
    post = mf.solve(network, task, tau, progress=False, **given)
    print(f"{name}: {time.time() - begun:.0f} s, {post}", flush=True)
    post.save(path)
    return post


def sampled(name, width, folder):
    """Chains of a case at a width, from the folder if they are there."""
    network, task, tau, _, start = CASES[name]
    path = folder / f"{name}-N{width}.npz"
    if path.exists():
        return mf.load(path)
    begun = time.time()
    annealed = start == "annealed" and width < 400
    origin = start if annealed else theory(name, folder, width)
    options = OPTIONS | {"warmup": WARMUP[annealed], "start": origin, "rng": width, "progress": False}
    if network.activation.name == "relu":
        options |= KINKED | dict(zip(("chains", "draws"), KINKED_CHAINS[network.depth][width]))
    elif width >= 400:
        options |= WIDE
    options["checkpoint"] = folder / "checkpoints"
    chains = mf.sample(network, task, width, tau, **options)
    chains.save(path)
    print(f"{name}, N = {width}: {time.time() - begun:.0f} s, {chains}", flush=True)
    return chains


def compared(name, folder):
    """The trend over the widths whose chains are there, and a line of the table."""
    if CASES[name][0].activation.name == "relu" and name not in AT_INFINITY:
        return rectifiers(name, folder)
    post, start = theory(name, folder), CASES[name][4]
    widths = [n for n in CASES[name][3] if (folder / f"{name}-N{n}.npz").exists()]
    if name in AT_INFINITY:
        return None, at_infinity(name, post, {n: sampled(name, n, folder) for n in widths})
    bounded = CASES[name][0].activation.bounded  # others have no codes that freeze
    fractions = "sampled" if start is not None and bounded else "equilibrium"
    comparisons = [mf.compare(post, sampled(name, n, folder), fractions=fractions) for n in widths]
    trend = mf.finite_size_trend(comparisons)
    return trend, line_of(name, trend)


def line_of(name, trend):
    """Of the table: largest and rms z of a trend."""
    single = ", ".join(f"{c.max_z:.1f}" for c in trend.comparisons)
    widths = ", ".join(str(c.width) for c in trend.comparisons)
    rms = (sum(row.z**2 for row in trend.rows) / len(trend.rows)) ** 0.5
    worst = max(trend.rows, key=lambda row: abs(row.z))
    line = f"| {name} | {widths} | {len(trend.rows)} | {single} | {trend.max_z:.1f}, {rms:.1f} |"
    return f"{line} {worst.name} |"


def at_infinity(name, post, chains):
    """Rectifiers against N = infinity: lines in 1/N through neighbouring widths, a parabola through all.

    The table averages over the classes, which are equivalent in these tasks.
    """
    comparisons = [mf.compare(post, one) for one in chains.values()]
    fits = [(pair, 1) for pair in itertools.pairwise(comparisons)]
    fits += [(comparisons, 2)] if len(comparisons) > 2 else []
    lines = []
    for given, order in fits:
        trend = mf.finite_size_trend(given, order=order)
        print(f"{name}, order {order}\n{trend.table()}")
        lines.append(f"{line_of(name, trend)} order {order} |")
    for n, one in chains.items():
        counts = np.round(standing_out(one), 2).tolist()
        print(f"N = {n}: neurons of layer 1 that condensed, by chain and the class they are on: {counts}")
    found = {n: class_averages(one) for n, one in chains.items()}
    print("| | theory | " + " | ".join(f"N = {n}" for n in found) + " | " + " | ".join(map(fit_name, fits)) + " |")
    for key, wanted in class_averages(post).items():
        cells = [f"{found[n][key].value:.4f}({found[n][key].standard_error:.4f})" for n in found]
        for given, order in fits:
            limit, error = extrapolated({c.width: found[c.width][key] for c in given}, order)
            cells.append(f"{limit:.4f}({error:.4f}), {(limit - wanted) / error:+.1f}")
        print(f"| {key} | {wanted:.5f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def standing_out(chains):
    """(chains, C) mean number of first-layer neurons on one class beyond all others by `STANDS_OUT`."""
    means = chains.lower_activation[:, :, 0]  # (chains, draws, N, C)
    others = [np.delete(means, c, axis=3).max(axis=3) for c in range(means.shape[3])]
    beyond = [means[..., c] - other > STANDS_OUT for c, other in enumerate(others)]
    return np.moveaxis(np.array(beyond), 0, -1).sum(axis=2).mean(axis=1)


def fit_name(fit):
    given, order = fit
    return f"order {order} from {', '.join(str(c.width) for c in given)}, z"


def class_averages(of):
    """Kernels, outputs and readouts averaged over classes (and outputs): of a posterior, or estimates of chains."""
    task = of.task
    n_classes, m = task.targets.shape
    off = ~np.eye(n_classes, dtype=bool)
    own = np.sign(task.targets) if m == 1 else np.where(off, 0.0, 1.0)
    if isinstance(of, mf.Chains):
        blocks, diagonal, readout = of.kernel_between, of.kernel_diagonal, (of.readout**2).mean(axis=(2, 3))
        residual = of.class_residual
        read = estimate
    else:
        blocks = np.array([of.kernel(layer).block for layer in range(1, of.network.depth + 1)])[None, None]
        diagonal = np.array([of.kernel(layer).block_diagonal for layer in range(1, of.network.depth + 1)])[None, None]
        second = of.readout_covariance + np.outer(of.bulk.readout, of.bulk.readout)
        readout, residual = np.array([[np.trace(second) / m]]), np.asarray(of.residual)[None, None]

        def read(series):
            return float(series.ravel()[0])

    found = {}
    for i in range(of.network.depth):
        within = np.diagonal(blocks[:, :, i], axis1=2, axis2=3).mean(axis=2)
        found[f"K_{i + 1} within"] = read(within)
        found[f"K_{i + 1} between"] = read(blocks[:, :, i][:, :, off].mean(axis=2))
        found[f"d_{i + 1}"] = read(diagonal[:, :, i].mean(axis=2) - within)
    found["t on the own output"] = read((residual * own).sum(axis=(2, 3)) / n_classes / of.tau)
    if m > 1:
        found["t on another"] = read(residual[:, :, off].mean(axis=2) / of.tau)
    found["mean a^2 per output"] = read(readout)
    return found


def extrapolated(by_width, order):
    """Intercept of a weighted fit in powers of 1/N, and its error."""
    widths = np.array(list(by_width), dtype=float)
    values, error = np.array([(one.value, one.standard_error) for one in by_width.values()]).T
    fitted, covariance, _ = weighted_fit(widths, values, error, order)
    return float(fitted[0]), float(covariance[0, 0] ** 0.5)


def rectifiers(name, folder):
    """Every width against the saddle at that width, and with the term of order 1/N where there is one."""
    lines, comparison = [], None
    for width in CASES[name][3]:
        post, chains = theory(name, folder, width), sampled(name, width, folder)
        for one_loop in (False, True):
            try:
                comparison = mf.compare(post, chains, one_loop=one_loop)
            except (mf.ConvergenceError, ValueError) as error:  # no term of order 1/N there, or not of three classes
                print(f"{name}, N = {width}: {error}")
                continue
            print(comparison.table())
            kind = "saddle and 1/N" if one_loop else "saddle"
            lines.append(f"| {name} | {width} | {kind} | {len(comparison.tested)} | {comparison.max_z:.1f} |")
    return None, "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--sample", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    runs = [(name, width) for name in given.cases for width in CASES[name][3]]
    for name, width in sorted(runs, key=lambda run: run[1] > 200):
        try:
            sampled(name, width, given.folder)
        except mf.ConvergenceError as error:
            print(f"{name}: {error}", flush=True)
    if given.sample:
        return
    lines = []
    for name in given.cases:
        trend, line = compared(name, given.folder)
        lines.append(line)
        if trend is None:
            continue
        print(f"{name}\n{trend.table()}")
        for comparison in trend.comparisons:
            print("\n".join(f"N = {comparison.width}: {note}" for note in comparison.notes))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
