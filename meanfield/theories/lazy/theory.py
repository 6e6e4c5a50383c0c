"""The theory of lazy networks as a room: what it covers, how it solves, how it is read from files."""

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
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.problem.problem import Problem
from meanfield.validation import entry

if TYPE_CHECKING:
    from meanfield.problem.class_task import ClassTask
    from meanfield.symbolic.theories import DataEquations
    from meanfield.theories.lazy.posterior import LazyPosterior

__all__ = ["THEORY", "LazyTheory"]

_TOLERANCE = 1e-8  # of the residual, relative to the largest target
_WORTH_SAYING = 1e-12  # error of kernel elements


class LazyTheory:
    """Gaussian process regression with the kernel of the prior: any depth, any activation."""

    name = "lazy"
    answers = "lazy networks"
    sweeps = False

    def refuses(self, problem: Problem) -> str | None:
        if problem.network.scaling != "lazy":
            return Elsewhere("the network is not lazy")
        if not isinstance(problem.task, DataTask):
            return "lazy networks are solved on data only: give a task of data_task(X, Y), or use scaling='non-lazy'"
        if not problem.network.uniform:
            return "layers of different width, or with weights of different scale, are solved for class tasks only"
        return None

    def solve(self, problem: Problem, *, warm_start: object, progress: bool | None, options: Options) -> LazyPosterior:
        from meanfield.theories.lazy.gaussian_process import lazy_solve
        from meanfield.theories.lazy.posterior import LazyPosterior

        network, task, temperature = problem.network, problem.data_task, problem.tau
        found = interruptible(lambda: lazy_solve(network, task, temperature))  # LAPACK does not listen
        certified = bool(found.residual <= _TOLERANCE and np.isfinite(found.objective))
        notes = []
        if found.jitter > 0.0:
            notes.append(f"the kernel is singular: {found.jitter:.2e} was added to the diagonal of s K (T = 0)")
        if found.kernel_error > _WORTH_SAYING:
            notes.append(f"kernel elements are known to {found.kernel_error:.1e}")
        if network.activation.parts == "gaussian" and float(network.activation(0.0)) == 0.0:
            notes += offset_notes(task)
        return LazyPosterior(
            network,
            task,
            temperature,
            found,
            Certificate(found.residual, 0.0, 0.0, certified, True),
            Status.OPTIMAL if certified else Status.RESIDUAL,
            "Gaussian process" if certified else "rounding errors: the kernel is nearly singular; give tau = T > 0",
            tuple(notes),
        )

    def equations(self, network: Network, task: ClassTask | DataTask | None) -> DataEquations | None:
        from meanfield.symbolic.theories import lazy

        own = isinstance(task, DataTask) and network.scaling == "lazy" and network.uniform
        return lazy() if own else None

    def load(self, header: Header, arrays: Arrays) -> LazyPosterior:
        from meanfield.theories.lazy.claims import check_lazy
        from meanfield.theories.lazy.gaussian_process import LazySolution
        from meanfield.theories.lazy.posterior import LazyPosterior

        network = Network.from_dict(entry(header, "network", dict))
        task, tau = DataTask.from_arrays(entry(header, "task", dict), arrays), entry(header, "tau", (int, float))
        check_theory(self.name, network, task, tau)
        solution = solution_from(LazySolution, header, arrays)
        found = LazyPosterior(network, task, float(tau), solution, *rest_of_header(header))
        if check_data_posterior(found):
            check_lazy(found)
        return found


THEORY = LazyTheory()
