"""Neurons drawn from the posterior of a class task."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from meanfield.activations.density import preactivation_quantile
from meanfield.numerics.symmetric import symmetric_root
from meanfield.posterior.neurons import Neurons, positive_count, sample_counts
from meanfield.theories.single_layer.densities import Densities
from meanfield.theories.single_layer.kinds.classes import class_kinds
from meanfield.validation import FloatArray
from meanfield.validation import generator as new_generator

__all__ = ["draw"]


def draw(posterior: Densities, n: object, rng: object, samples_per_class: object) -> Neurons:
    """See `SingleNeuronPosterior.sample_neurons`."""
    task, solution = posterior.task, posterior.solution
    labels = np.repeat(np.arange(task.n_classes), sample_counts(task.fractions, samples_per_class))
    n = positive_count("n", n)
    generator = new_generator("rng", rng)
    outliers = posterior.outliers
    if n <= len(outliers):
        raise ValueError(f"n = {n} neurons cannot hold {len(outliers)} outliers and a bulk; ask for more neurons.")
    if solution.gaussian_covariance is not None:
        names, code = ["Gaussian"], np.zeros(n, dtype=np.intp)
        readouts = generator.standard_normal((n, task.n_outputs)) @ symmetric_root(solution.gaussian_covariance)
    else:
        names = [c.label for c in posterior.codes] if posterior.scheme != "sparse" else ["bulk"]
        codes = posterior.codes  # at given fractions those of the solution are of equilibrium
        share = np.array([c.weight for c in codes])
        code = np.sort(generator.choice(len(names), size=n, p=share / share.sum()))
        readouts = np.stack([c.readout for c in codes])[code]
        spread = [c.covariance for c in codes if c.covariance is not None]
        if spread:
            root = np.stack([symmetric_root(covariance) for covariance in spread])
            readouts += np.einsum("ni,nij->nj", generator.standard_normal(readouts.shape), root[code])
        if solution.kind is not None:
            readouts = class_kinds(task.fractions, task.targets).shuffled(readouts, generator)
        for index, outlier in enumerate(outliers):  # the last neurons become the outliers
            row = n - len(outliers) + index
            code[row], readouts[row] = len(names) + index, np.sqrt(n) * outlier.readout
        names += [f"outlier {outlier.label}" for outlier in outliers]
    z = _preactivations(posterior, readouts, labels, generator)
    phi = posterior.network.activation
    return Neurons(readouts, code, tuple(names), z, np.asarray(phi(z)), labels, task.class_names)


def _preactivations(
    posterior: Densities, readouts: FloatArray, labels: NDArray[np.intp], generator: np.random.Generator
) -> FloatArray:
    """Independent draws of z_is from q(z) at kappa = a_i.t_c(s), by inversion of the distribution function."""
    phi, k = posterior.network.activation, posterior.network.k
    uniform = generator.random((len(readouts), labels.size))
    z = np.empty(uniform.shape)
    kappa = readouts @ posterior.solution.t.T
    for c in range(posterior.task.n_classes):
        columns = labels == c
        z[:, columns] = preactivation_quantile(phi, k, kappa[:, c], uniform[:, columns])
    return z
