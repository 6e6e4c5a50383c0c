"""The theory of linear networks as a room: what it covers, how it solves, how it is read from files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meanfield.archive import Arrays, Header
from meanfield.numerics.limits import interruptible
from meanfield.posterior.certificate import Certificate
from meanfield.posterior.data_posterior import check_data_posterior, rest_of_header, solution_from
from meanfield.posterior.notes import offset_notes
from meanfield.posterior.registry import Elsewhere, Options, check_theory
from meanfield.posterior.status import Status
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem
from meanfield.theories.linear.coverage import deep_linear_refusal
from meanfield.validation import entry

if TYPE_CHECKING:
    from meanfield.symbolic.theories import DataEquations
    from meanfield.theories.linear.posterior import LinearDataPosterior
    from meanfield.theories.single_layer.posterior import SingleNeuronPosterior

__all__ = ["THEORY", "LinearTheory"]

_LOST = "rounding errors: inputs are nearly dependent; give tau > 0, or remove some"
_LOST_AT_TAU = (
    "rounding errors: tau is so small that t, the residual over tau, has lost its digits; set tau = 0 where targets "
    "can be fitted, or give a larger tau"
)
_TOLERANCE = 1e-8  # on data: of residual and duality gap, relative to the largest target
_CLASS_RESIDUAL, _CLASS_GAP = 1e-10, 1e-8  # on class tasks


class LinearTheory:
    """Closed forms for phi(z) = gain * z: one hidden layer on class tasks, any depth on data."""

    name = "linear"
    answers = "linear networks"
    sweeps = True

    def refuses(self, problem: Problem) -> str | None:
        network, task, tau = problem
        if network.scaling != "non-lazy":
            return Elsewhere("the network is lazy")
        if network.activation.parts != "gaussian":
            return Elsewhere(f"{network.activation.name} is not linear")
        if not network.uniform:
            return "layers of different width, or with weights of different scale, are solved for class tasks only"
        offset = float(network.activation(0.0))
        if offset != 0.0:
            return (
                f"{network.activation!r} is affine with an offset, phi(0) = {offset:g}; the closed form covers "
                "phi(z) = gain * z: subtract the offset from the activation, or its contribution from the targets"
            )
        if network.depth > 1 and isinstance(task, ClassTask):
            return Elsewhere(f"of {network.depth} hidden layers this closed form is for data")
        return deep_linear_refusal(network.depth, tau)

    def solve(
        self, problem: Problem, *, warm_start: object, progress: bool | None, options: Options
    ) -> LinearDataPosterior | SingleNeuronPosterior:
        network, task, tau = problem
        if isinstance(task, ClassTask):
            return _on_classes(network, task, tau)
        return interruptible(lambda: _on_data(network, task, tau))  # LAPACK does not listen

    def equations(self, network: Network, task: ClassTask | DataTask | None) -> DataEquations | None:
        """Of data; those of class tasks are a case of one hidden layer, or of many."""
        from meanfield.symbolic.theories import linear

        non_lazy = network.scaling == "non-lazy" and network.uniform
        return linear() if isinstance(task, DataTask) and non_lazy and network.activation.parts == "gaussian" else None

    def load(self, header: Header, arrays: Arrays) -> LinearDataPosterior | SingleNeuronPosterior:
        if "kind" not in header:
            return _load_classes(header, arrays)
        from meanfield.theories.linear.claims import check_data
        from meanfield.theories.linear.data_tasks import LinearDataSolution
        from meanfield.theories.linear.posterior import LinearDataPosterior

        network = Network.from_dict(entry(header, "network", dict))
        task, tau = DataTask.from_arrays(entry(header, "task", dict), arrays), entry(header, "tau", (int, float))
        check_theory(self.name, network, task, tau)
        solution = solution_from(LinearDataSolution, header, arrays)
        found = LinearDataPosterior(network, task, float(tau), solution, *rest_of_header(header))
        if check_data_posterior(found):
            check_data(found, _on_data(network, task, found.tau).solution)
        return found


THEORY = LinearTheory()


def _load_classes(header: Header, arrays: Arrays) -> SingleNeuronPosterior:
    from meanfield.theories.linear.claims import check_classes
    from meanfield.theories.single_layer.claims import check_posterior
    from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
    from meanfield.theories.single_layer.solution import unpack_solution

    solution = unpack_solution(entry(header, "solution", dict), arrays)
    network = Network.from_dict(entry(header, "network", dict))
    task = ClassTask.from_dict(entry(header, "task", dict))
    check_theory(THEORY.name, network, task, solution.tau)
    found = SingleNeuronPosterior(network, task, solution.tau, solution)
    check_posterior(found)
    if found.certified:
        check_classes(found, _on_classes(network, task, solution.tau).solution)
    return found


def _on_classes(network: Network, task: ClassTask, tau: float) -> SingleNeuronPosterior:
    from meanfield.theories.linear.class_tasks import linear_solve
    from meanfield.theories.single_layer.posterior import SingleNeuronPosterior
    from meanfield.theories.single_layer.solution import Solution

    sigma_a = network.sigma_a
    slope = network.activation.slopes[1]
    found = linear_solve(
        np.array(task.fractions), task.targets / sigma_a, tau / sigma_a**2, task.n_samples, network.k * slope**2
    )
    # The dual variable of phi = slope * z is that of z divided by the slope, absorbed in k: t is unchanged.
    residual = found.residual * max(1.0, sigma_a)
    certified = residual <= _CLASS_RESIDUAL and found.duality_gap <= _CLASS_GAP * max(1.0, abs(found.objective))
    m = task.targets.shape[1]
    solution = Solution(
        t=found.t / sigma_a,
        objective=found.objective,
        level=0.0,
        readout=np.empty((0, m)),
        weight=np.empty(0),
        outlier_direction=np.empty((0, m)),
        outlier_weight=np.empty(0),
        gaussian_covariance=found.readout_covariance * sigma_a**2,
        certificate=Certificate(residual, found.duality_gap, 0.0, certified, True),
        status=Status.OPTIMAL if certified else Status.RESIDUAL,
        message="closed form; stationarity and duality gap are certified" if certified else "rounding errors",
        n_samples=task.n_samples,
        tau=tau,
    )
    return SingleNeuronPosterior(network, task, tau, solution)


def _on_data(network: Network, task: DataTask, tau: float) -> LinearDataPosterior:
    from meanfield.theories.linear.data_tasks import linear_data_solve
    from meanfield.theories.linear.posterior import LinearDataPosterior
    from meanfield.theories.linear.predictor import linear_scale

    features = task.features(linear_scale(network) ** network.depth)
    s = network.readout_variance(task.n_samples)
    found = linear_data_solve(features, task.targets, s, tau, network.depth)
    unique = tau > 0.0 or features.rank == task.n_samples
    certified = found.residual <= _TOLERANCE and found.duality_gap <= _TOLERANCE * max(1.0, abs(found.objective))
    notes: tuple[str, ...] = ()
    if not unique:
        notes = (
            f"inputs of rank {features.rank} < P = {task.n_samples}: t is not unique, the one of least norm is given",
        )
    return LinearDataPosterior(
        network,
        task,
        tau,
        found,
        Certificate(found.residual, found.duality_gap, 0.0, certified, unique),
        Status.OPTIMAL if certified else Status.RESIDUAL,
        "closed form" if certified else _LOST_AT_TAU if tau > 0.0 else _LOST,
        (*notes, *offset_notes(task)),
    )
