"""Roots of covariance matrices."""

from __future__ import annotations

import numpy as np

from meanfield.validation import FloatArray

__all__ = ["symmetric_root"]


def symmetric_root(covariance: FloatArray) -> FloatArray:
    """(m, m) R with R^T R = covariance, so that standard normal rows times R have that covariance; clipped at zero."""
    value, vector = np.linalg.eigh(covariance)
    return np.asarray((vector * np.sqrt(np.maximum(value, 0.0))).T)
