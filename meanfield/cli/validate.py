"""``meanfield validate``: the theory against sampled networks, on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanfield.cli.commands import Commands
from meanfield.cli.inputs import folder_for

if TYPE_CHECKING:
    from meanfield.cli.report import Case
    from meanfield.posterior.posterior import Posterior

__all__ = ["add_parser", "run"]

# Activation -> y_- of the three coding schemes.
_OFF = {"sigmoid": 0.5, "relu": 0.0, "linear": 0.0}
_FRACTIONS = (0.5, 0.25, 0.25)
_STARTS = ("planted", "annealed")
_FULL: dict[str, Any] = {
    "width": (100, 200, 400),
    "n_samples": (100,),
    "samples": 200,
    "warmup": 300,
    "thin": 4,
    "chains": 4,
    "seed": (0, 1, 2, 3),
    "start": _STARTS,
}
_QUICK = _FULL | {"width": (60, 120), "samples": 150, "warmup": 200, "thin": 2, "seed": (0,), "start": _STARTS[:1]}


def add_parser(subparsers: Commands) -> argparse.ArgumentParser:
    """Add the subcommand `validate` to an argparse subparsers object; the caller sets its `run`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "validate",
        help="sample finite networks and hold the theory against them",
        description="Sample the weight posterior of finite networks on three classes (1/2, 1/4, 1/4), compare the "
        "theory with them in units of the sampling error, and write report.md with figures. Exit status 1 if a "
        "statistic is beyond the limit and its deviation does not vanish like 1/N.",
    )
    parser.add_argument(
        "--activation", nargs="+", choices=tuple(_OFF), default=list(_OFF), metavar="NAME",
        help="some of sigmoid (y_- = 1/2), relu, linear (y_- = 0); default: all",
    )  # fmt: skip
    parser.add_argument(
        "--width",
        nargs="+",
        type=int,
        metavar="N",
        help="widths, two or more to see deviations of order 1/N vanish; default: 100 200 400",
    )
    parser.add_argument(
        "--n-samples", nargs="+", type=int, metavar="P",
        help="training samples, one number or one per width, multiples of 4; default: 100",
    )  # fmt: skip
    parser.add_argument("--tau", type=float, default=0.02, help="N T, the same at every width; default: 0.02")
    parser.add_argument("--samples", type=int, metavar="D", help="posterior samples kept per chain; default: 200")
    parser.add_argument("--warmup", type=int, metavar="W", help="iterations before the first is kept; default: 300")
    parser.add_argument("--thin", type=int, metavar="K", help="keep every K-th iteration; default: 4")
    parser.add_argument("--chains", type=int, metavar="K", help="chains per seed; default: 4")
    parser.add_argument("--seed", nargs="+", type=int, help="default: 0 1 2 3")
    parser.add_argument(
        "--start", nargs="+", choices=_STARTS,
        help="planted: from neurons drawn from the theory; annealed: cooled from the prior; default: both",
    )  # fmt: skip
    parser.add_argument("--limit", type=float, default=5.0, metavar="Z", help="of |z|; default: 5")
    parser.add_argument("--output", type=Path, default=Path("validation"), metavar="FOLDER", help="default: validation")
    parser.add_argument("--quick", action="store_true", help="a minute: two small widths, one seed, planted starts")
    return parser


def run(options: argparse.Namespace, solve: Callable[..., Posterior]) -> int:
    """Carry out the subcommand with the solver of the theory handed in; returns the exit status."""
    import os

    os.environ.setdefault("MPLBACKEND", "Agg")  # pictures go to files: no display is needed
    import numpy as np

    from meanfield.cli.report import Plan, validate, write_report
    from meanfield.problem.class_task import class_task
    from meanfield.problem.network import Network

    usual = _QUICK if options.quick else _FULL
    values = usual | {name: value for name, value in vars(options).items() if name in usual and value is not None}
    for name in ("width", "n_samples", "samples", "warmup", "thin", "chains"):
        if np.min(values[name]) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {np.min(values[name])}")
    if values["samples"] < 8 or min(values["seed"]) < 0:
        raise ValueError(f"--samples must be 8 or more and --seed 0 or more, got {values['samples']}, {values['seed']}")
    widths, n_samples = values["width"], values["n_samples"]
    if len(set(widths)) != len(widths) or len(n_samples) not in (1, len(widths)):
        raise ValueError("--width takes different numbers, and --n-samples one number or as many as --width")
    if any(p < 8 or p % 4 for p in n_samples):
        raise ValueError(
            f"--n-samples must be 8, 12, 16, ... (fractions 1/2, 1/4, 1/4), got {', '.join(map(str, n_samples))}"
        )
    widths, n_samples = zip(*sorted(zip(widths, n_samples * (len(widths) // len(n_samples)), strict=True)), strict=True)
    if not options.limit > 0:
        raise ValueError(f"--limit must be positive, got {options.limit:g}")
    plan = Plan(
        widths=widths,
        n_samples=n_samples,
        tau=options.tau,
        seeds=tuple(values["seed"]),
        chains=values["chains"],
        draws=values["samples"],
        warmup=values["warmup"],
        thin=values["thin"],
    )
    folder = folder_for(options.output)
    cases = []
    for name in options.activation:
        network = Network(name)
        tasks = [class_task(_FRACTIONS, off=_OFF[name], n_samples=p) for p in n_samples]
        posteriors = [solve(network, task, plan.tau) for task in tasks]
        for start in dict.fromkeys(values["start"]):
            cases.append(validate(network, posteriors, start, plan, lambda line: print(line, flush=True)))
    written = write_report(folder, cases, plan, options.limit)
    print("\n" + "\n".join(_verdicts(cases, options.limit)))
    print("\nwrote\n" + "\n".join(f"  {path}" for path in written))
    return int(any(case.failures(options.limit) for case in cases))


def _verdicts(cases: Sequence[Case], limit: float) -> list[str]:
    lines = []
    for case in cases:
        failures = case.failures(limit)
        scores = ", ".join(f"{comparison.max_z:.2f} (N = {comparison.width})" for comparison in case.comparisons)
        more = "" if case.trend is None else f", extrapolated {case.trend.max_z:.2f}"
        verdict = f"{len(failures)} beyond {limit:g}: {', '.join(failures[:3])}" if failures else "agrees"
        lines.append(f"{case.name:<18} max |z| = {scores}{more}: {verdict}")
    return lines
