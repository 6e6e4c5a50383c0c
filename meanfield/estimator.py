"""Wide Bayesian networks as scikit-learn estimators (needs the extra ``data``).

The predictor is the posterior mean of the theory, A. van Meegen and H. Sompolinsky, Nature Communications 16:3354
(2025): exact for infinitely wide networks, with fluctuations of order 1/N in the non-lazy scaling.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from meanfield.problem.data_task import DataTask, data_task
from meanfield.problem.network import Network
from meanfield.solve import solve
from meanfield.validation import FloatArray, flag, plain_array, real_array, short

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:  # pragma: no cover - needs an environment without scikit-learn
    raise ImportError("meanfield.estimator needs scikit-learn; install it, e.g. with the extra `data`.") from error

__all__ = ["NonLazyClassifier", "NonLazyRegressor"]


def _validated(estimator: BaseEstimator, X: object, *y: object, **options: object) -> Any:
    """`validate_data` of scikit-learn, its words and types (its conventions ask for them) after the argument's name.

    Refused before it: what it takes although it is no number, e.g. masked entries, dates, numbers as text.
    """
    numeric = {"X": True, "y": options.get("y_numeric", False)}
    for name, given in zip(numeric, (X, *y)):
        dtype = plain_array(name, given).dtype
        if dtype.kind in "mMV" or (dtype.kind in "SU" and numeric[name]):
            raise ValueError(f"{name} has dtype {dtype}, expected numbers, got {short(given)}.")
    names = " and ".join(numeric) if y else "X"
    try:
        return validate_data(estimator, X, *y, **options)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{names}: {error}") from error
    except Exception as error:  # of numbers out of range, or of a user's object, which may do anything
        raise ValueError(f"{names} cannot be read as arrays of numbers ({type(error).__name__}: {error}).") from error


class _WideNetwork(BaseEstimator):
    """What the classifier and the regressor share: the network, the scaling of the inputs, the posterior."""

    def __init__(
        self,
        activation: object = "linear",
        *,
        depth: int = 1,
        sigma_a: float = 1.0,
        sigma_w: float = 1.0,
        tau: float = 0.01,
        lazy: bool = False,
        center: bool = True,
        scale: object = "rms",
        on_failure: Literal["raise", "warn", "return"] = "warn",
    ) -> None:
        self.activation = activation
        self.depth = depth
        self.sigma_a = sigma_a
        self.sigma_w = sigma_w
        self.tau = tau
        self.lazy = lazy
        self.center = center
        self.scale = scale
        self.on_failure = on_failure

    def _network(self) -> Network:
        scaling = "lazy" if flag("lazy", self.lazy) else "non-lazy"
        return Network(self.activation, self.depth, self.sigma_a, self.sigma_w, scaling=scaling)

    def _task(self, X: object, **wanted: Any) -> DataTask:
        return data_task(X, center=self.center, scale=self.scale, **wanted)

    def _solve(self, task: DataTask) -> None:
        self.posterior_ = solve(self._network(), task, tau=self.tau, on_failure=self.on_failure)
        self.codes_ = self.posterior_.codes
        self.certificate_ = self.posterior_.certificate

    def _outputs(self, X: object) -> FloatArray:
        check_is_fitted(self)
        return self.posterior_.predict(_validated(self, X, reset=False, dtype=np.float64))


class NonLazyClassifier(ClassifierMixin, _WideNetwork):
    """Classifier: posterior-mean predictor of a wide Bayesian network trained on one-hot targets.

    Parameters
    ----------
    activation : str, Activation or SymPy expression
        "linear", the default, has a closed form. Nonlinear networks take seconds to minutes; on targets that are
        mostly noise, at small tau, a solution may not be found (see `on_failure`).
    depth : int
        Hidden layers; more than one for linear networks at tau = 0, and for lazy networks.
    sigma_a, sigma_w : float
        Prior scales of readout and input weights.
    tau : float
        N T, the rescaled temperature of the squared error; for ``lazy=True`` the temperature T itself, a ridge on a
        kernel of scale sigma_a^2 / P^beta: compare a non-lazy network with the lazy one at tau = 0. Nonlinear
        networks on tables with few features need about 0.1 or more (iris, wine), images solve at 0.01.
    lazy : bool
        The Gaussian-process network (readout divided by sqrt(N)), whose hidden representation does not learn.
    center : bool
        Subtract the mean of the training inputs.
    scale : "rms", None or float
        Divide the inputs by one number: their root mean square, 1, or this.
    on_failure : {"warn", "raise", "return"}
        What to do where the solution cannot be certified; see `meanfield.solve`.
    on, off : float
        Target of the output of the own class and of the others.

    Attributes
    ----------
    classes_ : (C,) array
    target_center_ : (C,) array
        What was subtracted from the targets and is added to the outputs: the mean over the training samples for odd
        activations (linear, tanh, erf) and centred inputs, which have no constant output of their own; 0 otherwise.
    posterior_ : DataPosterior
        The theory's solution: codes, order parameters, kernels, predictor with its variance.
    codes_ : tuple of Code
    certificate_ : Certificate
    n_features_in_ : int

    Raises
    ------
    ValueError
        At `fit`, for bad input and parameters, and for fewer than two classes.
    ConvergenceError
        With ``on_failure="raise"``.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from meanfield.estimator import NonLazyClassifier
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> NonLazyClassifier(tau=1.0).fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.9
    True
    """

    def __init__(
        self,
        activation: object = "linear",
        *,
        depth: int = 1,
        sigma_a: float = 1.0,
        sigma_w: float = 1.0,
        tau: float = 0.01,
        lazy: bool = False,
        center: bool = True,
        scale: object = "rms",
        on_failure: Literal["raise", "warn", "return"] = "warn",
        on: float = 1.0,
        off: float = 0.0,
    ) -> None:
        super().__init__(
            activation, depth=depth, sigma_a=sigma_a, sigma_w=sigma_w, tau=tau, lazy=lazy, center=center, scale=scale,
            on_failure=on_failure,
        )  # fmt: skip
        self.on = on
        self.off = off

    def fit(self, X: Any, y: Any) -> NonLazyClassifier:
        """Solve the theory on inputs X (P, N_0) and class labels y (P,)."""
        X, y = _validated(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs at least two classes, got one class: {self.classes_[0]}.")
        task = self._task(X, labels=labels, on=self.on, off=self.off)
        self.target_center_ = np.zeros(len(self.classes_))
        if self.center and self._network().activation.parity == "odd":
            self.target_center_ = task.targets.mean(axis=0)
        self._solve(replace(task, targets=task.targets - self.target_center_))
        return self

    def decision_function(self, X: object) -> FloatArray:
        """Mean outputs (n, C) on inputs X (n, N_0); for two classes their difference (n,), second minus first.

        With on < off the sign is changed: the largest is always that of the predicted class.
        """
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: object) -> np.ndarray:
        """(n,) label of the class whose target is nearest to the mean output."""
        scores = self._scores(X)  # says so if there are no classes yet
        return self.classes_[scores.argmax(axis=1)]

    def _scores(self, X: object) -> FloatArray:
        return np.sign(self.on - self.off) * (self._outputs(X) + self.target_center_)


class NonLazyRegressor(MultiOutputMixin, RegressorMixin, _WideNetwork):
    """Regressor: posterior-mean predictor of a wide Bayesian network; targets are centred and scaled to unit rms.

    Parameters and attributes are those of `NonLazyClassifier`, without on, off and classes.

    Attributes
    ----------
    target_center_ : (m,) array
    target_scale_ : float
        The network is trained on (y - center) / scale; tau refers to these targets.

    Examples
    --------
    >>> import numpy as np
    >>> from meanfield.estimator import NonLazyRegressor
    >>> X = np.linspace(-1, 1, 30)[:, None]
    >>> NonLazyRegressor("erf", lazy=True, tau=1e-4).fit(X, np.sin(2 * X[:, 0])).score(X, np.sin(2 * X[:, 0])) > 0.99
    True
    """

    def fit(self, X: Any, y: Any) -> NonLazyRegressor:
        """Solve the theory on inputs X (P, N_0) and targets y (P,) or (P, m)."""
        X, y = _validated(self, X, y, dtype=np.float64, ensure_min_samples=2, multi_output=True, y_numeric=True)
        y = real_array("y", y)
        self._vector = y.ndim == 1
        targets = y[:, None] if self._vector else y
        self.target_center_ = targets.mean(axis=0)
        rms = float(np.sqrt(np.mean((targets - self.target_center_) ** 2)))
        self.target_scale_ = rms if rms > 0.0 else 1.0
        self._solve(self._task(X, Y=(targets - self.target_center_) / self.target_scale_))
        return self

    def predict(self, X: object) -> np.ndarray:
        """Mean outputs (n,) or (n, m) on inputs X (n, N_0)."""
        check_is_fitted(self)
        outputs = self.target_center_ + self.target_scale_ * self._outputs(X)
        return outputs[:, 0] if self._vector else outputs
