"""What `solve` returns for a data task: the posterior of a network on given inputs, with predictor and neurons."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from meanfield.archive import read_archive, write_archive
from meanfield.data import DataTask
from meanfield.lazy import LazySolution
from meanfield.network import Network
from meanfield.neurons import Neurons
from meanfield.predict import (
    Generalization,
    LazyPredictor,
    LinearPredictor,
    Predictor,
    generalization,
    nearest_class,
)
from meanfield.result import Certificate
from meanfield.solvers.linear_data import LinearDataSolution
from meanfield.validation import FloatArray, read_only, real_number

__all__ = ["DataPosterior"]

# Kind of solution -> its class and what answers for new inputs.
_KINDS: dict[str, tuple[type, type]] = {
    "linear": (LinearDataSolution, LinearPredictor),
    "lazy": (LazySolution, LazyPredictor),
}


@dataclass(frozen=True, eq=False)
class DataPosterior:
    """Posterior of a network on a data task; what `solve` returns for one.

    Parameters
    ----------
    network : Network
    task : DataTask
    tau : float
        N T, the rescaled temperature; T itself for lazy networks (see `meanfield.lazy`).
    solution : LinearDataSolution or LazySolution
        Numbers that the solver found.
    certificate : Certificate
        Residual of the stationarity conditions, recomputed from the solution.
    status, message : str
        "optimal" or what went wrong; in words, and what to try.
    notes : tuple of str
        Remarks, e.g. that the kernel was regularised.
    """

    network: Network
    task: DataTask
    tau: float
    solution: Any
    certificate: Certificate
    status: str = "optimal"
    message: str = ""
    notes: tuple[str, ...] = ()

    # ---- what was found --------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """ "linear" or "lazy": the theory that was solved."""
        return next(kind for kind, (solution, _) in _KINDS.items() if isinstance(self.solution, solution))

    @property
    def scheme(self) -> str:
        """The coding scheme: "analog" for linear networks, "lazy" for lazy ones, whose neurons stay as in the prior."""
        return "lazy" if self.kind == "lazy" else "analog"

    @property
    def codes(self) -> tuple[Any, ...]:
        """Codes, heaviest first; empty for Gaussian readouts (linear and lazy networks)."""
        return ()

    @property
    def bulk(self) -> None:
        """The code of all neurons that are not outliers, where phi allows outliers; else None."""
        return None

    @property
    def outliers(self) -> tuple[Any, ...]:
        """Outliers, heaviest first; empty where there are none."""
        return ()

    @property
    def readout_covariance(self) -> FloatArray:
        """(m, m) covariance of the readout over neurons: U of a linear network, s 1 of a lazy one."""
        if self.kind == "lazy":
            return np.eye(self.task.n_outputs) * self.solution.readout_variance
        return np.asarray(self.solution.readout_covariance)

    @property
    def order_parameters(self) -> dict[str, FloatArray]:
        """Named order parameters: t (P, m)."""
        return {"t": self.solution.t}

    @property
    def objective(self) -> float:
        """min J per neuron (extremum of the action for deep linear networks); -ln p(Y) of a lazy network."""
        return float(self.solution.objective)

    @property
    def residual(self) -> FloatArray:
        """(P, m) training residual y - f = tau t."""
        return self.tau * np.asarray(self.solution.t)

    @property
    def predictions(self) -> FloatArray:
        """(P, m) mean outputs on the training samples."""
        return self.task.targets - self.residual

    # ---- any inputs ------------------------------------------------------------------------------

    def predict(self, X: Any = None, variance: bool = False, *, width: float | None = None) -> Any:
        """Mean outputs on new inputs, and their variance over the posterior.

        Parameters
        ----------
        X : (n, N_0) array-like or (n, h, w[, c]) images
            Raw inputs: centring and scaling of the task are applied here. The training inputs if left out.
        variance : bool
            Whether to return the variance, too.
        width : float, optional
            N. The outputs of a non-lazy network fluctuate with variance of order 1/N, so it is needed for `variance`
            unless the network is lazy.

        Returns
        -------
        mean : (n, m) array
        variance : (n, m) array
            If asked for.

        Raises
        ------
        ValueError
            For inputs of another size, NaN, and a variance without a width.
        """
        new = self._inputs(X)
        mean = self._predictor.mean(new)
        if not variance:
            return mean
        if width is None and self.kind != "lazy":
            raise ValueError("the variance of a non-lazy network is of order 1/N: give width=N, the number of neurons.")
        return mean, self._predictor.variance(new, self._width(width))

    def predict_class(self, X: Any) -> np.ndarray[Any, Any]:
        """(n,) names of the classes whose targets are nearest to the mean outputs on raw inputs.

        Raises
        ------
        ValueError
            If the task has no classes with a common target.
        """
        index = nearest_class(self.task, self.predict(X))
        if index is None:
            raise ValueError("this task has no classes with one target each; use predict, or give labels to data_task.")
        return np.array(self.task.class_names)[index]

    def generalization_error(self, X: Any, Y: Any, *, width: float | None = None) -> Generalization:
        """Squared error on test samples, split into bias |f - y|^2 and variance, with accuracy, also per class.

        Parameters
        ----------
        X : raw inputs, as for `predict`
        Y : (n, m) targets, or (n,) class names
        width : float, optional
            N; without it the variance of a non-lazy network is that of infinite width, zero.
        """
        new = self.task.transform(X)
        targets = self.task.targets_of(Y, len(new))
        size = math.inf if width is None else self._width(width)
        if math.isinf(size) and self.kind != "lazy":
            spread = np.zeros(targets.shape)
        else:
            spread = self._predictor.variance(new, size)
        return generalization(self.task, self._predictor.mean(new), spread, targets, size)

    def kernel(self, X: Any = None, X2: Any = None, *, layer: int | None = None) -> FloatArray:
        """Posterior kernel K(x, x') = <phi(z(x)) phi(z(x'))> over the neurons of a hidden layer.

        Parameters
        ----------
        X, X2 : raw inputs, as for `predict`
            The training inputs if X is left out; X with itself if X2 is.
        layer : int, optional
            1..L; the last hidden layer by default.

        Returns
        -------
        (n, n') array
        """
        depth = self.network.depth
        layer = depth if layer is None else layer
        if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)) or not 1 <= layer <= depth:
            raise ValueError(f"layer must be an integer 1..{depth}, got {layer!r}.")
        if X is None and X2 is not None:
            raise ValueError("give X, or leave X2 out, too.")
        return self._predictor.kernel(self._inputs(X), None if X2 is None else self._inputs(X2), int(layer))

    def sample_neurons(self, n: int, *, rng: Any = None, X: Any = None, labels: Any = None) -> Neurons:
        """Draw `n` neurons of the last hidden layer with their responses to inputs.

        The same seed gives the same neurons, so that they can be seen on several sets of inputs (lazy networks of more
        than one layer excepted, whose responses are drawn for the inputs given).

        Parameters
        ----------
        n : int
            Number of neurons.
        rng : None, int, SeedSequence or Generator
        X : raw inputs, optional
            The training inputs by default.
        labels : (n_inputs,) class names, optional
            Of `X`; by default the classes of the training samples, or the predicted ones.

        Returns
        -------
        Neurons
        """
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(f"n must be an integer >= 1, got {n!r}.")
        new = self._inputs(X)
        if labels is not None:
            index = self.task.class_index(labels, len(new))
        elif X is None:
            index = self.task.labels  # type: ignore[assignment]
        else:
            index = nearest_class(self.task, self._predictor.mean(new))  # type: ignore[assignment]
        names = self.task.class_names
        if index is None:
            index, names = np.zeros(len(new), dtype=np.intp), ("inputs",)
        readouts, part, parts, z = self._predictor.draw(int(n), new, np.random.default_rng(rng))
        activations = np.asarray(self.network.activation(z))
        return Neurons(readouts, part, tuple(parts), z, activations, index, tuple(names))

    # ---- printing, saving ------------------------------------------------------------------------

    def table(self) -> str:
        """The posterior as printed text."""
        network, task, proof = self.network, self.task, self.certificate
        scales = f"sigma_a = {network.sigma_a:g}, sigma_w = {network.sigma_w:g}"
        layers = f"{network.depth} hidden layer{'s' * (network.depth > 1)}"
        noise = "T" if self.kind == "lazy" else "tau"
        lines = [
            f"{self.scheme} coding: {network.activation.name}, {layers}, {network.scaling} scaling, {scales}",
            f"{task!r}, {noise} = {self.tau:g}",
            "",
            f"{'-ln p(Y)' if self.kind == 'lazy' else 'min J'} = {self.objective:.10g}   ({self.status})",
            f"certificate: residual {proof.kkt_residual:.1e}, duality gap {proof.duality_gap:.1e}",
            f"largest training residual {np.abs(self.residual).max():.3g}",
            *([self.message] if self.message and self.status != "optimal" else []),
            *(f"note: {note}" for note in self.notes),
        ]
        if self.kind == "linear" and task.n_outputs <= 10:
            rows = ["  " + "".join(f"{x:9.4f}" for x in row) for row in self.readout_covariance]
            lines[3:3] = ["readouts ~ N(0, U), U =", *rows, ""]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<DataPosterior: {self.scheme}, {self.task!r}; J = {self.objective:.9g}, {self.status}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to an ``.npz`` file (no pickle inside); returns its path."""
        task_header, arrays = self.task.to_arrays()
        solution = {f.name: getattr(self.solution, f.name) for f in fields(self.solution)}
        arrays |= {f"solution_{name}": value for name, value in solution.items() if isinstance(value, np.ndarray)}
        header = {
            "network": self.network.to_dict(),
            "task": task_header,
            "tau": self.tau,
            "kind": self.kind,
            "solution": {name: value for name, value in solution.items() if not isinstance(value, np.ndarray)},
            "certificate": {f.name: getattr(self.certificate, f.name) for f in fields(self.certificate)},
            "status": self.status,
            "message": self.message,
            "notes": list(self.notes),
        }
        return write_archive(path, "data posterior", header, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DataPosterior:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file holds something else.
        """
        header, arrays = read_archive(path, "data posterior")
        prefix = "solution_"
        own = {name.removeprefix(prefix): read_only(x) for name, x in arrays.items() if name.startswith(prefix)}
        return cls(
            Network.from_dict(header["network"]),
            DataTask.from_arrays(header["task"], arrays),
            header["tau"],
            _KINDS[header["kind"]][0](**own, **header["solution"]),
            Certificate(**header["certificate"]),
            header["status"],
            header["message"],
            tuple(header["notes"]),
        )

    # ---- helpers ---------------------------------------------------------------------------------

    @cached_property
    def _predictor(self) -> Predictor:
        predictor: Predictor = _KINDS[self.kind][1](self.network, self.task, self.tau, self.solution)
        return predictor

    def _inputs(self, X: Any) -> FloatArray:
        return self.task.inputs if X is None else self.task.transform(X)

    def _width(self, width: float | None) -> float:
        return math.inf if width is None else real_number("width", width, at_least=1, infinite=True)
