"""Deep networks at their own width: the theory with its term of order 1/N against sampled networks, not extrapolated.

    python benchmarks/finite_width.py FOLDER [case ...]

Cases and chains are those of deep_samples.py, which are kept in FOLDER and made where they are missing. "limit":
against N = infinity; "order 1/N": kernels and residuals with `Posterior.one_loop`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from deep_samples import CASES, sampled, theory

import meanfield as mf

DEFAULT = ("L2-C2-half", "L3-C2-third", "L2-C3-half")
GROUPS = ("kernel", "residual")


def rms(comparison):
    return (sum(row.z**2 for row in comparison.tested) / len(comparison.tested)) ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", default=list(DEFAULT))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name in given.cases:
        for width in CASES[name][3]:
            post, chains = theory(name, given.folder), sampled(name, width, given.folder)
            fractions = "sampled" if CASES[name][4] is not None else "equilibrium"
            limit = mf.compare(post, chains, fractions=fractions, statistics=GROUPS)
            begun = time.process_time()
            own = mf.compare(post, chains, fractions=fractions, one_loop=True)
            spent = time.process_time() - begun
            print(f"{name}, N = {width}\n{own.table()}\n", flush=True)
            lines.append(
                f"| {name} | {width} | {len(own.tested)} | {limit.max_z:.1f}, {rms(limit):.1f} | {own.max_z:.1f}, "
                f"{rms(own):.1f} | {spent:.1f} |"
            )
    print("| case | N | statistics | limit: max, rms z | order 1/N: max, rms z | cpu s |")
    print("|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
