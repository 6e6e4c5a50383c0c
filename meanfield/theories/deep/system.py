"""The saddle equations of all layers in one vector of unknowns (THEORY.md, "The equations")."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from meanfield.activations.activation import Activation
from meanfield.theories.deep.layer import FINE, Averages, Detail, Layer, Rule, Setting
from meanfield.theories.deep.linear import LinearLayer
from meanfield.theories.deep.symmetry import Symmetry, symmetry
from meanfield.validation import FloatArray

__all__ = ["Evaluation", "Order", "Problem", "System"]


@dataclass(frozen=True, eq=False)
class Problem:
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
    scale : float
        sigma^2 of the weights above it: the fields of layer l + 1 have covariance scale * K_l.
    exponent : float
        beta.
    """

    phi: Activation
    depth: int
    n: FloatArray
    y: FloatArray
    tau: float
    readout_variance: float
    k: float = 1.0
    scale: float = 1.0
    exponent: float = 1.0

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
    them follow from ln Z. With `free` they are unknowns, and ln Z_gamma - ln f_gamma must be equal for all codes.
    """

    problem: Problem
    rule: Rule = FINE
    fractions: dict[str, float] | None = None
    free: bool = False
    group: Symmetry = field(init=False)

    def __post_init__(self) -> None:
        p = self.problem
        self.group = symmetry(p.n, p.y, self.fractions)
        kind = LinearLayer if p.phi.parts == "gaussian" else Layer
        self.layers: list[Any] = [kind(p.phi, p.n, self.rule) for _ in range(p.depth)]
        self.vectors = self.group.vector_basis()
        self.matrices = self.group.matrix_basis()
        self.outputs = self.group.output_basis(p.y)
        orbits = self.group.patterns([] if self.fractions is None else list(self.fractions))
        self.codes = tuple(orbit[0] for orbit in orbits)
        self.members = orbits
        self.multiplicity = np.array([float(len(orbit)) for orbit in orbits])

    def at_rule(self, rule: Rule) -> System:
        """The same equations with another quadrature."""
        return replace(self, rule=rule)

    # ---- coordinates -----------------------------------------------------------------------------

    @property
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
        if self.free:
            at += len(self.outputs)
            found.append(("f", top, slice(at, at + len(self.codes))))
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

    def shares(self, x: FloatArray) -> FloatArray:
        """Share of each code of `codes` at x."""
        return x[self.blocks[-1][2]] if self.free else self.given

    def pack(self, order: Order, shares: FloatArray | None = None) -> FloatArray:
        """Coordinates of order parameters, which are made symmetric, and of the shares of codes if they are free."""
        parts = []
        for layer in range(self.problem.depth - 1):
            for name, basis in (
                ("kernel", self.matrices), ("d", self.vectors), ("tilde", self.matrices), ("delta", self.vectors)
            ):  # fmt: skip
                value = getattr(order, name)[layer]
                parts += [float((value * row).sum() / row.sum()) for row in basis]
        parts += [float((order.t * row).sum()) for row in self.outputs]
        if self.free:
            parts += list(self.given if shares is None else shares)
        return np.array(parts)

    def unpack(self, x: FloatArray) -> Order:
        """Order parameters of coordinates."""
        n_classes = len(self.problem.n)
        lower = self.problem.depth - 1
        kernel, tilde = np.zeros((lower, n_classes, n_classes)), np.zeros((lower, n_classes, n_classes))
        d, delta = np.zeros((lower, n_classes)), np.zeros((lower, n_classes))
        t = np.zeros_like(self.problem.y)
        arrays = {"kernel": kernel, "d": d, "tilde": tilde, "delta": delta}
        for name, layer, at in self.blocks:
            if name == "t":
                t = np.tensordot(x[at], self.outputs, 1)
            elif name != "f":
                basis = self.matrices if name in ("kernel", "tilde") else self.vectors
                arrays[name][layer] = np.tensordot(x[at], basis, 1)
        return Order(kernel, d, tilde, delta, t)

    def scales(self, x: FloatArray) -> FloatArray:
        """Size of the block that each coordinate belongs to: the unit of its residual and of its step."""
        scale = np.empty(len(x))
        floor = {"kernel": 1e-3, "d": 1e-6, "tilde": 1.0 / self.problem.n_samples, "delta": 0.02, "t": 1e-12}
        for name, _, at in self.blocks:
            scale[at] = np.abs(x[at]) + 1e-12 if name == "f" else max(float(np.abs(x[at]).max()), floor[name])
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
        return Setting(root, p.scale * _clipped(order.kernel[layer - 1]), p.scale * order.d[layer - 1], delta)

    def averages(self, order: Order, layer: int, *, grow: bool = True) -> list[Averages]:
        """Averages of one layer, made symmetric; one per code in the top layer of given codes."""
        setting = self.setting(order, layer)
        if self.codes and layer == self.problem.depth - 1:
            found = self.layers[layer].evaluate_codes(setting, self.codes, grow=grow)
            return [self._symmetric(averages) for averages, _ in found]
        return [self._symmetric(self.layers[layer].evaluate(setting, grow=grow)[0])]

    def detail(self, order: Order, layer: int) -> Detail:
        """The nodes of one layer."""
        _, detail = self.layers[layer].evaluate(self.setting(order, layer), detail=True)
        assert detail is not None
        return detail

    def _symmetric(self, found: Averages) -> Averages:
        g = self.group
        return Averages(
            found.log_z, g.matrices(found.kernel), g.vectors(found.d), g.matrices(found.tilde), g.vectors(found.delta)
        )

    def readout_order(self, top: Averages) -> FloatArray:
        """t = (s [K_L diag(n) + diag(d_L)] + tau)^{-1} y."""
        p = self.problem
        matrix = p.readout_variance * (top.kernel * p.n + np.diag(top.d)) + p.tau * np.eye(len(p.n))
        return np.asarray(np.linalg.solve(matrix, p.y))

    def combined(self, x: FloatArray, found: Evaluation) -> list[Averages]:
        """Averages of every layer, those of the codes put together."""
        if not self.codes:
            return [*found.lower, *found.top]
        share = self.shares(x) * self.multiplicity
        log_z = np.array([a.log_z for a in found.top]) - np.log(np.maximum(self.shares(x), 1e-300))
        parts = (
            np.tensordot(share, np.array([getattr(a, name) for a in found.top]), 1)
            for name in ("kernel", "d", "tilde", "delta")
        )
        return [*found.lower, Averages(float(share @ log_z), *parts)]

    def residual(self, x: FloatArray, found: Evaluation) -> FloatArray:
        """Violation of the equations in units of the blocks: F(x) - x, then equal ln Z - ln f and their sum."""
        scale = self.problem.scale
        layers = self.combined(x, found)
        top = layers[-1]
        order = Order(
            np.array([a.kernel for a in layers[:-1]]).reshape(-1, *top.kernel.shape),
            np.array([a.d for a in layers[:-1]]).reshape(-1, len(top.d)),
            scale * np.array([a.tilde for a in layers[1:]]).reshape(-1, *top.kernel.shape),
            scale * np.array([a.delta for a in layers[1:]]).reshape(-1, len(top.d)),
            self.readout_order(top),
        )
        unit = self.scales(x)
        violation = (self.pack(order, self.shares(x) if self.free else None) - x) / unit
        if not self.free:
            return np.asarray(violation)
        share = self.shares(x) * self.multiplicity
        level = np.array([a.log_z for a in found.top]) - np.log(self.shares(x))
        violation[self.blocks[-1][2]] = (level - share @ level / share.sum()) / self.problem.n_samples
        return np.append(violation, share.sum() - 1.0)

    def evaluate(self, x: FloatArray, *, grow: bool = True) -> Evaluation:
        """Averages of every layer."""
        order = self.unpack(x)
        layers = [self.averages(order, layer, grow=grow) for layer in range(self.problem.depth)]
        return Evaluation([a[0] for a in layers[:-1]], layers[-1])

    def jacobian(self, x: FloatArray, found: Evaluation, step: float) -> FloatArray:
        """Derivative of `residual` in x / scales(x), by differences: an unknown enters the integrals of one layer."""
        base = self.residual(x, found)
        matrix = np.empty((len(base), len(x)))
        scale = self.scales(x)
        top = self.problem.depth - 1
        for name, layer, at in self.blocks:
            enters = layer + 1 if name in ("kernel", "d") else layer
            for j in range(at.start, at.stop):
                moved = x.copy()
                moved[j] += step * scale[j]
                lower, last = list(found.lower), found.top
                if name != "f":
                    new = self.averages(self.unpack(moved), enters, grow=False)
                    if enters == top:
                        last = new
                    else:
                        lower[enters] = new[0]
                matrix[:, j] = (self.residual(moved, Evaluation(lower, last)) - base) / step
        return matrix

    def free_energy(self, x: FloatArray, found: Evaluation) -> float:
        """Phi at order parameters x, from their averages."""
        p, order = self.problem, self.unpack(x)
        n = p.n
        phi = sum(a.log_z for a in self.combined(x, found))
        for layer in range(p.depth - 1):
            kernel, d = order.kernel[layer], order.d[layer]
            tilde, delta = order.tilde[layer], order.delta[layer]
            trace = float(n @ (tilde * kernel) @ n + n @ (d * np.diag(tilde) + delta * (np.diag(kernel) + d)))
            phi -= 0.5 * trace
        return float(phi - n @ (order.t * p.y).sum(axis=1) + 0.5 * p.tau * n @ (order.t**2).sum(axis=1))


def _root(matrix: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def _clipped(matrix: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(matrix)
    if values[0] >= 0.0:
        return matrix
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)
