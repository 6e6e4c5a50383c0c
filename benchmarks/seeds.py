"""Table of how close statistical tests came to their limits, over many seeds.

    for i in $(seq 30); do
        MEANFIELD_TEST_MARGINS=margins-$i.tsv MEANFIELD_TEST_SEED_OFFSET=$i pytest -m statistical
    done
    python benchmarks/seeds.py margins-*.tsv

benchmarks/run_seeds.py does the loop in one process. Every comparison of tests/margins.py is a line: test, statistic,
sign, limit, value. A row of the table is a test (all its parameters together) and a statistic: the number of seeds, the
value that came closest to the limit, and its share of it. For "<" (a right theory) the share has to stay below 1; for
">" (a planted error) above 1, and 2 is what is wanted of its median. The last column is the way from the mean over
seeds to the limit in standard deviations over seeds (of the worst value of each seed): what a limit that is not in
standard errors rests on.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

HEADER = ("test", "statistic", "", "limit", "seeds", "worst", "worst / limit", "median / limit", "sd to limit")


def read(paths: list[Path]) -> dict[tuple[str, str, str], list[tuple[str, float, float]]]:
    """(test, statistic, sign) -> (file, limit, value) of every comparison."""
    found = defaultdict(list)
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            fields = line.split("\t")
            if len(fields) != 5 or fields[2] not in "<>":
                raise ValueError(f"{path}, line {number}: expected test, statistic, sign, limit and value.")
            test, statistic, sign, limit, value = fields
            file, _, name = test.removeprefix("tests/").partition("::")
            found[f"{file}::{name.partition('[')[0]}", statistic, sign].append((path.name, float(limit), float(value)))
    return dict(found)


def share(limit: float, value: float) -> float:
    """value / limit; infinite for NaN, and for anything above a limit of zero."""
    if math.isnan(value) or (limit == 0 and value > 0):
        return math.inf
    return value / limit if limit else 0.0


def rows(paths: list[Path]) -> list[tuple[str, ...]]:
    """Rows of the table, one per test and statistic; the comparison closest to its limit is shown."""
    table = []
    for (test, statistic, sign), entries in sorted(read(paths).items()):
        shares = [share(limit, value) for _, limit, value in entries]
        worst = shares.index((max if sign == "<" else min)(shares))
        _, limit, value = entries[worst]
        per_seed = defaultdict(list)
        for (name, _, _), reached in zip(entries, shares, strict=True):
            per_seed[name].append(reached)
        extremes = [(max if sign == "<" else min)(of_seed) for of_seed in per_seed.values()]
        typical = statistics.median(extremes)
        seeds = len(per_seed)
        finite = seeds > 1 and all(map(math.isfinite, extremes))
        spread = statistics.stdev(extremes) if finite else 0.0
        away = abs(1.0 - statistics.mean(extremes)) / spread if spread else math.inf
        table.append(
            (
                test,
                statistic,
                sign,
                f"{limit:.3g}",
                str(seeds),
                f"{value:.3g}",
                f"{shares[worst]:.2f}",
                f"{typical:.2f}",
                f"{away:.0f}" if finite else "",
            )
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description="Statistical tests against their limits, over many seeds.")
    parser.add_argument("files", nargs="+", type=Path, help="files written by MEANFIELD_TEST_MARGINS, one per seed")
    table = rows(parser.parse_args().files)
    for row in (HEADER, ("---",) * len(HEADER), *table):
        print("| " + " | ".join(row) + " |")
    failed = [row for row in table if (float(row[6]) < 1) != (row[2] == "<")]
    print(f"\n{len(table)} statistics, {len(failed)} beyond their limit.", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
