"""A network of finite width on a task of finite size: its weights, its prior, and what is read off a sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from meanfield.activations.activation import Activation
from meanfield.activations.nonlinearity import nonlinearity
from meanfield.numerics.phi_table import Nonlinearity, phi0_array
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.sampling import compiled
from meanfield.validation import FloatArray, read_only, real_number, scale_number, whole_number

__all__ = [
    "Record",
    "SampledProblem",
    "class_kernels",
    "class_means",
    "class_sizes",
    "layer_widths",
    "output_scale",
    "problem",
    "stacked",
]

Record = dict[str, FloatArray | float]  # what is recorded of one draw, or of a chain of them


@dataclass(frozen=True, eq=False)
class SampledProblem:
    """Everything that the weight posterior of one network depends on.

    Attributes
    ----------
    network : Network
    width : int
        N, of the last layer; those below have `Network.width_ratios` times as many neurons.
    tau : float
        N T; T itself for the lazy scaling.
    features : (P, r) array
        F with z^1 = W^1 F^T; (0, 0) where F = sigma_w 1, orthogonal inputs with |x|^2 = N_0.
    targets : (P, m) array
    labels : (P,) integer array
        Group of every sample, 0 to C - 1.
    n_groups : int
        C.
    new_features : (n, r) array
        F* of new inputs, at which predictions are recorded.
    new_residual : (n,) array
        Variance of their preactivations in the first layer that the training inputs do not span.
    """

    network: Network
    width: int
    tau: float
    features: FloatArray
    targets: FloatArray
    labels: NDArray[np.intp]
    n_groups: int
    new_features: FloatArray
    new_residual: FloatArray

    @property
    def n_samples(self) -> int:
        """P."""
        return int(self.targets.shape[0])

    @property
    def n_outputs(self) -> int:
        """m."""
        return int(self.targets.shape[1])

    @property
    def widths(self) -> tuple[int, ...]:
        """(L,) neurons N_l of every hidden layer."""
        return layer_widths(self.network, self.width)

    @property
    def rank(self) -> int:
        """Weights per neuron of the first layer."""
        return int(self.features.shape[1]) or self.n_samples

    @property
    def n_hidden(self) -> int:
        """Number of weights below the readout."""
        widths = self.widths
        return widths[0] * self.rank + sum(n * low for low, n in itertools.pairwise(widths))

    @property
    def n_weights(self) -> int:
        """Number of all weights."""
        return self.n_hidden + self.n_outputs * self.width

    @property
    def coldness(self) -> float:
        """beta = 1 / T: N / tau, or 1 / tau for the lazy scaling, where N goes to infinity at fixed T."""
        return (self.width if self.network.scaling == "non-lazy" else 1.0) / self.tau

    @property
    def readout_std(self) -> float:
        """sqrt(sigma_a^2 / P^beta), prior standard deviation of a readout weight."""
        return math.sqrt(self.network.readout_variance(self.n_samples))

    @property
    def output_scale(self) -> float:
        """f = output_scale * sum_i a_i phi(z_i)."""
        return output_scale(self.network, self.width)

    def target(self) -> compiled.Target:
        """For the compiled energy."""
        return compiled.Target(
            features=np.ascontiguousarray(self.features),
            features_t=np.ascontiguousarray(self.features.T),
            scales=np.array(self.network.scales),
            widths=np.array(self.widths, dtype=np.int64),
            targets=np.ascontiguousarray(self.targets.T),
            depth=self.network.depth,
            readout_scale=self.readout_std * self.output_scale,
            table=nonlinearity(self.network.activation),
        )

    def work(self) -> compiled.Work:
        """Scratch memory of the compiled energy."""
        most = max(self.widths)
        layers = [np.empty((self.network.depth, most, self.n_samples)) for _ in range(3)]
        outputs = [np.empty((self.n_outputs, self.n_samples)) for _ in range(2)]
        return compiled.Work(*layers, np.empty((most, self.n_samples)), *outputs)

    def weights(self, x: FloatArray) -> list[FloatArray]:
        """W^1 (N_1, r) and W^l (N_l, N_{l-1}), in units of the prior standard deviation, as views of x."""
        widths = self.widths
        at = widths[0] * self.rank
        parts = [x[:at].reshape(widths[0], self.rank)]
        for low, n in itertools.pairwise(widths):
            parts.append(x[at : at + n * low].reshape(n, low))
            at += n * low
        return parts

    def propagated(self, x: FloatArray, first: FloatArray) -> FloatArray:
        """phi(z^L) (N, S) of the weights x, from preactivations (N_1, S) of the first layer."""
        table, z = nonlinearity(self.network.activation), first
        for low, scale, weights in zip(self.widths, self.network.scales[1:], self.weights(x)[1:]):
            z = (scale / math.sqrt(low)) * weights @ _phi(table, z)
        return _phi(table, z)

    def readout(self, x: FloatArray) -> FloatArray:
        """(m, N) readout in units of its prior standard deviation, a view of x."""
        return x[self.n_hidden :].reshape(self.n_outputs, self.width)

    def draw_readout(self, phi: FloatArray, coldness: float, rng: np.random.Generator) -> FloatArray:
        """Exact draw of the readout (m, N), in prior units, given the activations (N, P) of the last layer.

        Given phi the readout is Gaussian with precision 1 + beta q^2 phi phi^T (N x N). For N > P a draw from the prior
        is corrected instead (Matheron's rule), which needs only the P x P matrix 1 / beta + q^2 phi^T phi.
        """
        n, p = phi.shape
        q = self.readout_std * self.output_scale
        start = rng.standard_normal((self.n_outputs, n))
        noise = rng.standard_normal((self.n_outputs, p))
        if n <= p:
            precision = coldness * q * q * (phi @ phi.T)
            precision[np.diag_indices(n)] += 1.0
            factor = cho_factor(precision, lower=True)
            mean = cho_solve(factor, coldness * q * (phi @ self.targets))
            return np.asarray((mean + solve_triangular(factor[0], start.T, lower=True, trans="T")).T)
        covariance = q * q * (phi.T @ phi)
        covariance[np.diag_indices(p)] += 1.0 / coldness
        missing = self.targets.T - q * (start @ phi) - noise / math.sqrt(coldness)
        return np.asarray(start + q * (phi @ cho_solve(cho_factor(covariance, lower=True), missing.T)).T)

    def observe(self, x: FloatArray, work: compiled.Work, rng: np.random.Generator) -> Record:
        """What is recorded of the weights x: permutation-invariant functionals, readouts, class-mean activations.

        See `meanfield.sampling.chains.Chains` for the names. `work` must hold the activations of x (see `forward`).
        """
        readout = self.readout(x)
        found = [class_kernels(phi[:n], self.labels, self.n_groups) for phi, n in zip(work.phi, self.widths)]
        means, between, squares = zip(*found, strict=True)
        loss = 0.5 * self.coldness * float(np.sum(work.residual**2))
        return {
            "readout": self.readout_std * readout.T,
            "class_activation": means[-1],
            "lower_activation": stacked(means[:-1], (0, self.width, self.n_groups)),
            "kernel_between": np.array(between),
            "kernel_diagonal": np.array(squares),
            "residual": -work.residual.T,
            "prediction": self.predict(x, rng),
            "energy": loss + 0.5 * float(x @ x),
        }

    def predict(self, x: FloatArray, rng: np.random.Generator) -> FloatArray:
        """(n, m) outputs on the new inputs; the part of z^1 that the training inputs do not span is drawn."""
        n = len(self.new_features)
        if n == 0:
            return np.empty((0, self.n_outputs))
        first = self.weights(x)[0]
        z = first @ self.new_features.T + np.sqrt(self.new_residual) * rng.standard_normal((len(first), n))
        return np.asarray(self.output_scale * self.readout_std * (self.readout(x) @ self.propagated(x, z)).T)


def _phi(table: Nonlinearity, z: FloatArray) -> FloatArray:
    phi = np.empty_like(z)
    phi0_array(table, z.ravel(), phi.ravel())
    return phi


def stacked(layers: Sequence[FloatArray], empty: tuple[int, ...]) -> FloatArray:
    """Arrays (..., N_l, C) of layers as one (layers, ..., max N_l, C), NaN beyond N_l; `empty`: shape without any."""
    if not layers:
        return np.empty(empty)
    most = max(layer.shape[-2] for layer in layers)
    room = [(0, 0)] * (layers[0].ndim - 2)
    return np.array([
        np.pad(layer, [*room, (0, most - layer.shape[-2]), (0, 0)], constant_values=np.nan) for layer in layers
    ])  # fmt: skip


def layer_widths(network: Network, width: int) -> tuple[int, ...]:
    """(L,) neurons of every hidden layer of a network whose last one has `width`.

    Raises
    ------
    ValueError
        If `Network.width_ratios` make no whole numbers of them.
    """
    wanted = [ratio * width for ratio in network.ratios]
    found = tuple(max(round(n), 1) for n in wanted)
    if any(abs(n - exact) > 1e-9 * exact for n, exact in zip(found, wanted, strict=True)):
        raise ValueError(
            f"width_ratios = {network.width_ratios} of width = {width} are {[round(n, 6) for n in wanted[:-1]]} "
            "neurons, which must be whole numbers; choose another width."
        )
    return found


def output_scale(network: Network, width: int) -> float:
    """What stands before sum_i a_i phi(z_i): 1/N, or N^-1/2 with the lazy scaling."""
    return 1.0 / (width if network.scaling == "non-lazy" else math.sqrt(width))


def class_kernels(
    phi: FloatArray, labels: NDArray[np.intp], n_groups: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of activations (..., N, P): class means (..., N, C), and the kernel by class.

    Its mean over pairs of different samples (..., C, C), NaN within a class of one, and of its diagonal (..., C).
    """
    mean = class_means(labels, n_groups)
    means = phi @ mean
    squares = (phi**2).mean(axis=-2) @ mean
    between = np.swapaxes(means, -2, -1) @ means / phi.shape[-2]
    for c, n in enumerate(class_sizes(labels, n_groups)):  # pairs of different samples only
        between[..., c, c] = (n * between[..., c, c] - squares[..., c]) / (n - 1) if n > 1 else np.nan
    return means, between, squares


def class_sizes(labels: NDArray[np.intp], n_groups: int) -> NDArray[np.intp]:
    """(C,) number of samples of every class."""
    return np.bincount(labels, minlength=n_groups)


def class_means(labels: NDArray[np.intp], n_groups: int) -> FloatArray:
    """(P, C) matrix that takes values per sample to class means."""
    one_hot = (labels[:, None] == np.arange(n_groups)).astype(float)
    return np.asarray(one_hot / one_hot.sum(axis=0))


def problem(network: object, task: object, width: object, tau: object, inputs: object = None) -> SampledProblem:
    """Check what a user gives to `meanfield.sample`.

    Raises
    ------
    ValueError
        For an activation with jumps, a class task without a finite number of samples per class, tau <= 0, a width that
        is not a positive integer, ratios of widths that make no whole numbers, and new inputs for a class task.
    """
    if not isinstance(network, Network) or not isinstance(task, (ClassTask, DataTask)):
        raise ValueError(
            "sample needs a Network and a ClassTask or DataTask; build them with Network('sigmoid') and "
            f"class_task(...) or data_task(...); got {type(network).__name__} and {type(task).__name__}."
        )
    width = whole_number("width, the number N of neurons per layer,", width, at_least=1, at_most=10**7)
    tau = scale_number("tau", real_number("tau", tau, above=0.0))
    _refuse_jumps(network.activation)
    layer_widths(network, int(width))
    if isinstance(task, ClassTask):
        if inputs is not None:
            raise ValueError(
                "a class task has no inputs but those of training: a new one, orthogonal to them, says nothing about "
                "its class; leave inputs= out, or give a data_task."
            )
        sizes = _integer_sizes(task)
        labels = np.repeat(np.arange(task.n_classes), sizes)
        return SampledProblem(
            network=network,
            width=int(width),
            tau=tau,
            features=read_only(np.empty((0, 0))),
            targets=read_only(task.targets[labels]),
            labels=labels,
            n_groups=task.n_classes,
            new_features=read_only(np.empty((0, int(sizes.sum())))),
            new_residual=read_only(np.empty(0)),
        )
    features = task.features(network.sigma_w)
    new, rest = np.empty((0, features.rank)), np.empty(0)
    if inputs is not None:
        new, rest = features.project(task.transform(inputs))
    matrix = features.matrix
    if _orthogonal(matrix, network.sigma_w):  # weights turned, F = sigma_w 1: a product less in every gradient
        new, matrix = new @ matrix.T / network.sigma_w, read_only(np.empty((0, 0)))
    known = task.labels is not None
    return SampledProblem(
        network=network,
        width=int(width),
        tau=tau,
        features=matrix,
        targets=read_only(task.targets),
        labels=np.asarray(task.labels) if known else np.zeros(task.n_samples, dtype=np.intp),
        n_groups=task.n_classes if known else 1,
        new_features=read_only(new),
        new_residual=read_only(rest),
    )


def _orthogonal(matrix: FloatArray, sigma_w: float) -> bool:
    """Whether F F^T = sigma_w^2 1, to rounding."""
    p, r = matrix.shape
    return p == r and bool(np.abs(matrix @ matrix.T / sigma_w**2 - np.eye(p)).max() < 1e-12 * p)


def _refuse_jumps(phi: Activation) -> None:
    kinks = np.array(phi.kinks)
    scale = 1e-12 * np.maximum(1.0, np.abs(kinks))
    jumps = np.abs(phi(kinks + scale) - phi(kinks - scale)) > 1e-5
    if jumps.any():
        raise ValueError(
            f"{phi.name} jumps at z = {kinks[jumps][0]:g}, where its derivative says nothing about it, so Hamiltonian "
            "Monte Carlo cannot sample such weights; use a steep continuous activation, e.g. activation('sigmoid', "
            "gain=10)."
        )


def _integer_sizes(task: ClassTask) -> NDArray[np.intp]:
    if math.isinf(task.n_samples):
        raise ValueError(
            "a sampled network needs a finite number of samples; give class_task(..., n_samples=100), and solve the "
            "theory at the same n_samples and tau."
        )
    wanted = task.fractions * task.n_samples
    sizes = np.rint(wanted)
    if np.abs(sizes - wanted).max() > 1e-6 or sizes.min() < 1:
        raise ValueError(
            f"class fractions {np.round(task.fractions, 6).tolist()} of {task.n_samples:g} samples are "
            f"{np.round(wanted, 4).tolist()} samples, which must be whole numbers >= 1; change n_samples or fractions."
        )
    return np.asarray(sizes, dtype=np.intp)
