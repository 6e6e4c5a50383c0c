"""What `solve` returns for a data task: predictor, errors, kernels and neurons on any inputs, for every theory."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from dataclasses import Field, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from meanfield.archive import Arrays, Header, write_archive
from meanfield.posterior.certificate import Certificate
from meanfield.posterior.claims import certificate_from
from meanfield.posterior.generalization import Generalization, generalization, nearest_class
from meanfield.posterior.kernel import Kernel
from meanfield.posterior.neurons import Neurons, positive_count
from meanfield.posterior.posterior import Posterior, SolutionNumbers
from meanfield.posterior.predictor import Predictor
from meanfield.posterior.status import Status
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.validation import FloatArray, entry, flag, real_number
from meanfield.validation import generator as new_generator

__all__ = ["DataPosterior", "check_data_posterior", "rest_of_header", "solution_arrays", "solution_from"]

_Solution = TypeVar("_Solution")
_PREFIX = "solution_"  # of the solution's arrays in a file
_KNOWN = ("activation", "targets")  # of a solution, which the network and the task hold, too


class OnData(SolutionNumbers, Protocol):
    """The numbers that a solver found, with the value of its objective; a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field]]

    @property
    def objective(self) -> float: ...


@dataclass(frozen=True, eq=False)
class DataPosterior(Posterior):
    """Posterior of a network on a data task; what `solve` returns for one. Every theory has a class of its own.

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
    status : Status
    message : str
        "optimal" or what went wrong; in words, and what to try.
    notes : tuple of str
        Remarks, e.g. that the kernel was regularised.
    """

    network: Network
    task: DataTask
    tau: float
    solution: OnData
    certificate: Certificate
    status: Status = Status.OPTIMAL
    message: str = ""
    notes: tuple[str, ...] = ()

    kind: ClassVar[str]  # the name of the theory in files
    _fluctuates: ClassVar[bool] = True  # outputs vary by O(1/sqrt(N)), so that a variance needs N

    # ---- what was found --------------------------------------------------------------------------

    @property
    def order_parameters(self) -> dict[str, FloatArray]:
        """Named order parameters: t (P, m)."""
        return {"t": self.solution.t}

    @property
    def objective(self) -> float:
        """min J per neuron (extremum of the action for deep linear networks); -ln p(Y) of a lazy network."""
        return float(self.solution.objective)

    @cached_property
    @abstractmethod
    def _predictor(self) -> Predictor:
        """Answers on inputs as the network sees them."""

    # ---- any inputs ------------------------------------------------------------------------------

    @overload
    def predict(self, X: object = ..., variance: Literal[False] = ..., *, width: float | None = ...) -> FloatArray: ...
    @overload
    def predict(
        self, X: object, variance: bool, *, width: float | None = ...
    ) -> FloatArray | tuple[FloatArray, FloatArray]: ...
    def predict(
        self, X: object = None, variance: bool = False, *, width: float | None = None
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
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
        flag("variance", variance)
        new = self._inputs(X)
        mean = self.predictions if X is None else self._predictor.mean(new)
        if not variance:
            return mean
        if width is None and self._fluctuates:
            raise ValueError("the variance of a non-lazy network is of order 1/N: give width=N, the number of neurons.")
        return mean, self._predictor.variance(new, self._width(width))

    def predict_class(self, X: object) -> np.ndarray:
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

    def generalization_error(self, X: object, Y: object, *, width: float | None = None) -> Generalization:
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
        if math.isinf(size) and self._fluctuates:
            spread = np.zeros(targets.shape)
        else:
            spread = self._predictor.variance(new, size)
        return generalization(self.task, self._predictor.mean(new), spread, targets, size)

    def kernel(self, X: object = None, X2: object = None, *, layer: int = -1) -> Kernel:
        """Posterior kernel K(x, x') = <phi(z(x)) phi(z(x'))> over the neurons of a hidden layer.

        Parameters
        ----------
        X, X2 : raw inputs, as for `predict`
            The training inputs if X is left out; X with itself if X2 is.
        layer : int
            1..L, or from the last by negative numbers.

        Returns
        -------
        Kernel
            With elements (n, n'); NumPy takes it for an array.

        Notes
        -----
        Of nonlinear networks the training inputs, left out, have the moments of expectation propagation; given as `X`
        they are treated as any other inputs, as Gaussian, which is less accurate for them.
        """
        layer = self._layer(layer)
        if X is None and X2 is not None:
            raise ValueError("give X, or leave X2 out, too.")
        labels = self.task.labels if X is None and X2 is None else None
        if X is None:
            return Kernel.of_inputs(self._training_kernel(layer), labels)
        other = None if X2 is None else self._inputs(X2)
        return Kernel.of_inputs(self._predictor.kernel(self._inputs(X), other, layer))

    def _training_kernel(self, layer: int) -> FloatArray:
        return self._predictor.kernel(self.task.inputs, None, layer)

    def sample_neurons(self, n: int, *, rng: object = None, X: object = None, labels: object = None) -> Neurons:
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
        n, generator = positive_count("n", n), new_generator("rng", rng)
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
        readouts, part, parts, z = self._predictor.draw(n, new, generator)
        activations = np.asarray(self.network.activation(z))
        return Neurons(readouts, part, tuple(parts), z, activations, index, tuple(names))

    # ---- printing, saving ------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.scheme}, {self.task!r}; J = {self.objective:.9g}, {self.status}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to an ``.npz`` file (no pickle inside); returns its path."""
        task_header, arrays = self.task.to_arrays()
        solution = {f.name: getattr(self.solution, f.name) for f in fields(self.solution) if f.name not in _KNOWN}
        arrays |= {f"{_PREFIX}{name}": value for name, value in solution.items() if isinstance(value, np.ndarray)}
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

    # ---- helpers ---------------------------------------------------------------------------------

    def _inputs(self, X: object) -> FloatArray:
        return self.task.inputs if X is None else self.task.transform(X)

    def _width(self, width: float | None) -> float:
        return math.inf if width is None else real_number("width", width, at_least=1, infinite=True)


def solution_from(kind: type[_Solution], header: Header, arrays: Arrays) -> _Solution:
    """The solution of some type in a file of `DataPosterior.save`."""
    values: dict = {**entry(header, "solution", dict), **solution_arrays(arrays)}
    return kind(**values)


def solution_arrays(arrays: Arrays) -> Arrays:
    """The arrays of the solution in a file of `DataPosterior.save`, by name."""
    return {name.removeprefix(_PREFIX): value for name, value in arrays.items() if name.startswith(_PREFIX)}


def rest_of_header(header: Header) -> tuple[Certificate, Status, str, tuple[str, ...]]:
    """Certificate, status, message and notes, the last fields of a data posterior, from the header of its file."""
    word = entry(header, "status", str)
    proof = certificate_from(entry(header, "certificate", dict), word)
    return proof, Status.of(word), entry(header, "message", str), tuple(entry(header, "notes", list))


def check_data_posterior(posterior: DataPosterior) -> bool:
    """Refuse a solution whose shapes or signs are not those of its task; whether its equations are to be checked, too.

    Raises
    ------
    ValueError
    """
    s, task, tau = posterior.solution, posterior.task, posterior.tau
    real_number("tau", tau, at_least=0.0)
    if s.t.shape != task.targets.shape:
        raise ValueError(f"its t has shape {s.t.shape}, the targets have {task.targets.shape}.")
    if posterior.status != "optimal":
        return False
    for name, value in vars(s).items():
        if (
            isinstance(value, np.ndarray)
            and value.dtype.kind == "f"
            and name != "cuts"
            and not np.isfinite(value).all()
        ):
            raise ValueError(f"its {name} is not finite.")
    if not math.isfinite(s.objective):
        raise ValueError("its objective is not finite.")
    return True
