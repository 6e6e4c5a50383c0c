"""The saddle equations of all layers in one vector of unknowns (THEORY.md, "The equations")."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.numerics.limits import check_time
from meanfield.theories.deep.exchangeable.averages import ExchangeLayer
from meanfield.theories.deep.layer_scales import LayerScales
from meanfield.theories.deep.layers.layer import Layer
from meanfield.theories.deep.layers.linear import LinearLayer
from meanfield.theories.deep.layers.products import pairs_of
from meanfield.theories.deep.layers.rules import FINE, Averages, Detail, NotCovered, Rule, Setting, mixed
from meanfield.theories.deep.layers.work import spend
from meanfield.theories.deep.symmetry import AllPermutations, Symmetry, exchangeable, no_symmetry, symmetry
from meanfield.theories.deep.unlike_classes.patched import PatchedLayer
from meanfield.validation import FloatArray

__all__ = [
    "LATTICE_CLASSES", "MOST_FIELDS", "SMALL", "DeepProblem", "Evaluation", "Order", "System", "fields_of_layers",
    "fields_on_lattices", "kinds_of", "patched",
]  # fmt: skip

_EVALUATION = 1e6  # multiplications that take as long as what an evaluation does besides
LATTICE_CLASSES = 3  # of different targets, up to which a layer with fields h is integrated on one lattice
_MIRROR = str.maketrans("01", "10")
SMALL = {"kernel": 1e-3, "d": 1e-6}  # what smaller ones are measured by: those of odd phi may vanish
_WHOLE, _FINER_B = 1e-9, 0.4  # samples; how much closer nodes are where a class has few of them, and a part of one
MOST_FIELDS = 8  # of a layer, up to which there are lattices around peaks


@dataclass(frozen=True, eq=False)
class DeepProblem(LayerScales):
    """A deep network on a class task, as numbers.

    Attributes
    ----------
    phi : Activation
    depth : int
        L.
    n : (C,) array
        n_c = p_c P.
    y : (C, m) array
    tau : float
    readout_variance : float
        s = sigma_a^2 / P^beta.
    k : float
        Variance of a preactivation of the first layer.
    scales : (L - 1,) tuple of float
        sigma^2 of the weights above it: the fields of layer l + 1 have covariance scales[l - 1] K_l.
    exponent : float
        beta.
    ratios : (L,) tuple of float
        Widths N_l of the layers in units of that of the last one.
    """

    phi: Activation
    depth: int
    n: FloatArray
    y: FloatArray
    tau: float
    readout_variance: float
    k: float = 1.0
    scales: tuple[float, ...] = ()
    exponent: float = 1.0
    ratios: tuple[float, ...] = ()

    @property
    def n_samples(self) -> float:
        """P."""
        return float(self.n.sum())


@dataclass(frozen=True, eq=False)
class Order:
    """Order parameters: kernels (L-1, C, C) and d (L-1, C) of the lower layers, their conjugates, and t (C, m)."""

    kernel: FloatArray
    d: FloatArray
    tilde: FloatArray
    delta: FloatArray
    t: FloatArray


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Averages of all layers below the top, and of the top layer: one entry, or one per code."""

    lower: list[Averages]
    top: list[Averages]


@dataclass(eq=False)
class System:
    """Equations of a problem at a quadrature rule, with symmetric coordinates.

    `fractions` (code pattern -> share of the top layer's neurons) gives the weights of the codes instead of letting
    them follow from ln Z. `distinct`: every class has coordinates of its own, whatever the symmetry of the
    task, and t in all directions. `peaks`: on lattices around peaks also where one lattice would do (`patched`).
    """

    problem: DeepProblem
    rule: Rule = FINE
    fractions: dict[str, float] | None = None
    distinct: bool = False
    peaks: bool = False
    group: Symmetry = field(init=False)

    def __post_init__(self) -> None:
        p = self.problem
        kind = _kind(p, self.peaks, self.distinct or self.fractions is not None)
        if kind is ExchangeLayer:
            self.group = AllPermutations(*p.y.shape)
        else:
            self.group = symmetry(p.n, p.y, self.fractions) if not self.distinct else no_symmetry(*p.y.shape)
        lower, last = self.group.permuted(), self.group.turned()
        if p.phi.parity == "odd":  # every neuron has a mirror image (-b, -h)
            lower, last = (np.concatenate([turns, -turns]) for turns in (lower, last))
        rule = _for_few(self.rule, p.n) if kind is Layer else self.rule
        self.layers: list[Any] = [
            kind(p.phi, p.n, rule, layer == p.depth - 1, last if layer == p.depth - 1 else lower)
            for layer in range(p.depth)
        ]
        self.vectors = self.group.vector_basis()
        self.matrices = self.group.matrix_basis()
        every = np.eye(p.y.size).reshape(-1, *p.y.shape)
        self.outputs = every if self.distinct else self.group.output_basis(p.y)
        orbits = self.group.patterns([] if self.fractions is None else list(self.fractions))
        self.codes = tuple(orbit[0] for orbit in orbits)
        self.members = orbits
        self.multiplicity = np.array([float(len(orbit)) for orbit in orbits])
        pairs = pairs_of(len(p.n))
        rows, columns = (np.array(x) for x in zip(*pairs))
        self._entries = self.matrices[:, rows, columns].T  # entries on and above the diagonal by coordinates

    def at_rule(self, rule: Rule) -> System:
        """The same equations with another quadrature, which starts from where this one has found its nodes."""
        other = replace(self, rule=rule)
        for own, layer in zip(self.layers, other.layers):
            if not isinstance(own, LinearLayer):
                layer.as_fine(own)
        return other

    @property
    def around_peaks(self) -> bool:
        """Whether layers are integrated on lattices around peaks."""
        return isinstance(self.layers[-1], PatchedLayer)

    @property
    def exchanged(self) -> bool:
        """Whether classes are exchangeable and layers are integrated as such."""
        return isinstance(self.layers[-1], ExchangeLayer)

    # ---- coordinates -----------------------------------------------------------------------------

    @cached_property
    def blocks(self) -> list[tuple[str, int, slice]]:
        """(name, layer, coordinates) of every block of unknowns; layers count from 0."""
        found, at = [], 0
        sizes = {
            "kernel": len(self.matrices),
            "d": len(self.vectors),
            "tilde": len(self.matrices),
            "delta": len(self.vectors),
        }
        for layer in range(self.problem.depth - 1):
            for name, size in sizes.items():
                found.append((name, layer, slice(at, at + size)))
                at += size
        top = self.problem.depth - 1
        found.append(("t", top, slice(at, at + len(self.outputs))))
        return found

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return self.blocks[-1][2].stop

    @property
    def given(self) -> FloatArray:
        """Share of each code of `codes`, from `fractions`."""
        assert self.fractions is not None
        return np.array([np.mean([self.fractions[w] for w in orbit]) for orbit in self.members])

    def pack(self, order: Order) -> FloatArray:
        """Coordinates of order parameters, which are made symmetric."""
        lower, matrices = self.problem.depth - 1, self.matrices.reshape(len(self.matrices), -1)
        share, alone = (basis / basis.sum(axis=1, keepdims=True) for basis in (matrices, self.vectors))
        kernel, tilde = (value.reshape(lower, share.shape[1]) @ share.T for value in (order.kernel, order.tilde))
        parts = [kernel, order.d @ alone.T, tilde, order.delta @ alone.T]
        t = self.outputs.reshape(len(self.outputs), -1) @ order.t.ravel()
        return np.append(np.hstack(parts).ravel(), t)

    def matrix_coordinates(self, matrix: FloatArray) -> FloatArray:
        """Coordinates of one kernel or conjugate (C, C), which is made symmetric."""
        return np.array([float((matrix * row).sum() / row.sum()) for row in self.matrices])

    def unpack(self, x: FloatArray) -> Order:
        """Order parameters of coordinates."""
        n_classes, lower = len(self.problem.n), self.problem.depth - 1
        k, v = len(self.matrices), len(self.vectors)
        rest = x[: 2 * lower * (k + v)].reshape(lower, 2, k + v)
        matrices = rest[:, :, :k] @ self.matrices.reshape(k, -1)
        kernel, tilde = matrices.reshape(lower, 2, n_classes, n_classes).transpose(1, 0, 2, 3).copy()
        d, delta = (rest[:, :, k:] @ self.vectors).transpose(1, 0, 2).copy()
        t = x[2 * lower * (k + v) :] @ self.outputs.reshape(len(self.outputs), -1)
        return Order(kernel, d, tilde, delta, t.reshape(self.problem.y.shape))

    def scales(self, x: FloatArray) -> FloatArray:
        """Size of the block that each coordinate belongs to: the unit of its residual and of its step."""
        p, scale = self.problem, np.empty(len(x))
        # Targets are met in units of themselves, however small they are.
        least = 1e-3 * float(np.abs(p.y).max()) / (p.readout_variance * p.n_samples + p.tau)
        floor = SMALL | {"tilde": 1.0 / p.n_samples, "delta": 0.02, "t": least or 1e-12}
        for name, _, at in self.blocks:
            scale[at] = max(float(np.abs(x[at]).max()), floor[name])
        return scale

    # ---- equations -------------------------------------------------------------------------------

    def setting(self, order: Order, layer: int) -> Setting:
        """What layer 0..L-1 is given."""
        p = self.problem
        n_classes = len(p.n)
        if layer == p.depth - 1:
            root, delta = math.sqrt(p.readout_variance) * order.t, np.zeros(n_classes)
        else:
            root, delta = _root(order.tilde[layer]), order.delta[layer]
        if layer == 0:
            return Setting(root, np.zeros((n_classes, n_classes)), np.full(n_classes, p.k), delta)
        scale = p.scales[layer - 1]
        return Setting(root, scale * _clipped(order.kernel[layer - 1]), scale * order.d[layer - 1], delta)

    @property
    def free(self) -> FloatArray:
        """Second derivatives of Phi without neurons, with tau = 1."""
        total, at = self._coupling.copy(), self.blocks[-1][2]
        total[at, at] += np.einsum("iab,jab,a->ij", self.outputs, self.outputs, self.problem.n)
        return total

    def averages(
        self, order: Order, layer: int, *, grow: bool = True, curvature: bool | str = False, samples: bool = False
    ) -> list[Averages]:
        """Averages of one layer, made symmetric; one per code in the top layer of given codes. `curvature`: second
        derivatives as well, those of the top by "t" alone where that is said."""
        options: dict[str, bool | str] = {"grow": grow, "curvature": curvature} | ({"samples": True} if samples else {})
        return self.averages_at(self.setting(order, layer), layer, **options)

    def averages_at(self, setting: Setting, layer: int, **options: bool | str) -> list[Averages]:
        """The same for a layer that is given something else. Raises `OutOfTime` at the time limit of the context."""
        check_time()
        spend(_EVALUATION)
        if self.codes and layer == self.problem.depth - 1:
            found = self.layers[layer].evaluate_codes(setting, self.codes, **options)
            return [self._symmetric(averages) for averages, _ in found]
        return [self._symmetric(self.layers[layer].evaluate(setting, **options)[0])]

    def detail(self, order: Order, layer: int) -> Detail:
        """The nodes of one layer."""
        _, detail = self.layers[layer].evaluate(self.setting(order, layer), detail=True)
        assert detail is not None
        return detail

    def _symmetric(self, found: Averages) -> Averages:
        g = self.group
        return Averages(
            found.log_z, g.matrices(found.kernel), g.vectors(found.d), g.matrices(found.tilde), g.vectors(found.delta),
            found.curvature, found.samples, self._codes(found.codes) if found.codes else {},
        )  # fmt: skip

    def word_of(self, word: str) -> str:
        """The one code word that stands for all that the symmetry makes of this one."""
        mirror = word.translate(_MIRROR) if self.problem.phi.parity == "odd" else word
        return max(orbit[0] for orbit in self.group.patterns([word, mirror]))

    def _codes(self, parts: dict[str, Averages]) -> dict[str, Averages]:
        """Averages of codes, those that the symmetry exchanges put together: in its coordinates their slopes agree."""
        found: dict[str, Averages] = {}
        orbits: dict[str, list[Averages]] = {}
        for word, part in parts.items():
            orbits.setdefault(self.word_of(word), []).append(part)
        for word, members in orbits.items():
            log_z = np.array([one.log_z for one in members])
            share = np.exp(log_z - log_z.max())
            whole = mixed(list(zip(share / share.sum(), members)))
            total = float(log_z.max() + math.log(share.sum()))
            found[word] = self._symmetric(replace(whole, log_z=total))
        return found

    def readout_order(self, top: Averages) -> FloatArray:
        """t = (s [K_L diag(n) + diag(d_L)] + tau)^{-1} y."""
        p = self.problem
        matrix = p.readout_variance * (top.kernel * p.n + np.diag(top.d)) + p.tau * np.eye(len(p.n))
        return np.asarray(np.linalg.solve(matrix, p.y))

    def combined(self, found: Evaluation) -> list[Averages]:
        """Averages of every layer, those of the codes put together."""
        if not self.codes:
            return [*found.lower, *found.top]
        share = self.given * self.multiplicity
        top = mixed(list(zip(share, found.top)))
        return [*found.lower, replace(top, log_z=top.log_z - float(share @ np.log(self.given)))]

    def residual(self, x: FloatArray, found: Evaluation) -> FloatArray:
        """Violation of the equations in units of the blocks, F(x) - x."""
        push = self.problem.push
        layers = self.combined(found)
        top = layers[-1]
        order = Order(
            np.array([a.kernel for a in layers[:-1]]).reshape(-1, *top.kernel.shape),
            np.array([a.d for a in layers[:-1]]).reshape(-1, len(top.d)),
            push[:, None, None] * np.array([a.tilde for a in layers[1:]]).reshape(-1, *top.kernel.shape),
            push[:, None] * np.array([a.delta for a in layers[1:]]).reshape(-1, len(top.d)),
            self.readout_order(top),
        )
        return np.asarray((self.pack(order) - x) / self.scales(x))

    def evaluate(self, x: FloatArray, *, grow: bool = True, curvature: bool = False) -> Evaluation:
        """Averages of every layer."""
        order = self.unpack(x)
        options = {"grow": grow, "curvature": curvature}
        layers = [self.averages(order, layer, **options) for layer in range(self.problem.depth)]
        return Evaluation([a[0] for a in layers[:-1]], layers[-1])

    # ---- derivatives of Phi ----------------------------------------------------------------------

    def metric(self, found: Evaluation) -> FloatArray:
        """The matrix that turns F(x) - x into the gradient of Phi."""
        p = self.problem
        matrix = -self._coupling
        top = self.combined(found)[-1]
        stiffness = p.readout_variance * (top.kernel * p.n + np.diag(top.d)) + p.tau * np.eye(len(p.n))
        rows = self.blocks[-1][2]
        weighted = [p.n[:, None] * (stiffness @ other) for other in self.outputs]
        matrix[rows, rows] = [[-float((one * other).sum()) for other in weighted] for one in self.outputs]
        return matrix

    @cached_property
    def _coupling(self) -> FloatArray:
        """Second derivatives of -1/2 sum_l (N_l / N_L) tr K~_l K_l, a bilinear form of kernels and conjugates."""
        n, total = self.problem.n, np.zeros((self.size, self.size))
        pairs = np.outer(n, n)
        blocks = np.einsum("iab,jab,ab->ij", self.matrices, self.matrices, pairs)
        mixed = np.einsum("iaa,ja,a->ij", self.matrices, self.vectors, n)
        own = (self.vectors * n) @ self.vectors.T
        form = -0.5 * np.block([[blocks, mixed], [mixed.T, own]])
        size = len(form)
        for layer in range(self.problem.depth - 1):
            low = slice(2 * layer * size, (2 * layer + 1) * size)
            high = slice(low.stop, low.stop + size)
            total[low, high], total[high, low] = self.problem.ratios[layer] * form, self.problem.ratios[layer] * form.T
        return total

    def gradient(self, x: FloatArray, found: Evaluation) -> FloatArray:
        """d Phi / dx."""
        return np.asarray(self.metric(found) @ (self.residual(x, found) * self.scales(x)))

    def hessian(self, found: Evaluation) -> FloatArray:
        """Second derivatives of Phi by x: exact, from the same nodes as the averages, which need `curvature`."""
        return self.hessian_of(self.combined(found))

    def hessian_of(self, layers: list[Averages]) -> FloatArray:
        """The same from averages of every layer, codes put together. Raises `NotCovered` where a kernel vanished."""
        p, total = self.problem, self._coupling.copy()
        for layer, averages in enumerate(layers):
            second = averages.curvature
            assert second is not None
            columns, scaled = self.placement(layer)
            if len(second) != len(scaled):
                raise NotCovered("the kernel of a layer vanished on the way, and with it the fields of the next one")
            total[np.array(columns)[:, None], columns] += p.ratios[layer] * scaled.T @ second @ scaled
        at = self.blocks[-1][2]
        total[at, at] += p.tau * np.einsum("iab,jab,a->ij", self.outputs, self.outputs, p.n)
        return total

    def placement(self, layer: int) -> tuple[list[int], FloatArray]:
        """Coordinates that ln Z of a layer depends on, and what derivatives by its own entries are by these."""
        p, group = self.problem, len(self.matrices) + len(self.vectors)
        both = np.zeros((len(self._entries) + len(p.n), group))
        both[: len(self._entries), : len(self.matrices)] = self._entries
        both[len(self._entries) :, len(self.matrices) :] = self.vectors.T
        first = 2 * layer * group  # kernel, d of this layer, which the layer above depends on
        if layer == p.depth - 1:
            own = np.zeros((self.outputs[0].size + len(p.n), len(self.outputs)))
            own[: self.outputs[0].size] = self.outputs.reshape(len(self.outputs), -1).T
            columns = list(range(first, first + len(self.outputs)))
            scaled = math.sqrt(p.readout_variance) * own
        else:
            scaled = both
            columns = list(range(first + group, first + 2 * group))
        if layer > 0:
            below = p.scales[layer - 1] * both
            scaled = np.block([
                [scaled, np.zeros((len(scaled), group))], [np.zeros((len(below), scaled.shape[1])), below]
            ])  # fmt: skip
            columns += list(range(first - 2 * group, first - group))
        return columns, scaled

    def free_energy(self, x: FloatArray, found: Evaluation) -> float:
        """Phi at order parameters x, from their averages."""
        p, order = self.problem, self.unpack(x)
        n = p.n
        phi = sum(ratio * a.log_z for ratio, a in zip(p.ratios, self.combined(found)))
        for layer in range(p.depth - 1):
            kernel, d = order.kernel[layer], order.d[layer]
            tilde, delta = order.tilde[layer], order.delta[layer]
            trace = float(n @ (tilde * kernel) @ n + n @ (d * np.diag(tilde) + delta * (np.diag(kernel) + d)))
            phi -= 0.5 * p.ratios[layer] * trace
        return float(phi - n @ (order.t * p.y).sum(axis=1) + 0.5 * p.tau * n @ (order.t**2).sum(axis=1))


def patched(problem: DeepProblem, given: bool = False) -> bool:
    """Whether the layers of a problem are integrated on lattices around peaks, and not on one of each layer; `given`:
    at given shares of the codes."""
    return problem.phi.parts != "gaussian" and _kind(problem, False, given) is PatchedLayer


def kinds_of(targets: FloatArray) -> int:
    """Number of classes whose targets (C, m) differ."""
    return len(np.unique(targets, axis=0))


def fields_on_lattices(n_classes: int, m: int, depth: int) -> int:
    """Fields of the layer with most of them, for so many classes of different targets and outputs, two less than
    classes being shared (`theories/deep/unlike_classes/own_fields.py`)."""
    return max(n_classes, n_classes - 2 + max(m, n_classes if depth > 2 else 0))


def fields_of_layers(problem: DeepProblem) -> int:
    """Fields of the layer that has most of them: conjugates of its classes, or readouts, and shared ones."""
    n_classes, m = problem.y.shape
    return fields_on_lattices(n_classes, m, problem.depth)


def _kind(problem: DeepProblem, peaks: bool, apart: bool) -> Any:
    """How layers are integrated; `apart`: where classes are not to be exchanged."""
    if problem.phi.parts == "gaussian":
        return LinearLayer
    if not peaks and kinds_of(problem.y) <= LATTICE_CLASSES:
        return Layer
    exchange = not (peaks or apart) and exchangeable(problem.n, problem.y)
    return ExchangeLayer if exchange else PatchedLayer


def _for_few(rule: Rule, n: FloatArray) -> Rule:
    """The rule where some class has less than two samples, but no whole number of them: exp(n g) has branch points at
    the zeros of exp(g), at imaginary b, and is no mixture of Gaussians, for which the spacings of a rule are proven."""
    if not np.any((n < 2.0) & (np.abs(n - np.round(n)) > _WHOLE)):
        return rule
    return rule._replace(beta=_FINER_B * rule.beta, rows=_FINER_B * rule.rows)


def _root(matrix: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def _clipped(matrix: FloatArray) -> FloatArray:
    """The covariance next to a symmetric matrix; what has no variance, but for rounding, has no correlations."""
    values, vectors = np.linalg.eigh(matrix)
    found = matrix if values[0] >= 0.0 else (vectors * np.maximum(values, 0.0)) @ vectors.T
    some = np.diag(found) > 0.0
    return np.asarray(found if some.all() else np.where(np.outer(some, some), found, 0.0))
