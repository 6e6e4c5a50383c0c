"""Kill -9 at random moments: whether sweeps that are resumed have the same bits as one that was not disturbed.

    python benchmarks/kills.py --kills 10 --sweeps 4

Every sweep of 48 points (tests/killed_sweeps.py) is killed so many times, with its workers, and then resumed; half of
the sweeps run in a pool of processes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from killed_sweeps import elsewhere, killed_and_resumed, same_bits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--sweeps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        elsewhere(Path(first))  # compiles
        whole = elsewhere(Path(second))
    different = 0
    for number in range(options.sweeps):
        pool = number % 2 == 1
        with tempfile.TemporaryDirectory() as folder:
            again, files = killed_and_resumed(Path(folder), options.kills, pool, options.seed + number)
        equal = same_bits(again, whole)
        different += not equal
        print(
            f"{'pool' if pool else 'serial'}: files at kills {files}, {'same' if equal else 'OTHER'} bits", flush=True
        )
    print(f"{options.sweeps * options.kills} kills, {different} sweeps with other bits")
    return different


if __name__ == "__main__":
    sys.exit(main())
