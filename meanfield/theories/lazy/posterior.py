"""Posterior of a lazy network on data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from meanfield.posterior.data_posterior import DataPosterior
from meanfield.posterior.table import data_table
from meanfield.theories.lazy.gaussian_process import LazySolution
from meanfield.theories.lazy.predictor import LazyPredictor
from meanfield.validation import FloatArray

__all__ = ["LazyPosterior"]


@dataclass(frozen=True, eq=False, repr=False)
class LazyPosterior(DataPosterior):
    """Gaussian process posterior, see `meanfield.theories.lazy.gaussian_process`; neurons stay as in the prior."""

    solution: LazySolution

    theory: ClassVar[str] = "lazy"
    kind: ClassVar[str] = "lazy"
    _fluctuates: ClassVar[bool] = False  # the predictor's variance is of order 1 and does not depend on N

    @property
    def scheme(self) -> str:
        """ "lazy": no code is learned."""
        return "lazy"

    @cached_property
    def readout_covariance(self) -> FloatArray:
        """(m, m) s 1, as under the prior."""
        return np.eye(self.task.n_outputs) * self.solution.readout_variance

    def table(self) -> str:
        """The posterior as printed text."""
        return data_table(self, [], temperature="T", objective="-ln p(Y)")

    @cached_property
    def _predictor(self) -> LazyPredictor:
        return LazyPredictor(self.network, self.task, self.tau, self.solution)
