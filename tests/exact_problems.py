"""Small data tasks whose exact single-neuron measure is known, or can be sampled in a moment."""

import itertools

import numpy as np

import meanfield as mf
from meanfield.activations.activation import activation

SIGMOID = activation("sigmoid")
PAIR = np.array([[1.0, 1.0], [-1.0, -1.0]])


def raw(inputs, targets):
    return mf.data_task(inputs, targets, center=False, scale=None)


def cube(n):
    return np.array(list(itertools.product((-1.0, 1.0), repeat=n)))


def pair_of(phi, sigma_w=1.0, **options):
    return mf.solve(mf.Network(phi, sigma_w=sigma_w), raw(PAIR, [1.0, 1.0]), 0.1, **options)


class Clock:
    """A time that passes by one second whenever it is asked for."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now
