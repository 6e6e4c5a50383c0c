"""``meanfield geometry FILE.npz``: features and labels in, table and figure out."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from meanfield.cli.commands import Commands

if TYPE_CHECKING:
    import numpy as np

__all__ = ["add_parser", "run"]

FEATURE_KEYS = ("X", "features", "x", "data", "activations", "representations")
LABEL_KEYS = ("y", "labels", "targets", "target")


def add_parser(subparsers: Commands) -> argparse.ArgumentParser:
    """Add the subcommand `geometry` to an argparse subparsers object; its `run` default is `run`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "geometry",
        help="manifold capacity and geometry of labelled features",
        description="Manifold capacity, effective dimension, radius, utility and alignments (GLUE) of labelled "
        "features in an npz file, with optional comparators, figure and result file.",
    )
    parser.add_argument("file", type=Path, help="npz file with features (n, N), rows are points, and labels (n,)")
    parser.add_argument(
        "--features", metavar="KEY", help=f"array of features (default: the first of {', '.join(FEATURE_KEYS)})"
    )
    parser.add_argument(
        "--labels", metavar="KEY", help=f"array of class labels (default: the first of {', '.join(LABEL_KEYS)})"
    )
    parser.add_argument(
        "--dichotomies", choices=("balanced", "random", "one_vs_rest"), default="balanced", help="default: balanced"
    )
    parser.add_argument("--points", type=int, metavar="M", help="points drawn from every class (default: all)")
    parser.add_argument("--probes", type=int, default=200, metavar="T", help="Gaussian probes (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--center", action="store_true", help="subtract the mean of all points first")
    parser.add_argument("--pairwise", action="store_true", help="average over pairs of classes")
    parser.add_argument("--replica", action="store_true", help="also the replica theory of uncorrelated manifolds")
    parser.add_argument("--simulate", action="store_true", help="also the simulated capacity")
    parser.add_argument("--collapse", action="store_true", help="also the measures of neural collapse")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="write a figure (png, pdf, svg)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.npz", help="write the GLUE result, readable by meanfield.geometry.load"
    )
    parser.set_defaults(run=run)
    return parser


def _read(path: Path, features: str | None, labels: str | None) -> tuple[np.ndarray, np.ndarray]:
    from meanfield.archive import read_arrays

    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.is_file() and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no npz file; one with features and labels, as np.savez writes it, is needed")
    arrays = read_arrays(path, what="an npz file of features and labels")
    found = []
    for asked, usual, what in ((features, FEATURE_KEYS, "features"), (labels, LABEL_KEYS, "labels")):
        names = (asked,) if asked else usual
        key = next((name for name in names if name in arrays), None)
        if key is None:
            raise ValueError(
                f"{path} has no array {' or '.join(names)} for the {what}; it holds {', '.join(arrays)}. "
                f"Name it with --{what} KEY"
            )
        found.append(arrays[key])
    return found[0], found[1]


def run(args: argparse.Namespace) -> int:
    """Carry out the subcommand; raises ValueError with a message for the user on bad input."""
    import numpy as np

    import meanfield.geometry as geometry

    X, y = _read(args.file, args.features, args.labels)
    if getattr(X, "ndim", 0) > 2:
        X = X.reshape(len(X), -1)
    manifolds = dict(zip(map(str, np.unique(y)), geometry.group_by_label(X, y, args.points, args.seed)))
    common = {"seed": args.seed, "threads": args.threads}
    result = geometry.glue(
        manifolds,
        labels=args.dichotomies,
        n_probes=args.probes,
        center=args.center,
        pairwise=args.pairwise,
        **common,
    )
    print(result.table())
    if args.replica:
        print("\n" + geometry.replica_capacity(manifolds, n_probes=args.probes, **common).table())
    if args.simulate:
        simulated = geometry.simulated_capacity(
            manifolds, labels=args.dichotomies, n_draws=args.probes, center=args.center, **common
        )
        print("\n" + simulated.table())
    if args.collapse:
        print("\n" + geometry.neural_collapse(manifolds).table())
    if args.output is not None:
        print(f"\nresult written to {result.save(args.output)}")
    if args.figure is not None:
        anchors = geometry.anchor_points(
            manifolds, labels=args.dichotomies, n_probes=args.probes, center=args.center, **common
        )
        axes = geometry.plot_summary(result, anchors, None if args.center else manifolds)
        axes[0].figure.savefig(args.figure, dpi=150)
        print(f"\nfigure written to {args.figure}")
    return 0
