"""What `solve` returns for a data task: the posterior of a network on given inputs, with predictor and neurons."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meanfield.archive import read_archive, reading, write_archive
from meanfield.coverage import covering_theory
from meanfield.posterior.generalization import (
    Generalization,
    LazyPredictor,
    LinearPredictor,
    Predictor,
    generalization,
    nearest_class,
)
from meanfield.posterior.neurons import Neurons
from meanfield.posterior.result import Certificate, ConvergenceError
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.theories.general_data.outliers.solution import OutlierSolution
from meanfield.theories.general_data.parts import DataCode, DataOutlier, codes_of, data_table, outliers_of
from meanfield.theories.general_data.predictor import GeneralPredictor
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.theories.lazy.gaussian_process import LazySolution
from meanfield.theories.linear.data_tasks import LinearDataSolution
from meanfield.validation import FloatArray, entry, real_number

__all__ = ["DataPosterior"]

_KINDS: dict[str, type] = {"linear": LinearDataSolution, "lazy": LazySolution, "general": GeneralSolution}
_KNOWN = ("activation", "targets")  # of a solution, which the network and the task hold, too


@dataclass(frozen=True, eq=False)
class DataPosterior:
    """Posterior of a network on a data task; what `solve` returns for one.

    Parameters
    ----------
    network : Network
    task : DataTask
    tau : float
        N T, the rescaled temperature; T itself for lazy networks (see `meanfield.theories.lazy.gaussian_process`).
    solution : LinearDataSolution, LazySolution or GeneralSolution
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
        """The theory that was solved: "linear", "lazy" or "general" (one hidden layer, any other activation)."""
        return next(kind for kind, solution in _KINDS.items() if isinstance(self.solution, solution))

    @property
    def scheme(self) -> str:
        """The coding scheme.

        "analog" for linear networks, "lazy" for lazy ones, whose neurons stay as in the prior; else "redundant" (codes)
        for bounded phi, "sparse" (a bulk, and outliers where the task needs them) or "mixed" for unbounded phi.
        """
        if self.kind != "general":
            return "lazy" if self.kind == "lazy" else "analog"
        if self.network.activation.parts == "codes":
            return "redundant"
        return "sparse" if len(self.codes) == 1 else "mixed"

    @cached_property
    def codes(self) -> tuple[DataCode, ...]:
        """Codes, heaviest first: basins of the readout posterior. Empty for linear and lazy networks (Gaussian)."""
        return codes_of(self.network, self.task, self.solution) if self.kind == "general" else ()

    @property
    def bulk(self) -> DataCode | None:
        """The heaviest code, of the neurons that are not outliers, where phi allows outliers; else None."""
        return self.codes[0] if self.kind == "general" and self.network.activation.parts == "outliers" else None

    @cached_property
    def outliers(self) -> tuple[DataOutlier, ...]:
        """Outliers, heaviest first; empty where there are none."""
        return outliers_of(self.network, self.task, self.solution) if self.kind == "general" else ()

    @cached_property
    def readout_covariance(self) -> FloatArray:
        """(m, m) covariance of the readout over neurons, outliers included: U of linear networks, s 1 of lazy ones."""
        s = self.solution
        if self.kind == "lazy":
            return np.eye(self.task.n_outputs) * s.readout_variance
        if self.kind == "linear":
            return np.asarray(s.readout_covariance)
        centred = s.code_readout - s.code_weight @ s.code_readout
        total = np.einsum("g,gij->ij", s.code_weight, s.code_covariance) + (centred.T * s.code_weight) @ centred
        return np.asarray(total + (s.outlier_direction.T * s.outlier_weight) @ s.outlier_direction)

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
            Raw inputs: centring and scaling of the task are applied here. The training inputs if left out, with the
            mean `predictions` of the solution itself.
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
        mean = self.predictions if X is None else self._predictor.mean(new)
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

    def code_activations(self, X: Any = None) -> FloatArray:
        """(codes, n) mean activation of the neurons of each code on raw inputs (the training inputs if left out).

        Raises
        ------
        ValueError
            For linear and lazy networks, which have no codes.
        """
        if not isinstance(self._predictor, GeneralPredictor):
            raise ValueError(f"the posterior ({self.scheme}) has no codes; use sample_neurons to see its neurons.")
        if X is None:  # moments of expectation propagation, where new inputs are taken as Gaussian
            return np.array([code.sample_activation for code in self.codes])
        return self._predictor.code_activations(self._inputs(X))

    def frozen(self, fractions: Any) -> DataPosterior:
        """The same network with given fractions of its neurons in each code, as sampled networks have them.

        Neurons of sampled networks do not hop between codes: they keep the fractions of their start, t and the readouts
        adapt to them, and the predictor's variance has no part from changes of the fractions.

        Parameters
        ----------
        fractions : (codes,) array-like
            In the order of `codes`; normalised.

        Raises
        ------
        ValueError
            For linear and lazy networks, and fractions that do not fit.
        ConvergenceError
            If no solution is found.
        """
        if self.kind != "general":
            raise ValueError(f"the posterior ({self.scheme}) has no codes whose weights could be frozen.")
        from meanfield.theories.general_data.solve import solve_frozen  # loads compiled code that nothing else needs

        found = solve_frozen(self.solution, fractions, rng=0)
        proof = replace(self.certificate, kkt_residual=found.residual)
        posterior = replace(
            self, solution=found, certificate=proof, status=found.status, message=found.message, notes=()
        )
        if found.status != "optimal":
            raise ConvergenceError(f"no certified solution ({found.status}): {found.message}", posterior)
        return posterior

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

        Notes
        -----
        Of nonlinear networks the training inputs, left out, have the moments of expectation propagation; given as `X`
        they are treated as any other inputs, as Gaussian, which is less accurate for them.
        """
        depth = self.network.depth
        layer = depth if layer is None else layer
        if isinstance(layer, bool) or not isinstance(layer, (int, np.integer)) or not 1 <= layer <= depth:
            raise ValueError(f"layer must be an integer 1..{depth}, got {layer!r}.")
        if X is None and X2 is not None:
            raise ValueError("give X, or leave X2 out, too.")
        if X is None and isinstance(self._predictor, GeneralPredictor):
            return self._predictor.training_kernel()
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
        index: NDArray[np.intp] | None
        if labels is not None:
            index = self.task.class_index(labels, len(new))
        elif X is None:
            index = self.task.labels
        else:
            index = nearest_class(self.task, self._predictor.mean(new))
        names = self.task.class_names
        if index is None:
            index, names = np.zeros(len(new), dtype=np.intp), ("inputs",)
        readouts, part, parts, z = self._predictor.draw(int(n), new, np.random.default_rng(rng))
        activations = np.asarray(self.network.activation(z))
        return Neurons(readouts, part, tuple(parts), z, activations, index, tuple(names))

    # ---- printing, saving ------------------------------------------------------------------------

    def table(self) -> str:
        """The posterior as printed text."""
        return data_table(self)

    def __repr__(self) -> str:
        return f"<DataPosterior: {self.scheme}, {self.task!r}; J = {self.objective:.9g}, {self.status}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to an ``.npz`` file (no pickle inside); returns its path."""
        task_header, arrays = self.task.to_arrays()
        solution = {f.name: getattr(self.solution, f.name) for f in fields(self.solution) if f.name not in _KNOWN}
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
            If the file holds something else, or numbers that do not solve its task (see `meanfield.checked`).
        FileNotFoundError
            If there is none.
        """
        header, arrays = read_archive(path, "data posterior")
        with reading(path, "data posterior"):
            return cls._unpacked(header, arrays)

    @classmethod
    def _unpacked(cls, header: dict[str, Any], arrays: dict[str, Any]) -> DataPosterior:
        from meanfield.checked import certificate_from, check_data_posterior, real_arrays

        real_arrays(arrays)
        real_number("tau", entry(header, "tau", (int, float)), at_least=0.0)
        status, message, notes = (
            entry(header, "status", str),
            entry(header, "message", str),
            entry(header, "notes", list),
        )
        certificate = certificate_from(entry(header, "certificate", dict), status)
        if entry(header, "kind", str) not in _KINDS:
            raise ValueError(f"it holds a solution of the unknown kind {header['kind'][:40]!r}.")
        prefix = "solution_"
        own = {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}
        network, task = Network.from_dict(header["network"]), DataTask.from_arrays(header["task"], arrays)
        covering_theory(network, task, header["tau"])
        if header["kind"] == "general":
            # The singular value decomposition of another machine may differ by signs and rotations.
            features = task.features(network.sigma_w).matrix
            turn = np.linalg.lstsq(features, own["features"], rcond=None)[0]
            own |= {name: own[name] @ turn.T for name in ("directions", "outlier_w")}
            own |= {"features": features, "targets": task.targets}
            header["solution"]["activation"] = network.activation
        kind = OutlierSolution if "limit" in header["solution"] else _KINDS[header["kind"]]
        solution = kind(**own, **header["solution"])
        posterior = cls(network, task, float(header["tau"]), solution, certificate, status, message, tuple(notes))
        check_data_posterior(posterior)
        return posterior

    # ---- helpers ---------------------------------------------------------------------------------

    @cached_property
    def _predictor(self) -> Predictor:
        parts = self.network, self.task, self.tau, self.solution
        if self.kind == "general":
            names = ["bulk"] if self.scheme == "sparse" else [code.label for code in self.codes]
            order = np.argsort(-self.solution.outlier_weight, kind="stable")  # that of `outliers`
            rank = np.argsort(order)
            names += [f"outlier {self.outliers[i].label}" for i in rank]
            return GeneralPredictor(*parts, tuple(names))
        return LinearPredictor(*parts) if self.kind == "linear" else LazyPredictor(*parts)

    def _inputs(self, X: Any) -> FloatArray:
        return self.task.inputs if X is None else self.task.transform(X)

    def _width(self, width: float | None) -> float:
        return math.inf if width is None else real_number("width", width, at_least=1, infinite=True)
