"""Truncated polynomials over exchangeable classes: which coefficients of a product over classes are averages.

A class contributes its weight times exp(x d_b + y d_h + sum_a e_a O_a) of its class functions, O the operators
d_b^2 / 2, d_delta, d_h^2 / 2 and d_d: in the product over classes x^2 / 2 comes with <(sum_c d_b)^2>, and so on. Marks
are functions of one class that are counted once.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from meanfield.theories.deep.compiled.generated.site import KEYS
from meanfield.theories.deep.layers.class_tables import MEANS
from meanfield.validation import FloatArray, IntArray

__all__ = ["MARKS", "OPERATORS", "Algebra", "averages_algebra", "class_coefficients", "curvature_algebra",
    "moment_algebra",
           "word_algebra"]  # fmt: skip

OPERATORS = ("b", "delta", "h", "d")  # e: variances of b and h, and what d/ddelta, d/dd belong to
MARKS = ("b2", "bb", "h2", "hh")
_ORDERS = {"x": (1, 0, 0, 0), "y": (0, 1, 0, 0), "b": (2, 0, 0, 0), "delta": (0, 0, 1, 0), "h": (0, 2, 0, 0),
           "d": (0, 0, 0, 1)}  # fmt: skip
_HALVED = ("b", "h")

Monomial = dict[str, int]


@dataclass(frozen=True, eq=False)
class Algebra:
    """Monomials that divide one of the targets; made by `_algebra`.

    Attributes
    ----------
    monomials : list of tuple of (variable, exponent)
        The first is 1.
    products : (k, 3) array of int
        Monomials i, j and what they make.
    low : (L,) array of int
        Those of at most half of the highest degree, operators and marks counted twice: one of two factors is one.
    place : (M,) array of int
        Where in `low` each is; -1 elsewhere.
    """

    monomials: list[tuple[tuple[str, int], ...]]
    products: IntArray
    low: IntArray
    place: IntArray

    def index(self, **powers: int) -> int:
        """Place of a monomial."""
        return self.monomials.index(tuple(sorted(powers.items())))


def _algebra(targets: list[Monomial]) -> Algebra:
    found: dict[tuple[tuple[str, int], ...], None] = {}
    for target in targets:
        for powers in itertools.product(*(range(power + 1) for power in target.values())):
            found[tuple(sorted((name, power) for name, power in zip(target, powers) if power))] = None

    def degree(one: tuple[tuple[str, int], ...]) -> int:
        return sum(power * (1 if name in ("x", "y") else 2) for name, power in one)

    monomials = sorted(found, key=lambda one: (degree(one), one))
    at = {one: i for i, one in enumerate(monomials)}
    rows = []
    for (i, one), (j, two) in itertools.product(enumerate(monomials), repeat=2):
        whole = dict(one)
        for name, power in two:
            whole[name] = whole.get(name, 0) + power
        made = at.get(tuple(sorted(whole.items())))
        if made is not None:
            rows.append((i, j, made))
    degrees = np.array([degree(one) for one in monomials])
    low = np.flatnonzero(degrees <= degrees.max() // 2)
    place = np.full(len(monomials), -1)
    place[low] = np.arange(len(low))
    return Algebra(monomials, np.array(rows, dtype=np.int64), low, place)


@cache
def averages_algebra(fields: bool) -> Algebra:
    """For the averages of a layer: sums over classes, squared, and marks."""
    targets: list[Monomial] = [{"x": 2}, {"b2": 1}, {"bb": 1}]
    return _algebra(targets + ([{"y": 2}, {"h2": 1}, {"hh": 1}] if fields else []))


@cache
def curvature_algebra(fields: bool) -> Algebra:
    """For second derivatives as well, of which every pair of parameters is one."""
    names = OPERATORS if fields else OPERATORS[:2]
    pairs: list[Monomial] = [{a: 1, c: 1} if a != c else {a: 2} for a, c in
                             itertools.combinations_with_replacement(names, 2)]  # fmt: skip
    shifts = ("x", "y") if fields else ("x",)
    pairs += [{a: 2, e: 1} for a in shifts for e in names] + [{a: 4} for a in shifts]
    pairs += [{"x": 2, "y": 2}] if fields else []
    return _algebra(pairs + [{mark: 1} for mark in (MARKS if fields else MARKS[:2])])


@cache
def word_algebra() -> Algebra:
    """For means of single classes, active (1) or not (0), and of pairs: field b, its square, phi and phi^2.

    A class has no square of the field: what comes with it are pairs of different classes."""
    singles: list[Monomial] = [{f"{name}{part}": 1} for name in ("square", "phi", "phi_square") for part in "01"]
    return _algebra([*singles, {"field0": 2}, {"field1": 2}, {"field0": 1, "field1": 1}])


@cache
def moment_algebra() -> Algebra:
    """For <S_c^i S_e^j> of two classes, i + j <= 4, S the sum of phi over samples; a class counts once."""
    pairs: list[Monomial] = [{f"power{i}": 1, f"power{j}": 1} for i in range(1, 4) for j in range(i + 1, 5 - i)]
    return _algebra([*pairs, {"power1": 2}, {"power2": 2}, {"power3": 1}, {"power4": 1}])


def class_coefficients(algebra: Algebra) -> tuple[FloatArray, IntArray]:
    """What a class contributes to every monomial (M,): a factor, and the column of its class functions
    (`class_columns`)."""
    factor, column = np.ones(len(algebra.monomials)), np.zeros(len(algebra.monomials), dtype=np.int64)
    means = {name: len(KEYS) + i for i, name in enumerate(MEANS)}
    for i, monomial in enumerate(algebra.monomials):
        if not monomial:
            continue
        if monomial[0][0] in MARKS:
            column[i] = means[monomial[0][0]]
            continue
        key = np.sum([power * np.array(_ORDERS[name]) for name, power in monomial], axis=0)
        column[i] = KEYS.index(tuple(int(x) for x in key))
        for name, power in monomial:
            factor[i] *= (0.5 if name in _HALVED else 1.0) ** power / math.factorial(power)
    return factor, column
