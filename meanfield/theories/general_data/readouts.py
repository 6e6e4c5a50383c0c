"""Neurons at many readouts as arrays, and the mixture of Gaussians in weight space that they make up."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from meanfield.theories.general_data.compiled import ep
from meanfield.validation import BoolArray, FloatArray, IntArray, Rows

__all__ = ["EXTRAPOLATED", "Components", "Line", "Readouts", "components", "join"]

EXTRAPOLATED = 3  # status, after ep.EP, ep.VGA, ep.FAILED: second order from the same readout at an earlier t


@dataclass
class Line:
    """A neuron resolved along a soft direction u of weight space, one row per value of x = u.w.

    direction is the position of u in `SoftLines.directions`; log_p (n_x,) ln P(x | a); phi, spread, gain, s, nu
    (n_x, P).
    """

    direction: int
    x: FloatArray
    log_p: FloatArray
    phi: FloatArray
    spread: FloatArray
    gain: FloatArray
    s: FloatArray
    nu: FloatArray


@dataclass
class Readouts:
    """Neurons with readouts a_i at one t, one row each.

    readout (n, m); exponent (n,) h(a_i) = -|a_i|^2 / (2 s2) + log Z(t a_i); phi, spread, gain, s, nu (n, P): E phi,
    Var phi, Cov(phi, z) / Var z and the sites; status (n,); slope (n, m) grad_a h.
    """

    readout: FloatArray
    exponent: FloatArray
    phi: FloatArray
    spread: FloatArray
    gain: FloatArray
    s: FloatArray
    nu: FloatArray
    status: IntArray
    lowest: FloatArray
    iterations: IntArray
    slope: FloatArray
    line: np.ndarray  # (n,) objects: Line or None

    def take(self, rows: Rows) -> Readouts:
        return Readouts(*(getattr(self, f.name)[rows] for f in fields(self)))

    def assign(self, rows: Rows, other: Readouts) -> None:
        """Overwrite `rows` with those of `other`."""
        for f in fields(self):
            array = np.array(getattr(self, f.name))
            array[rows] = getattr(other, f.name)
            setattr(self, f.name, array)

    def __len__(self) -> int:
        return len(self.exponent)

    @property
    def ok(self) -> BoolArray:
        return self.status != ep.FAILED


@dataclass
class Components:
    """Gaussians in weight space of which the posterior is a mixture, one row each.

    node (n,) row of the readout it belongs to; direction (n,) -1 or the soft direction along which u.w = x.
    """

    node: IntArray
    readout: FloatArray
    weight: FloatArray
    phi: FloatArray
    spread: FloatArray
    gain: FloatArray
    s: FloatArray
    nu: FloatArray
    direction: IntArray
    x: FloatArray

    def take(self, rows: Rows) -> Components:
        return Components(*(getattr(self, f.name)[rows] for f in fields(self)))


def components(at: Readouts, weight: FloatArray, smallest: float = 0.0) -> Components:
    """Mixture of the readouts with these weights (n,): one Gaussian each, or one per value of x on a line."""
    plain = np.array([line is None for line in at.line], dtype=bool)
    node = [np.flatnonzero(plain)]
    values = [[getattr(at, name)[plain] for name in ("phi", "spread", "gain", "s", "nu")]]
    weights, direction, x = [weight[plain]], [np.full(node[0].size, -1)], [np.zeros(node[0].size)]
    for i in np.flatnonzero(~plain):
        line = at.line[i]
        node.append(np.full(len(line.x), i))
        values.append([line.phi, line.spread, line.gain, line.s, line.nu])
        weights.append(weight[i] * np.exp(line.log_p))
        direction.append(np.full(len(line.x), line.direction))
        x.append(line.x)
    all_nodes, all_weights = np.concatenate(node), np.concatenate(weights)
    kept = all_weights > smallest * all_weights.max(initial=0.0)
    phi, spread, gain, s, nu = (np.concatenate(column)[kept] for column in zip(*values))
    return Components(
        node=all_nodes[kept],
        readout=at.readout[all_nodes[kept]],
        weight=all_weights[kept],
        phi=phi,
        spread=spread,
        gain=gain,
        s=s,
        nu=nu,
        direction=np.concatenate(direction)[kept],
        x=np.concatenate(x)[kept],
    )


def join(parts: list[Readouts]) -> Readouts:
    """All of them, in order."""
    return Readouts(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Readouts)))
