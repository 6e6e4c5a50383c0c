"""The posterior kernel of a hidden layer, the same type for every theory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray

from meanfield.validation import FloatArray, plain_array, short

__all__ = ["Kernel"]


_Index = int | slice | np.ndarray | tuple[int | slice | np.ndarray | None, ...]


@dataclass(frozen=True, eq=False)
class Kernel(NDArrayOperatorsMixin):
    """Posterior kernel K(x, x') = <phi(z(x)) phi(z(x'))> over the neurons of a hidden layer.

    On class tasks it depends on the classes of x and x' only, and rows stand for classes; on data rows are inputs.
    NumPy functions, arithmetic, indexing and ``np.asarray`` work on `elements`.

    Attributes
    ----------
    elements : (n, n') array
        Between inputs; between two *different* samples of two classes on class tasks, (C, C).
    diagonal : (n,) array
        K(x, x) of every row; on data that of `elements` (NaN between two sets of inputs).
    labels : (n,) integer array or None
        Class of every row; None without classes.
    per_class : bool
        Whether rows stand for classes.
    """

    elements: FloatArray
    diagonal: FloatArray
    labels: NDArray[np.intp] | None = None
    per_class: bool = True

    @classmethod
    def of_inputs(cls, elements: FloatArray, labels: NDArray[np.intp] | None = None) -> Kernel:
        """The kernel between inputs (n, n'); its diagonal is known if it is square and symmetric."""
        square = elements.shape[0] == elements.shape[1]
        diagonal = np.diag(elements).copy() if square else np.full(len(elements), np.nan)
        return cls(elements, diagonal, labels, per_class=False)

    @property
    def block(self) -> FloatArray:
        """(C, C) kernel between two different samples of two classes; on data the mean over such pairs.

        Raises
        ------
        ValueError
            For inputs without classes, and for a kernel between two sets of inputs.
        """
        if self.per_class:
            return self.elements
        if self.labels is None or self.elements.shape != (self.labels.size,) * 2:
            raise ValueError("only a kernel of inputs with classes among themselves has blocks; read .elements.")
        counts = np.bincount(self.labels)
        indicator = np.eye(counts.size)[self.labels] / np.maximum(counts, 1)
        block = indicator.T @ self.elements @ indicator
        own = np.diag_indices(counts.size)
        block[own] = (counts * block[own] - indicator.T @ self.diagonal) / np.maximum(counts - 1, 1)
        return np.asarray(block)

    @property
    def block_diagonal(self) -> FloatArray:
        """(C,) kernel of a sample with itself, by class; on data the mean over the samples of a class."""
        if self.per_class:
            return self.diagonal
        if self.labels is None:
            raise ValueError("only a kernel of inputs with classes has blocks; read .diagonal.")
        return np.asarray(np.bincount(self.labels, self.diagonal) / np.bincount(self.labels))

    def matrix(self, labels: object = None) -> FloatArray:
        """The (n, n) kernel of n different samples: of classes `labels` (n,), or of the inputs it was computed for.

        Raises
        ------
        ValueError
            On class tasks without labels, and for labels on data.
        """
        if not self.per_class:
            if labels is not None:
                raise ValueError("this kernel belongs to inputs: it has one element per pair; leave labels out.")
            return self.elements
        if labels is None:
            raise ValueError("on class tasks the kernel depends on classes: give labels, the class of each sample.")
        index, known = plain_array("labels", labels), len(self.diagonal)
        if index.ndim != 1 or index.dtype.kind not in "iu" or not ((index >= 0) & (index < known)).all():
            raise ValueError(f"labels must be class indices (n,) from 0 to {known - 1}, got {short(labels)}.")
        full = self.elements[np.ix_(index, index)]
        np.fill_diagonal(full, self.diagonal[index])
        return np.asarray(full)

    # ---- as an array -----------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Of `elements`."""
        return self.elements.shape

    @property
    def T(self) -> FloatArray:
        """`elements`, transposed."""
        return self.elements.T

    def __getattr__(self, name: str) -> object:
        """What arrays have besides (max, mean, diagonal sums, ...), of `elements`."""
        if name.startswith("_") or name == "elements":  # not while it is unpickled
            raise AttributeError(name)
        return getattr(self.elements, name)

    def __len__(self) -> int:
        return len(self.elements)

    def __getitem__(self, index: _Index) -> np.ndarray:
        return self.elements[index]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.elements, dtype=dtype) if copy or dtype is not None else self.elements

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **options: object) -> object:
        plain = tuple(value.elements if isinstance(value, Kernel) else value for value in inputs)
        return getattr(ufunc, method)(*plain, **options)

    def __repr__(self) -> str:
        rows = "classes" if self.per_class else "inputs"
        return f"<Kernel of {' x '.join(map(str, self.shape))} {rows}>"
