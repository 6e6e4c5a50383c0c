"""Theory against sampled networks: how far apart are they, in units of the sampling error?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from meanfield.drawing import drawn
from meanfield.posterior.certificate import ConvergenceError, UnstableFractions
from meanfield.posterior.posterior import Posterior
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.sampling.expected import expected, theory_patterns
from meanfield.sampling.statistics import Draws, Observable, all_shares, as_draws, estimate, observables
from meanfield.validation import FloatArray, flag, instance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from meanfield.posterior.posterior import Posterior

__all__ = ["STATISTICS", "Comparison", "Row", "compare"]

# Registered before any comparison was made: every element of these groups is compared, none is left out afterwards.
STATISTICS = ("residual", "kernel", "readout", "codes", "fractions", "outliers", "predictor")
LIMIT = 5.0
_MOST_ROWS = 24  # of one statistic in a table
_MIXED = 1.1  # largest R-hat at which fractions of codes count as sampled and not as frozen


@dataclass(frozen=True)
class Row:
    """One number of the theory and its estimate from samples.

    Attributes
    ----------
    name : str
        Statistic and one-based indices, e.g. "kernel between samples [1,2]".
    group : str
    theory, sample, standard_error : float
        The error is that of sample - theory.
    dof : float
        Its degrees of freedom.
    z : float
        (sample - theory) / standard error, as a normal deviate where the error has few degrees of freedom.
    rhat, ess : float
        Rank-normalised split R-hat and bulk effective sample size.
    tested : bool
        False where the theory says nothing, or where the samples are frozen (fractions of codes).
    """

    name: str
    group: str
    theory: float
    sample: float
    standard_error: float
    dof: float
    z: float
    rhat: float
    ess: float
    tested: bool


@dataclass(frozen=True, eq=False)
class Comparison:
    """Theory against samples, see `compare`.

    Attributes
    ----------
    posterior : SingleNeuronPosterior
    draws : Draws
    rows : tuple of Row
    fractions : str
        "sampled": the theory is conditional on the fractions of codes in each chain; or "equilibrium".
    notes : tuple of str
    """

    posterior: Posterior
    draws: Draws
    rows: tuple[Row, ...]
    fractions: str
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """N."""
        return self.draws.width

    @property
    def tested(self) -> tuple[Row, ...]:
        """The rows that count."""
        return tuple(row for row in self.rows if row.tested)

    @property
    def max_z(self) -> float:
        """Largest |z|."""
        return max(abs(row.z) for row in self.tested)

    def passed(self, limit: float = LIMIT) -> bool:
        """Whether every |z| is below `limit`."""
        return bool(all(abs(row.z) < limit for row in self.tested))

    def table(self, *, limit: float = LIMIT) -> str:
        """Theory, sample, standard error and z of every statistic; `limit` marks the ones beyond."""
        draws = self.draws
        width = max(len(row.name) for row in self.rows)
        lines = [
            f"{draws.network.activation.name}, N = {draws.width}, P = {draws.labels.size}, tau = {draws.tau:g}: "
            + _counted(draws),
            "",
            f"{'':<{width}} {'theory':>10} {'sample':>10} {'std. err.':>10} {'z':>7} {'R-hat':>6} {'ESS':>6}",
        ]
        lines.append("-" * len(lines[-1]))
        for row in _shown(self.rows):
            if isinstance(row, str):
                lines.append(row)
                continue
            theory = f"{row.theory:10.5f}" if math.isfinite(row.theory) else f"{'-':>10}"
            z = f"{row.z:7.2f}" if row.tested else f"{'-':>7}"
            mark = " *" if row.tested and not abs(row.z) < limit else ""
            numbers = (
                f"{theory} {row.sample:10.5f} {row.standard_error:10.1e} {z} {min(row.rhat, 999.0):6.2f} {row.ess:6.0f}"
            )
            lines.append(f"{row.name:<{width}} {numbers}{mark}")
        verdict = "all below" if self.passed(limit) else "* beyond"
        lines += ["", f"max |z| = {self.max_z:.2f} over {len(self.tested)} statistics ({verdict} {limit:g})"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def plot(self) -> Figure:
        """Figure: theory against sample, z-scores, readouts with the codes of the theory."""
        return drawn("sampling.figure_comparison", self)

    def to_dict(self) -> dict[str, object]:
        """Everything but the arrays, for a JSON file."""
        rows = [asdict(row) for row in self.rows]
        return {"width": self.width, "fractions": self.fractions, "max_z": self.max_z, "rows": rows} | {
            "notes": list(self.notes)
        }

    def __repr__(self) -> str:
        return f"<Comparison at N = {self.width}: max |z| = {self.max_z:.2f} over {len(self.tested)} statistics>"


def compare(
    posterior: Posterior,
    chains: object,
    *,
    statistics: Sequence[str] | None = None,
    fractions: Literal["sampled", "equilibrium"] = "sampled",
    inputs: object = None,
    one_loop: bool = False,
) -> Comparison:
    """Hold a solved theory against sampled networks, statistic by statistic.

    The theory is that of N -> infinity at the P and tau = N T of the samples: deviations of order 1/N are to be
    expected, and seen with enough draws; see `finite_size_trend`. With `one_loop` it is that of their own N, up to
    terms of order 1/N^2.

    Parameters
    ----------
    posterior : Posterior
        Solution of the network and task that were sampled, at the same P and tau.
    chains : Chains, sequence of Chains, or Observed
        One run, several of the same problem (seeds), or networks of your own (`meanfield.observe`).
    statistics : sequence of str, optional
        Some of "residual", "kernel", "readout", "codes", "fractions", "outliers", "predictor"; all if left out.
    fractions : {"sampled", "equilibrium"}
        Fractions of the codes freeze while a network cools. "sampled" compares every chain with the theory at its own
        fractions (exact in the same limit whether they are frozen or not), "equilibrium" with the weights P_gamma.
    inputs : raw inputs, optional
        Of a data task: the new inputs given to `sample`, for the mean and variance of the predictor.
    one_loop : bool
        Add the term of order 1/N, `Posterior.one_loop`: kernels and residuals alone are tested then.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If theory and samples belong to different networks, tasks, P or tau, for unknown statistics, and with
        `one_loop` for theories that do not have it.
    ConvergenceError
        If the theory has no certified solution at the fractions of some chain.

    Examples
    --------
    >>> import meanfield as mf
    >>> network, task = mf.Network("linear"), mf.class_task(targets=[1, -1], n_samples=8)
    >>> post = mf.solve(network, task, tau=0.1)
    >>> chains = mf.sample(network, task, 20, 0.1, draws=20, warmup=50, chains=2, rng=0)
    >>> found = mf.compare(post, chains)
    >>> found.rows[0].group
    'residual'
    """
    draws = as_draws(chains)
    unknown_tau = math.isnan(draws.tau)
    if unknown_tau:
        draws = replace(draws, tau=float(posterior.tau))
    if isinstance(statistics, str):
        raise ValueError(f"statistics must be a list of names, got {statistics!r}; give [{statistics!r}].")
    groups = tuple(STATISTICS if statistics is None else statistics)
    unknown = sorted(set(groups) - set(STATISTICS))
    if unknown or not groups:
        raise ValueError(f"statistics must be some of {', '.join(STATISTICS)}, got {', '.join(unknown) or 'none'}.")
    if fractions not in ("sampled", "equilibrium"):
        raise ValueError(f"fractions must be 'sampled' or 'equilibrium', got {fractions!r}.")
    _check_same_problem(posterior, draws)
    at_width = draws.width if flag("one_loop", one_loop) else None
    patterns = theory_patterns(posterior)
    frozen = fractions == "sampled" and bool(patterns) and draws.division.freezes
    shares = all_shares(draws) if frozen else None
    if shares is not None:
        _check_codes_are_followed(shares, patterns)
    left_out: dict[str, float] = {}
    untold: list[str] = []
    try:
        theory = expected(posterior, draws, patterns, shares, inputs, left_out, at_width, untold)
    except ConvergenceError as error:
        if shares is None:
            raise
        said = f"{str(error).rstrip('.')}; fractions='equilibrium' compares with the shares of equilibrium."
        if isinstance(error, UnstableFractions):
            raise UnstableFractions(said, error.pattern) from error
        raise ConvergenceError(said, error.result) from error
    rows: list[Row] = []
    for observable in observables(draws, patterns):
        if observable.group in groups:
            rows += _rows(observable, theory.get(observable.name))
    if any(row.group == "fractions" and not row.rhat < _MIXED for row in rows):  # they add up to 1: all or none
        rows = [replace(row, tested=row.tested and row.group != "fractions") for row in rows]
    if not any(row.tested for row in rows):
        raise ValueError(f"the statistics {', '.join(groups)} do not exist for these samples; choose others.")
    notes = [*_notes(draws, patterns, rows, shares), *_unstable(left_out)]
    notes += [f"codes and their fractions at equilibrium are not tested: {reason}" for reason in untold]
    if one_loop:
        notes.append(f"theory at N = {draws.width}, up to terms of order 1/N^2, of kernels and residuals alone")
    if unknown_tau:
        notes.append(f"the networks' tau is not known; theory at tau = {posterior.tau:g}")
    return Comparison(posterior, draws, tuple(rows), fractions, tuple(notes))


def _check_codes_are_followed(shares: FloatArray, patterns: Sequence[str]) -> None:
    lost = np.flatnonzero(shares[:, [int(pattern, 2) for pattern in patterns]].sum(axis=1) == 0)
    if lost.size:
        raise ValueError(
            f"of {lost.size} chains or networks (the first: {lost[0]}) no neuron follows any code of the theory "
            f"({', '.join(patterns[:6])}); are they trained on this task? fractions='equilibrium' compares them anyway."
        )


def _counted(draws: Draws) -> str:
    if draws.by_neuron:
        return "one network, errors over its neurons"
    return f"{draws.n_chains} chains of {draws.readout.shape[1]} draws"


def _shown(rows: Sequence[Row]) -> list[Row | str]:
    """Rows of a table; of a statistic with very many elements (predictions on images) the three worst."""
    shown: list[Row | str] = []
    for name in dict.fromkeys(row.name.partition(" [")[0] for row in rows):
        own = [row for row in rows if row.name.partition(" [")[0] == name]
        if len(own) > _MOST_ROWS and all(row.tested for row in own):
            rms = math.sqrt(sum(row.z**2 for row in own) / len(own))
            shown.append(f"{name}: {len(own)} elements, root mean square z = {rms:.2f}; the three largest:")
            own = sorted(own, key=lambda row: -abs(row.z))[:3]
        shown += own
    return shown


def _rows(observable: Observable, theory: FloatArray | None) -> list[Row]:
    sampled = estimate(observable.series)
    shape = sampled.value.shape
    if theory is None:
        theory = z = np.full(shape, np.nan)
        deviation = sampled
    else:
        if theory.ndim > len(shape):  # one value per chain
            theory = theory[observable.chains]
        deviation = estimate(observable.series - (theory if theory.ndim == len(shape) else theory[:, None]))
        z = deviation.z()
        theory = theory if theory.ndim == len(shape) else theory.mean(axis=0)
    rows = []
    for index in np.ndindex(shape):
        symmetric = len(index) == 2 and observable.name.startswith(("kernel", "covariance", "readout second"))
        if symmetric and index[0] > index[1]:
            continue
        name = observable.name + (f" [{','.join(str(i + 1) for i in index)}]" if index else "")
        at = float(theory[index])
        numbers = (sampled.value, deviation.standard_error, deviation.dof, z, sampled.rhat, sampled.ess_bulk)
        value, error, dof, score, rhat, ess = (float(number[index]) for number in numbers)
        rows.append(Row(name, observable.group, at, value, error, dof, score, rhat, ess, math.isfinite(at)))
    return rows


def _notes(draws: Draws, patterns: Sequence[str], rows: Sequence[Row], shares: FloatArray | None) -> list[str]:
    notes = []
    if any(row.group == "fractions" and not row.tested and math.isfinite(row.theory) for row in rows):
        notes.append("fractions of codes differ from chain to chain (frozen while cooling) and are not tested")
    if shares is not None:
        notes.append("theory at the fractions of codes of each chain")
        rest = 1.0 - shares.mean(axis=0)[[int(pattern, 2) for pattern in patterns]].sum()
        notes.append(f"{100 * rest:.2g} % of the neurons have codes other than {', '.join(patterns)}")
    bad = [row for row in rows if row.tested and row.rhat > 1.05]
    if bad:
        worst = max(bad, key=lambda row: row.rhat)
        notes.append(
            f"R-hat > 1.05 in {len(bad)} statistics (worst {worst.rhat:.2f}, {worst.name}): their errors come from the "
            f"scatter of {draws.n_chains} chains"
        )
    return notes


def _unstable(left_out: dict[str, float]) -> list[str]:
    if not left_out:
        return []
    listed = ", ".join(f"{'-'.join(pattern)} ({100 * share:.2g} %)" for pattern, share in left_out.items())
    return [f"codes that are not locally stable in the theory, left out of its fractions: {listed}"]


def _same_task(one: ClassTask | DataTask, other: ClassTask | DataTask) -> bool:
    if isinstance(one, ClassTask):
        return one == other
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("inputs", "targets"))


def _check_same_problem(posterior: Posterior, draws: Draws) -> None:
    instance("posterior", posterior, Posterior, "what mf.solve returned")
    if type(posterior.task) is not type(draws.task):
        raise ValueError(
            f"the theory was solved for a {type(posterior.task).__name__}, the samples for a "
            f"{type(draws.task).__name__}; solve the task that was sampled."
        )
    if posterior.network != draws.network:
        raise ValueError(
            f"the theory was solved for {posterior.network}, the samples for {draws.network}; they differ."
        )
    n_samples = draws.labels.size
    if posterior.task.n_samples != n_samples:
        raise ValueError(
            f"the theory was solved at P = {posterior.task.n_samples:g}, the networks were sampled at P = {n_samples}; "
            f"solve the task with n_samples={n_samples}."
        )
    if not math.isclose(posterior.tau, draws.tau, rel_tol=1e-9):
        raise ValueError(
            f"the theory was solved at tau = {posterior.tau:g}, but the networks were sampled at tau = N T = "
            f"{draws.tau:g}; solve at the tau of the samples."
        )
    if not _same_task(posterior.task, draws.task):
        raise ValueError(f"the theory was solved for {posterior.task}, the samples for {draws.task}; they differ.")
