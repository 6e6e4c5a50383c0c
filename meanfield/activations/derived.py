"""Machine-written by ``python -m meanfield.activations.generate`` from the other files of this folder; do not edit."""

# ruff: noqa
# mypy: ignore-errors
# fmt: off
from math import inf, nan

import numpy
import scipy.special


def erf(z, gain):
    return scipy.special.erf(gain*z)


def erf_derivative(z, gain):
    return 2*gain*numpy.exp(-gain**2*z**2)/numpy.sqrt(numpy.pi)


def erf_shape(gain):
    return {"kinks": (), "limits": (-1.0, 1.0,), "slopes": (0.0, 0.0,), "intercepts": (-1.0, 1.0,), "complement": 0.0, "even": False}


def gelu(z, gain):
    return (1/2)*z*scipy.special.erfc(-1/2*numpy.sqrt(2)*gain*z)


def gelu_derivative(z, gain):
    return (1/2)*numpy.sqrt(2)*gain*z*numpy.exp(-1/2*gain**2*z**2)/numpy.sqrt(numpy.pi) + (1/2)*scipy.special.erfc(-1/2*numpy.sqrt(2)*gain*z)


def gelu_shape(gain):
    return {"kinks": (), "limits": (0.0, inf,), "slopes": (0.0, 1.0,), "intercepts": (0.0, 0.0,), "complement": None, "even": False}


def gelu_above(z, gain):
    return -1/2*z*scipy.special.erfc((1/2)*numpy.sqrt(2)*gain*z)


def hard_sigmoid(z, gain):
    return numpy.maximum(0, numpy.minimum(1, (1/2)*gain*z + 1/2))


def hard_sigmoid_derivative(z, gain):
    return (1/2)*gain*numpy.heaviside(-1/2*gain*z + 1/2, 0.5)*numpy.heaviside(numpy.minimum(1, (1/2)*gain*z + 1/2), 0.5)


def hard_sigmoid_shape(gain):
    return {"pieces": ((-1/gain, gain**(-1.0),), (0.0, 0.5, 1.0,), (0.0, (1/2)*gain, 0.0,))}


def hard_tanh(z, gain):
    return numpy.maximum(-1, numpy.minimum(1, gain*z))


def hard_tanh_derivative(z, gain):
    return gain*numpy.heaviside(-gain*z + 1, 0.5)*numpy.heaviside(numpy.minimum(1, gain*z) + 1, 0.5)


def hard_tanh_shape(gain):
    return {"pieces": ((-1/gain, gain**(-1.0),), (-1.0, 0.0, 1.0,), (0.0, gain, 0.0,))}


def leaky_relu(z, slope):
    return numpy.where(numpy.less(z, 0), slope*z, z)


def leaky_relu_derivative(z, slope):
    return numpy.where(numpy.less(z, 0), slope, 1)


def leaky_relu_shape(slope):
    return {"pieces": ((0.0,), (0.0, 0.0,), (slope, 1.0,))}


def linear(z, gain):
    return gain*z


def linear_derivative(z, gain):
    return gain


def linear_shape(gain):
    return {"pieces": ((), (0.0,), (gain,))}


def logistic(z, gain):
    return scipy.special.expit(gain*z)


def logistic_derivative(z, gain):
    return gain*scipy.special.expit(-gain*z)*scipy.special.expit(gain*z)


def logistic_shape(gain):
    return {"kinks": (), "limits": (0.0, 1.0,), "slopes": (0.0, 0.0,), "intercepts": (0.0, 1.0,), "complement": 0.5, "even": False}


def relu(z, gain):
    return gain*numpy.maximum(0, z)


def relu_derivative(z, gain):
    return gain*numpy.heaviside(z, 0.5)


def relu_shape(gain):
    return {"pieces": ((0.0,), (0.0, 0.0,), (0.0, gain,))}


def sigmoid(z, gain):
    return (1/2)*scipy.special.erfc(-1/2*numpy.sqrt(numpy.pi)*gain*z)


def sigmoid_derivative(z, gain):
    return (1/2)*gain*numpy.exp(-1/4*numpy.pi*gain**2*z**2)


def sigmoid_shape(gain):
    return {"kinks": (), "limits": (0.0, 1.0,), "slopes": (0.0, 0.0,), "intercepts": (0.0, 1.0,), "complement": 0.5, "even": False}


def softplus(z, gain):
    return numpy.logaddexp(0.0, gain*z)/gain


def softplus_derivative(z, gain):
    return scipy.special.expit(gain*z)


def softplus_shape(gain):
    return {"kinks": (), "limits": (0.0, inf,), "slopes": (0.0, 1.0,), "intercepts": (0.0, 0.0,), "complement": None, "even": False}


def softplus_above(z, gain):
    return numpy.logaddexp(0.0, -gain*z)/gain


def step(z):
    return numpy.heaviside(z, 0.5)


def step_derivative(z):
    return 0


def step_shape():
    return {"pieces": ((0.0,), (0.0, 1.0,), (0.0, 0.0,))}


def tanh(z, gain):
    return numpy.tanh(gain*z)


def tanh_derivative(z, gain):
    return gain*(1 - numpy.tanh(gain*z)**2)


def tanh_shape(gain):
    return {"kinks": (), "limits": (-1.0, 1.0,), "slopes": (0.0, 0.0,), "intercepts": (-1.0, 1.0,), "complement": 0.0, "even": False}


DERIVED = {
    "erf": ((erf, erf_derivative, None, None), erf_shape, {'gain': 1.0}),
    "gelu": ((gelu, gelu_derivative, None, gelu_above), gelu_shape, {'gain': 1.0}),
    "hard_sigmoid": ((hard_sigmoid, hard_sigmoid_derivative, None, None), hard_sigmoid_shape, {'gain': 1.0}),
    "hard_tanh": ((hard_tanh, hard_tanh_derivative, None, None), hard_tanh_shape, {'gain': 1.0}),
    "leaky_relu": ((leaky_relu, leaky_relu_derivative, None, None), leaky_relu_shape, {'slope': 0.01}),
    "linear": ((linear, linear_derivative, None, None), linear_shape, {'gain': 1.0}),
    "logistic": ((logistic, logistic_derivative, None, None), logistic_shape, {'gain': 1.0}),
    "relu": ((relu, relu_derivative, None, None), relu_shape, {'gain': 1.0}),
    "sigmoid": ((sigmoid, sigmoid_derivative, None, None), sigmoid_shape, {'gain': 1.0}),
    "softplus": ((softplus, softplus_derivative, None, softplus_above), softplus_shape, {'gain': 1.0}),
    "step": ((step, step_derivative, None, None), step_shape, {}),
    "tanh": ((tanh, tanh_derivative, None, None), tanh_shape, {'gain': 1.0}),
}
