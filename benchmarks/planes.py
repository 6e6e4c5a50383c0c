"""Planes of two control parameters: CPU seconds of their curves, and curves and raster held against each other.

``python benchmarks/planes.py [--points 200] [name ...]``; names are those of `meanfield.figures.planes.PLANES`.
For sharp boundaries every change of the raster should be crossed by a curve, and every point of a curve should lie in a
block of three by three cells of the raster with more than one phase.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from meanfield.figures.planes import PLANES, plane
from meanfield.phases.boundaries import _crossings, _edges, _sorted_phase


def check(name: str, points: int) -> dict[str, object]:
    """Times and disagreements of one plane."""
    begin = time.process_time()
    diagram = plane(name, points)
    swept = time.process_time()
    found = diagram.boundaries()
    traced = time.process_time()
    phase = _sorted_phase(diagram)
    edges = list(_edges(phase))
    ends = np.array([edge[:2] for edge in edges], dtype=float).reshape(-1, 2, 2)
    crossed, lonely, count = np.zeros(len(edges), dtype=bool), 0, 0
    for curve in found:
        places = curve.fine()
        axes = [np.sort(axis) for axis in diagram.axes.values()]
        line = np.stack([np.interp(places[:, k], a, np.arange(float(len(a)))) for k, a in enumerate(axes)], 1)
        crossed |= _crossings(line, ends)
        for i, j in np.floor(line).astype(int):
            block = phase[max(i - 1, 0) : i + 3, max(j - 1, 0) : j + 3]
            lonely += len(np.unique(block)) < 2
            count += 1
    return {
        "plane": name, "raster": "x".join(map(str, diagram.shape)),
        "certified": f"{int(diagram.certified.sum())}/{diagram.certified.size}",
        "sweep / s CPU": f"{swept - begin:.1f}", "curves / s CPU": f"{traced - swept:.1f}", "curves": len(found),
        "meeting points": len(found.points), "unexplained": len(found.unexplained),
        "changes not crossed": f"{int((~crossed).sum())}/{len(edges)}", "curve without change": f"{lonely}/{count}",
    }  # fmt: skip


def main() -> None:
    """One line per plane."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--points", type=int, default=200, help="of the raster along each axis; default: 200")
    options = parser.parse_args()
    for name in options.names or PLANES:
        print(", ".join(f"{key}: {value}" for key, value in check(name, options.points).items()), flush=True)


if __name__ == "__main__":
    main()
