"""`observe`: networks that a user trained or sampled elsewhere, as statistics read the chains of `meanfield.sample`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from meanfield.posterior.registry import division_of
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.layers import layer_index
from meanfield.problem.network import Network
from meanfield.sampling.problem import class_kernels, class_means, output_scale, stacked
from meanfield.sampling.statistics import FEWEST_DRAWS, Draws
from meanfield.validation import FloatArray, plain_array, read_only, real_array, real_number, short

__all__ = ["PARAMETERIZATIONS", "Observed", "observe"]

PARAMETERIZATIONS = ("theory", "ntk", "standard")
# Class tasks stand for orthogonal inputs of |x|^2 = N_0; beyond this overlap, in units of |x|^2, it is said.
_OVERLAP = 0.1
_ROUNDING = 1e-3  # of 1 + |bound|: by which activations in half precision may leave the range of phi

Parameterization = Literal["theory", "ntk", "standard"]


@dataclass(frozen=True, eq=False)
class Observed:
    """Networks of a user, see `observe`; `mf.summarize`, `mf.compare` and `mf.drift` take it as they take chains.

    Attributes
    ----------
    network : Network
    task : ClassTask or DataTask
    tau : float
        N T; NaN where it was not given.
    labels : (P,) integer array
        Class of every sample; all 0 where the task has no classes.
    n_groups : int
        C, at least 1.
    readout : (k, d, N, m) array
        a_i of d snapshots of k networks, in the convention of the theory: f = (1/N) sum_i a_i phi(z_i).
    layers : tuple of (k, d, N_l, P) arrays
        phi(z^l) on the training samples, from the lowest known layer to the last.
    targets : (P, m) array
        y of every sample.
    notes : tuple of str
        What stands between these networks and the theory.
    """

    network: Network
    task: ClassTask | DataTask
    tau: float
    labels: NDArray[np.intp]
    n_groups: int
    readout: FloatArray
    layers: tuple[FloatArray, ...]
    targets: FloatArray
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """N, neurons of the last layer."""
        return int(self.readout.shape[2])

    @property
    def n_chains(self) -> int:
        """k, networks that were trained or sampled independently."""
        return int(self.readout.shape[0])

    @property
    def n_draws(self) -> int:
        """d, snapshots of each."""
        return int(self.readout.shape[1])

    @cached_property
    def outputs(self) -> FloatArray:
        """(k, d, P, m) outputs f on the training samples."""
        scale = output_scale(self.network, self.width)
        return np.asarray(scale * np.swapaxes(self.layers[-1], 2, 3) @ self.readout)

    @property
    def residual(self) -> FloatArray:
        """(k, d, P, m) y - f; tau t in the theory."""
        return np.asarray(self.targets - self.outputs)

    @cached_property
    def class_activation(self) -> FloatArray:
        """(k, d, N, C) mean of phi(z^L) over the samples of a class."""
        return np.asarray(self.layers[-1] @ class_means(self.labels, self.n_groups))

    @property
    def kernel_between(self) -> FloatArray:
        """(k, d, layers, C, C) mean over pairs of different samples of the kernel of every known layer."""
        return self._kernels[0]

    @property
    def kernel_diagonal(self) -> FloatArray:
        """(k, d, layers, C) mean of the kernel's diagonal over the samples of a class."""
        return self._kernels[1]

    @cached_property
    def _kernels(self) -> tuple[FloatArray, FloatArray]:
        return _kernels(self.layers, self.labels, self.n_groups)

    def activations(self, layer: int = -1, at: str = "last") -> FloatArray:
        """(k, N, P) phi(z^l) at the "first" or "last" snapshot; layers count as in `Chains.activations`.

        Raises
        ------
        ValueError
            For layers that were not given.
        """
        if at not in ("first", "last"):
            raise ValueError(f'at must be "first" or "last", got {at!r}.')
        depth, known = self.network.depth, len(self.layers)
        index = layer_index(layer, depth) - depth
        if index < -known:
            have = f"the last {known} of {depth}"
            raise ValueError(f"layer {layer} is not known; activations were given for {have} hidden layers.")
        return np.asarray(self.layers[index][:, 0 if at == "first" else -1])

    def class_activations(self, layer: int = -1, at: str = "last") -> FloatArray:
        """(k, N, C) mean of phi(z^l) over the samples of a class at the "first" or "last" snapshot."""
        return np.asarray(self.activations(layer, at) @ class_means(self.labels, self.n_groups))

    def as_draws(self, *, whole: bool = False) -> Draws:
        """What statistics read.

        The scatter that tells errors is that between networks or along snapshots. A single network with fewer than four
        snapshots has neither: its last snapshot is taken apart into its neurons, which at N -> infinity are independent
        given the order parameters, and errors are those of a mean over N independent neurons. Of the residual, whose
        sum over neurons training pins, that is more than networks differ by. `whole` leaves it together.
        """
        few = self.n_chains == 1 and self.n_draws < FEWEST_DRAWS
        alone = few and not whole and division_of(self.network, self.task).alike
        readout, layers, residual = self.readout, self.layers, self.residual
        activation, between, diagonal = self.class_activation, self.kernel_between, self.kernel_diagonal
        if alone:
            order = np.random.default_rng(0).permutation(self.width)  # neighbours may be alike where a user sorted them
            readout = readout[:, -1:, order].swapaxes(1, 2)
            activation = activation[:, -1:, order].swapaxes(1, 2)
            top = layers[-1][:, -1:, order].swapaxes(1, 2)
            between, diagonal = _kernels((top,), self.labels, self.n_groups)
            single = output_scale(self.network, self.width) * self.width * np.swapaxes(top, 2, 3) @ readout
            residual = self.targets - single
        mean = class_means(self.labels, self.n_groups)
        below = [phi @ mean for phi in layers[:-1]]
        every = bool(below) and not alone and len(layers) == self.network.depth
        recorded = np.moveaxis(stacked(below, ()), 0, 2) if every else None
        return Draws(
            network=self.network, task=self.task, width=self.width, tau=self.tau, labels=self.labels, readout=readout,
            class_activation=activation, kernel_between=between, kernel_diagonal=diagonal,
            residual=np.einsum("kdpm,pc->kdcm", residual, mean), by_neuron=alone,
            lower_activation=recorded,
        )  # fmt: skip

    def __repr__(self) -> str:
        tau = "unknown" if math.isnan(self.tau) else f"{self.tau:g}"
        said = "".join(f"; {note}" for note in self.notes)
        return (
            f"<Observed: {self.n_chains} networks x {self.n_draws} snapshots of {self.network.activation.name}, "
            f"L={self.network.depth}, N={self.width}, P={self.labels.size}, tau={tau}{said}>"
        )


def observe(
    network: Network,
    task: ClassTask | DataTask,
    tau: float | None = None,
    *,
    readouts: object,
    weights: Sequence[object] | None = None,
    activations: object = None,
    inputs: object = None,
    labels: object = None,
    parameterization: Parameterization = "theory",
) -> Observed:
    """Hold networks of your own against the theory: from weights, or from activations on the training samples.

    Parameters
    ----------
    network : Network
        phi, depth and the prior that the theory shall have; no biases. "sigmoid" is (1 + erf(sqrt(pi) z / 2)) / 2, the
        function 1 / (1 + exp(-z)) of most libraries is "logistic".
    task : ClassTask or DataTask
        At the P of the training. A class task stands for nearly orthogonal inputs with |x|^2 = N_0.
    tau : float, optional
        N T, see `theory_parameters`; needed for order parameters, else that of the theory is taken in a comparison.
    readouts : (m, N) or (N, m) array
        Weights of the last layer: PyTorch's shape or the theory's; with one output also (N,).
    weights : sequence of L arrays, optional
        W_1 (N, N_0), W_2 (N, N), ... as PyTorch stores them, (out, in). Either these or `activations`.
    activations : (N, P) array or list of such, optional
        phi(z) on the training samples, of the last layer or of the last few, in order.
    inputs : (P, N_0) array, optional
        What the networks saw, with `weights`: needed for a class task; by default `task.inputs` of a data task.
    labels : (P,) integers or names of classes, optional
        Class 0 ... C-1 of every sample, or its name in `task.class_names`; needed for a class task unless its samples
        come class by class.
    parameterization : {"theory", "ntk", "standard"}
        "theory": z = W x / sqrt(N_in) and f = (1/N) sum_i a_i phi_i. "ntk": f = N^-1/2 sum_i v_i phi_i, z as before.
        "standard": z = W x and f = sum_i v_i phi_i, without any factors (PyTorch's Linear).

    All arrays may have two more axes in front: (k, ...) for k networks trained independently, (k, d, ...) with d
    snapshots of each (a single trained network watched d times: k = 1).

    Returns
    -------
    Observed
        For `mf.summarize`, `mf.compare`, `mf.drift`; `mf.geometry` takes its `activations()`.

    Raises
    ------
    ValueError
        For shapes that do not fit each other or the task, classes with other fractions than the task's, NaN, readouts
        of which it cannot be told whether they are (m, N) or (N, m), activations that phi does not take.

    Examples
    --------
    >>> import meanfield as mf
    >>> rng = np.random.default_rng(0)
    >>> task = mf.class_task(fractions=[0.5, 0.25, 0.25], n_samples=8)
    >>> phi, v = np.tanh(rng.normal(size=(50, 8))), rng.normal(size=(3, 50))
    >>> seen = mf.observe(mf.Network("tanh"), task, readouts=v, activations=phi)
    >>> seen.width, seen.residual.shape
    (50, (1, 1, 8, 3))
    """
    if not isinstance(network, Network) or not isinstance(task, (ClassTask, DataTask)):
        raise ValueError(
            f"observe needs a Network and a ClassTask or DataTask, got {type(network).__name__} and "
            f"{type(task).__name__}."
        )
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(f"parameterization must be one of {PARAMETERIZATIONS}, got {short(parameterization)}.")
    if (weights is None) == (activations is None):
        raise ValueError("give either weights=[W_1, ...] or activations=..., the activations of the last layer.")
    tau = math.nan if tau is None else real_number("tau", tau, above=0.0)
    which, n_groups, targets = _samples(task, labels)
    notes: list[str] = []
    if weights is not None:
        seen = _seen(task, inputs, which.size, notes)
        layers = _forward(network, weights, seen, parameterization)
    else:
        if inputs is not None:
            raise ValueError("inputs= goes with weights=; activations already say what the networks saw.")
        layers = _given(network, activations, which.size)
    k, d, width, _ = layers[-1].shape
    readout = _readouts(readouts, (k, d, width, targets.shape[1]))
    factor = {"theory": 1.0, "standard": 1.0, "ntk": 1.0 / math.sqrt(width)}[parameterization]
    if parameterization != "theory":
        readout = readout * (factor / output_scale(network, width))
    if len(layers) < network.depth:
        notes.append(f"activations of the last {len(layers)} of {network.depth} hidden layers only")
    return Observed(
        network, task, tau, which, n_groups, read_only(readout), tuple(map(read_only, layers)), targets, tuple(notes)
    )


def _kernels(layers: Sequence[FloatArray], labels: NDArray[np.intp], n_groups: int) -> tuple[FloatArray, FloatArray]:
    """`class_kernels` of every layer, (k, d, layers, C, C) and (k, d, layers, C)."""
    found = [class_kernels(phi, labels, n_groups) for phi in layers]
    return np.stack([between for _, between, _ in found], axis=2), np.stack([square for *_, square in found], axis=2)


def _samples(task: ClassTask | DataTask, labels: object) -> tuple[NDArray[np.intp], int, FloatArray]:
    """Class of every sample, number of classes, targets of the samples."""
    if isinstance(task, DataTask):
        if labels is not None:
            raise ValueError("a data task has its labels already; leave labels= out.")
        known = task.labels is not None
        which = np.asarray(task.labels) if known else np.zeros(task.n_samples, dtype=np.intp)
        return which, task.n_classes if known else 1, task.targets
    if math.isinf(task.n_samples):
        raise ValueError("trained networks have a finite number of samples; give class_task(..., n_samples=P).")
    wanted = task.fractions * task.n_samples
    if labels is None:
        sizes = np.rint(wanted)
        if np.abs(sizes - wanted).max() > 1e-6:
            raise ValueError(f"the classes have {wanted.round(4).tolist()} samples; give labels= of every sample.")
        which = np.repeat(np.arange(task.n_classes), sizes.astype(int))
        return which, task.n_classes, read_only(task.targets[which])
    given = real_array("labels", _numbered(task, labels))
    if given.ndim == 1 and given.size != round(task.n_samples):
        raise ValueError(f"labels has {given.size} entries, but the task has {task.n_samples:g} samples.")
    if given.ndim != 1 or (given != np.rint(given)).any() or given.min() < 0 or given.max() >= task.n_classes:
        raise ValueError(
            f"labels must be (P,) integers from 0 to {task.n_classes - 1}, or names of classes, got {short(labels)}."
        )
    which = given.astype(np.intp)
    found = np.bincount(which, minlength=task.n_classes)
    if np.abs(found - wanted).max() > 1e-6:
        given_fractions = f"fractions=np.array({found.tolist()}) / {found.sum()}, n_samples={found.sum()}"
        missing = ", ".join(task.class_names[c] for c in np.flatnonzero(found == 0))
        advice = f"no sample is of class {missing}" if missing else f"give class_task({given_fractions})"
        raise ValueError(
            f"the labels have {found.tolist()} samples per class, but the task has {wanted.round(4).tolist()}; "
            f"{advice}."
        )
    return which, task.n_classes, read_only(task.targets[which])


def _numbered(task: ClassTask, labels: object) -> object:
    """Labels with the numbers of classes for their names, numbers as they are."""
    given = plain_array("labels", labels)
    if given.ndim != 1 or not given.size or not all(isinstance(label, str) for label in given.tolist()):
        return labels
    number = {name: c for c, name in enumerate(task.class_names)}
    if strange := sorted(set(given.tolist()) - set(number)):
        raise ValueError(
            f"labels must be names of classes, {', '.join(task.class_names)}, or their numbers from 0; got "
            f"{short(strange[0])}. Names of your own: class_task(..., class_names=[...])."
        )
    return np.array([number[label] for label in given.tolist()])


def _seen(task: ClassTask | DataTask, inputs: object, n_samples: int, notes: list[str]) -> FloatArray:
    """(P, N_0) inputs as the networks saw them."""
    if inputs is None:
        if isinstance(task, ClassTask):
            raise ValueError(
                "a class task has no inputs; give inputs= (P, N_0) as the networks saw them, or activations=."
            )
        return task.inputs
    seen = real_array("inputs", inputs)
    if seen.ndim != 2 or seen.shape[0] != n_samples:
        raise ValueError(f"inputs must have shape (P, N_0) with P = {n_samples}, got {seen.shape}.")
    if isinstance(task, ClassTask):
        gram = seen @ seen.T / seen.shape[1]
        worst = float(np.abs(gram - np.eye(n_samples)).max())
        if worst > _OVERLAP:
            notes.append(
                f"inputs overlap by up to {worst:.2g} |x|^2 where the class task has orthogonal ones of |x|^2 = N_0: "
                "its theory is an approximation, that of data_task is not"
            )
    elif seen.shape != task.inputs.shape:
        raise ValueError(f"inputs must have the shape {task.inputs.shape} of the task's, got {seen.shape}.")
    return seen


def _stacked(name: str, value: object, ndim: int) -> FloatArray:
    """An array with the axes (k, d) in front."""
    array = real_array(name, value)
    if not ndim <= array.ndim <= ndim + 2:
        raise ValueError(f"{name} must have {ndim} axes, or up to two more in front, got shape {array.shape}.")
    while array.ndim < ndim + 2:  # (k, ...) are k networks, not k snapshots
        array = array[:, None] if array.ndim == ndim + 1 else array[None]
    return array


def _forward(network: Network, weights: object, seen: FloatArray, parameterization: str) -> list[FloatArray]:
    if isinstance(weights, (str, bytes)) or not isinstance(weights, Sequence) or len(weights) != network.depth:
        shape = np.shape(weights) if hasattr(weights, "__array__") else ()
        found = f"one array of shape {shape}" if shape else short(weights)
        found = f"{len(weights)}" if isinstance(weights, (list, tuple)) else found
        raise ValueError(f"weights must be a list of {network.depth} arrays, one per hidden layer, got {found}.")
    layers: list[FloatArray] = []
    below = seen.T  # (N_in, P)
    for number, value in enumerate(weights, 1):
        matrix = _stacked(f"weights of layer {number}", value, 2)
        if matrix.shape[3] != below.shape[-2] or (layers and matrix.shape[:2] != layers[0].shape[:2]):
            raise ValueError(
                f"weights of layer {number} must have shape (N, {below.shape[-2]}), as many columns as there are "
                f"inputs to the layer, got {np.shape(value)}."
            )
        z = matrix @ below
        if parameterization != "standard":
            z /= math.sqrt(below.shape[-2])
        below = np.asarray(network.activation(z))
        layers.append(below)
    return layers


def _given(network: Network, activations: object, n_samples: int) -> list[FloatArray]:
    several = isinstance(activations, (list, tuple)) and bool(activations) and np.ndim(activations[0]) >= 2
    values = list(activations) if several and isinstance(activations, (list, tuple)) else [activations]
    if len(values) > network.depth:
        raise ValueError(
            f"a list of activations is one array per layer, but it has {len(values)} and the network has depth "
            f"{network.depth}; several networks or snapshots go on a leading axis, np.stack(activations)."
        )
    layers = [_stacked("activations", value, 2) for value in values]
    for phi in layers:
        if phi.shape[3] != n_samples or phi.shape[:2] != layers[-1].shape[:2]:
            raise ValueError(
                f"activations must have shape (N, P) with P = {n_samples}, neurons in rows, for every layer and "
                f"snapshot, got {[layer.shape for layer in layers]}."
            )
        _check_range(network, phi)
    return layers


def _check_range(network: Network, phi: FloatArray) -> None:
    """ValueError for activations that phi never takes: those before it was applied, or of another nonlinearity."""
    activation = network.activation
    low, high = activation.infimum, activation.supremum
    below, above = (bound - sign * _ROUNDING * (1.0 + abs(bound)) for bound, sign in ((low, 1.0), (high, -1.0)))
    if phi.min() < below or phi.max() > above:
        raise ValueError(
            f"activations lie between {phi.min():.4g} and {phi.max():.4g}, but {activation.name} between {low:.4g} and "
            f"{high:.4g}: give phi(z), not z, and the nonlinearity that the networks have."
        )


def _readouts(value: object, shape: tuple[int, ...]) -> FloatArray:
    """(k, d, N, m) readouts from (m, N) or (N, m)."""
    k, d, width, outputs = shape
    given = plain_array("readouts", value)
    array = _stacked("readouts", given[:, None] if given.ndim == 1 and outputs == 1 else given, 2)
    last = array.shape[2:]
    if width == outputs and last == (width, outputs) and width > 1:
        raise ValueError(
            f"with N = m = {width} it cannot be told whether readouts are (m, N) or (N, m); leave some neurons out."
        )
    if last == (outputs, width) and last != (width, outputs):
        array = array.swapaxes(2, 3)
    if array.shape != shape:
        raise ValueError(
            f"readouts must have shape (m, N) = ({outputs}, {width}) or (N, m), with the same axes of networks and "
            f"snapshots in front as the rest, ({k}, {d}); got {np.shape(given)}."
        )
    return array
