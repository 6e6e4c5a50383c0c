"""What tells theories apart is asked in the theories: elsewhere their objects answer, whatever they are called."""

import ast
from pathlib import Path

import pytest

import meanfield

PACKAGE = Path(meanfield.__file__).parent
ANSWER = ("theories", "activations")  # the rooms that decide
QUESTIONS = {"parts", "scheme", "theory", "kind", "name"}
KINDS = {
    "codes", "outliers", "gaussian",  # parts of phi
    "analog", "redundant", "sparse", "mixed", "lazy",  # schemes
    "linear", "single_layer", "general_data", "deep", "general",  # theories
}  # fmt: skip


def name_of(node):
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def constants(node):
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def switches(tree):
    """Lines that compare the kind of a theory, a scheme or the parts of phi with a word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if {name_of(side) for side in sides} & QUESTIONS and set().union(*map(constants, sides)) & KINDS:
                yield node.lineno
        elif isinstance(node, ast.Match) and name_of(node.subject) in QUESTIONS:
            if any(constants(case.pattern) & KINDS for case in node.cases):
                yield node.lineno
        elif isinstance(node, ast.Subscript) and name_of(node.slice) in {"parts", "scheme"}:
            yield node.lineno


@pytest.mark.parametrize("source", ["phi.parts == 'codes'", "scheme in ('lazy', 'analog')", "'deep' != theory.name"])
def test_a_switch_is_found(source):
    assert list(switches(ast.parse(source))) == [1]


def test_nobody_else_names_kinds():
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in ANSWER
        for line in switches(ast.parse(path.read_text(encoding="utf-8")))
    ]
    # The one place where the growth of phi picks a division, and files that were written before theories had names.
    assert [place.rpartition(":")[0] for place in found] == ["posterior/division.py"]
