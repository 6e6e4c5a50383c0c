"""From the language of training to that of the theory and back: weight decay and noise, sigma's and tau.

Langevin training, theta <- theta - eta (grad L + lambda theta) + sqrt(2 eta T_L) xi with small steps eta, samples
exp(-(L + lambda theta^2 / 2) / T_L). With L = c sum_mu |y_mu - f_mu|^2 / 2 that is the posterior of the theory
(van Meegen & Sompolinsky 2025, eq. 2: loss over T, Gaussian prior) with T = T_L / c, tau = N T, and a prior variance
T_L / lambda for every weight.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from meanfield.problem.network import Network
from meanfield.sampling.observe import PARAMETERIZATIONS
from meanfield.sampling.problem import layer_widths, output_scale
from meanfield.validation import instance, real_number, short, whole_number

__all__ = ["LOSSES", "TrainingParameters", "theory_parameters", "training_parameters"]

LOSSES = ("sum", "mean")
_SAME = 1e-6  # relative difference between layers up to which they have one sigma

Loss = Literal["sum", "mean"]


@dataclass(frozen=True)
class TrainingParameters:
    """What a training loop needs to sample the posterior, see `training_parameters`.

    Attributes
    ----------
    weight_decay : tuple of L + 1 floats
        lambda of every hidden layer and of the readout: what is added to the gradient is lambda theta.
    temperature : float
        T_L of the noise sqrt(2 eta T_L) xi that is added in a step of size eta.
    prior_std : tuple of L + 1 floats
        Standard deviation of the weights under the prior, to start from.
    loss, parameterization : str
    """

    weight_decay: tuple[float, ...]
    temperature: float
    prior_std: tuple[float, ...]
    loss: str
    parameterization: str


def training_parameters(
    network: Network,
    tau: float,
    *,
    width: int,
    n_inputs: int,
    n_samples: int,
    n_outputs: int = 1,
    loss: Loss = "sum",
    parameterization: str = "standard",
) -> TrainingParameters:
    """Weight decay, noise and initial scales with which Langevin training samples the posterior at this tau.

    Parameters
    ----------
    network : Network
    tau : float
        N T > 0 (T itself for the lazy scaling).
    width, n_inputs, n_samples, n_outputs : int
        N of the last hidden layer, N_0, P, m.
    loss : {"sum", "mean"}
        "sum": L = sum_mu |y - f|^2 / 2. "mean": the mean over samples and outputs of (y - f)^2, PyTorch's MSELoss.
    parameterization : {"theory", "ntk", "standard"}
        See `meanfield.observe`; "standard" is PyTorch's Linear without biases.

    Raises
    ------
    ValueError
        For numbers out of range and unknown words.

    Examples
    --------
    >>> found = training_parameters(Network("sigmoid"), 0.1, width=100, n_inputs=400, n_samples=50)
    >>> found.temperature, [round(rate, 9) for rate in found.weight_decay]
    (0.001, [0.4, 500.0])
    """
    instance("network", network, Network, "made by Network('sigmoid')")
    tau = real_number("tau", tau, above=0.0)
    sizes = _sizes(width, n_inputs, n_samples, n_outputs)
    variance = _variances(network, sizes, parameterization)
    temperature = _factor(loss, sizes) * tau / _scale_of_tau(network, sizes[0])
    decay = tuple(temperature / value for value in variance)
    _within_float64({"temperature": (temperature,), "weight_decay": decay}, f"tau = {tau:g}")
    return TrainingParameters(
        weight_decay=decay,
        temperature=temperature,
        prior_std=tuple(math.sqrt(value) for value in variance),
        loss=loss,
        parameterization=parameterization,
    )


def theory_parameters(
    network: Network,
    *,
    weight_decay: float | Sequence[float],
    temperature: float,
    width: int,
    n_inputs: int,
    n_samples: int,
    n_outputs: int = 1,
    loss: Loss = "sum",
    parameterization: str = "standard",
) -> tuple[Network, float]:
    """The network with the sigma_a and sigma_w, and the tau, that belong to a training run; see `training_parameters`.

    Parameters
    ----------
    network : Network
        phi, depth, scaling, readout exponent and ratios of widths; its scales are replaced.
    weight_decay : float or sequence of L + 1 floats
        lambda > 0 of all weights, or of each hidden layer and the readout.
    temperature : float
        T_L > 0 of the noise. Plain gradient descent has none: it finds a mode of every posterior with these ratios
        lambda / T_L; choose T_L = lambda times the variance of the weights that it finds, and hold that against the
        theory.

    Returns
    -------
    network : Network
    tau : float

    Raises
    ------
    ValueError
        For numbers out of range. Weight decays that give the hidden layers different scales make a network with
        `layer_sigmas`.

    Examples
    --------
    >>> net, tau = theory_parameters(Network("sigmoid"), weight_decay=[0.4, 500.0], temperature=0.001, width=100,
    ...                              n_inputs=400, n_samples=50)
    >>> round(net.sigma_a, 12), round(net.sigma_w, 12), round(tau, 12)
    (1.0, 1.0, 0.1)
    """
    instance("network", network, Network, "made by Network('sigmoid')")
    try:
        temperature = real_number("temperature", temperature, above=0.0)
    except ValueError as error:
        raise ValueError(
            f"{error} Training without noise is a mode, not a sample: choose temperature = weight_decay times the "
            "variance of the weights it finds."
        ) from None
    sizes = _sizes(width, n_inputs, n_samples, n_outputs)
    count = network.depth + 1
    given: list[object] = [weight_decay] * count
    if isinstance(weight_decay, Sequence) and not isinstance(weight_decay, (str, bytes)):
        given = list(weight_decay)
    if len(given) != count:
        raise ValueError(f"weight_decay must be one number or {count}, one per layer and readout, got {len(given)}.")
    decay = [real_number("weight_decay", value, above=0.0) for value in given]
    unit = _variances(network.with_(sigma_a=1.0, sigma_w=1.0, layer_sigmas=None), sizes, parameterization)
    squares = [temperature / rate / one for rate, one in zip(decay, unit, strict=True)]
    *hidden, readout = squares
    one = max(hidden) <= (1 + _SAME) * min(hidden)
    scales = None if one else [math.sqrt(square) for square in hidden[1:]]
    found = network.with_(sigma_a=math.sqrt(readout), sigma_w=math.sqrt(hidden[0]), layer_sigmas=scales)
    tau = temperature / _factor(loss, sizes) * _scale_of_tau(network, sizes[0])
    _within_float64({"tau": (tau,)}, f"temperature = {temperature:g}")
    return found, tau


def _within_float64(found: dict[str, tuple[float, ...]], given: str) -> None:
    """Refuses numbers that overflow, or that have lost digits."""
    for name, values in found.items():
        for value in values:
            if not sys.float_info.min <= value < math.inf:
                raise ValueError(
                    f"{given} makes {name} = {value:g}, beyond the range of float64; choose it closer to 1."
                )


def _sizes(width: object, n_inputs: object, n_samples: object, n_outputs: object) -> tuple[int, int, int, int]:
    named = {"width": width, "n_inputs": n_inputs, "n_samples": n_samples, "n_outputs": n_outputs}
    n, n_0, p, m = (whole_number(name, value, at_least=1) for name, value in named.items())
    return n, n_0, p, m


def _factor(loss: str, sizes: tuple[int, int, int, int]) -> float:
    """c of L = c sum |y - f|^2 / 2."""
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}, got {short(loss)}.")
    return 1.0 if loss == "sum" else 2.0 / (sizes[2] * sizes[3])


def _scale_of_tau(network: Network, width: int) -> float:
    """tau / T: N, or 1 with the lazy scaling."""
    return float(width) if network.scaling == "non-lazy" else 1.0


def _variances(network: Network, sizes: tuple[int, int, int, int], parameterization: str) -> list[float]:
    """Prior variance of every weight of the hidden layers and of the readout, as it is parametrised."""
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(f"parameterization must be one of {PARAMETERIZATIONS}, got {short(parameterization)}.")
    width, n_inputs, n_samples, _ = sizes
    inside = [n_inputs, *layer_widths(network, width)[:-1]]
    hidden = [s**2 / (n if parameterization == "standard" else 1) for s, n in zip(network.scales, inside, strict=True)]
    own = output_scale(network, width)  # of the theory
    factor = {"theory": own, "ntk": 1.0 / math.sqrt(width), "standard": 1.0}[parameterization]
    return [*hidden, network.readout_variance(n_samples) * (own / factor) ** 2]
