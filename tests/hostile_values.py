"""Values that nobody should pass, by kind; and objects that misbehave when they are looked at."""

import datetime
import decimal
import fractions

import numpy as np
import sympy as sp
from scipy import sparse

HUGE = 10**400


class OnAGraph:
    """A tensor that NumPy may not read."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("on a graph")


class Unshowable:
    """Neither a number nor printable, and says so with unusual exceptions."""

    def __float__(self):
        raise KeyError("x")

    def __repr__(self):
        raise ZeroDivisionError


class Tabular:
    """Looks like a data frame with a column of names."""

    def __array__(self, dtype=None, copy=None):
        return np.array([["a", 1.0], ["b", 2.0]], dtype=object)


# What is neither a number, nor an array, nor a name, nor an object of this package.
NOTHING = {
    "None": None, "bytes": b"1", "complex": 1j, "dict": {}, "object": object(), "lambda": lambda: 1, "type": int,
    "set": {1}, "on a graph": OnAGraph(), "unshowable": Unshowable(), "symbol": sp.Symbol("q"), "module": np,
    "ellipsis": ..., "slice": slice(1), "date": np.datetime64("2020"), "day": datetime.date(2020, 1, 1),
    "record": np.zeros(1, [("a", float)])[0], "masked": np.ma.masked, "complex array": np.array([1j, 2]),
    "sparse": sparse.csr_array(np.eye(2)), "sparse matrix": sparse.csr_matrix(np.eye(2)), "table": Tabular(),
    "exception": ValueError("x"), "0-d text": np.array("a"), "dates": np.full((2, 2), "2020", "datetime64[D]"),
}  # fmt: skip
# Numbers outside of any range, and what is not quite a number.
NUMBERS = {
    "huge": HUGE, "-huge": -HUGE, "10**5000": 10**5000, "nan": float("nan"), "inf": float("inf"),
    "-inf": -float("inf"), "text": "1", "empty text": "", "NUL": "a\0b", "true": True, "NumPy true": np.True_,
    "signalling NaN": decimal.Decimal("sNaN"), "fraction": fractions.Fraction(HUGE, 3), "list": [1.0, 2.0],
    "array": np.ones(3), "empty list": [], "NaN of NumPy": np.float64("nan"), "NaT": np.datetime64("NaT"),
}  # fmt: skip
# No array of numbers with rows.
ARRAYS = {
    "ragged": [[1, 2], [1]], "text array": [["a", "b"], ["c", "d"]], "numbers in text": [["1", "2"], ["3", "4"]],
    "bytes array": [[b"a"], [b"b"]], "objects": np.array([[None, 1], [2, 3]]), "empty": np.zeros((0, 2)),
    "no columns": np.zeros((2, 0)), "NaN": [[np.nan, 1], [1, 2]], "infinite": [[np.inf, 1], [1, 2]],
    "large integers": [[HUGE, 1], [1, 2]], "mask": np.ma.masked_array([[1.0, 2], [3, 4]], [[1, 0], [0, 0]]),
    "masked rows": [np.ma.masked_array([1.0, 2], [1, 0]), np.ma.masked_array([1.0, 2], [0, 0])],
    "records": np.zeros((2, 2), [("a", float)]), "many axes": np.ones((1,) * 20), "complex rows": [[1j, 2], [1, 2]],
    "mapping": {"a": [1, 2]}, "beyond": np.full((2, 2), 1e60) * [[1, 2], [3, 4]],
    "timedeltas": np.ones((2, 2), "timedelta64[s]"), "void": np.zeros((2, 2), "V4"),
    "strings of NumPy": np.array([["x"]], dtype=object), "big-endian NaN": np.full((2, 2), np.nan, ">f8"),
    "read-only NaN": np.broadcast_to(np.nan, (2, 2)), "float16 infinity": np.full((2, 2), np.inf, np.float16),
}  # fmt: skip
EVERYTHING = {**NOTHING, **NUMBERS, **ARRAYS}
