"""LaTeX of systems of equations, and the blocks of equations in Markdown pages that are generated from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import sympy as sp

__all__ = ["align", "aligned", "environment", "with_equations"]

_BLOCK = re.compile(r"<!-- equations: *([\w-]+) *-->\n(.*?)<!-- end -->", re.DOTALL)
_OPENING = re.compile(r"<!-- equations:")


def aligned(row: sp.Eq, names: Mapping[sp.Symbol, str]) -> list[str]:
    """An equation as one line, or, where it would not fit on a page, one line for every term of its right side."""
    left, *terms = (sp.latex(x, symbol_names=dict(names)) for x in (row.lhs, row.rhs, *sp.Add.make_args(row.rhs)))
    whole, *terms = terms
    relation = {sp.Le: r"\le", sp.Ge: r"\ge"}.get(type(row), "=")
    if len(whole) < 230 or len(terms) < 3:
        return [f"{left} &{relation} {whole}"]
    signed = [term if term.startswith("-") else f"+ {term}" for term in terms]
    return [f"{left} &{relation} {terms[0]}", *(rf"&\quad {term} \nonumber" for term in signed[1:])]


def environment(lines: Iterable[str]) -> str:
    """An ``align`` environment (package amsmath)."""
    return "\\begin{align}\n" + " \\\\\n".join(lines) + "\n\\end{align}"


def align(rows: Iterable[sp.Eq]) -> str:
    """Equations and inequalities as an ``align`` environment."""
    return environment(line for row in rows for line in aligned(row, {}))


def with_equations(page: str, latex: Callable[[str], str]) -> str:
    """A Markdown page with its blocks of equations written anew.

    A block is everything between ``<!-- equations: name -->`` and ``<!-- end -->``; `latex` gives the ``align``
    environment of a name.

    Raises
    ------
    ValueError
        For a block without an end, and as `latex` does for an unknown name.
    """
    if len(_OPENING.findall(page)) != len(_BLOCK.findall(page)):
        raise ValueError("a block <!-- equations: name --> of this page has no <!-- end -->, or no name")

    def block(found: re.Match[str]) -> str:
        if _OPENING.search(found[2]):
            raise ValueError(f"the block of equations {found[1]!r} has no <!-- end --> of its own")
        # Markdown renders mathematics without numbers.
        text = latex(found[1]).replace("{align}", "{aligned}").replace(r" \nonumber", "")
        return f"<!-- equations: {found[1]} -->\n$$\n{text}\n$$\n<!-- end -->"

    return _BLOCK.sub(block, page)
