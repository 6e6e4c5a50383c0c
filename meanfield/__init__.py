"""Mean-field theory of the representations learned by wide, non-lazy Bayesian networks.

The package solves the theory of A. van Meegen and H. Sompolinsky, "Coding schemes in neural networks learning
classification tasks", Nature Communications 16:3354 (2025). Start with

>>> import meanfield as mf
>>> post = mf.solve(mf.Network("sigmoid"), mf.class_task(fractions=[0.5, 0.25, 0.25], off=0.2))
>>> post.scheme
'redundant'
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from meanfield.activations.activation import Activation, activation
    from meanfield.equations import equations
    from meanfield.load import load
    from meanfield.phases.diagram import PhaseDiagram, sweep
    from meanfield.posterior.certificate import Certificate, ConvergenceError
    from meanfield.posterior.data_posterior import DataPosterior
    from meanfield.posterior.posterior import NotAvailable, Posterior
    from meanfield.posterior.status import Status
    from meanfield.problem.class_task import ClassTask, class_task
    from meanfield.problem.data_task import DataTask, data_task
    from meanfield.problem.network import Network
    from meanfield.sampling.chains import Chains
    from meanfield.sampling.compare import Comparison, compare
    from meanfield.sampling.drift import Drift, drift
    from meanfield.sampling.observe import Observed, observe
    from meanfield.sampling.sample import sample
    from meanfield.sampling.summary import ChainSummary, summarize
    from meanfield.sampling.training import theory_parameters, training_parameters
    from meanfield.sampling.trend import Trend, finite_size_trend
    from meanfield.solve import CertificateWarning, solve
    from meanfield.theories.single_layer.posterior import SingleNeuronPosterior

# Public name -> module that defines it; imported on first use (PEP 562), so that `import meanfield` is instantaneous.
_HOME = {
    "Activation": "meanfield.activations.activation",
    "activation": "meanfield.activations.activation",
    "Network": "meanfield.problem.network",
    "ClassTask": "meanfield.problem.class_task",
    "class_task": "meanfield.problem.class_task",
    "DataTask": "meanfield.problem.data_task",
    "data_task": "meanfield.problem.data_task",
    "DataPosterior": "meanfield.posterior.data_posterior",
    "Certificate": "meanfield.posterior.certificate",
    "ConvergenceError": "meanfield.posterior.certificate",
    "CertificateWarning": "meanfield.solve",
    "SingleNeuronPosterior": "meanfield.theories.single_layer.posterior",
    "solve": "meanfield.solve",
    "load": "meanfield.load",
    "Posterior": "meanfield.posterior.posterior",
    "NotAvailable": "meanfield.posterior.posterior",
    "Status": "meanfield.posterior.status",
    "equations": "meanfield.equations",
    "PhaseDiagram": "meanfield.phases.diagram",
    "sweep": "meanfield.phases.diagram",
    "Chains": "meanfield.sampling.chains",
    "sample": "meanfield.sampling.sample",
    "ChainSummary": "meanfield.sampling.summary",
    "summarize": "meanfield.sampling.summary",
    "Comparison": "meanfield.sampling.compare",
    "compare": "meanfield.sampling.compare",
    "Trend": "meanfield.sampling.trend",
    "finite_size_trend": "meanfield.sampling.trend",
    "Observed": "meanfield.sampling.observe",
    "observe": "meanfield.sampling.observe",
    "theory_parameters": "meanfield.sampling.training",
    "training_parameters": "meanfield.sampling.training",
    "Drift": "meanfield.sampling.drift",
    "drift": "meanfield.sampling.drift",
}
_MODULES = ("datasets", "geometry", "plot", "plot_data")

__all__ = [*_HOME, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"meanfield.{name}")
    else:
        raise AttributeError(f"module 'meanfield' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(types.ModuleType):
    """Importing the submodules ``solve`` and ``activation`` must not hide the functions of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
