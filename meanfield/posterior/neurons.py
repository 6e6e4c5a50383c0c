"""Neurons drawn from a single-neuron posterior: a plausible network, for pictures of its code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meanfield.validation import FloatArray, whole_number

_SHOWN = 100  # samples shown in all if the user does not say


@dataclass(frozen=True, eq=False)
class Neurons:
    """N neurons and their responses to S samples.

    Attributes
    ----------
    readouts : (N, m) array
        a_i.
    code : (N,) integer array
        Which part of the posterior a neuron was drawn from; an index into `part_names`.
    part_names : tuple of str
        "1-1-0" for a code, "bulk", "outlier 1-0-0", or "Gaussian".
    preactivations, activations : (N, S) arrays
        z_i and phi(z_i) on sample s.
    labels : (S,) integer array
        Class index of sample s.
    class_names : tuple of str
    """

    readouts: FloatArray
    code: NDArray[np.intp]
    part_names: tuple[str, ...]
    preactivations: FloatArray
    activations: FloatArray
    labels: NDArray[np.intp]
    class_names: tuple[str, ...]

    @property
    def output(self) -> FloatArray:
        """(S, m) output f = (1/N) sum_i a_i phi(z_i) of the drawn network on the samples shown."""
        return np.asarray(self.activations.T @ self.readouts / len(self.readouts))

    def __repr__(self) -> str:
        count = np.bincount(self.code, minlength=len(self.part_names))
        parts = ", ".join(f"{n} {name}" for n, name in zip(count, self.part_names, strict=True))
        return f"<Neurons: {len(self.readouts)} on {self.labels.size} samples; {parts}>"


def positive_count(name: str, value: object) -> int:
    """`value`, an integer >= 1; ValueError otherwise."""
    return whole_number(name, value, at_least=1, at_most=10**8)


def sample_counts(fractions: FloatArray, samples_per_class: object) -> list[int]:
    """Samples shown of each class: as given, or about 100 in all."""
    given = samples_per_class
    if given is None:
        return [max(1, round(_SHOWN * float(p))) for p in fractions]
    if not isinstance(given, (list, tuple, np.ndarray)) or getattr(given, "shape", None) == ():
        return [positive_count("samples_per_class", given)] * fractions.size
    if len(given) != fractions.size:
        raise ValueError(f"samples_per_class must be one integer or {fractions.size}, one per class, got {len(given)}.")
    return [positive_count("samples_per_class", value) for value in given]
