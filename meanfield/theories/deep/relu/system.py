"""The saddle equations of all layers in one vector of unknowns (relu/THEORY.md, "The equations").

Unknowns: Kbar_l, d_l, P k~_l, P delta~_l of all layers but the last, t, and the outliers of every layer in whitened
fields and units of sqrt(N). Only what the symmetry of the task leaves free is counted.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.deep.layer_scales import LayerScales
from meanfield.theories.deep.relu.average import FINE, FINE_WIDE, ReluAverages, ReluRule, bulk, ends_of, slab
from meanfield.theories.deep.relu.coordinates import Block, ReluOrder, add_blocks, directions, packed, packed_changes
from meanfield.theories.deep.relu.nonlinearity import RECTIFIER, Nonlinearity
from meanfield.theories.deep.relu.outlier import condensed, exist
from meanfield.theories.deep.relu.setting import BulkDiverges, ReluSetting
from meanfield.theories.deep.relu.slopes import layer_change, setting_change
from meanfield.theories.deep.symmetry import Symmetry, symmetry
from meanfield.validation import BoolArray, FloatArray

__all__ = ["SHORT", "Lacking", "Layered", "ReluProblem", "ReluSystem"]

_WIDE = 4  # dimensions of a lattice from which its spacings are wider
SHORT = 0.1  # whitened length of an outlier from which its error counts as relative
_KEPT = 64  # averages that are remembered


@dataclass(frozen=True, eq=False)
class ReluProblem(LayerScales):
    """A deep network of rectifiers on a class task, as numbers.

    Attributes
    ----------
    depth : int
    n : (C,) array
        Samples of each class.
    y : (C, q) array
        Targets in the space they span.
    tau : float
    readout_variance : float
        s.
    k : float
        Variance of a preactivation of the first layer.
    scales : (L - 1,) tuple of float
        sigma^2 of the weights above it, layer by layer.
    width : float
        N of the last layer; infinite for the limit.
    exponent : float
        beta of s = sigma_a^2 / P^beta.
    phi : Nonlinearity
    ratios : (L,) tuple of float
        Widths N_l of the layers in units of N. Outliers of layer l are in units of sqrt(N_l).
    """

    depth: int
    n: FloatArray
    y: FloatArray
    tau: float
    readout_variance: float
    k: float
    scales: tuple[float, ...] = ()
    width: float = math.inf
    exponent: float = 1.0
    phi: Nonlinearity = RECTIFIER
    ratios: tuple[float, ...] = ()

    @property
    def n_samples(self) -> float:
        return float(self.n.sum())

    def into(self, layer: int) -> float:
        """sigma^2 of the weights from the layer below; the first one has none."""
        return self.scales[layer - 1] if layer else 1.0

    def width_of(self, layer: int) -> float:
        """N_l."""
        return self.width * self.ratios[layer]

    def at(self, n_samples: float) -> ReluProblem:
        """With other numbers of samples in the same proportions."""
        ratio = n_samples / self.n_samples
        return replace(self, n=ratio * self.n, readout_variance=self.readout_variance / ratio**self.exponent)

    def nothing(self, n_words: int) -> ReluOrder:
        """Order parameters that are zero, with places for so many outliers of a layer."""
        n_lower, n_classes, q = self.depth - 1, *self.y.shape
        return ReluOrder(
            np.zeros((n_lower, n_classes, n_classes)), np.zeros((n_lower, n_classes)),
            np.zeros((n_lower, n_classes, n_classes)), np.zeros((n_lower, n_classes)), np.zeros((n_classes, q)),
            np.zeros((n_lower, n_words, n_classes)), np.zeros((n_words, q)),
        )  # fmt: skip


class Layered(NamedTuple):
    """Averages of a layer: `total` over all neurons, `inner` over those of the bulk, `parts` of each outlier."""

    inner: ReluAverages
    activation: FloatArray  # (o, C), in units of sqrt(N)
    force: FloatArray  # (o, C)
    b_b: FloatArray
    bb: FloatArray
    h_h: FloatArray
    hh: FloatArray
    beta_b: FloatArray
    beta_beta: FloatArray
    log_z: float
    barrier: float


class Lacking(NamedTuple):
    """What is known to lack on the right-hand sides of the equations, and in the kernel (C, C) of the last layer."""

    order: ReluOrder
    last: FloatArray


class ReluSystem:
    """Residuals and their Jacobian for a problem and a set of code words, one outlier per word and layer.

    `present` (L, o) says which of them there are, all where it is None; the others are no unknowns.
    """

    def __init__(self, problem: ReluProblem, words: tuple[str, ...], present: BoolArray | None = None) -> None:
        self.problem = problem
        self.words = words
        self.present = np.ones((problem.depth, len(words)), dtype=bool) if present is None else present
        self.symmetry: Symmetry = symmetry(problem.n, problem.y)
        self._memory: OrderedDict[object, Layered] = OrderedDict()
        self._sizes: list[dict[object, tuple[int, int, int]]] = [{} for _ in range(problem.depth)]
        n_lower, n_classes, q = problem.depth - 1, *problem.y.shape
        matrices = self.symmetry.matrix_basis()
        vectors = self.symmetry.vector_basis()[:, None]
        blocks: list[Block] = []
        p = problem.n_samples
        for layer in range(n_lower):
            blocks += [("kernel", layer, matrices, 1.0), ("d", layer, vectors[:, 0], 1.0)]
            blocks += [("tilde", layer, matrices, 1.0 / p), ("delta", layer, vectors[:, 0], 1.0 / p)]
            blocks += [("lower", layer, self._outlier_basis(n_classes, False, self.present[layer]), 1.0)]
        blocks += [("t", -1, self.symmetry.output_basis(problem.y), 1.0)]
        blocks += [("top", -1, self._outlier_basis(q, True, self.present[-1]), 1.0)]
        self.blocks = blocks

    def _outlier_basis(self, q: int, top: bool, present: BoolArray) -> FloatArray:
        """(k, o, q) orthonormal arrays of outliers that the symmetry maps into each other."""
        words = self.words
        if not present.any():
            return np.zeros((0, len(words), q))
        rows = []
        for unit in np.eye(len(words) * q).reshape(-1, len(words), q)[np.repeat(present, q)]:
            mean = np.zeros((len(words), q))
            for permutation, rotation in zip(self.symmetry.permutations, self.symmetry.rotations):
                for o, word in enumerate(words):
                    image = words.index("".join(word[i] for i in permutation))
                    mean[image] += unit[o] @ rotation if top else unit[o][permutation]
            rows.append(mean.ravel() / len(self.symmetry.permutations))
        _, size, basis = np.linalg.svd(np.array(rows), full_matrices=False)
        return np.asarray(basis[size > 1e-9].reshape(-1, len(words), q))

    def forget(self) -> None:
        """A memory of its own, for a problem whose averages are others."""
        self._memory = OrderedDict()

    # ---- vectors ---------------------------------------------------------------------------------

    def pack(self, order: ReluOrder) -> FloatArray:
        """The vector of unknowns: coordinates of every block in its (orthogonal) basis."""
        return packed(self.blocks, order)

    def unpack(self, x: FloatArray) -> ReluOrder:
        order = self.problem.nothing(len(self.words))
        add_blocks(self.blocks, x, order)
        return order

    # ---- layers ----------------------------------------------------------------------------------

    def setting(self, order: ReluOrder, layer: int) -> ReluSetting:
        problem = self.problem
        n_classes = len(problem.n)
        if layer == problem.depth - 1:
            root, delta = math.sqrt(problem.readout_variance) * order.t, np.zeros(n_classes)
        else:
            value, vector = np.linalg.eigh(order.tilde[layer])
            if value[0] < -1e-9 * max(value[-1], 1e-300):
                raise BulkDiverges("a conjugate kernel is not positive.")
            root, delta = (vector * np.sqrt(np.maximum(value, 0.0))) @ vector.T, order.delta[layer]
        if layer == 0:
            d, covariance = np.full(n_classes, problem.k), np.zeros((n_classes, n_classes))
        else:
            d, covariance = problem.into(layer) * order.d[layer - 1], problem.into(layer) * order.kernel[layer - 1]
        return ReluSetting(root, problem.n, d, delta, covariance, problem.phi, self._sizes[layer])

    def fine_rule(self, order: ReluOrder) -> ReluRule:
        """The lattices of solutions."""
        settings = [self.setting(order, layer) for layer in range(self.problem.depth)]
        dimensions = max(setting.root.shape[1] + setting.shared[0].shape[1] for setting in settings)
        return FINE if dimensions < _WIDE else FINE_WIDE

    def layer(self, order: ReluOrder, layer: int, rule: ReluRule) -> Layered:
        """Averages of a layer, bulk and outliers together."""
        setting, outliers = self.setting(order, layer), order.outliers(layer)
        # Without outliers nothing says in which direction the bulk is to be ended.
        named = rule if outliers.any() else rule._replace(far=0.0)
        arrays = setting.root, setting.d, setting.delta, setting.covariance, outliers
        key = (layer, named, *(a.tobytes() for a in arrays))
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        check_time()
        width = self.problem.width_of(layer)
        if math.isinf(width):
            found = self._limit(setting, outliers, rule)
        else:
            found = self._finite(setting, outliers, rule, width)
        self._memory[key] = found
        if len(self._memory) > _KEPT:
            self._memory.popitem(last=False)
        return found

    def walls(self, order: ReluOrder, layer: int) -> FloatArray:
        """(o, q + 2) ends of the bulk of a layer, those of the lattices of solutions."""
        setting, outliers, width = self.setting(order, layer), order.outliers(layer), self.problem.width_of(layer)
        if math.isinf(width):
            return ends_of(setting, FINE, outliers, True)
        return ends_of(setting, FINE, math.sqrt(width) * outliers[exist(outliers)], False)

    def _limit(self, setting: ReluSetting, outliers: FloatArray, rule: ReluRule) -> Layered:
        inner = bulk(setting, rule, outliers, True)
        parts = [condensed(setting, beta) for beta in outliers]
        shape = (len(outliers), len(setting.n))
        if any(not math.isfinite(part.gain) for part in parts):
            raise BulkDiverges("an outlier grows without bound.")
        activation = np.array([part.activation for part in parts]).reshape(shape)
        force = np.array([part.force for part in parts]).reshape(shape)
        return Layered(
            inner, activation, force, inner.b_b + activation.T @ activation, inner.bb, inner.h_h + force.T @ force,
            inner.hh, inner.beta_b + outliers.T @ activation, inner.beta_beta + outliers.T @ outliers, inner.log_z,
            math.inf,
        )  # fmt: skip

    def _finite(self, setting: ReluSetting, outliers: FloatArray, rule: ReluRule, width: float) -> Layered:
        kept = exist(outliers)
        share = 1.0 - kept.sum() / width
        inner = bulk(setting, rule, math.sqrt(width) * outliers[kept], False)
        parts = [slab(setting, math.sqrt(width) * beta, rule) for beta in outliers[kept]]
        activation, force = (np.zeros((len(outliers), len(setting.n))) for _ in range(2))
        if parts:
            activation[kept] = np.array([part.b for part in parts]) / math.sqrt(width)
            force[kept] = np.sqrt([np.diag(part.h_h) for part in parts]) / math.sqrt(width)

        def both(name: str) -> FloatArray:
            start = share * getattr(inner, name)
            return np.asarray(start + sum(getattr(part, name) for part in parts) / width)

        return Layered(
            inner, activation, force, both("b_b"),
            both("bb"), both("h_h"), both("hh"), both("beta_b") + outliers.T @ activation,
            both("beta_beta") + outliers.T @ outliers,
            share * inner.log_z + sum(part.log_z for part in parts) / width,
            min((inner.log_z - part.log_z for part in parts), default=math.inf),
        )  # fmt: skip

    # ---- equations -------------------------------------------------------------------------------

    def mapped(self, x: FloatArray, rule: ReluRule) -> ReluOrder:
        """Right-hand sides of the equations in the place of the order parameters; t holds t + (f + tau t - y)."""
        return self.images(self.unpack(x), rule)

    def images(self, order: ReluOrder, rule: ReluRule) -> ReluOrder:
        """The same for order parameters."""
        problem = self.problem
        depth = problem.depth
        layers = [self.layer(order, layer, rule) for layer in range(depth)]
        root_s = math.sqrt(problem.readout_variance)
        shape = order.lower.shape
        lower = [self._push(order, layer, layers[layer]) for layer in range(depth - 1)]
        output = root_s * layers[-1].beta_b.T
        return ReluOrder(
            np.array([layers[i].b_b for i in range(depth - 1)]).reshape(order.kernel.shape),
            np.array([layers[i].bb for i in range(depth - 1)]).reshape(order.d.shape),
            np.array([problem.push[i] * layers[i + 1].h_h for i in range(depth - 1)]).reshape(order.tilde.shape),
            np.array([problem.push[i] * layers[i + 1].hh for i in range(depth - 1)]).reshape(order.delta.shape),
            order.t + output + problem.tau * order.t - problem.y,
            np.array(lower).reshape(shape),
            self._push(order, depth - 1, layers[-1]),
        )

    def _push(self, order: ReluOrder, layer: int, found: Layered) -> FloatArray:
        """R^T (n g_b) of every outlier: where it is stationary."""
        setting = self.setting(order, layer)
        return np.asarray((setting.n * found.activation) @ setting.root)

    def residual(self, x: FloatArray, rule: ReluRule) -> FloatArray:
        return np.asarray(self.pack(self.mapped(x, rule)) - x)

    def error(self, x: FloatArray, rule: ReluRule, left: Lacking | None = None) -> float:
        """Largest violation of an equation, relative to the size of its block; outputs relative to the targets.

        `left` is what both lattices lack (remote modes).
        """
        order, found = self.unpack(x), self.mapped(x, rule)
        worst = 0.0
        for name, layer, basis, _ in self.blocks:
            if not len(basis):
                continue
            have, want = getattr(order, name), getattr(found, name)
            if layer >= 0:
                have, want = have[layer], want[layer]
            if left is not None:
                lacks = getattr(left.order, name)
                want = want + (lacks if layer < 0 else lacks[layer])
            size = float(np.abs(self.problem.y if name == "t" else have).max())
            if name in ("lower", "top"):
                size = max(size, SHORT)  # an outlier may vanish
            worst = max(worst, float(np.abs(want - have).max() / max(size, 1e-300)))
        return worst

    def change(self, order: ReluOrder, moved: ReluOrder, rule: ReluRule, averaged: bool) -> ReluOrder:
        """Changes of `images` at N = infinity, `moved` having an axis of changes of order parameters before the others.

        With `averaged` kernels are those of the layers below, whatever `moved` says of them.
        """
        problem, depth = self.problem, self.problem.depth
        kernel, d, lower = moved.kernel.copy(), moved.d.copy(), np.zeros_like(moved.lower)
        tilde, delta, top, output = np.zeros_like(kernel), np.zeros_like(d), moved.top, moved.t
        for layer in range(depth):
            check_time()
            seen = replace(moved, kernel=kernel, d=d) if averaged else moved
            way = setting_change(order, seen, layer, problem.readout_variance, problem.into(layer))
            here = moved.top if layer == depth - 1 else moved.lower[:, layer]
            found = layer_change(self.setting(order, layer), order.outliers(layer), way, here, rule)
            if layer:
                push = problem.push[layer - 1]
                tilde[:, layer - 1], delta[:, layer - 1] = push * found.h_h, push * found.hh
            if layer < depth - 1:
                kernel[:, layer], d[:, layer], lower[:, layer] = found.b_b, found.bb, found.push
            else:
                top, output = found.push, found.beta_b.transpose(0, 2, 1)
        t = (1.0 + problem.tau) * moved.t + math.sqrt(problem.readout_variance) * output
        return ReluOrder(kernel, d, tilde, delta, t, lower, top)

    def jacobian(self, x: FloatArray, rule: ReluRule, start: FloatArray) -> FloatArray:
        """Derivatives of the residual; at finite N by differences, averages of other layers being remembered."""
        if math.isinf(self.problem.width):
            order = self.unpack(x)
            found = self.change(order, directions(self.blocks, order), rule, averaged=False)
            return packed_changes(self.blocks, found) - np.eye(len(x))
        columns = []
        for i in range(len(x)):
            step = 1e-5 * max(abs(float(x[i])), 1e-2)
            moved = x.copy()
            moved[i] += step
            columns.append((self.residual(moved, rule) - start) / step)
        return np.array(columns).T

    def free_energy(self, x: FloatArray, rule: ReluRule) -> float:
        """Phi."""
        problem, order, n = self.problem, self.unpack(x), self.problem.n
        total = float(-n @ (order.t * problem.y).sum(1) + 0.5 * problem.tau * n @ (order.t**2).sum(1))
        for layer in range(problem.depth):
            ratio = problem.ratios[layer]
            total += ratio * self.layer(order, layer, rule).log_z
            if layer == problem.depth - 1:
                continue
            kernel, d, tilde, delta = (getattr(order, name)[layer] for name in ("kernel", "d", "tilde", "delta"))
            own = n * (d * np.diag(tilde) + delta * (np.diag(kernel) + d))
            total -= 0.5 * ratio * (float(n @ (tilde * kernel) @ n) + float(own.sum()))
        return total
