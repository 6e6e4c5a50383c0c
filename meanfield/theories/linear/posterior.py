"""Posterior of a linear network on data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from meanfield.posterior.data_posterior import DataPosterior
from meanfield.posterior.table import data_table, number_row
from meanfield.theories.linear.data_tasks import LinearDataSolution
from meanfield.theories.linear.predictor import LinearPredictor
from meanfield.validation import FloatArray

__all__ = ["LinearDataPosterior"]

_WIDEST = 12  # outputs that fit on a line of a terminal


@dataclass(frozen=True, eq=False, repr=False)
class LinearDataPosterior(DataPosterior):
    """Gaussian readouts N(0, U) and kernels in closed form, see `meanfield.theories.linear.data_tasks`."""

    solution: LinearDataSolution

    theory: ClassVar[str] = "linear"
    kind: ClassVar[str] = "linear"

    @property
    def scheme(self) -> str:
        """ "analog": every neuron responds to every class, with its own strength."""
        return "analog"

    @cached_property
    def readout_covariance(self) -> FloatArray:
        """(m, m) U."""
        return np.asarray(self.solution.readout_covariance)

    def table(self) -> str:
        """The posterior as printed text."""
        if self.task.n_outputs > _WIDEST:
            return data_table(self, [])
        rows = ["  " + number_row(row) for row in self.readout_covariance]
        return data_table(self, ["readouts ~ N(0, U), U =", *rows, ""])

    @cached_property
    def _predictor(self) -> LinearPredictor:
        return LinearPredictor(self.network, self.task, self.tau, self.solution)
