"""`meanfield figures`: the paper's figures, from theory and from sampled networks."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from meanfield.cli.commands import Commands
from meanfield.cli.inputs import activation_named, folder_for

__all__ = ["add_arguments"]

_KEPT = "chains"  # folder beside the figures, of a full run


def add_arguments(commands: Commands) -> None:
    """The command and its options."""
    from meanfield.figures.gallery import FIGURES, FULL_SECONDS

    listed = "\n".join(f"  {name:<9} {what}" for name, (_, what) in FIGURES.items())
    total = sum(FULL_SECONDS.values()) / 60
    parser = commands.add_parser(
        "figures", help="the figures of the paper, theory beside sampled networks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Draw the figures of van Meegen & Sompolinsky (2025), pdf and png, with a report of what agrees.\n"
        f"Small networks take about a minute each; --full takes the paper's N and P, and about {total:.0f} minutes of\n"
        "a processor. It keeps its chains in the output folder: the same command goes on from where it was stopped.\n\n"
        f"{listed}",
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the figures")
    parser.add_argument("--full", action="store_true", help="the paper's N and P; goes on from a run that was stopped")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with MNIST, CIFAR-10; else digits of scikit-learn")
    parser.add_argument(
        "--activation", metavar="NAME", help="of fig5 (--only fig5): a built-in one or a formula in z; default: sigmoid"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is sampled; default: 0")
    parser.add_argument("--output", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from meanfield.figures.gallery import Scale, chosen, draw
    from meanfield.plot import save_figure

    names = chosen(options.only, options.activation)
    activation = None if options.activation is None else activation_named(options.activation)
    if options.seed < 0:
        raise ValueError(f"--seed must be at least 0, got {options.seed}.")
    if options.data is not None and not options.data.is_dir():
        raise ValueError(f"--data {options.data} is no folder; give that of the files of MNIST, or leave it out.")
    folder = folder_for(options.output)
    kept = folder / _KEPT if options.full else None
    for k, name in enumerate(names):
        if options.full:
            _say(f"{name}: {_left(names[k:])}")
        begin, work = time.monotonic(), time.process_time()
        told = _say if options.full else None
        scale = Scale(options.full, options.seed, options.data, kept, told, activation)
        try:
            drawing = draw(name, scale)
        except KeyboardInterrupt:
            if kept is not None:
                _say(f"stopped in {name}; the same command goes on from the chains in {kept}")
            raise
        report = drawing.report()
        print(f"{report}\n  {time.monotonic() - begin:.0f} s, {time.process_time() - work:.0f} s CPU", flush=True)
        for path in save_figure(drawing.figure, folder / name):
            print(f"  {path}")
        _keep_report(folder / "figures.txt", name, report)


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _left(names: Sequence[str]) -> str:
    """How long these figures take at full size."""
    from meanfield.figures.gallery import FULL_SECONDS

    own, rest = FULL_SECONDS[names[0]] / 60, sum(FULL_SECONDS[name] for name in names[1:]) / 60
    return f"up to {own:.0f} min of a processor, then {rest:.0f} min for {len(names) - 1} more"


def _keep_report(path: Path, name: str, report: str) -> None:
    """Put a report in its place among those of other figures."""
    from meanfield.figures.gallery import FIGURES

    known = path.read_text(encoding="utf-8").strip().split("\n\n") if path.exists() else []
    reports = {one.partition(":")[0]: one for one in known} | {name: report}
    path.write_text("\n\n".join(reports[key] for key in FIGURES if key in reports) + "\n", encoding="utf-8")
