"""Feature factor F of an input kernel, K = F F^T: the weights of the first layer in their own coordinates.

z = F w with w ~ N(0, 1_r) has covariance K on the training inputs; a new input has z* = F* w + sqrt(rho*) xi with its
own standard normal xi, where rho* is the part of its kernel that the training inputs do not span. K is never inverted
and may have any rank (duplicated inputs, fewer inputs N_0 than samples P).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from meanfield.validation import FloatArray, read_only, real_array, real_number

__all__ = ["Features", "features_from_inputs", "features_from_kernel"]

# Directions that are rounding of the others: singular values of X are known to 1e-16, eigenvalues of a given K too,
# but these are squares.
_RANK_OF_INPUTS = 1e-12
_RANK_OF_KERNEL = 1e-10
_ASYMMETRY = 1e-8


@dataclass(frozen=True, eq=False)
class Features:
    """F with K = F F^T and the map of new inputs to the same coordinates; see `features_from_inputs`.

    Attributes
    ----------
    matrix : (P, r) array
        F. Its columns are orthogonal, the largest first.
    map : (D, r) array
        What takes a row of inputs (D = N_0, times sigma_w / sqrt(N_0)) or of kernels (D = P) to F*.
    input_scale : float or None
        sigma_w / sqrt(N_0); None if only a kernel was given.
    """

    matrix: FloatArray
    map: FloatArray
    input_scale: float | None

    @property
    def rank(self) -> int:
        """r, the rank of K."""
        return int(self.matrix.shape[1])

    @property
    def kernel(self) -> FloatArray:
        """(P, P) kernel K = F F^T."""
        return np.asarray(self.matrix @ self.matrix.T)

    def project(self, new: object, diagonal: object = None) -> tuple[FloatArray, FloatArray]:
        """Features of new inputs and the variance that these leave out.

        Parameters
        ----------
        new : (n, N_0) array-like
            Inputs, centred and scaled as the training inputs were; if only a kernel was given, (n, P) kernels k(x*, x).
        diagonal : (n,) array-like, optional
            k(x*, x*), needed (and allowed) only if only a kernel was given.

        Returns
        -------
        features : (n, r) array
            F*.
        residual : (n,) array
            rho* = k(x*, x*) - |F*|^2 >= 0.

        Raises
        ------
        ValueError
            For wrong shapes, and a diagonal that is missing, out of place or smaller than |F*|^2.
        """
        rows = real_array("new inputs", new)
        if rows.ndim != 2 or rows.shape[1] != self.map.shape[0]:
            raise ValueError(
                f"new inputs must have shape (n, {self.map.shape[0]}), one row per input, got {rows.shape}."
            )
        if self.input_scale is None:
            if diagonal is None:
                raise ValueError("only a kernel is known: give diagonal=, the kernels k(x*, x*) of the new inputs.")
            total = real_array("diagonal", diagonal)
            if total.shape != rows.shape[:1]:
                raise ValueError(f"diagonal must have shape {rows.shape[:1]}, got {total.shape}.")
        elif diagonal is not None:
            raise ValueError("diagonal= is for kernels; these features were made from inputs, leave it out.")
        else:
            rows = rows * self.input_scale
            total = (rows**2).sum(axis=1)
        features = rows @ self.map
        residual = total - (features**2).sum(axis=1)
        rounding = 1e-7 if self.input_scale is None else 1e-10
        if (residual < -rounding * np.maximum(total, 1.0)).any():
            worst = int(np.argmin(residual))
            raise ValueError(
                f"diagonal[{worst}] = {total[worst]:g} is smaller than the {total[worst] - residual[worst]:g} that the "
                "kernels with the training inputs imply; the kernel of training and new inputs is not positive."
            )
        # Inputs within the span of the training inputs: the difference is rounding.
        return features, np.where(residual > 1e-12 * total, residual, 0.0)


def features_from_inputs(inputs: object, sigma_w: float = 1.0) -> Features:
    """Feature factor of K = sigma_w^2 X X^T / N_0, from the thin singular value decomposition of X.

    Parameters
    ----------
    inputs : (P, N_0) array-like
        X.
    sigma_w : float
        Prior scale of the input weights.

    Raises
    ------
    ValueError
        For NaN, a wrong shape, and inputs that are all zero.
    """
    x = real_array("inputs", inputs)
    if x.ndim != 2:
        raise ValueError(f"inputs must have shape (P, N_0), one row per sample, got {x.shape}.")
    scale = real_number("sigma_w", sigma_w, above=0) / math.sqrt(x.shape[1])
    left, s, right = np.linalg.svd(x, full_matrices=False)
    keep = s > _RANK_OF_INPUTS * s[0]
    if not keep.any():
        raise ValueError("all inputs are zero, so the network cannot tell them apart; check the data and center=.")
    left, s, right = left[:, keep], s[keep], right[keep]
    return Features(read_only(left * (scale * s)), read_only(right.T), scale)


def features_from_kernel(kernel: object) -> Features:
    """Feature factor of a given kernel, from its eigenvalues above 1e-10 of the largest.

    Parameters
    ----------
    kernel : (P, P) array-like
        K, symmetric and positive semidefinite; sigma_w^2 included.

    Raises
    ------
    ValueError
        For NaN, a kernel that is not square, not symmetric, has a negative eigenvalue, or is zero.
    """
    k = real_array("kernel", kernel)
    if k.ndim != 2 or k.shape[0] != k.shape[1]:
        raise ValueError(f"a kernel must have shape (P, P), got {k.shape}.")
    largest = float(np.abs(k).max())
    if np.abs(k - k.T).max() > _ASYMMETRY * largest:
        raise ValueError(f"a kernel must be symmetric, but K and K^T differ by {np.abs(k - k.T).max():.3g}.")
    value, vector = np.linalg.eigh(0.5 * (k + k.T))
    value, vector = value[::-1], vector[:, ::-1]
    if not value[0] > 0.0:
        raise ValueError("the kernel is zero or negative, so no input drives the network.")
    if value[-1] < -1e-8 * value[0]:
        raise ValueError(
            f"a kernel must be positive semidefinite, but its smallest eigenvalue is {value[-1]:.3g} (the largest "
            f"{value[0]:.3g}); check how it was computed, or clip negative eigenvalues."
        )
    keep = value > _RANK_OF_KERNEL * value[0]
    root = np.sqrt(value[keep])
    return Features(read_only(vector[:, keep] * root), read_only(vector[:, keep] / root), None)
