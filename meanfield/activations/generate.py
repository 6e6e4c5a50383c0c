"""Rewrites the machine-written source: ``python -m meanfield.activations.generate``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import sympy as sp

import meanfield.activations.builtin
from meanfield.activations.builtin import definition, names
from meanfield.symbolic.codegen import action_source, stationarity_source
from meanfield.symbolic.deep_code import site_source
from meanfield.symbolic.pages import pages, rendered
from meanfield.symbolic.propagation import propagation_source
from meanfield.symbolic.shape import shape_of
from meanfield.symbolic.source import derivative, numpy_source, remainder

__all__ = ["derived_source", "files", "write"]

_HEADER = '''"""Machine-written by ``python -m meanfield.activations.generate`` from {origin}; do not edit."""
'''


def derived_source(which: Iterable[str]) -> str:
    """Source of `activations/derived.py` for the built-ins in `which`.

    For each: phi, phi', phi minus its asymptotic slope times z below and above 0 (None where that slope is 0), its
    shape and its default parameters.
    """
    parts = [_HEADER.format(origin="the other files of this folder"), "# ruff: noqa\n# mypy: ignore-errors\n# fmt: off"]
    parts.append("from math import inf, nan\n\nimport numpy\nimport scipy.special\n")
    table = []
    for name in which:
        module = definition(name)
        z = sp.Symbol("z", real=True)
        symbols = {key: sp.Symbol(key, real=True, positive=key == "gain" or None) for key in module.PARAMETERS}
        phi = module.expression(z, **symbols)
        # A typical value decides the order of kinks; the default may be a special one.
        try:
            shape = shape_of(phi, z, {s: sp.Rational(7, 9) for s in symbols.values()})
        except ValueError:
            continue  # its shape has no formula in its parameters: derived for their values when it is used
        pieces = shape.linear_pieces(z)
        arguments = ", ".join(symbols)
        both = ", ".join(["z", *symbols])
        if pieces is not None:
            facts = {"pieces": (shape.kinks, [p[0] for p in pieces], [p[1] for p in pieces])}
            lines = [f'"pieces": ({", ".join(_sequence(part) for part in facts["pieces"])})']
        else:
            lines = [
                f'"kinks": {_sequence(shape.kinks)}',
                f'"limits": {_sequence(shape.limits)}',
                f'"slopes": {_sequence(shape.slopes)}',
                f'"intercepts": {_sequence(shape.intercepts)}',
                f'"complement": {None if shape.complement is None else _number(shape.complement)}',
                f'"even": {shape.even}',
            ]
        parts.append(
            f"\ndef {name}({both}):\n    return {numpy_source(phi)}\n\n"
            f"\ndef {name}_derivative({both}):\n    return {numpy_source(derivative(phi, z))}\n\n"
            f"\ndef {name}_shape({arguments}):\n    return {{{', '.join(lines)}}}\n"
        )
        remainders = ["None", "None"]
        for side, slope in enumerate(shape.slopes if pieces is None else ()):
            if slope != 0:
                remainders[side] = f"{name}_{('below', 'above')[side]}"
                source = numpy_source(remainder(phi, z, slope, 2 * side - 1))
                parts.append(f"\ndef {remainders[side]}({both}):\n    return {source}\n")
        functions = ", ".join([name, f"{name}_derivative", *remainders])
        table.append(f'    "{name}": (({functions}), {name}_shape, {dict(module.PARAMETERS)}),\n')
    return "\n".join(parts) + "\n\nDERIVED = {\n" + "".join(table) + "}\n"


def _number(x: sp.Expr) -> str:
    if x in (sp.oo, -sp.oo, sp.nan):
        return {sp.oo: "inf", -sp.oo: "-inf", sp.nan: "nan"}[x]
    return numpy_source(sp.sympify(x)) if x.free_symbols else repr(float(x))


def _sequence(values: Iterable[sp.Expr]) -> str:
    inside = ", ".join(_number(sp.sympify(v)) for v in values)
    return f"({inside},)" if inside else "()"


def files() -> dict[Path, str]:
    """Path and text of every machine-written file."""
    package = Path(meanfield.activations.builtin.__file__).parents[2]
    single_layer, general_data, deep = (
        package / "theories" / room / "compiled" / "generated" for room in ("single_layer", "general_data", "deep")
    )
    return {
        package / "activations" / "derived.py": derived_source(names()),
        single_layer / "action.py": action_source(),
        single_layer / "stationarity.py": stationarity_source(),
        general_data / "propagation.py": propagation_source(),
        deep / "site.py": site_source(),
    }


def write() -> None:
    """Write every machine-written file, and the equations in Markdown pages."""
    for path, text in files().items():
        path.write_text(text)
    for page in pages():
        text = page.read_text()
        if (new := rendered(text)) != text:
            page.write_text(new)


if __name__ == "__main__":
    write()
