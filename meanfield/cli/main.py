"""The command `meanfield`: solve a task, draw a phase diagram, print the equations. Heavy imports happen late."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import meanfield.cli.data as cli_data
from meanfield.cli.inputs import axis_from, class_task_from, folder_for, given, network_from, read_config, tau_from

if TYPE_CHECKING:
    import numpy as np

    from meanfield.phases.diagram import PhaseDiagram
    from meanfield.posterior.posterior import Posterior
    from meanfield.theories.deep.transitions import CodeTransition
    from meanfield.theories.single_layer.transitions.acceptance import Transition
    from meanfield.validation import FloatArray

_DESCRIPTION = """\
Which representations does a wide, non-lazy Bayesian network learn from a classification task? This command solves
the mean-field theory: every answer is the distribution of a single neuron's readout weights and activations, with a
certificate. Of class tasks with one hidden layer it says that no better solution exists; of deep networks (--depth),
that the equations hold, and which other solutions were looked for."""

_EXAMPLES = """\
examples
  meanfield solve --off 0.5                                three classes (1/2, 1/4, 1/4), one-hot, sigmoid
  meanfield solve --activation relu --off 0                a bulk and a few outlier neurons instead of codes
  meanfield solve --activation 'z/(1+Abs(z))' --fractions 0.5 0.5 --targets 1 -1
  meanfield solve --depth 3 --n-samples 100 --tau 0.01 --fractions 0.5 0.5 --targets 1 -1      codes in every layer
  meanfield solve --config task.toml --output posterior.npz
  meanfield solve --data digits --classes 0 1 2 --output results     images: codes, predictor, errors, figures
  meanfield phase-diagram                                  sigmoid transitions over y_-; figures and data in results/
  meanfield phase-diagram --activation relu --sweep off=-1:0.9:191
  meanfield equations --activation relu                    LaTeX of exactly what is solved
  meanfield validate --quick                               the theory against sampled finite networks
  meanfield figures --only fig5                            a figure of the paper, theory beside sampled networks

exit status: 0 solved, 1 validation failed, 2 wrong input (one line says what), 3 no certified solution was found"""

_TASK_HELP = """\
A task file (TOML) holds the same things as the flags, and flags given besides it win:

  tau = 0.0                           # rescaled temperature N T
  [task]
  fractions = ["1/2", "1/4", "1/4"]
  on = 1.0                            # one-hot targets ...
  off = 0.5
  # targets = [[1, 0], [0, 1]]        # ... or any, one row per class
  n_samples = inf                     # P
  [network]
  activation = "sigmoid"              # a built-in name or a formula in z
  sigma_a = 1.0
  sigma_w = 1.0
  # depth = 3, layer_sigmas = [0.8, 1.3], width_ratios = [2.0, "1/2"]
  [network.parameters]
  gain = 1.0"""

_DEFAULT_LINE = "off=-1:0.95:196"
_DEFAULT_PLANE = ("off=-1:0.95:117", "sigma_a=0.5:2:91")
_DEFAULT_MAPS = (-0.75, 0.25, 0.55, 0.8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    # A leading blank keeps argparse from taking the row "-1,0" for a flag.
    options = _parser().parse_args([f" {word}" if re.match(r"-[\d.]", word) else word for word in given])
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        return _fail(options, error, 2)
    except RuntimeError as error:
        from meanfield.posterior.certificate import ConvergenceError

        if not isinstance(error, ConvergenceError):
            raise
        return _fail(options, error, 3)
    return int(status)


def _fail(options: argparse.Namespace, error: Exception, status: int) -> int:
    print(f"meanfield {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
    return status


# ---- arguments -------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    raw = partial(argparse.RawDescriptionHelpFormatter, max_help_position=30, width=110)
    parser = argparse.ArgumentParser("meanfield", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"meanfield {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    solve = commands.add_parser(
        "solve", help="solve one task and print its posterior", epilog=_TASK_HELP, formatter_class=raw,
        description="Solve one task and print codes, bulk, outliers, objective and certificate.",
    )  # fmt: skip
    _add_task(solve)
    cli_data.add_arguments(solve)
    solve.add_argument(
        "--output", type=Path, metavar="FILE.npz", help="save the posterior; with --data: folder for all results"
    )
    solve.add_argument("--rtol", type=float, metavar="X", help="wanted accuracy, of deep networks and at finite P")
    solve.add_argument("--plot", type=Path, metavar="STEM", help="draw readouts, activations, kernel: STEM-*.pdf, .png")
    solve.set_defaults(run=_solve)

    diagram = commands.add_parser(
        "phase-diagram", help="sweep one or two parameters, locate the transitions, draw them", epilog=_TASK_HELP,
        formatter_class=raw,
        description="Sweep parameters, locate transitions, write figures (pdf, png) and data (npz, csv).\n"
        "Without --sweep: code weights over y_- in [-1, 0.95] with activation maps, and the phases in (y_-, sigma_a).",
    )  # fmt: skip
    _add_task(diagram)
    diagram.add_argument(
        "--sweep", action="append", metavar="NAME=START:STOP:COUNT",
        help="vary off, on, sigma_a, sigma_w, tau, n_samples or a parameter of the activation; twice for a plane",
    )  # fmt: skip
    diagram.add_argument("--maps", nargs="+", type=float, metavar="VALUE", help="where activation maps are drawn")
    diagram.add_argument("--output", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    diagram.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that share the sweep; default: 1"
    )
    diagram.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="keep finished chunks there, and resume")
    diagram.add_argument("--html", action="store_true", help="pages to click on as well (needs bokeh, the extra html)")
    diagram.set_defaults(run=_phase_diagram)

    equations = commands.add_parser(
        "equations", help="print the equations that are solved, as LaTeX", formatter_class=raw,
        description="Print cumulant generating function, action, stationarity conditions and Jacobian.",
    )  # fmt: skip
    _add_network(equations)
    equations.set_defaults(run=_equations)

    from meanfield.cli.figures import add_arguments as add_figures
    from meanfield.cli.geometry import add_parser
    from meanfield.cli.validate import add_parser as add_validate
    from meanfield.cli.warmup import add_parser as add_warmup
    from meanfield.cli.warmup import run as warm_up

    add_figures(commands)
    add_parser(commands)
    add_warmup(commands).set_defaults(run=warm_up)
    add_validate(commands).set_defaults(run=_validate)
    return parser


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--config", type=Path, metavar="FILE.toml", help="task file (see the help of solve)")
    group.add_argument("--activation", metavar="NAME", help="built-in name or formula in z; default: sigmoid")
    group.add_argument("--parameter", action="append", metavar="NAME=VALUE", help="of the activation, e.g. gain=2")
    group.add_argument("--depth", type=int, metavar="L", help="hidden layers; default: 1")
    group.add_argument("--sigma-a", type=float, metavar="X", help="readout prior scale; default: 1")
    group.add_argument("--sigma-w", type=float, metavar="X", help="input weight scale, k = sigma_w^2; default: 1")
    group.add_argument("--layer-sigmas", nargs="+", metavar="X", help="weight scales of layers 2 .. L")
    group.add_argument("--width-ratios", nargs="+", metavar="R", help="N_l / N of layers 1 .. L - 1; default: 1")
    group.add_argument(
        "--readout-exponent", type=float, metavar="B",
        help="readout prior N(0, sigma_a^2/P^B); default: 1 for bounded activations, else 1/L",
    )  # fmt: skip


def _add_task(parser: argparse.ArgumentParser) -> None:
    _add_network(parser)
    group = parser.add_argument_group("task")
    group.add_argument("--fractions", nargs="+", metavar="P", help="class fractions; default: 1/2 1/4 1/4")
    group.add_argument("--on", type=float, metavar="Y", help="one-hot target on the own class, y_+; default: 1")
    group.add_argument("--off", type=float, metavar="Y", help="one-hot target on the others, y_-; default: 0")
    group.add_argument("--targets", nargs="+", metavar="ROW", help="instead: a row per class, commas between outputs")
    group.add_argument("--n-samples", type=float, metavar="P", help="number of training samples; default: inf")
    group.add_argument("--tau", type=float, metavar="T", help="rescaled temperature N T; default: 0, images 0.01")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("meanfield-codes")
    except PackageNotFoundError:
        return "(not installed)"


def _validate(options: argparse.Namespace) -> int:
    from meanfield.cli.validate import run
    from meanfield.solve import solve  # handed over: nothing in meanfield.sampling knows the solvers

    return run(options, solve)


# ---- commands --------------------------------------------------------------------------------------


def _solve(options: argparse.Namespace) -> None:
    config = read_config(options)
    cli_data.check(options, config)
    network = network_from(options, config)
    if options.data is not None:
        targets = {**config["task"], **given(options, ("on", "off"))}
        tau = options.tau if options.tau is not None else config.get("tau")
        return _report(cli_data.solve_data(options, network, tau, targets))
    task = class_task_from(options, config)
    if options.output is not None:
        from meanfield.archive import npz_path

        npz_path(options.output)  # what cannot be written is said before the work
    from meanfield.solve import solve

    posterior = solve(network, task, tau=tau_from(options, config), rtol=options.rtol, width=options.width)
    print(posterior.table())
    written = []
    if options.output is not None:
        written.append(posterior.save(options.output))
    if options.plot is not None:
        written += _draw(posterior, options.plot)
    _report(written)


def _draw(posterior: Posterior, stem: Path) -> list[Path]:
    """Pictures of what this posterior has; of the others it is said why they are missing."""
    from meanfield.posterior.posterior import NotAvailable

    plot = _plot_module()
    written = []
    for name in ("readout_posterior", "activation_map", "kernel"):
        try:
            figure = getattr(plot, f"plot_{name}")(posterior).figure
        except NotAvailable as error:
            print(f"no {name.replace('_', ' ')}: {error}")
            continue
        written += plot.save_figure(figure, stem.with_name(f"{stem.name}-{name}"))
    return written


def _plot_module() -> ModuleType:
    os.environ.setdefault("MPLBACKEND", "Agg")  # pictures go to files: no display is needed
    from meanfield import plot

    return plot


def _report(written: Sequence[Path]) -> None:
    if written:
        print("\nwrote")
        for path in written:
            print(f"  {path}")


def _equations(options: argparse.Namespace) -> None:
    network = network_from(options, read_config(options))
    from meanfield.equations import equations

    print(equations(network).latex())


def _phase_diagram(options: argparse.Namespace) -> None:
    config = read_config(options)
    network, task, tau = network_from(options, config), class_task_from(options, config), tau_from(options, config)
    axes = [axis_from(item) for item in options.sweep or [_DEFAULT_LINE]]
    if len({name for name, _ in axes}) != len(axes) or len(axes) > 2:
        raise ValueError("--sweep may be given once or twice, with different parameters.")
    _check_maps(options.maps, axes)
    folder = folder_for(options.output)
    from meanfield.theories.single_layer.precompile import beside

    with beside(diagrams=True), _workers(options.workers) as executor:
        from meanfield.phases.diagram import sweep

        shared = partial(sweep, executor=executor, checkpoint=options.checkpoint)
        values: dict[str, Any] = {"tau": tau, **dict(axes)}
        diagram = shared(network, task, **values)
        print(diagram)
        _say_what_failed(diagram)
        if len(axes) == 1:
            maps = options.maps or (None if options.sweep else _DEFAULT_MAPS)
            written = _line(diagram, maps, folder / "-".join(["weights", *diagram.axes]))
        else:
            written = _plane(diagram, folder / "-".join(["phases", *diagram.axes]))
        pages = [diagram]
        if not options.sweep:
            values = {"tau": tau, **dict(axis_from(item) for item in _DEFAULT_PLANE)}
            diagram = shared(network, task, **values)
            print(f"\n{diagram}")
            _say_what_failed(diagram)
            written += _plane(diagram, folder / "phases-off-sigma_a")
            pages.append(diagram)
    if options.html:
        kind = ("weights", "phases")
        written += [page.to_html(folder / "-".join([kind[len(page.axes) - 1], *page.axes])) for page in pages]
    _report(written)


def _check_maps(maps: Sequence[float] | None, axes: Sequence[tuple[str, FloatArray]]) -> None:
    """Refuse, before the sweep, places of activation maps that are not on it."""
    if not maps:
        return
    if len(axes) == 2:
        raise ValueError("--maps is for one --sweep; a plane is drawn without activation maps.")
    name, values = axes[0]
    outside = [f"{place:g}" for place in maps if not values[0] <= place <= values[-1]]
    if outside:
        raise ValueError(f"--maps must be from {values[0]:g} to {values[-1]:g}, as {name}, got {', '.join(outside)}.")


def _workers(number: int) -> AbstractContextManager[Executor | None]:
    """Executor of so many processes, None for one."""
    if number < 1:
        raise ValueError(f"--workers must be at least 1, got {number}.")
    if number == 1:
        return nullcontext()
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(number, mp_context=multiprocessing.get_context("spawn"))


def _say_what_failed(diagram: PhaseDiagram) -> None:
    """Print why points are not certified; ConvergenceError where none is."""
    from meanfield.posterior.certificate import ConvergenceError

    failed = [str(said) for said in diagram.messages[~diagram.certified]]
    if failed and not diagram.certified.any():
        raise ConvergenceError(f"no point is certified; the first: {failed[0]}")
    for said in dict.fromkeys(failed):
        print(f"not certified ({failed.count(said)}): {said}")


def _line(diagram: PhaseDiagram, maps: Sequence[float] | None, stem: Path) -> list[Path]:
    """One parameter: weights and transitions, activation maps at a few values."""
    from meanfield.phases.curves import line_quantities

    name, values = next(iter(diagram.axes.items()))
    transitions = _located(diagram, name)
    quantities = line_quantities(diagram)
    columns = [values, diagram.objective, _phase_names(diagram), *quantities.values()]
    located = [(t.parameter, f"{t.value:.12f}", t.kind, t.label) for t in transitions]
    data = [
        diagram.save(stem.with_suffix(".npz")),
        _write_csv(stem.with_suffix(".csv"), [name, "objective", "phase", *quantities], zip(*columns, strict=True)),
        _write_csv(stem.with_name(f"transitions-{name}.csv"), ["parameter", "value", "kind", "label"], located),
    ]
    plot, mapped = _plot_module(), _mapped(diagram, name, maps or _between(values, transitions))
    figure = plot.figure_phase_diagram(diagram, mapped) if mapped else plot.plot_weights(diagram).figure
    return [*plot.save_figure(figure, stem), *data]


def _located(diagram: PhaseDiagram, name: str) -> Sequence[Transition | CodeTransition]:
    """Transitions along a line, printed; none where no theory locates them, which is said."""
    from meanfield.posterior.posterior import NotAvailable

    try:
        transitions = diagram.transitions()
    except NotAvailable as error:
        print(error)
        return ()
    print(f"{len(transitions)} transitions and crossovers along {name}")
    for transition in transitions:
        print(f"  {name} = {transition.value:.10f}   {transition.label}")
    return transitions


def _mapped(diagram: PhaseDiagram, name: str, places: Sequence[float]) -> dict[float, Posterior]:
    """Solutions of which activation maps can be drawn; of the others it is said why not."""
    from meanfield.posterior.certificate import ConvergenceError
    from meanfield.posterior.posterior import NotAvailable

    found: dict[float, Posterior] = {}
    for place in dict.fromkeys(places):
        try:
            posterior = diagram.solve(**{name: place})
            posterior.sample_neurons(100, rng=0)
            found[place] = posterior
        except (NotAvailable, ConvergenceError) as error:
            print(f"no activation map at {name} = {place:g}: {error}")
    return found


def _plane(diagram: PhaseDiagram, stem: Path) -> list[Path]:
    """Two parameters: the phases and their boundaries."""
    import numpy as np

    (x_name, x), (y_name, y) = diagram.axes.items()
    curves = diagram.boundaries()
    print(f"{len(diagram.phase_labels)} phases, {len(curves)} boundaries and crossovers traced")
    for point in curves.points:
        print(f"  {point.kind} at " + ", ".join(f"{name} = {value:.8f}" for name, value in point.parameters.items()))
    if curves.unexplained:
        print(f"  {len(curves.unexplained)} changes of the raster have no curve")
    figure = _plot_module().plot_phases(diagram, boundaries=curves).figure
    points = [*np.meshgrid(x, y, indexing="ij"), diagram.objective, _phase_names(diagram)]
    rows = zip(*(np.ravel(column) for column in points), strict=True)
    traced = [(i, t.label, *t.parameters.values()) for i, curve in enumerate(curves) for t in curve.points]
    return [
        *_plot_module().save_figure(figure, stem),
        diagram.save(stem.with_suffix(".npz")),
        _write_csv(stem.with_suffix(".csv"), [x_name, y_name, "objective", "phase"], rows),
        _write_csv(stem.with_name(f"{stem.name}-boundaries.csv"), ["curve", "label", x_name, y_name], traced),
    ]


def _phase_names(diagram: PhaseDiagram) -> np.ndarray:
    import numpy as np

    return np.array([*diagram.phase_labels, "not certified"])[diagram.phase]  # -1 is the last one


def _between(values: FloatArray, transitions: Sequence[Transition | CodeTransition]) -> list[float]:
    """Where to draw maps: the middle of each of the first five phases; three even spaced values if there are fewer."""
    edges = [values[0], *sorted(t.value for t in transitions if not t.crossover), values[-1]]
    if len(edges) < 4:
        return [float(values[int(share * (len(values) - 1))]) for share in (1 / 6, 1 / 2, 5 / 6)]
    return sorted({float(f"{0.5 * (left + right):.3g}") for left, right in pairwise(edges)})[:5]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    import csv

    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
    return path
