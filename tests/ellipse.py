"""An island whose border is known: phi odd and one output, in the plane of two targets of three classes."""

import numpy as np

import meanfield as mf
from meanfield.activations.cumulant import cumulant

PROBLEM = mf.Network("tanh"), mf.class_task(fractions=[0.5, 0.25, 0.25], targets=[0.5, 0.4, 0.9]), 0.3


def excess(first, second):
    """No neuron responds where this is negative: sum_c p_c y_c^2 < tau^2 / (sigma_a^2 E phi^2), an ellipse."""
    level = 0.3**2 / cumulant(PROBLEM[0].activation, 1.0).direct(np.zeros(1))[2][0]
    return 0.5 * first**2 + 0.25 * second**2 + 0.25 * 0.9**2 - level
