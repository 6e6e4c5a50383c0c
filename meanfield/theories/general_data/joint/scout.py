"""Where codes may be: maxima over w of the energy of single neurons, many at a time, as starts for EP.

At its best readout a = s2 t^T phi(F w) a neuron with weights w has the log density (up to a constant)

    E(w) = s2 |t^T phi(F w)|^2 / 2 - |w|^2 / 2,

whose maxima lie near the codes. They cost two matrix products a step for all of them together.
"""

from __future__ import annotations

import itertools

import numpy as np

from meanfield.numerics.limits import check_time
from meanfield.theories.general_data.joint.codes import Codes, JointNeuron
from meanfield.validation import FloatArray, IntArray

__all__ = ["Scout"]

_ALL_SETS = 10  # classes of which all sets are followed
_SETS = 1024
_RANDOM = 8
_STEPS = 30
_START = 1.5  # size of the preactivations
_RIDGE = 0.05
_SAME = 0.005  # mean square difference of activations within one code


class Scout:
    """Maxima of E(w), followed as t changes: neurons active on sets of classes, and random ones.

    Parameters
    ----------
    labels : (P,) integers or None
        Classes.
    neuron : JointNeuron
    rng : Generator
    """

    def __init__(self, labels: IntArray | None, neuron: JointNeuron, rng: np.random.Generator) -> None:
        self.neuron, self.rng = neuron, rng
        self.sets = np.empty((len(neuron.matrix), 0))
        if labels is not None:
            classes, index = np.unique(labels, return_inverse=True)
            n = len(classes)
            if n <= _ALL_SETS:
                sets = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
            else:
                sets = rng.choice((-1.0, 1.0), (_SETS, n))
            self.sets = sets.T[index]
        matrix = neuron.matrix
        self.ridge = matrix.T @ matrix + _RIDGE * len(matrix) * np.eye(matrix.shape[1])

    def ascend(self, t: FloatArray, signs: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """E (n,), phi and z (n, P) where ascents end that start at preactivations of these signs (P, n)."""
        matrix, s2, phi_of = self.neuron.matrix, self.neuron.prior, self.neuron.activation
        low, high = self.neuron.ends
        weights = _START * np.linalg.solve(self.ridge, matrix.T @ signs)
        readout = s2 * (t.T @ np.where(signs > 0.0, high, low))
        steps = np.full(signs.shape[1], 0.3)
        value = np.full(signs.shape[1], -np.inf)
        z = matrix @ weights
        phi = phi_of(z)
        for step in range(_STEPS):
            check_time()
            free = step >= _STEPS // 3  # the readout stays that of the set at first
            slope = matrix.T @ ((t @ readout) * phi_of.derivative(z)) - weights
            trial = weights + steps * slope
            new_z = matrix @ trial
            new_phi = phi_of(new_z)
            along = t.T @ new_phi
            gain = 0.5 * s2 * np.sum(along**2, axis=0) if free else np.sum(readout * along, axis=0)
            new = gain - 0.5 * np.sum(trial**2, axis=0)
            if step == _STEPS // 3:
                value[:] = -np.inf
            better = new > value
            steps = np.where(better, np.minimum(1.3 * steps, 2.0), 0.4 * steps)
            weights, z, phi = (np.where(better, a, b) for a, b in ((trial, weights), (new_z, z), (new_phi, phi)))
            value = np.where(better, new, value)
            if free:
                readout = s2 * (t.T @ phi)
        return value, np.ascontiguousarray(phi.T), np.ascontiguousarray(z.T)

    def starts(self, t: FloatArray, known: Codes | None, number: int) -> list[tuple[FloatArray, FloatArray]]:
        """Sites of the highest maxima at t that are not among known codes."""
        random = np.sign(self.neuron.matrix @ self.rng.normal(size=(self.neuron.matrix.shape[1], _RANDOM)))
        value, phi, z = self.ascend(t, np.concatenate([self.sets, random], axis=1))
        seen = [] if known is None else [joint.phi for joint in known.joints]
        chosen: list[tuple[FloatArray, FloatArray]] = []
        for i in np.argsort(-value, kind="stable"):
            if not _among(phi[i], seen):
                chosen.append(self.sites(t, phi[i], z[i]))
                seen.append(phi[i])
                if len(chosen) == number:
                    break
        return chosen

    def sites(self, t: FloatArray, phi: FloatArray, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Second-order sites of a maximum; negative precisions are left out."""
        phi_of = self.neuron.activation
        k = self.neuron.prior * (t @ (t.T @ phi))
        step = 1e-3
        bend = (phi_of.derivative(z + step) - phi_of.derivative(z - step)) / (2.0 * step)
        q, nu = np.zeros((len(z), 2, 2)), np.empty((len(z), 2))
        q[:, 1, 1] = np.maximum(-k * bend, 0.0)
        nu[:, 0] = phi
        nu[:, 1] = k * phi_of.derivative(z) + q[:, 1, 1] * z
        return q, nu


def _among(row: FloatArray, rows: list[FloatArray]) -> bool:
    return bool(rows) and bool(np.mean((np.array(rows) - row) ** 2, axis=1).min() < _SAME)
