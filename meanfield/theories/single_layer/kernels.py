"""The posterior kernel of a class task, block-structured by class."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from meanfield.activations.cumulant import Cumulant, cumulant
from meanfield.posterior.kernel import Kernel
from meanfield.posterior.parts import Code
from meanfield.theories.single_layer.densities import HERMITE_W, HERMITE_X, Densities
from meanfield.theories.single_layer.finite.exchange_averages import exchange_averages
from meanfield.theories.single_layer.finite.halves_averages import halves_averages
from meanfield.theories.single_layer.kinds.classes import ClassKinds, averaged_over_orbits, class_kinds
from meanfield.theories.single_layer.readout.lattice import readout_lattice
from meanfield.validation import FloatArray, read_only

__all__ = ["ClassKernels"]


class ClassKernels(Densities):
    """The kernel of the posterior of a class task."""

    def kernel(self, layer: int = -1) -> Kernel:
        """Posterior kernel of the hidden layer (`layer` 1 or -1), block-structured by class.

        K_mu,nu = sum_gamma P_gamma G'_c G'_c' + sum_o phi(zbar_oc) phi(zbar_oc') for two samples, with G'' added on the
        diagonal; for the analog scheme, where G' is affine, its mean square over a ~ N(0, U). At finite P the sum over
        codes is the average over P(a): on a lattice for m <= 4, exact where classes can be exchanged or halves of
        them are summed over, else with codes taken as Gaussian.
        """
        self._layer(layer)
        t = self.solution.t
        if self.solution.gaussian_covariance is not None:
            _, mean, slope = (float(g[0]) for g in self._cumulant.direct(np.zeros(1)))
            block = mean**2 + slope**2 * t @ self.solution.gaussian_covariance @ t.T
            return Kernel(read_only(block), read_only(np.diag(block) + slope))
        given = self.network, self.task, self.solution
        averages = exchange_averages(*given) or halves_averages(*given)
        if averages is not None:
            return Kernel(read_only(averages.block), read_only(averages.diagonal))
        lattice = readout_lattice(self.network, self.task, self.solution)
        if lattice is not None:
            readouts, weight = lattice
            _, first, second = self._cumulant.direct(readouts @ t.T)
            block = (first.T * weight) @ first
            diagonal = np.diag(block) + weight @ second
        else:
            block = np.sum([c.weight * self._second_moment(c) for c in self.codes], axis=0)
            diagonal = np.sum([c.weight * (c.activation**2 + c.activation_variance) for c in self.codes], axis=0)
        for outlier in self.outliers:
            block = block + np.outer(outlier.activation, outlier.activation)
            diagonal = diagonal + outlier.activation**2
        if self._kinds is not None:
            kind = self._kinds.kind
            block = averaged_over_orbits(kind, block)
            diagonal = np.diag(averaged_over_orbits(kind, np.diag(diagonal)))
        return Kernel(read_only(block), read_only(diagonal))

    def _second_moment(self, code: Code) -> FloatArray:
        """(C, C) mean of G'(a.t_c) G'(a.t_c') over the readouts of a code."""
        if code.covariance is None:
            return np.outer(code.activation, code.activation)
        t = self.solution.t
        moment = np.empty((len(t), len(t)))
        weight = np.outer(HERMITE_W, HERMITE_W)
        for c in range(len(t)):
            for d in range(c + 1):
                pair = t[[c, d]]
                value, vector = np.linalg.eigh(pair @ code.covariance @ pair.T)
                root = vector * np.sqrt(np.maximum(value, 0.0))
                grid = np.stack(np.meshgrid(HERMITE_X, HERMITE_X, indexing="ij"))
                kappa = (pair @ code.readout)[:, None, None] + np.tensordot(root, grid, axes=1)
                _, first, _ = self._cumulant.direct(kappa)
                moment[c, d] = moment[d, c] = np.sum(weight * first[0] * first[1])
        return moment

    @property
    def _cumulant(self) -> Cumulant:
        return cumulant(self.network.activation, self.network.k)

    @cached_property
    def _kinds(self) -> ClassKinds | None:
        """Kinds of classes, where codes are orbits."""
        if self.solution.kind is None:
            return None
        return class_kinds(self.task.fractions, self.task.targets)
