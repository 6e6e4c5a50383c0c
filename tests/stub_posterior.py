"""A posterior on data that was made up, not solved: what the pictures and the command ask of one, and nothing more."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from meanfield.posterior.division import ByCode
from meanfield.posterior.generalization import generalization
from meanfield.posterior.neurons import Neurons
from meanfield.posterior.parts import Code
from meanfield.problem.network import Network


class Posterior:
    """Pictures ask for what they draw by the names of its classes."""


class DataPosterior(Posterior):
    """The same for data."""


@dataclass(frozen=True)
class StubPosterior(DataPosterior):
    """Sigmoid codes whose weights are a ridge fit to their pattern; `scheme` "lazy": one part with weights as drawn."""

    task: object
    tau: float = 0.01
    scheme: str = "redundant"
    network: object = Network("sigmoid")
    outliers: tuple = ()
    division: object = ByCode()

    def __post_init__(self):
        object.__setattr__(self, "features", self.task.features(1.0))

    @property
    def patterns(self):
        if self.scheme == "lazy":
            return np.zeros((1, self.task.n_classes))
        return 1.0 - np.eye(self.task.n_classes)

    @property
    def codes(self):
        if self.scheme == "lazy":
            return ()
        m = self.task.n_classes
        share = np.full(m, 1 / m)
        return tuple(
            Code("".join(str(int(x)) for x in p), w, 1.6 * p, 0.1 + 0.8 * p, np.full(m, 0.05), 0.01 * np.eye(m))
            for p, w in zip(self.patterns, share, strict=True)
        )

    def _mean(self, z):
        """(codes, n) mean preactivations of features z (n, r)."""
        f, wanted = self.features.matrix, (self.patterns[:, self.task.labels] - 0.5) * 3.0
        if self.scheme == "lazy":
            return np.zeros((1, len(z)))
        weights = np.linalg.solve(f.T @ f + 0.5 * np.eye(f.shape[1]), f.T @ wanted.T)
        return (z @ weights).T

    def _features(self, X):
        if X is None:
            return self.features.matrix, np.zeros(self.task.n_samples)
        return self.features.project(self.task.transform(X))

    def _activity(self, X):
        return ndtr(np.sqrt(np.pi / 2) * self._mean(self._features(X)[0]))

    def predict(self, X=None, variance=False, width=None):
        if self.scheme == "lazy":
            f = self.features.matrix
            ridge = np.linalg.solve(f.T @ f + 1e-2 * np.eye(f.shape[1]), f.T @ self.task.targets)
            mean = self._features(X)[0] @ ridge
        else:
            on = np.linalg.lstsq(self._activity(None).T, self.task.targets, rcond=1e-3)[0]
            mean = self._activity(X).T @ on
        if not variance:
            return mean
        return mean, np.full_like(mean, 0.004 if self.scheme == "lazy" else 1.0 / width)

    @property
    def predictions(self):
        return self.predict()

    @property
    def residual(self):
        return self.task.targets - self.predictions

    def kernel(self, X=None):
        if self.scheme == "lazy":
            z = self._features(X)[0]
            v = 1 + np.pi / 2 * (z**2).sum(axis=1)
            return 0.25 + np.arcsin(np.pi / 2 * z @ z.T / np.sqrt(np.outer(v, v))) / (2 * np.pi)
        activity = self._activity(X)
        return activity.T @ activity / len(activity) + 0.05 * np.eye(activity.shape[1])

    def generalization_error(self, X, wanted, width=1000):
        mean, variance = self.predict(X, variance=True, width=width)
        return generalization(self.task, mean, variance, self.task.targets_of(wanted, len(mean)), width)

    @property
    def order_parameters(self):
        return {"t": self.residual / self.tau}

    def table(self):
        return f"stub, tau = {self.tau:g}, sigma_a = {self.network.sigma_a:g}"

    def save(self, path):
        return path

    def sample_neurons(self, n, rng=None, X=None, labels=None):
        generator = np.random.default_rng(rng)
        code = np.sort(generator.integers(len(self.patterns), size=n))
        z, _ = self._features(X)
        width = 1.0 if self.scheme == "lazy" else 0.5
        z = self._mean(z)[code] + width * generator.standard_normal((n, z.shape[1])) @ z.T
        names = ("random",) if self.scheme == "lazy" else tuple(c.label for c in self.codes)
        labels = np.zeros(z.shape[1], dtype=int) if labels is None else labels
        return Neurons(
            1.6 * self.patterns[code], code, names, z, self.network.activation(z), labels, self.task.class_names
        )
