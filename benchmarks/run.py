"""Runs the benchmarks and writes benchmarks/PAGE.md with its pictures: ``python benchmarks/run.py [--only NAME ...]``.

The page is machine-written, with date, machine and versions at every part; `--only` replaces parts and leaves the
others as they are. benchmarks/RESULTS.md is what was found out with single measurements, by hand. `--quick` takes
small planes and sweeps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

import meanfield
from meanfield.plot import PALETTE

FOLDER = Path(__file__).parent
# Name -> what is measured.
PARTS = {
    "solve": "class tasks: against a generic formulation, and by classes, outputs and samples",
    "first": "the first solve on an empty cache",
    "deep": "deep networks: by depth",
    "finite": "finite numbers of samples",
    "general": "tasks on images: by N_0, P and particles",
    "against": "class tasks: against sampling the network",
    "sampling": "sampled networks: gradients and effective samples",
    "geometry": "manifold capacity: against an interior-point method, and by size",
    "planes": "boundaries of planes, against their raster",
    "parallel": "sweeps in one and two processes",
}

# Those that print a text of their own, with arguments and those of --quick; others are suites of pytest-benchmark.
SCRIPTS: dict[str, tuple[str, list[str], list[str]]] = {
    "first": ("first_solve", ["--table", "0"], ["--table", "0"]),
    "deep": ("bench_deep", [], []),
    "finite": ("bench_finite", ["--diagram", "100"], ["--diagram", "16"]),
    "general": ("bench_general", ["--large"], []),
    "against": ("bench_against_sampling", [], ["--draws", "50"]),
}
TITLE = "# Benchmarks\n\nMachine-written by `python benchmarks/run.py`; findings by hand are in RESULTS.md.\n"


def stamp() -> str:
    """Date, machine, its load and versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    versions = [f"meanfield {meanfield.__version__}"]
    for package in ("numpy", "scipy", "sympy", "numba", "joblib", "distributed"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return (
        f"{time.strftime('%Y-%m-%d')}, {platform.system()} on {model}, {os.cpu_count()} processors, load {load} at the "
        f"start; Python {platform.python_version()}, {', '.join(versions)}."
    )


def kept(page: Path) -> dict[str, str]:
    """The parts of a page that is there already, by name."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    pieces = re.split(r"^(?=## \w+: )", text, flags=re.MULTILINE)[1:]
    return {piece[3 : piece.index(":")]: piece.rstrip() + "\n" for piece in pieces}


def script(name: str, quick: bool) -> str:
    """What a script prints."""
    file, *arguments = SCRIPTS[name]
    command = [sys.executable, str(FOLDER / f"{file}.py"), *arguments[quick]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    failed = f"Ended with status {done.returncode}:\n\n```\n{done.stderr[-800:]}\n```\n\n" if done.returncode else ""
    return f"{failed}```\n{done.stdout.rstrip()}\n```\n"


def suite(name: str, pictures: Path) -> str:
    """Table and picture of one file of pytest-benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [sys.executable, "-m", "pytest", str(FOLDER / f"bench_{name}.py"), "-q", "-p", "no:cacheprovider"]
        done = subprocess.run([*command, f"--benchmark-json={found}"], capture_output=True, text=True, check=False)
        if not found.exists() or not found.stat().st_size:
            return f"Did not run:\n\n```\n{done.stdout[-800:]}\n```\n"
        rows = json.loads(found.read_text(encoding="utf-8"))["benchmarks"]
    if not rows:
        return f"Nothing was measured:\n\n```\n{done.stdout[-800:]}\n```\n"
    names = [row["name"].removeprefix("test_").replace("_", " ").replace("[", ": ").rstrip("]") for row in rows]
    best = [row["stats"]["min"] for row in rows]
    figure, ax = plt.subplots(figsize=(6.0, 0.5 + 0.28 * len(rows)), layout="constrained")
    ax.barh(names[::-1], best[::-1], color=PALETTE[0])
    ax.set(xscale="log", xlabel="time (best of all rounds) / s")
    ax.margins(y=0.01)
    ax.spines[["top", "right"]].set_visible(False)
    picture = pictures / f"{name}.png"
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    cells = [
        {
            "what": label, "best / s": f"{row['stats']['min']:.3g}", "median / s": f"{row['stats']['median']:.3g}",
            "rounds": row["stats"]["rounds"],
            "also": ", ".join(f"{key} {shown(value)}" for key, value in row["extra_info"].items()),
        }
        for label, row in zip(names, rows, strict=True)
    ]  # fmt: skip
    return f"{table(cells)}\n![{name}](page/{picture.name})\n"


def shown(value: object) -> str:
    """A number in four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: list[dict[str, Any]]) -> str:
    """A table in Markdown."""
    if not rows:
        return "Nothing was measured.\n"
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    return "\n".join([*lines, *("| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows)]) + "\n"


def part(name: str, quick: bool, pictures: Path) -> str:
    """The text of one part."""
    sys.path.insert(0, str(FOLDER))
    if name == "planes":
        import planes

        from meanfield.figures.planes import PLANES

        return table([planes.check(key, 24 if quick else 200) for key in PLANES])
    if name == "parallel":
        import parallel

        return table(parallel.measure(600 if quick else 5000))
    if name in SCRIPTS:
        return script(name, quick)
    return suite(name, pictures)


def main() -> None:
    """Writes the page after every part, so that nothing is lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small planes and sweeps")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of PAGE.md; default: benchmarks")
    options = parser.parse_args()
    pictures = options.output / "page"
    pictures.mkdir(parents=True, exist_ok=True)
    page = options.output / "PAGE.md"
    parts = kept(page)
    for name in options.only or PARTS:
        begin, when = time.monotonic(), stamp()
        parts[name] = f"## {name}: {PARTS[name]}\n\n{when}\n\n{part(name, options.quick, pictures)}"
        page.write_text("\n".join([TITLE, *(parts[key] for key in PARTS if key in parts)]), encoding="utf-8")
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
