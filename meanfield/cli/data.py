"""``meanfield solve --data ...``: real images in, codes, predictor and generalisation error out."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanfield.cli.inputs import check_folder, folder_for

if TYPE_CHECKING:
    from meanfield.datasets import ImageSet
    from meanfield.posterior.data_posterior import DataPosterior
    from meanfield.posterior.generalization import Generalization
    from meanfield.problem.data_task import DataTask
    from meanfield.problem.network import Network

__all__ = ["add_arguments", "check", "solve_data"]

_DEFAULTS = {"per_class": 30, "test": 150, "width": 1000, "seed": 0}
_DEFAULTS |= {"grayscale": False, "no_center": False, "lazy": False}
_FLAGS = ("classes", "path", *(name for name in _DEFAULTS if name != "width"))  # tasks of classes have a width, too
_NOT_WITH_DATA = ("fractions", "targets", "n_samples", "plot", "rtol")
_TAU = 0.01
_COLUMNS = {"accuracy": 9, "error": 10, "bias": 10, "variance": 11}  # of the printed comparison, and their widths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of real data to the subcommand `solve`."""
    group = parser.add_argument_group("real data, instead of a task of classes")
    group.add_argument(
        "--data",
        metavar="NAME",
        help="digits (scikit-learn), mnist, fashion, cifar10, or FILE.npz of images and labels",
    )
    group.add_argument("--path", type=Path, metavar="FILES", help="folder or npz file that holds NAME")
    group.add_argument("--classes", nargs="+", metavar="C", help="names or numbers; default: all")
    group.add_argument("--per-class", type=int, metavar="N", help="training images of every class; default: 30")
    group.add_argument("--test", type=int, metavar="N", help="test images in all; default: 150")
    group.add_argument("--grayscale", action="store_true", default=None, help="turn colour images grey")
    group.add_argument("--no-center", action="store_true", default=None, help="keep the mean of the training images")
    group.add_argument("--lazy", action="store_true", default=None, help="only the lazy (Gaussian process) network")
    group.add_argument(
        "--width", type=int, metavar="N",
        help="of which the predictor varies by 1/N; default: 1000. On tasks of classes, deep networks of rectifiers: N "
        "of the finite-N saddle; default: inf",
    )  # fmt: skip
    group.add_argument("--seed", type=int, metavar="S", help="of the choice of images and neurons; default: 0")


def check(options: argparse.Namespace, config: Mapping[str, dict]) -> None:
    """Refuse what has no meaning with, or without, `--data`; fill in the defaults of the other flags.

    Raises
    ------
    ValueError
        That names the flag.
    """
    with_data = options.data is not None
    for name in _NOT_WITH_DATA if with_data else _FLAGS:
        if getattr(options, name) is not None:
            flag = "--" + name.replace("_", "-")
            reason = "describes a task without images; leave it out with --data"
            raise ValueError(
                f"{flag} {reason if with_data else 'is about images: it needs --data, e.g. --data digits'}."
            )
    if not with_data:
        return
    unknown = sorted(set(config["task"]) - {"on", "off"})
    if unknown:
        raise ValueError(f"[task] of {options.config} has {', '.join(unknown)}; with --data it may hold on, off.")
    if options.output is not None:
        check_folder(options.output)  # before the work
    for name, value in _DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name, lowest in {"per_class": 1, "test": 1, "width": 1, "seed": 0}.items():
        if getattr(options, name) < lowest:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {lowest}, got {getattr(options, name)}.")


def solve_data(
    options: argparse.Namespace, network: Network, tau: float | None, targets: Mapping[str, float]
) -> list[Path]:
    """Carry out `solve --data`: print the tables, write figures, numbers and posteriors into the folder `--output`.

    Parameters
    ----------
    options : Namespace
        After `check`.
    network : Network
    tau : float or None
        If None: 0.01, but 0 for linear networks of two and more layers.
    targets : mapping
        "on" and "off" of the one-hot targets, where given.

    Returns
    -------
    list of Path
        The files written.
    """
    images = _images(options)
    train, test = images.split(options.per_class * len(images.class_names), options.test, rng=options.seed)
    task = train.task(**targets, center=not options.no_center)
    lazy = network.with_(scaling="lazy")
    if tau is None:
        tau = _TAU if network.depth == 1 else 0.0
    from meanfield.solve import solve

    print(f"training: {train}\ntest:     {test}\n", flush=True)
    if options.lazy:
        solved = {"lazy": solve(lazy, task, tau=tau)}
    else:
        solved = {"non-lazy": solve(network, task, tau=tau), "lazy": _lazy_limit(lazy, task)}
    new = test.images, test.labels
    errors = {name: found.generalization_error(*new, width=options.width) for name, found in solved.items()}
    print(next(iter(solved.values())).table())
    print(_comparison(solved, errors))
    if options.output is None:
        return []
    folder_for(options.output)
    written = _figures(options, solved, errors, test)
    written.append(_write_errors(options.output / "errors.csv", errors))
    for name, posterior in solved.items():
        written.append(posterior.save(options.output / f"posterior-{name}.npz"))
    return written


# ---- images ----------------------------------------------------------------------------------------------------------


def _images(options: argparse.Namespace) -> ImageSet:
    from meanfield import datasets

    name, path = options.data, options.path
    try:
        if name == "digits" and path is None:
            images = datasets.digits()
        elif name == "mnist":
            images = datasets.mnist(path)
        elif name in ("fashion", "cifar10") and path is not None:
            images = {"fashion": datasets.fashion_mnist, "cifar10": datasets.cifar10}[name](path)
        elif name.endswith(".npz") and path is None:
            images = _from_npz(name)
        elif name in ("fashion", "cifar10"):
            raise ValueError(f"--data {name} needs --path, the folder (or npz file) that holds these images.")
        elif name == "digits" or name.endswith(".npz"):
            raise ValueError(f"--data {name} needs no --path; leave it out.")
        else:
            raise ValueError(f"--data must be digits, mnist, fashion, cifar10 or FILE.npz, got {name!r}.")
    except ImportError as error:
        raise ValueError(str(error)) from error
    if options.grayscale:
        images = images.gray()
    if options.classes is not None:
        known = images.class_names
        images = images.classes(*(int(c) if c not in known and c.isdecimal() else c for c in options.classes))
    return images


def _from_npz(path: str) -> ImageSet:
    """Images, or vectors as images of one row, of any npz file."""
    import numpy as np

    from meanfield.datasets import ImageSet, load_npz

    pixels, labels, names = load_npz(path)
    if names and labels.dtype.kind in "iu":
        if labels.min() < 0 or labels.max() >= len(names):
            raise ValueError(f"{path} has labels {labels.min()} to {labels.max()}, but {len(names)} class names.")
        labels = np.array(names)[labels]
    classes = names or tuple(str(value) for value in np.unique(labels).tolist())
    return ImageSet(pixels[:, None, :] if pixels.ndim == 2 else pixels, labels.astype(str), classes, Path(path).name)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _lazy_limit(network: Network, task: DataTask) -> DataPosterior:
    """The lazy network at T -> 0, which is that of a non-lazy one at tau = N T as N -> infinity."""
    from meanfield.posterior.certificate import ConvergenceError
    from meanfield.solve import solve

    variance = network.readout_variance(task.n_samples)
    # Where the kernel is singular T = 0 has no solution, or no accurate one; the limit is that of least squares.
    for share in (0.0, 1e-7, 1e-6, 1e-5):
        try:
            return solve(network, task, tau=share * variance)
        except (ValueError, ConvergenceError):
            continue
    return solve(network, task, tau=1e-4 * variance)


def _comparison(solved: Mapping[str, DataPosterior], errors: Mapping[str, Generalization]) -> str:
    """A line per network: residual on the training images, accuracy and error on the test images."""
    import numpy as np

    head = f"{'':<24}{'training':>12} |{'test':>9}\n{'':<24}{'residual':>12} |"
    head += "".join(f"{name:>{width}}" for name, width in _COLUMNS.items())
    lines = ["", *head.splitlines(), "-" * len(head.splitlines()[-1])]
    for name, error in errors.items():
        posterior = solved[name]
        label = (
            f"lazy, T = {posterior.tau:.3g}" if posterior.network.scaling == "lazy" else f"{name}, N = {error.width:g}"
        )
        residual = float(np.sqrt(np.mean(np.sum(posterior.residual**2, axis=1))))
        values = {"accuracy": f"{error.accuracy:.4f}", "error": f"{error.error:.5f}", "bias": f"{error.bias:.5f}"}
        values["variance"] = f"{error.variance:.2e}"
        row = "".join(f"{values[column]:>{width}}" for column, width in _COLUMNS.items())
        lines.append(f"{label:<24}{residual:>12.2e} |{row}")
    return "\n".join([*lines, "residual: rms of |y - f|; error = bias + variance of |f - y|^2, summed over outputs"])


def _write_errors(path: Path, errors: Mapping[str, Generalization]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["network", "class", "samples", "bias", "variance", "accuracy"])
        for name, error in errors.items():
            writer.writerows([name, label, *row.values()] for label, row in error.per_class().items())
            samples = error.bias_per_sample.size
            writer.writerow([name, "all", samples, error.bias, error.variance, error.accuracy])
    return path


# ---- pictures --------------------------------------------------------------------------------------------------------


def _figures(
    options: argparse.Namespace,
    solved: Mapping[str, DataPosterior],
    errors: Mapping[str, Generalization],
    test: ImageSet,
) -> list[Path]:
    os.environ.setdefault("MPLBACKEND", "Agg")  # pictures go to files: no display is needed
    from meanfield.plot import data_tasks as plot_data
    from meanfield.plot.class_tasks import plot_readout_posterior
    from meanfield.plot.style import save_figure
    from meanfield.progress import progress_bar

    posterior = next(iter(solved.values()))
    task = posterior.task
    new: Any = {"X": test.images, "labels": test.labels}
    outputs = {name: found.predict(test.images) for name, found in solved.items()}
    pictures: dict[str, Callable[[], Any]] = {
        "codes": lambda: plot_data.plot_image_codes(posterior, **new, rng=options.seed).figure,
        "kernels": lambda: plot_data.figure_kernels(posterior, solved["lazy"], **new),
        "predictor": lambda: plot_data.figure_predictor(task, outputs, test.labels),
        "errors": lambda: plot_data.plot_errors(errors).figure,
    }
    if not options.lazy and task.n_outputs > 1:
        pictures["readouts"] = lambda: plot_readout_posterior(posterior).figure
    if min(task.image_shape[:2]) > 1:
        pictures["hard-images"] = lambda: plot_data.plot_hard_images(posterior).figure
    written = []
    with progress_bar(None, len(pictures), unit="figure") as advance:
        for name, draw in pictures.items():
            written += save_figure(draw(), options.output / name)
            advance()
    return written
