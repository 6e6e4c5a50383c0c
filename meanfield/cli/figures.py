"""`meanfield figures`: the paper's figures, from theory and from sampled networks."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from meanfield.cli.commands import Commands
from meanfield.cli.inputs import folder_for

__all__ = ["add_arguments"]


def add_arguments(commands: Commands) -> None:
    """The command and its options."""
    from meanfield.figures.gallery import FIGURES

    listed = "\n".join(f"  {name:<9} {what}" for name, (_, what) in FIGURES.items())
    parser = commands.add_parser(
        "figures", help="the figures of the paper, theory beside sampled networks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Draw the figures of van Meegen & Sompolinsky (2025), pdf and png, with a report of what agrees.\n"
        f"Small networks take about a minute each; --full takes the paper's N and P, and hours.\n\n{listed}",
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the figures")
    parser.add_argument("--full", action="store_true", help="the paper's N and P")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with MNIST, CIFAR-10; else digits of scikit-learn")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is sampled; default: 0")
    parser.add_argument("--output", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from meanfield.figures.gallery import Scale, chosen, draw
    from meanfield.plot import save_figure

    names = chosen(options.only)
    if options.seed < 0:
        raise ValueError(f"--seed must be at least 0, got {options.seed}.")
    folder = folder_for(options.output)
    reports = []
    for name in names:
        begin = time.monotonic()
        drawing = draw(name, Scale(full=options.full, seed=options.seed, data=options.data))
        reports.append(drawing.report())
        print(f"{reports[-1]}\n  {time.monotonic() - begin:.0f} s", flush=True)
        for path in save_figure(drawing.figure, folder / name):
            print(f"  {path}")
        (folder / "figures.txt").write_text("\n\n".join(reports) + "\n", encoding="utf-8")
