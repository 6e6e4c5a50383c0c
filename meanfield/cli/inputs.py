"""From the arguments of the command and a task file to a network, a task and a sweep. Heavy imports happen late."""

from __future__ import annotations

import argparse
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from meanfield.activations.activation import Activation
    from meanfield.problem.class_task import ClassTask
    from meanfield.problem.network import Network
    from meanfield.validation import FloatArray

__all__ = [
    "activation_named",
    "axis_from",
    "check_folder",
    "class_task_from",
    "folder_for",
    "given",
    "network_from",
    "read_config",
    "tau_from",
]

_TASK_FLAGS = ("fractions", "on", "off", "targets", "n_samples")
_BY_LAYER = ("layer_sigmas", "width_ratios")
_NETWORK_FLAGS = ("activation", "depth", "sigma_a", "sigma_w", "readout_exponent", *_BY_LAYER)
_LARGEST_CONFIG = 2**20
_LONGEST_NUMBER = 60
_MOST_POINTS = 10_000_000
_DEFAULT_FRACTIONS = ["1/2", "1/4", "1/4"]


def read_config(options: argparse.Namespace) -> dict[str, Any]:
    """The task file, with what is not known in it refused; empty tables without one."""
    config: dict[str, Any] = {"task": {}, "network": {}}
    if options.config is None:
        return config
    try:
        with options.config.open("rb") as stream:  # devices and pipes do not tell their sizes
            content = stream.read(_LARGEST_CONFIG + 1)
        if len(content) > _LARGEST_CONFIG:
            raise ValueError(f"{options.config} has more than {_LARGEST_CONFIG} bytes: no task file.")
        config |= tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{options.config} is not TOML: it is no text in UTF-8.") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{options.config} is not TOML: {error}") from None
    for table in ("task", "network"):
        if not isinstance(config[table], dict):
            raise ValueError(f"[{table}] of {options.config} must be a table of entries, got {short(config[table])}.")
    known = {"": ("task", "network", "tau"), "task": _TASK_FLAGS, "network": (*_NETWORK_FLAGS, "parameters")}
    for table, names in known.items():
        unknown = sorted(set(config[table] if table else config) - set(names))
        if unknown:
            where = f"[{table}] of {options.config}" if table else str(options.config)
            raise ValueError(f"{where} has unknown entries {', '.join(unknown)}; it may hold {', '.join(names)}.")
    _check_types(options.config, config)
    return config


def _check_types(path: Path, config: dict[str, Any]) -> None:
    """Refuse entries of a task file that are no numbers, lists, tables or texts where these are needed."""
    task, network = config["task"], config["network"]
    for where, table, names in (
        ("", config, ("tau",)),
        ("[task] ", task, ("on", "off", "n_samples")),
        ("[network] ", network, ("sigma_a", "sigma_w")),
    ):
        for name in names:
            if name in table and (isinstance(table[name], bool) or not isinstance(table[name], (int, float))):
                raise ValueError(f"{where}{name} of {path} must be a number, got {short(table[name])}.")
    for table_name, table, names in (("task", task, ("fractions", "targets")), ("network", network, _BY_LAYER)):
        for name in names:
            if name in table and not isinstance(table[name], list):
                raise ValueError(f"[{table_name}] {name} of {path} must be a list, got {short(table[name])}.")
    if not isinstance(network.get("activation", ""), str):
        raise ValueError(f"[network] activation of {path} must be text, got {short(network['activation'])}.")
    parameters = network.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ValueError(f"[network.parameters] of {path} must be a table of numbers, got {short(parameters)}.")
    for name, value in parameters.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"[network.parameters] {name} of {path} must be a number, got {short(value)}.")


def network_from(options: argparse.Namespace, config: dict[str, Any]) -> Network:
    """The network of a task file and flags."""
    from meanfield.problem.network import Network

    values = {**config["network"], **given(options, _NETWORK_FLAGS)}
    parameters = dict(values.pop("parameters", {}))
    for item in options.parameter or []:
        name, value = _name_and_value("--parameter", item, "NAME=VALUE")
        parameters[name] = _number(f"--parameter {name}", value)
    values["activation"] = activation_named(values.get("activation", "sigmoid"), parameters)
    for name in _BY_LAYER:
        if name in values:
            values[name] = [_number(name, x) for x in values[name]]
    return Network(**values)


def activation_named(name: str, parameters: Mapping[str, float] = MappingProxyType({})) -> Activation:
    """A built-in nonlinearity, or that of a formula."""
    from meanfield.activations.activation import activation, activation_of_formula
    from meanfield.activations.builtin import names

    if name in names() or name.isidentifier():
        return activation(name, **parameters)
    return activation_of_formula(name, parameters)


def class_task_from(options: argparse.Namespace, config: dict[str, Any]) -> ClassTask:
    """The class task of a task file and flags, which win."""
    from meanfield.problem.class_task import class_task

    flags = given(options, _TASK_FLAGS)
    values = {**config["task"], **flags}
    if "targets" in flags:
        values["targets"] = [[_number("--targets", x) for x in row.split(",")] for row in flags["targets"]]
        values = {key: value for key, value in values.items() if key in flags or key not in ("on", "off")}
    elif {"on", "off"} & set(flags):
        values.pop("targets", None)
    if "fractions" in values:
        values["fractions"] = [_number("fractions", x) for x in values["fractions"]]
    elif "targets" not in values:
        values["fractions"] = [_number("fractions", x) for x in _DEFAULT_FRACTIONS]
    return class_task(**values)


def tau_from(options: argparse.Namespace, config: dict[str, Any]) -> float:
    """tau of the flag, the task file, or 0."""
    from meanfield.validation import real_number

    return real_number("tau", options.tau if options.tau is not None else config.get("tau", 0.0), at_least=0.0)


def short(value: object) -> str:
    """What was given, in words that fit on a line."""
    from meanfield.validation import short as shown

    return shown(value)


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by name."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _number(name: str, value: object) -> float:
    """A number, or text such as 0.25, 1/4, inf."""
    try:
        if isinstance(value, bool) or (isinstance(value, str) and len(value) > _LONGEST_NUMBER):
            raise TypeError
        if isinstance(value, str) and "/" in value:
            above, below = value.split("/")
            return float(above) / float(below)  # not as exact fractions: "1e999999999/3" would not fit
        return float(cast("str | float", value))
    except (TypeError, ValueError, ArithmeticError):
        raise ValueError(f"{name}: {short(value)} is not a number; write for example 0.25 or 1/4.") from None


def _name_and_value(flag: str, item: str, form: str) -> tuple[str, str]:
    name, separator, value = item.partition("=")
    if not separator or not name:
        raise ValueError(f"{flag} {item!r} does not read {form}.")
    return name.strip(), value


def check_folder(output: Path) -> None:
    """ValueError where there cannot be a folder `--output`."""
    there = next(path for path in (output, *output.parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"--output {output} can be no folder: {there} is a file.")


def folder_for(output: Path) -> Path:
    """The folder `--output`, made where it is missing; ValueError where that cannot be."""
    check_folder(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output {output} cannot be made ({error.strerror}).") from error
    return output


def axis_from(item: str) -> tuple[str, FloatArray]:
    """Name and values of ``--sweep NAME=START:STOP:COUNT``."""
    import numpy as np

    name, text = _name_and_value("--sweep", item, "NAME=START:STOP:COUNT, e.g. off=-1:0.9:191")
    parts = text.split(":")
    if len(parts) != 3 or not parts[2].isdecimal() or not 2 <= int(parts[2][:9]) <= _MOST_POINTS:
        raise ValueError(f"--sweep {item!r} does not read NAME=START:STOP:COUNT with COUNT >= 2, e.g. off=-1:0.9:191.")
    start, stop = (_number(f"--sweep {name}", part) for part in parts[:2])
    if not (math.isfinite(start) and math.isfinite(stop) and start < stop):
        raise ValueError(f"--sweep {item!r}: START must be smaller than STOP, and both finite.")
    return name, np.linspace(start, stop, int(parts[2]))
