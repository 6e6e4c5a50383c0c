"""`solve_deep`: from a network and a task to the posterior of every layer, with its certificate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from meanfield.numerics.limits import OutOfTime, seconds_left, time_limit
from meanfield.posterior.certificate import ConvergenceError, UnstableFractions
from meanfield.posterior.status import Status
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.deep.certificate import Branch, CodeCut, DeepCertificate, OrderError, SecondOrder
from meanfield.theories.deep.codes.cuts import code_cuts, said_of_cuts, said_of_words
from meanfield.theories.deep.codes.states import code_parts, top_states
from meanfield.theories.deep.coverage import refuses, refuses_shares
from meanfield.theories.deep.layers.linear import linear_order
from meanfield.theories.deep.layers.rules import CHECK, Averages, NotCovered, UnstableCode
from meanfield.theories.deep.layers.work import OutOfWork, counted
from meanfield.theories.deep.limits import in_the_limit, limit_solution, unresolved
from meanfield.theories.deep.newton import Found, newton, without_symmetry
from meanfield.theories.deep.posterior import DeepPosterior
from meanfield.theories.deep.reduction import Members, code_shares, problem_of
from meanfield.theories.deep.search.branches import ONE_WAY, NoBranch, Way, frozen_branch, polish, prior_branch, refined
from meanfield.theories.deep.search.coding import coarse_starts, coding_and_starts, coding_branch
from meanfield.theories.deep.search.fold import Fold, uncoded_at
from meanfield.theories.deep.search.searched import ENDED, NO_CODES, UNKNOWN, where_searched
from meanfield.theories.deep.search.second_start import COARSE, Second, highest, one_solution, others_than, second_start
from meanfield.theories.deep.search.silent import BRIEF, Silent, quiet_solution, silent_state
from meanfield.theories.deep.search.start import relax, uncoded_onset
from meanfield.theories.deep.solution import DeepSolution
from meanfield.theories.deep.stability import order_errors, second_order
from meanfield.theories.deep.system import DeepProblem, Order, System, fields_of_layers, patched
from meanfield.validation import FloatArray, real_number

__all__ = ["solve_deep"]

_RTOL, _PATCHED = 1e-6, 1e-3  # of the order parameters, unless the user wants another
_VALLEY = 1e-4  # what the boundary between codes of given shares leaves undetermined
_VALLEY_D = 1e-2  # the same of d of the last layer, a small part of the only equation that it is in, that of t
_WORK, _TIMES = 3e10, 4.0  # multiplications in finding another branch, 10 to 30 s, or as often those of the first
_EQUAL = 1e-7  # of Phi: two solutions that are one
_SHARE = 0.6  # of the time that is left, for another branch; the rest is for the certificate
_FOUND = 1e-4  # residual up to which a rival is a solution, at the coarse quadrature
_FOLLOWED = 5  # fields of a layer, on lattices around peaks
_LAST, _NEARLY = 4, 1e-3  # more steps for soft directions; residual up to which there is a second-order check
_REFINEMENTS = 3  # of lattices that are too coarse
_ASTRAY = 0.1  # residual that is no solution by any quadrature
_NEAR = 1e-2  # and up to which it is worth a try where nothing else was found
_CODES_APART = 5e-3  # of <phi^2>, by which listed codes may differ from the kernel

Report = Callable[[str, int, float], None]


def solve_deep(
    network: Network,
    task: ClassTask,
    tau: float = 0.0,
    *,
    warm_start: DeepPosterior | None = None,
    rtol: float | None = None,
    progress: Report | None = None,
    fractions: Mapping[str, float] | None = None,
    second: bool = True,
    competitors: bool = True,
) -> DeepPosterior:
    """Posterior of a deep network on a class task; `THEORY.md` has the equations.

    Parameters
    ----------
    network : Network
        Two or more hidden layers; bounded or linear activation.
    task : ClassTask
    tau : float
        N T.
    warm_start : DeepPosterior, optional
        Solution of a neighbouring problem with equally many classes, outputs and layers; a hint.
    rtol : float, optional
        Wanted accuracy of the order parameters, relative to each block of them: of the residual of the saddle
        equations, recomputed with an independent quadrature, and of the Newton step that this residual asks for.
        1e-6 if left out, for more than three classes of different targets 1e-3.
    progress : callable, optional
        Called with stage, step and residual.
    fractions : mapping of str to float, optional
        Code pattern -> share of the neurons of the last layer, summing to 1: shares as a sampler has frozen them,
        instead of those of equilibrium.
    second, competitors : bool
        Whether to compute the second-order check, and to look for a competing branch.

    Returns
    -------
    DeepPosterior
        ``status`` is "optimal" only if the independent residual and the error of the order parameters are below `rtol`.

    Raises
    ------
    ValueError
        If the problem is not covered, and for fractions that do not fit.
    ConvergenceError
        If no solution was reached at all, or a code of `fractions` is not locally stable.
    """
    tau = real_number("tau", tau, at_least=0.0)
    reason = refuses(network, task, tau) or (None if fractions is None else refuses_shares(network, task))
    if reason is not None:
        raise ValueError(reason)
    if math.isinf(task.n_samples):
        if fractions is not None:
            raise ValueError("shares of codes can be given at a finite n_samples only")
        return DeepPosterior(network, task, tau, limit_solution(network, task, tau))
    shares = None if fractions is None else code_shares(fractions, task.n_classes)
    limit = in_the_limit(network, task, tau)
    if network.activation.parts != "gaussian" and (reason := unresolved(network, task)) is not None:
        raise ConvergenceError(f"{reason}{limit}.")
    problem, alike = problem_of(network, task, tau, merge=shares is None)
    around_peaks = patched(problem, shares is not None)
    rtol = (_PATCHED if around_peaks else _RTOL) if rtol is None else rtol
    most = 1e-8 if not around_peaks else 1e-6 if fields_of_layers(problem) <= _FOLLOWED else 1e-5
    tolerance = max(1e-11, min(most, 1e-2 * rtol))
    start = _warm(warm_start, problem, alike)
    starts: list[Way] | None = []
    silent = silent_state(problem) if shares is None else None
    try:
        with counted() as work:
            if problem.phi.parts == "gaussian":
                system, found = _linear_branch(problem, tolerance, progress)
            elif shares is not None:
                system, found = frozen_branch(problem, shares, tolerance, progress, start)
            else:
                system, found, starts = _from_start(problem, start, tolerance, progress, silent)
    except UnstableCode as error:
        raise _unstable(error) from error
    except NotCovered as error:
        if silent is not None and silent.likely:
            raise ConvergenceError(f"no certified solution: {silent.words(None)}.") from error
        raise ConvergenceError(f"the integrals of a layer could not be done: {error}{limit}.") from error
    branches: list[Branch] = []
    remark, again = "", Second("one start only")
    tried = silent is not None and silent.likely and found.residual > tolerance  # both branches
    if competitors and shares is None and problem.phi.parts != "gaussian" and not tried:
        warm = start is not None
        most = max(_WORK, _TIMES * work.done) if found.residual <= tolerance else _WORK
        most = BRIEF if silent is not None and silent.likely else most
        if found.residual <= tolerance:
            starts = coarse_starts(problem, progress) if warm else starts
            again = second_start(problem, system, found, starts, work.done, warm)
        system, found, others = highest(again, system, found, tolerance, progress)
        system, found, branches, remark = _compete(problem, system, found, tolerance, progress, warm, most)
        branches = branches + others_than(branches, others)
        if starts is None and not warm and not branches and not remark and found.residual <= tolerance:
            if work.done > ONE_WAY:
                raise ConvergenceError(
                    "codes were not found in the work that is allowed for it, only the solution without codes "
                    f"(Phi = {system.free_energy(found.x, found.averages):.6g})."
                )
            remark = f"{NO_CODES}the first starts for it were lost, and another one led to the solution without codes"
    searched = where_searched(competitors, start is not None, shares is not None, branches, remark, again.outcome)
    if problem.phi.parts == "gaussian":
        searched = ()
    try:
        return _posterior(
            network, task, tau, alike, system, found, branches, remark, rtol, second, searched, tolerance, progress,
            silent,
        )  # fmt: skip
    except UnstableCode as error:  # of fields so small that a step of the solver, or rounding, takes its maximum
        raise _unstable(error) from error


def _unstable(error: UnstableCode) -> UnstableFractions:
    return UnstableFractions(f"{error}; leave it out of fractions, or change the shares.", error.pattern)


def _from_start(
    problem: DeepProblem, start: Order | None, tolerance: float, report: Report | None, silent: Silent | None
) -> tuple[System, Found, list[Way] | None]:
    if start is not None:
        system = System(problem)
        found = newton(system, system.pack(start), tolerance, progress=report, most=20)
        if found.residual <= tolerance:
            return system, found, []
    search = quiet_solution if silent is not None and silent.likely else coding_and_starts
    return search(problem, tolerance, report)


def _linear_branch(problem: DeepProblem, tolerance: float, report: Report | None) -> tuple[System, Found]:
    system = System(problem)
    slope = problem.phi.slopes[1]
    kernel, d, t = linear_order(
        problem.n, problem.y, problem.readout_variance, problem.k, problem.scales, slope, problem.ratios
    )
    x = relax(system, Order(kernel, d, np.zeros_like(kernel), np.zeros_like(d), t), 1)
    return system, newton(system, x, max(tolerance * 1e-3, 1e-13), progress=report)


def _compete(
    problem: DeepProblem,
    system: System,
    found: Found,
    tolerance: float,
    report: Report | None,
    warm: bool,
    most: float,
) -> tuple[System, Found, list[Branch], str]:
    """The better of two branches, the other one, and what has to be said if there is no other.

    A warm start may have led to either of them. Where there is a solution `most` is the work in finding another.
    """
    certain = found.residual <= tolerance
    left = seconds_left()
    try:
        limit = left * (_SHARE if certain else 1.0) if math.isfinite(left) else None
        with time_limit(limit), counted(most):
            reached = _rival(problem, certain, report)
        if isinstance(reached, str):
            return system, found, [], reached
        rival, other = reached
        phi, against = (s.free_energy(f.x, f.averages) for s, f in ((system, found), (rival, other)))
        if certain and against <= phi - COARSE * max(1.0, abs(phi)):
            return system, found, [Branch("uncoded", against, other.residual)], ""
        if certain and against < phi and one_solution(system, found, other):
            return _against_codes(problem, system, found, tolerance, report) if warm else (system, found, [], "")
        rival, other = polish(rival, other, tolerance, report)
    except OutOfTime:
        if not certain:
            raise
        return system, found, [], f"{UNKNOWN}there was no time left to follow it"
    except OutOfWork:
        return system, found, [], f"{UNKNOWN}it was given up after much more work than the one with codes took"
    except NoBranch as error:
        return system, found, [], f"{ENDED}{error}"
    except (NotCovered, np.linalg.LinAlgError) as error:
        return system, found, [], f"{UNKNOWN}{error}"
    against = rival.free_energy(other.x, other.averages)
    if other.residual > tolerance:
        return system, found, [], f"{UNKNOWN}Newton ended at a residual of {other.residual:.0e}"
    if abs(phi - against) <= _EQUAL * max(1.0, abs(phi)):
        if warm and certain:
            return _against_codes(problem, system, found, tolerance, report)
        return (system, found, [], "") if certain else (rival, other, [], "")
    if certain and against <= phi:
        return system, found, [Branch("uncoded", against, other.residual)], ""
    if not certain:
        return rival, other, [], f"{NO_CODES}Newton ended at a residual of {found.residual:.0e}"
    return rival, other, [Branch("coding", phi, found.residual)], ""


def _rival(problem: DeepProblem, certain: bool, report: Report | None) -> tuple[System, Found] | str:
    """The branch without codes at the coarse quadrature, or why it was not compared.

    Where Newton does not reach it from the prior it is followed from a larger tau, to here or to its end in a fold.
    That readouts learn with the kernels of the prior (`prior_branch`) does not end it: what classes share may have
    learned before.

    Raises
    ------
    NoBranch
        If it has ended.
    """
    if patched(problem) and fields_of_layers(problem) > _FOLLOWED:
        return f"{UNKNOWN}it is not followed for so many classes, outputs or layers"
    reason = "it was not found from the prior"
    if problem.tau > uncoded_onset(problem):
        try:
            rival, other = prior_branch(problem, report)
            if other.residual <= (_FOUND if certain else _NEAR):
                return rival, other
            reason = f"Newton ended at a residual of {other.residual:.0e}"
        except (NoBranch, NotCovered, np.linalg.LinAlgError) as error:
            reason = str(error)
    try:
        reached = uncoded_at(problem)
    except (NoBranch, NotCovered, np.linalg.LinAlgError) as error:
        return f"{UNKNOWN}{reason}; {error}"
    if isinstance(reached, Fold):
        raise NoBranch(f"it ends in a fold at tau = {reached.tau:.4g}, where its Phi is {reached.free_energy:.5g}")
    return reached if reached[1].residual <= _FOUND else f"{UNKNOWN}{reason}"


def _against_codes(
    problem: DeepProblem, system: System, found: Found, tolerance: float, report: Report | None
) -> tuple[System, Found, list[Branch], str]:
    """A solution on the uncoded branch, that a warm start led to, against the branch with codes."""
    try:
        rival, other = coding_branch(problem, tolerance, report)
    except (NotCovered, np.linalg.LinAlgError) as error:
        return system, found, [], f"{NO_CODES}{error}"
    phi, against = system.free_energy(found.x, found.averages), rival.free_energy(other.x, other.averages)
    if other.residual > tolerance:
        return system, found, [], f"{NO_CODES}Newton ended at a residual of {other.residual:.0e}"
    if abs(phi - against) <= _EQUAL * max(1.0, abs(phi)):
        return system, found, [], ""
    if against > phi:
        return rival, other, [Branch("uncoded", phi, found.residual)], ""
    return system, found, [Branch("coding", against, other.residual)], ""


def _posterior(
    network: Network,
    task: ClassTask,
    tau: float,
    alike: Members,
    system: System,
    found: Found,
    branches: list[Branch],
    remark: str,
    rtol: float,
    second: bool,
    searched: tuple[str, ...],
    tolerance: float,
    report: Report | None,
    silent: Silent | None,
) -> DeepPosterior:
    """Certificate, codes and arrays of all classes."""
    allowed = max(rtol, _VALLEY) if system.codes else rtol
    proof = _checked(system, found, second, allowed)
    if not proof.error <= allowed and proof.residual <= allowed and not system.codes:
        # The equations hold, and leave a soft direction open.
        again = newton(system, found.x, 1e-2 * found.residual, most=_LAST)
        if again.residual < found.residual:
            found, proof = again, _checked(system, again, second, allowed)
    for _ in range(_REFINEMENTS):
        if proof.error <= allowed and proof.residual <= allowed:
            break
        reached = refined(system, found, tolerance, report)
        if reached is None:
            break
        better = _checked(*reached, second, allowed)
        if not better.error < proof.error:
            break
        (system, found), proof = reached, better
    linear = system.problem.phi.parts == "gaussian"
    phi = system.free_energy(found.x, found.averages)
    residual, curvature = proof.residual, proof.curvature
    notes = [remark] if remark else []
    notes += [
        f"another solution was found, {other.name}: Phi = {other.free_energy:.6g} against {phi:.6g}"
        for other in branches
    ]
    notes += curvature.said() if second else []
    order = system.unpack(found.x)
    cuts = code_cuts(system, order)
    states = top_states(system, order) if not linear else None
    notes += said_of_cuts(cuts)
    if states is not None and states.unsure.any():
        patterns = [alike.word(word) for word in states.patterns]
        cuts = tuple(CodeCut(word, float(part)) for word, part in zip(patterns, states.unsure))
        notes += said_of_words(cuts, states.share)
    good = residual <= allowed and proof.error <= allowed
    status = Status.OPTIMAL if good else Status.RESIDUAL
    certificate = DeepCertificate.of(
        residual, found.residual, proof.phi_error, curvature, branches=tuple(branches), order_errors=proof.errors,
        searched=searched, cuts=cuts,
    )  # fmt: skip
    message = (
        "saddle equations hold by an independent quadrature; among the solutions found this one has the largest Phi, "
        "global optimality over the kernels is not proven"
        if good
        else f"the independent quadrature could not be done: {proof.reason}{in_the_limit(network, task, tau)}"
        if proof.reason
        else f"residual {residual:.1e} by an independent quadrature, which leaves an error of {proof.error:.1e} of the "
        f"order parameters, wanted {allowed:.1e}: start from a neighbouring problem with warm_start, or ask for less "
        "with rtol"
    )
    if silent is not None and (silent.free_energy > phi if good else silent.likely):
        status, message = Status.NO_MAXIMUM, silent.words(phi if good else None)
    top = proof.top or system.combined(found.averages)[-1]
    # Of lower layers the unknowns themselves: averages differ by rounding, of which many samples make a residual.
    kernel = alike.matrices(np.array([*order.kernel, top.kernel]))
    m = task.n_outputs
    s = system.problem.readout_variance
    if states is None:
        second_readout = _linear_readout(system, order)
        empty = np.empty((0, task.n_classes))
        parts: dict[str, Any] = {
            "readout": np.empty((0, m)), "weight": np.empty(0), "covariance": np.empty((0, m, m)),
            "activation": empty, "activation_variance": empty, "patterns": (),
        }  # fmt: skip
    else:
        second_readout = s * states.second_beta
        parts = code_parts(states, alike, s)
    solution = DeepSolution(
        kernel=kernel,
        d=alike.variances(np.array([*order.d, top.d])),
        tilde=alike.matrices(order.tilde),
        delta=alike.variances(order.delta),
        t=alike.outputs(order.t),
        free_energy=phi,
        second_readout=second_readout,
        certificate=certificate,
        frozen=bool(system.codes),
        status=status,
        message=message,
        notes=tuple(notes),
        n_samples=task.n_samples,
        tau=tau,
        **parts,
    )
    if states is not None and status is Status.OPTIMAL:
        of_codes, whole = solution.squares()
        apart = float(np.abs(of_codes - whole).max() / whole.max())
        if apart > max(_CODES_APART, 3.0 * allowed):
            message = (
                f"codes of the last layer were not resolved: with them <phi^2> is off by {apart:.1e} of the kernel"
            )
            solution = replace(solution, status=Status.RESIDUAL, message=message)
    return DeepPosterior(network, task, tau, solution)


class _Proof(NamedTuple):
    """What another quadrature says of a solution."""

    residual: float
    phi_error: float
    errors: tuple[OrderError, ...]
    curvature: SecondOrder
    reason: str = ""  # why it says nothing
    top: Averages | None = None  # of the last layer, whose K and d the solution has
    given: bool = False  # shares

    @property
    def error(self) -> float:
        """Largest of `errors`; infinite if they are not known. At given shares the last d counts less."""
        last = max((error.layer for error in self.errors), default=0)
        parts = {(last, "d"): _VALLEY / _VALLEY_D} if self.given else {}
        return max((parts.get((error.layer, error.name), 1.0) * error.value for error in self.errors), default=math.inf)


def _checked(system: System, found: Found, second: bool, allowed: float) -> _Proof:
    """Residual, error of Phi and of the order parameters, and curvatures."""
    unknown = SecondOrder()
    if found.residual > _ASTRAY and not system.codes:  # fields can be so strong there that it takes minutes
        reason = f"from all starts Newton's method ended at a residual of {found.residual:.1g} or more"
        return _Proof(math.inf, math.inf, (), unknown, f"it was not tried, as {reason}")
    check = system.at_rule(CHECK)
    phi = system.free_energy(found.x, found.averages)
    try:
        again = check.evaluate(found.x, curvature=True)
    except NotCovered as reason:
        return _Proof(math.inf, math.inf, (), unknown, str(reason))
    residual = max(float(np.abs(check.residual(found.x, again)).max()), without_symmetry(system, found.x))
    error = abs(phi - check.free_energy(found.x, again)) / max(1.0, abs(phi))
    try:
        errors = order_errors(check, found.x, again, (system, found.averages), allowed)
        top = check.combined(again)[-1]
        if not second or residual >= _NEARLY:
            return _Proof(residual, error, errors, unknown, top=top, given=bool(system.codes))
        curved = found.averages
        if curved.top[0].curvature is None:
            curved = system.evaluate(found.x, grow=False, curvature=True)
        curvatures = second_order(system, curved, check.hessian(again))
        return _Proof(residual, error, errors, curvatures, top=top, given=bool(system.codes))
    except np.linalg.LinAlgError:
        return _Proof(residual, error, (), unknown)


def _linear_readout(system: System, order: Order) -> FloatArray:
    """<a a^T> = s + s^2 sum_mu,nu t_mu <phi_mu phi_nu> t_nu of a Gaussian readout, from the top layer's kernel."""
    p = system.problem
    top = system.combined(system.evaluate(system.pack(order)))[-1]
    weighted = order.t * p.n[:, None]
    inside = weighted.T @ top.kernel @ weighted + (order.t.T * (p.n * top.d)) @ order.t
    return np.asarray(p.readout_variance * np.eye(p.y.shape[1]) + p.readout_variance**2 * inside)


def _warm(posterior: DeepPosterior | None, problem: DeepProblem, alike: Members) -> Order | None:
    """Order parameters to start from; None if the other problem has another shape."""
    if posterior is None or not isinstance(posterior, DeepPosterior):
        return None
    s = posterior.solution
    if s.t.shape != (len(alike.index), problem.y.shape[1]) or len(s.kernel) != problem.depth or math.isinf(s.n_samples):
        return None
    return alike.order(s)
