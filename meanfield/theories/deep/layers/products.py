"""Which products of class means the averages, the nodes and the curvature of a layer consist of."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from meanfield.theories.deep.compiled.generated.site import KEYS, SAMPLE_KEYS
from meanfield.theories.deep.layers.class_tables import MEANS, SQUARES, PowersOfSums
from meanfield.theories.deep.layers.rules import SampleCurvature
from meanfield.validation import FloatArray, IntArray

__all__ = ["MeanMoments", "Products", "added", "asked_products", "pairs_of", "products_of"]

_COLUMN = {key: i for i, key in enumerate(KEYS)}
_NAMES = [*MEANS, "field"]
_SAMPLE = {key: i for i, key in enumerate(SAMPLE_KEYS)}
_Operator = dict[int, tuple[int, int, int, int]]


def pairs_of(n_classes: int) -> list[tuple[int, int]]:
    """Entries of a symmetric matrix on and above the diagonal."""
    return [(c, e) for c in range(n_classes) for e in range(c, n_classes)]


@cache
def products_of(n_classes: int, curvature: bool, last: bool, fields: bool, samples: bool) -> Products:
    """`Products`, made once and shared: not to be changed by `with_nodes`."""
    return Products(n_classes, curvature, last, fields, samples)


def asked_products(sizes: FloatArray, last: bool, fields: bool, curvature: bool | str, samples: bool) -> Products:
    """Those of an evaluation: with `curvature` "t", unless samples are looked at, for second derivatives by t alone.
    Not to be changed by `with_nodes`."""
    if curvature == "t" and not samples:
        return ReadoutProducts(sizes)
    return products_of(len(sizes), bool(curvature), last, fields, samples)


def added(first: _Operator, second: _Operator) -> _Operator:
    """The operator that differentiates by both."""
    total = dict(first)
    for c, key in second.items():
        before = total.get(c, (0, 0, 0, 0))
        total[c] = (before[0] + key[0], before[1] + key[1], before[2] + key[2], before[3] + key[3])
    return total


@dataclass(eq=False)
class Products:
    """Rows of `table`: products over classes of columns of the class tables, the first of which is 1; in `factors` the
    class and column of those that are not.

    Operators are, in this order, those of k~ (entries on and above the diagonal; in the last layer d/db_c instead), of
    delta, and with `fields` those of the covariance of h and of d. `coefficient`: 1/2 where Price's theorem has it.
    """

    n_classes: int
    curvature: bool
    last: bool
    fields: bool
    samples: bool = False
    sums: PowersOfSums = ()  # in place of the class functions
    rows: dict[tuple[int, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.offset = len(KEYS) if self.curvature else 1
        self.one = self._row({})
        self.averages = {
            "kernel": self._pairs("b", "b2"),
            "tilde": self._pairs("h", "h2"),
            "d": self._singles("bb"),
            "delta": self._singles("hh"),
        }
        self.operators: list[_Operator] = []
        self.coefficient = np.empty(0)
        if self.curvature:
            self._second()
        if self.samples:
            self._by_sample()
        self._finish()

    def _finish(self) -> None:
        self.table = np.array(list(self.rows), dtype=np.int64).reshape(-1, self.n_classes)
        self.factors = [[(c, at) for c, at in enumerate(row) if at] for row in self.rows]

    @property
    def by_readout(self) -> bool:
        """Whether derivatives are by t, which come with factors a."""
        return self.curvature and self.last

    def with_nodes(self) -> dict[str, FloatArray]:
        """Rows of the means of single classes that `Detail` has."""
        names = {"activation": "b", "activation_square": "b2", "noise": "bb", "field": "field"}
        found = {name: self._singles(column) for name, column in names.items()}
        self._finish()
        return found

    def activation(self, out: FloatArray, n: FloatArray) -> FloatArray:
        """(N, C) mean of phi over the neurons of nodes with sums of products `out` (N, products), in a last layer."""
        force = out[:, self.slopes[: self.n_classes]] / np.maximum(out[:, self.one], 1e-300)[:, None]
        return np.asarray(force / n)

    def _row(self, columns: dict[int, int]) -> int:
        key = tuple(columns.get(c, 0) for c in range(self.n_classes))
        return self.rows.setdefault(key, len(self.rows))

    def _singles(self, name: str) -> FloatArray:
        at = self.offset + _NAMES.index(name)
        return np.array([self._row({c: at}) for c in range(self.n_classes)])

    def _pairs(self, name: str, square: str) -> FloatArray:
        at, own = (self.offset + _NAMES.index(x) for x in (name, square))
        classes = range(self.n_classes)
        return np.array([[self._row({c: own} if c == e else {c: at, e: at}) for e in classes] for c in classes])

    def _derivative(self, operator: _Operator) -> int:
        return self._row({c: _COLUMN[key] for c, key in operator.items()})

    def _second(self) -> None:
        pairs, classes = pairs_of(self.n_classes), range(self.n_classes)
        coefficient: list[float] = []

        def by_covariance(one: tuple[int, int, int, int]) -> None:
            for c, e in pairs:
                self.operators.append(added({c: one}, {e: one}))
                coefficient.append(0.5 if c == e else 1.0)

        if self.last:
            self.operators += [{c: (1, 0, 0, 0)} for c in classes]
            coefficient += [1.0] * self.n_classes
        else:
            by_covariance((1, 0, 0, 0))
        self.operators += [{c: (0, 0, 1, 0)} for c in classes]
        coefficient += [1.0] * self.n_classes
        if self.fields:
            by_covariance((0, 1, 0, 0))
            self.operators += [{c: (0, 0, 0, 1)} for c in classes]
            coefficient += [1.0] * self.n_classes
        self.coefficient = np.array(coefficient)
        self.slopes = np.array([self._derivative(x) for x in self.operators])
        size = len(self.operators)
        self.curved = np.empty((size, size), dtype=np.int64)
        for i, j in itertools.combinations_with_replacement(range(size), 2):
            self.curved[i, j] = self.curved[j, i] = self._derivative(added(self.operators[i], self.operators[j]))

    def _by_sample(self) -> None:
        """Rows of the second derivatives by perturbations of the samples of one class, and of two."""
        classes, front = range(self.n_classes), self.offset + len(_NAMES)
        parameters: list[tuple[int, int | None]] = [(0, None)] if self.last else [*((0, e) for e in classes), (2, None)]
        if self.fields:
            parameters += [*((1, e) for e in classes), (3, None)]
        size = len(parameters)
        self.one_class = np.empty((self.n_classes, size, size), dtype=np.int64)
        for c, i, j in itertools.product(classes, range(size), range(size)):
            whole: _Operator = {}
            for axis, e in (parameters[i], parameters[j]):
                if e is not None:
                    whole = added(whole, {e: (1, 0, 0, 0) if axis == 0 else (0, 1, 0, 0)})
            own = whole.pop(c, (0, 0, 0, 0))
            x, y = sorted((parameters[i][0], parameters[j][0]))
            columns = {e: _COLUMN[key] for e, key in whole.items()}
            self.one_class[c, i, j] = self._row({**columns, c: front + _SAMPLE[x, y, own[0], own[1]]})
        self.two_classes = np.empty((self.n_classes, self.n_classes, 2, 2), dtype=np.int64)
        for c, e, x, y in itertools.product(classes, classes, range(2), range(2)):
            low, high = sorted((x, y))
            at = front + _SAMPLE[low, high, 0, 0]
            square = front + len(SAMPLE_KEYS) + list(SQUARES).index((low, high))
            self.two_classes[c, e, x, y] = self._row({c: square} if c == e else {c: at, e: at})

    def moments(self, beta: FloatArray, out: FloatArray) -> list[FloatArray]:
        """Sums over nodes beta (N, r) of all products `out` (N, products), of beta times them and of beta beta^T times
        them where derivatives are `by_readout`, else zeros."""
        r, total = beta.shape[1], out.sum(axis=0)
        if not self.by_readout:
            return [total, np.zeros((r, len(total))), np.zeros((r, r, len(total)))]
        pairs = (beta[:, :, None] * beta[:, None, :]).reshape(len(beta), -1)
        return [total, beta.T @ out, (pairs.T @ out).reshape(r, r, -1)]

    def by_sample(self, total: FloatArray, by_readout: tuple[FloatArray, FloatArray] | None) -> SampleCurvature:
        """Second derivatives of ln Z by perturbations that tell samples apart; arguments as `second_derivatives`."""
        one = total[self.one_class]
        if by_readout is not None:
            once, twice = by_readout
            m, rows = len(once), self.one_class
            t_t = twice[:, :, rows[:, 0, 0]].transpose(2, 0, 1)
            t_rest = once[:, rows[:, 0, 1:]].transpose(1, 0, 2).reshape(len(rows), m, -1)
            one = np.concatenate(
                [np.concatenate([t_t, t_rest], 2), np.concatenate([t_rest.transpose(0, 2, 1), one[:, 1:, 1:]], 2)], 1
            )
        return SampleCurvature(one, total[self.two_classes])

    def second_derivatives(self, total: FloatArray, by_readout: tuple[FloatArray, FloatArray] | None) -> FloatArray:
        """Hessian of ln Z from the means of all products (products,).

        In the last layer `by_readout` has <a_r product> (m, products) and <a_r a_s product> (m, m, products), and the
        first rows are those of t[c, r], class by class.
        """
        scale = self.coefficient
        slope = scale * total[self.slopes]
        plain = scale[:, None] * scale * total[self.curved]
        if by_readout is None:
            return np.asarray(plain - np.outer(slope, slope))
        once, twice = by_readout
        m, n_classes = len(once), self.n_classes
        rest = slice(n_classes, None)
        t_slope = once[:, self.slopes[:n_classes]].T.ravel()
        t_t = twice[:, :, self.curved[:n_classes, :n_classes]].transpose(2, 0, 3, 1).reshape(n_classes * m, -1)
        t_rest = once[:, self.curved[:n_classes, rest]].transpose(1, 0, 2).reshape(n_classes * m, -1) * scale[rest]
        all_slopes = np.append(t_slope, slope[rest])
        second = np.block([[t_t, t_rest], [t_rest.T, plain[rest, rest]]])
        return np.asarray(second - np.outer(all_slopes, all_slopes))


class ReadoutProducts(Products):
    """Rows of the averages of a last layer, whose second derivatives are those by t alone, of t[c, r] class by class:
    n_c n_e <a a^T g_b g_b> and, in the same class, n_c <a a^T g_bb>. No other derivatives of g are needed."""

    def __init__(self, sizes: FloatArray) -> None:
        super().__init__(len(sizes), curvature=False, last=True, fields=True)
        self.sizes = sizes
        self.firsts = self._singles("b")
        self._finish()

    @property
    def by_readout(self) -> bool:
        return True

    def activation(self, out: FloatArray, n: FloatArray) -> FloatArray:
        return np.asarray(out[:, self.firsts] / np.maximum(out[:, self.one], 1e-300)[:, None])

    def second_derivatives(self, total: FloatArray, by_readout: tuple[FloatArray, FloatArray] | None) -> FloatArray:
        assert by_readout is not None
        once, twice = by_readout
        n, size = self.sizes, self.n_classes * len(once)
        slope = (n * once[:, self.firsts]).T.ravel()
        both = np.outer(n, n) * twice[:, :, self.averages["kernel"]]
        classes = range(self.n_classes)
        both[:, :, classes, classes] += n * twice[:, :, self.averages["d"]]
        return np.asarray(both.transpose(2, 0, 3, 1).reshape(size, size) - np.outer(slope, slope))


class MeanMoments(Products):
    """Rows of <S_i^k S_j^l>, k + l <= 4, S the sum of phi - centre over the samples of a class of the task: `powers`
    (5, 5, C, C) for two of these (0 elsewhere), of which `index` (C,) says which class of the problem they are part of,
    `counts` (C,) how many samples they have, and `centres` which number near their mean of phi is subtracted. Two parts
    of one class have the same fields."""

    def __init__(self, index: IntArray, counts: FloatArray, centres: FloatArray) -> None:
        self.index = index
        self.counts = [(float(count), float(centre)) for count, centre in zip(counts, centres, strict=True)]
        super().__init__(int(index.max()) + 1, curvature=True, last=False, fields=False)

    def __post_init__(self) -> None:
        self.one = self._row({})
        known: dict[tuple[tuple[tuple[float, float], int], ...], int] = {(): 0}
        self.powers = np.zeros((5, 5, len(self.index), len(self.index)), dtype=np.int64)
        for i, j in itertools.permutations(range(len(self.index)), 2):
            for k, power in itertools.product(range(5), repeat=2):
                if k + power <= 4:
                    factors: dict[int, tuple[tuple[tuple[float, float], int], ...]] = {}
                    for one, order in ((i, k), (j, power)):
                        if order:
                            c = int(self.index[one])
                            factors[c] = tuple(sorted([*factors.get(c, ()), (self.counts[one], order)]))
                    columns = {c: known.setdefault(factor, len(known)) for c, factor in factors.items()}
                    self.powers[k, power, i, j] = self._row(columns)
        self.sums, self.offset = tuple(known), len(known)
        self._finish()
