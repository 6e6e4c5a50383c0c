"""Statistical tests with many seeds in one process, which saves imports and loading compiled code.

    python benchmarks/run_seeds.py margins 1 30 tests/geometry tests/posterior
    python benchmarks/seeds.py margins/*.tsv

Writes margins/<offset>.tsv for every offset from the first to the last that has none yet; says after each whether tests
failed, and the processor time. Do not edit the package meanwhile: tests are read again for every offset, it is not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("tests", nargs="+", help="what pytest takes: files, folders, options")
    options, more = parser.parse_known_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    original = np.random.SeedSequence, np.random.default_rng
    failed = 0
    for offset in range(options.first, options.last + 1):
        path = options.folder.resolve() / f"{offset}.tsv"
        if path.exists():
            continue
        np.random.SeedSequence, np.random.default_rng = original  # those of the offset before, by tests/conftest.py
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(str(ROOT / "tests")):
                del sys.modules[name]
        part = path.with_suffix(".part")
        part.write_text("", encoding="utf-8")
        os.environ |= {"MEANFIELD_TEST_MARGINS": str(part), "MEANFIELD_TEST_SEED_OFFSET": str(offset)}
        start = time.process_time()
        arguments = ["-q", "-p", "no:cacheprovider", "-m", "statistical", "--tb=short", *options.tests, *more]
        code = int(pytest.main(arguments))
        failed += code != 0
        part.rename(path)
        print(f"offset {offset}: exit {code}, {time.process_time() - start:.1f} s of processor time", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
