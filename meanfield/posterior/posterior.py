"""`Posterior`: the questions that every theory answers, or refuses in words."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol, Self, overload

import numpy as np

from meanfield.posterior.archive import load_posterior
from meanfield.posterior.registry import division_of
from meanfield.problem.layers import layer_index
from meanfield.validation import FloatArray, real_array, real_number, short

if TYPE_CHECKING:
    from meanfield.posterior.certificate import Certificate
    from meanfield.posterior.division import Division
    from meanfield.posterior.finite_width import OneLoop
    from meanfield.posterior.generalization import Generalization
    from meanfield.posterior.kernel import Kernel
    from meanfield.posterior.neurons import Neurons
    from meanfield.posterior.parts import Code, Outlier
    from meanfield.posterior.status import Status
    from meanfield.problem.class_task import ClassTask
    from meanfield.problem.data_task import DataTask
    from meanfield.problem.network import Network

__all__ = ["Ended", "EndedNumbers", "NotAvailable", "Posterior", "SolutionNumbers", "SolvedPosterior"]


class NotAvailable(ValueError):
    """A question that this theory has no answer to; the text says why, and what to ask instead."""


class SolutionNumbers(Protocol):
    """The numbers that a solver found, of any theory."""

    @property
    def t(self) -> FloatArray: ...
    @property
    def objective(self) -> float: ...


class Ended(Protocol):
    """What became of a solver."""

    @property
    def status(self) -> Status: ...
    @property
    def message(self) -> str: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


class EndedNumbers(SolutionNumbers, Ended, Protocol):
    """Such numbers with what became of the solver."""


class Posterior(ABC):
    """What `meanfield.solve` returns: the posterior of a single neuron, the same questions for every theory.

    Attributes
    ----------
    network : Network
    task : ClassTask or DataTask
    tau : float
        N T, the rescaled temperature; the training residual is tau t.
    solution : object
        The numbers that the theory's solver found.
    certificate : Certificate
        The proof that comes with them.
    status : Status
        "optimal", or how the solve ended; its ``advice`` says what to try.
    message : str
        The status in words.
    theory : str
        Name of the theory that was solved.
    notes : tuple of str
        Remarks, e.g. that weights are not unique and were selected.
    objective : float
        min J (the extremum of the action).

    Notes
    -----
    A question that a theory has no answer to raises `NotAvailable`, a ValueError.
    """

    network: Network
    task: ClassTask | DataTask
    tau: float
    solution: SolutionNumbers
    if TYPE_CHECKING:  # fields of some theories, properties of others

        @property
        def theory(self) -> str: ...
        @property
        def certificate(self) -> Certificate: ...
        @property
        def status(self) -> Status: ...
        @property
        def message(self) -> str: ...
        @property
        def notes(self) -> tuple[str, ...]: ...
        @property
        def objective(self) -> float: ...

    # ---- what every theory has -------------------------------------------------------------------

    @property
    @abstractmethod
    def scheme(self) -> str:
        """The coding scheme: "analog", "redundant", "sparse", "mixed" or "lazy"."""

    @property
    @abstractmethod
    def order_parameters(self) -> Mapping[str, object]:
        """Named solution of the stationarity conditions: t (C, m) or (P, m), and what else the theory has."""

    @property
    @abstractmethod
    def readout_covariance(self) -> FloatArray:
        """(m, m) covariance of the readout over all neurons."""

    @abstractmethod
    def table(self) -> str:
        """The posterior as printed text."""

    @abstractmethod
    def sample_neurons(self, n: int, *, rng: object = None) -> Neurons:
        """Draw `n` neurons of a network from the theory, with their responses.

        Some theories take more by keyword: ``samples_per_class=`` on class tasks, ``layer=`` in deep networks (pictures
        of all layers ask for it), ``X=`` and ``labels=`` on data.
        """

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to an ``.npz`` file (no pickle inside); returns its path. `meanfield.load` reads it."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file holds something else, or numbers that do not satisfy the equations they claim to.
        """
        found = load_posterior(path)
        if not isinstance(found, cls):
            raise ValueError(f"{path} holds a {type(found).__name__}, expected a {cls.__name__}; use meanfield.load.")
        return found

    # ---- what most have --------------------------------------------------------------------------

    @property
    def division(self) -> Division:
        """How the neurons divide into parts; what pictures and comparisons ask."""
        return division_of(self.network, self.task)

    @property
    def codes(self) -> tuple[Code, ...]:
        """Codes, heaviest first; empty where readouts are Gaussian."""
        return ()

    @property
    def bulk(self) -> Code | None:
        """The code of the neurons that are not outliers, where phi allows outliers; else None."""
        return None

    @property
    def outliers(self) -> tuple[Outlier, ...]:
        """Outliers, heaviest first; empty where there are none."""
        return ()

    @property
    def residual(self) -> FloatArray:
        """(C, m) or (P, m) training residual y - f = tau t."""
        return np.asarray(self.tau * np.asarray(self.solution.t))

    @property
    def predictions(self) -> FloatArray:
        """(C, m) or (P, m) mean outputs on the training samples."""
        return np.asarray(self.task.targets - self.residual)

    @property
    def certified(self) -> bool:
        """Whether the status is "optimal"."""
        return self.status == "optimal"

    # ---- what some have --------------------------------------------------------------------------

    def _find_class(self, cls: int | str) -> int:
        labels = self.task.class_names
        if isinstance(cls, str) and cls in labels:
            return labels.index(cls)
        if isinstance(cls, (int, np.integer)) and not isinstance(cls, bool) and 0 <= cls < len(labels):
            return int(cls)
        raise ValueError(f"there is no class {short(cls)}; give an index 0..{len(labels) - 1} or one of {labels}.")

    def _layer(self, layer: object) -> int:
        """1..L of such a number, or of a negative one, from the last layer."""
        return layer_index(layer, self.network.depth) + 1

    def _named_fractions(self, fractions: object) -> list[tuple[str, float]]:
        """Patterns of codes with their numbers >= 0, from a mapping or from numbers in the order of `codes`."""
        if isinstance(fractions, Mapping):
            pairs = [
                (str(pattern).replace("-", ""), real_number(f"fractions[{short(pattern)}]", value, at_least=0.0))
                for pattern, value in fractions.items()
            ]
        else:
            values = real_array("fractions", fractions)
            if values.shape != (len(self.codes),):
                raise ValueError(f"fractions must be {len(self.codes)} numbers, one per code, got {short(fractions)}.")
            pairs = [(code.pattern, float(value)) for code, value in zip(self.codes, values, strict=True)]
        if not all(value >= 0.0 for _, value in pairs) or not sum(value for _, value in pairs) > 0.0:
            raise ValueError("fractions of codes must not be negative, and not all zero.")
        return pairs

    def _counts(self, counts: object) -> FloatArray:
        """(C,) numbers of samples, one per class."""
        sizes, n_classes = real_array("counts", counts), len(self.task.class_names)
        if sizes.shape != (n_classes,) or not (sizes > 0.0).all():
            raise ValueError(f"counts must be {n_classes} numbers of samples, one per class, got {short(counts)}.")
        return sizes

    def _refuse(self, question: str, instead: str = "") -> NoReturn:
        raise NotAvailable(f"{question} is not available for {self._described()}{instead and '; ' + instead}.")

    def _described(self) -> str:
        return f"a posterior of the theory {self.theory!r} ({self.scheme} coding)"

    def kernel(self, *, layer: int = -1) -> Kernel:
        """Posterior kernel of a hidden layer, ``layer=`` 1..L or from the last by negative numbers (-1 if left out)."""
        self._refuse("the kernel")

    def readout_density(self, a: object) -> FloatArray:
        """Density of the readout at `a`, shape (..., m)."""
        self._refuse("the density of the readout", "draw readouts with sample_neurons")

    def preactivation_density(self, code: object, cls: int | str, grid: object) -> FloatArray:
        """Density of the preactivation on a sample of a class, given a code."""
        self._refuse("the density of preactivations", "draw them with sample_neurons")

    def activation_density(self, code: object, cls: int | str, grid: object) -> FloatArray:
        """Density of the activation on a sample of a class, given a code."""
        self._refuse("the density of activations", "draw them with sample_neurons")

    def activation_atoms(self, code: object, cls: int | str) -> dict[float, float]:
        """Values that the activation takes with positive probability, and these probabilities."""
        self._refuse("atoms of the density of activations", "draw activations with sample_neurons")

    def frozen(self, fractions: object) -> Posterior:
        """The same network with given fractions of its neurons in each code, as sampled networks have them.

        Parameters
        ----------
        fractions : (codes,) array-like, or mapping of pattern to number
            In the order of `codes`; normalised. Codes of the same pattern share as in equilibrium.
        """
        self._refuse("a solution at given fractions of the codes")

    def one_loop(self) -> OneLoop:
        """What networks of finite width N have beyond this solution, at order 1/N."""
        self._refuse("the term of order 1/N", "extrapolate samples of several widths with finite_size_trend")

    def by_activation(self, counts: object) -> Posterior:
        """This posterior with neurons assigned to codes as in samples: by mean activations over `counts` (C,) samples.

        The same posterior where that makes no difference.
        """
        self._counts(counts)
        return self

    @overload
    def predict(self, X: object = ..., variance: Literal[False] = ..., *, width: float | None = ...) -> FloatArray: ...
    @overload
    def predict(
        self, X: object, variance: bool, *, width: float | None = ...
    ) -> FloatArray | tuple[FloatArray, FloatArray]: ...
    def predict(
        self, X: object = None, variance: bool = False, *, width: float | None = None
    ) -> FloatArray | tuple[FloatArray, FloatArray]:
        """Mean outputs on new inputs."""
        self._refuse("a prediction on new inputs", "classes have no inputs of their own: read .predictions")

    def predict_class(self, X: object) -> np.ndarray:
        """Names of the classes whose targets are nearest to the mean outputs."""
        self._refuse("a prediction on new inputs", "classes have no inputs of their own: read .predictions")

    def generalization_error(self, X: object, Y: object, *, width: float | None = None) -> Generalization:
        """Squared error on test samples."""
        self._refuse("the generalisation error", "solve a task of data_task(X, Y) for it")

    def code_activations(self, X: object = None) -> FloatArray:
        """(codes, n) mean activation of the neurons of each code on inputs."""
        self._refuse("the activation of codes on inputs", "read .codes[i].activation")


class SolvedPosterior(Posterior):
    """A posterior whose solution says itself how it ended.

    Apart from `Posterior`, where theories on data have fields of these names.
    """

    task: ClassTask
    solution: EndedNumbers

    @abstractmethod
    def sample_neurons(self, n: int, *, rng: object = None, samples_per_class: object = None) -> Neurons:
        """Draw `n` neurons, with their responses to samples of every class, about 100 in all if not given."""

    @property
    def status(self) -> Status:
        """ "optimal", or what went wrong."""
        return self.solution.status

    @property
    def message(self) -> str:
        """The status in words, and what to try."""
        return str(self.solution.message)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks, e.g. that weights are not unique and were selected, or a competing solution."""
        return tuple(self.solution.notes)
