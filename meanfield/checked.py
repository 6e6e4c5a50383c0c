"""What a file claims is checked before it becomes an object: shapes, weights, and the equations that the numbers solve.

The stationarity conditions and the objective are recomputed from the order parameters; both are cheap beside a solve.
That no better solution exists (branch and bound) is not proven again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from meanfield.posterior.result import Certificate
from meanfield.validation import FloatArray, entry, real_number

if TYPE_CHECKING:
    from meanfield.phases.diagram import PhaseDiagram
    from meanfield.phases.raster import PointArrays
    from meanfield.posterior.data_posterior import DataPosterior
    from meanfield.sampling.chains import Chains
    from meanfield.theories.single_layer.posterior import SingleNeuronPosterior

__all__ = [
    "certificate_from",
    "check_chains",
    "check_data_posterior",
    "check_diagram",
    "check_points",
    "check_posterior",
    "numbers",
    "real_arrays",
]

STATUSES = (
    "optimal", "not converged", "residual too large", "duality gap too large", "not proven global", "EP failed",
)  # fmt: skip
_EXACT = 1e-7  # relative error of equations that hold to rounding
_NEARLY = 1e-4  # of averages over narrow clouds of readouts
_ROUGHLY = 0.05  # where clouds of readouts are taken as Gaussian
_MOST_POINTS = 200  # of a diagram whose equations are recomputed


def real_arrays(arrays: Mapping[str, Any]) -> None:
    """Refuse arrays of something else than real numbers."""
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"the array {name!r} holds {array.dtype}, not real numbers.")


def numbers(values: Mapping[str, Any], *names: str) -> None:
    """Refuse entries that are no real numbers (NaN and infinities are)."""
    for name in names:
        entry(values, name, (int, float))


def certificate_from(values: Any, status: str) -> Certificate:
    """The certificate of a header, consistent with the status that stands beside it."""
    numbers(values, "kkt_residual", "duality_gap", "bound_gap", "nullity", "boxes")
    entry(values, "global_check", bool), entry(values, "unique", bool)
    found = Certificate(**values)
    if status not in STATUSES:
        raise ValueError(f"its status {str(status)[:40]!r} is unknown; there are {', '.join(STATUSES)}.")
    if status == "optimal" and not 0.0 <= found.kkt_residual < 0.1:
        raise ValueError(f"it claims to be optimal with a residual of {found.kkt_residual:g}.")
    return found


def _same(name: str, found: Any, claimed: Any, tolerance: float, scale: float = 1.0) -> None:
    """Refuse numbers that are not what they claim to be."""
    off = float(np.max(np.abs(np.asarray(found) - np.asarray(claimed)), initial=0.0))
    if not off <= tolerance * max(1.0, scale):
        raise ValueError(f"its {name} does not belong to the solution: off by {off:.3g}.")


def _weights(name: str, weight: FloatArray, total: float | None = 1.0) -> None:
    if not (np.isfinite(weight).all() and (weight >= -1e-12).all()):
        raise ValueError(f"its {name} are not all finite and non-negative.")
    if total is not None and not abs(float(weight.sum()) - total) <= 1e-6:
        raise ValueError(f"its {name} sum to {float(weight.sum()):.6g}, not to {total:g}.")


def _covariances(name: str, stack: FloatArray) -> None:
    if not np.isfinite(stack).all():
        raise ValueError(f"its {name} is not finite.")
    size = float(np.max(np.abs(stack), initial=0.0))
    if np.abs(stack - np.swapaxes(stack, -1, -2)).max(initial=0.0) > 1e-9 * size:
        raise ValueError(f"its {name} is not symmetric.")
    if stack.size and np.linalg.eigvalsh(stack).min() < -1e-9 * size:
        raise ValueError(f"its {name} is not positive.")


# ---- class tasks -------------------------------------------------------------------------------------------------


def check_posterior(posterior: SingleNeuronPosterior) -> None:
    """Refuse a solution that is not one of its network and task; an uncertified one is held to shapes and signs only.

    Raises
    ------
    ValueError
    """
    s, task, network = posterior.solution, posterior.task, posterior.network
    real_number("tau", s.tau, at_least=0.0)
    if s.t.shape != task.targets.shape:
        raise ValueError(f"its t has shape {s.t.shape}, the targets have {task.targets.shape}.")
    if s.n_samples != task.n_samples:
        raise ValueError(f"its solution is of {s.n_samples:g} samples, its task of {task.n_samples:g}.")
    if network.depth != 1 or network.scaling != "non-lazy":
        raise ValueError("class tasks are solved for one hidden layer and scaling 'non-lazy' only.")
    gaussian = s.gaussian_covariance is not None
    if gaussian != (network.activation.parts == "gaussian") or (s.outlier_weight.size and gaussian):
        raise ValueError(f"its readouts are not those of the activation {network.activation.name[:60]!r}.")
    if s.status != "optimal":
        return
    for name in ("t", "readout", "outlier_direction"):
        if not np.isfinite(getattr(s, name)).all():
            raise ValueError(f"its {name} is not finite.")
    if not (math.isfinite(s.objective) and math.isfinite(s.level) and s.certificate.global_check):
        raise ValueError("it claims to be optimal without a finite objective, or without the global check.")
    if s.gaussian_covariance is not None:
        _check_linear(posterior)
        return
    _weights("weights", s.weight)
    _weights("outlier weights", s.outlier_weight, None)
    if s.outlier_weight.size and network.activation.parts != "outliers":
        raise ValueError(f"it has outliers, which {network.activation.name[:60]!r} cannot have.")
    if np.abs((s.outlier_direction**2).sum(axis=1) - 1.0).max(initial=0.0) > 1e-6:
        raise ValueError("its outlier directions are no unit vectors.")
    if s.covariance is not None:
        _covariances("covariance", s.covariance)
    if (s.covariance is None) != math.isinf(task.n_samples):
        raise ValueError("codes have a covariance at a finite number of samples, and only there.")
    _check_equations(posterior)


def _check_linear(posterior: SingleNeuronPosterior) -> None:
    from meanfield.solve import solve

    again = solve(posterior.network, posterior.task, posterior.tau, on_failure="return").solution
    scale = float(np.abs(again.t).max(initial=0.0))
    _same("t", again.t, posterior.solution.t, _EXACT, scale)
    _same("objective", again.objective, posterior.solution.objective, _EXACT, abs(again.objective))
    spread: Any
    spread, claimed = again.gaussian_covariance, posterior.solution.gaussian_covariance
    _same("covariance of the readouts", spread, claimed, _EXACT, float(np.abs(spread).max(initial=0.0)))


def _check_equations(posterior: SingleNeuronPosterior) -> None:
    """y_c - tau t_c = <a phi>_c, and J; at P -> infinity also h(a; t) = s and dh/da = 0 at every code."""
    from meanfield.activations.cumulant import cumulant
    from meanfield.theories.single_layer.readout_lattice import readout_lattice

    s, task, network = posterior.solution, posterior.task, posterior.network
    t, p, y = s.t, task.fractions, task.targets
    single_site = cumulant(network.activation, network.k)
    scale = float(np.abs(y).max()) + s.tau * float(np.abs(t).max())
    outliers = sum((np.outer(o.activation, o.readout) for o in posterior.outliers), np.zeros_like(t))
    if math.isinf(task.n_samples):
        value, first, _ = single_site.direct(s.readout @ t.T)  # (n, C)
        output = (s.weight[:, None] * first).T @ s.readout + outliers
        level = value @ p - 0.5 * (s.readout**2).sum(axis=1) / network.sigma_a**2
        slope = (p * first) @ t - s.readout / network.sigma_a**2
        present = s.weight > 1e-9
        _same("level", level[present], s.level, _EXACT, abs(s.level))
        # The bulk of unbounded phi is a code like any other.
        _same("readout", slope[present], 0.0, 1e-6, float(np.abs(s.readout).max(initial=0.0)) / network.sigma_a**2)
        objective = s.level - p @ (t * y).sum(axis=1) + 0.5 * s.tau * p @ (t**2).sum(axis=1)
        _same("objective", objective, s.objective, _EXACT, abs(objective))
        _same("t", output + s.tau * t, y, _EXACT, scale)
        return
    with np.errstate(over="ignore", invalid="ignore"):
        lattice = readout_lattice(network, task, s)
        if lattice is None:  # not where it would be too large, either
            lattice = readout_lattice(network, task, s, math.inf)
            off = math.expm1(min(task.n_samples * _NEARLY * max(1.0, abs(s.objective)), 100.0))
            if lattice is not None and readout_lattice(network, task, s, off) is None:
                raise ValueError("its objective does not belong to the solution.")
    if lattice is not None:
        readouts, weight = lattice
        first = single_site.direct(readouts @ t.T)[1]
        _same("t", (weight[:, None] * first).T @ readouts + outliers + s.tau * t, y, _NEARLY, scale)
        _same("mean readout", weight @ readouts, s.weight @ s.readout, 0.01, float(np.abs(readouts).max()))
        return
    output = np.zeros_like(t)
    for code in posterior.codes:  # <a phi> = <a> <phi> + Cov(a) t <G''> for a Gaussian cloud
        spread = code.activation_variance[:, None] * (t @ np.asarray(code.covariance))
        output = output + code.weight * (np.outer(code.activation, code.readout) + spread)
    _same("t", output + outliers + s.tau * t, y, 5 * _ROUGHLY, scale)
    least = -p @ (t * y).sum(axis=1) + 0.5 * s.tau * p @ (t**2).sum(axis=1) + s.level
    spare = 5.0 * task.n_outputs * math.log1p(task.n_samples) / task.n_samples + _ROUGHLY
    _same("objective", least, s.objective, spare, abs(least))


# ---- diagrams ----------------------------------------------------------------------------------------------------


def check_points(points: PointArrays, count: int, classes: int, outputs: int) -> None:
    """Refuse arrays of a sweep whose shapes do not fit, and certified points with weights that are none.

    Raises
    ------
    ValueError
    """
    from meanfield.theories.single_layer.compiled.sweep import CONVERGED, NUMBERS

    arrays = points.arrays()
    real_arrays(arrays)
    codes, outliers = (arrays[name].shape[1:2] for name in ("weight", "outlier_weight"))
    slots = arrays["covariance"].shape[1:2]
    shapes: dict[str, tuple[int, ...]] = {
        "t": (classes, outputs),
        "weight": codes,
        "readout": (*codes, outputs),
        "outlier_weight": outliers,
        "outlier_direction": (*outliers, outputs),
        "covariance": (*slots, outputs, outputs),
        "gaussian_covariance": (outputs, outputs),
        "numbers": (len(NUMBERS),),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != (count, *shape):
            raise ValueError(f"its {name} has shape {arrays[name].shape}, expected {(count, *shape)}.")
    if slots not in ((0,), codes):
        raise ValueError(f"its covariance has shape {arrays['covariance'].shape}, which does not fit the weights.")
    status = points.column("status")
    if not np.isin(status, range(5)).all():
        raise ValueError("it has points of unknown status.")
    good = status == CONVERGED
    for name, width in (("n_codes", codes), ("n_outliers", outliers)):
        number = points.column(name)[good]
        if not (np.isin(number, np.arange(width[0] + 1)).all() if width else not number.any()):
            raise ValueError(f"its {name} do not fit the arrays.")
    for name in ("weight", "outlier_weight"):
        _weights(f"{name}s", arrays[name][good].ravel(), None)
    linear = np.isfinite(arrays["gaussian_covariance"]).all(axis=(1, 2))
    total = arrays["weight"][good & ~linear].sum(axis=1)
    if not (np.abs(total - 1.0) <= 1e-6).all():
        raise ValueError("the weights of some of its points do not sum to 1.")
    for name in ("t", "numbers"):
        if name == "t" and not np.isfinite(arrays[name][good]).all():
            raise ValueError(f"its {name} is not finite at some certified points.")
    if not (np.isfinite(points.column("objective")[good]).all() and np.isfinite(points.column("level")[good]).all()):
        raise ValueError("its objective or level is not finite at some certified points.")


def check_diagram(diagram: PhaseDiagram) -> None:
    """Refuse a diagram whose certified points do not solve their equations (all of them, or 200 spread evenly).

    Raises
    ------
    ValueError
    """
    from meanfield.phases.grid import checked_axes

    real_number("tau", diagram.tau, at_least=0.0)
    checked_axes(dict(diagram.axes))
    count = math.prod(diagram.shape)
    check_points(diagram.points, count, diagram.task.n_classes, diagram.task.n_outputs)
    good = np.flatnonzero(diagram.certified.ravel())
    chosen = (
        good[np.unique(np.linspace(0, good.size - 1, min(good.size, _MOST_POINTS)).astype(int))] if good.size else ()
    )
    for i in chosen:
        try:
            check_posterior(
                diagram.posterior(int(i) if len(diagram.shape) == 1 else np.unravel_index(i, diagram.shape))
            )
        except ValueError as error:
            raise ValueError(f"point {i}: {error}") from error


# ---- data --------------------------------------------------------------------------------------------------------


def check_data_posterior(posterior: DataPosterior) -> None:
    """Refuse a solution that is not one of its network and task.

    Of networks solved by expectation propagation the constraint Y = <a phi> + tau t is recomputed from the stored
    moments; closed forms are checked against the equations themselves.

    Raises
    ------
    ValueError
    """
    s, task, tau = posterior.solution, posterior.task, posterior.tau
    real_number("tau", tau, at_least=0.0)
    expected = "lazy" if posterior.network.scaling == "lazy" else "general"
    if expected == "general" and posterior.network.activation.parts == "gaussian":
        expected = "linear"
    if posterior.kind != expected:
        raise ValueError(f"it holds a solution of kind {posterior.kind!r}, its network needs {expected!r}.")
    if s.t.shape != task.targets.shape:
        raise ValueError(f"its t has shape {s.t.shape}, the targets have {task.targets.shape}.")
    if posterior.status != "optimal":
        return
    for name, value in vars(s).items():
        if (
            isinstance(value, np.ndarray)
            and value.dtype.kind == "f"
            and name != "cuts"
            and not np.isfinite(value).all()
        ):
            raise ValueError(f"its {name} is not finite.")
    if not math.isfinite(s.objective):
        raise ValueError("its objective is not finite.")
    {"linear": _check_linear_data, "lazy": _check_lazy, "general": _check_general}[posterior.kind](posterior)


def _check_linear_data(posterior: DataPosterior) -> None:
    from meanfield.solve import solve

    again = solve(posterior.network, posterior.task, posterior.tau, on_failure="return").solution
    for name in ("t", "readout_covariance", "weights", "learned", "pulled_back", "objective"):
        claimed, found = np.asarray(getattr(posterior.solution, name)), np.asarray(getattr(again, name))
        if claimed.shape != found.shape:
            raise ValueError(f"its {name} has shape {claimed.shape}, expected {found.shape}.")
        if name != "weights":  # in the basis of a singular value decomposition, whose signs are open
            _same(name, found, claimed, 1e-6, float(np.abs(found).max(initial=0.0)))


def _check_lazy(posterior: DataPosterior) -> None:
    from meanfield.theories.lazy.gaussian_process import lazy_kernels

    s, task, network = posterior.solution, posterior.task, posterior.network
    n, y = task.n_samples, task.targets
    variance = network.sigma_a**2 / n ** (1.0 / network.depth)
    if s.eigenvectors.shape != (n, n) or s.eigenvalues.shape != (n,) or not (s.eigenvalues > 0.0).all():
        raise ValueError("its eigenvectors and eigenvalues have other shapes or signs than those of the kernel.")
    _same("readout variance", variance, s.readout_variance, 1e-9, variance)
    if not 0.0 <= s.jitter <= 1e-6 * float(s.eigenvalues.max()) + 1e-300:
        raise ValueError(f"its jitter {s.jitter:g} is not that of a singular kernel.")
    some = np.unique(np.linspace(0, n - 1, min(n, 12)).astype(int))
    kernel = lazy_kernels(network, task.inputs[some], task.inputs[some])[-1].cross
    rows = s.eigenvectors[some]
    noisy = variance * kernel + (posterior.tau + s.jitter) * np.eye(some.size)
    _same("kernel", (rows * s.eigenvalues) @ rows.T, noisy, 1e-6, float(np.abs(noisy).max()))
    _same("basis", s.eigenvectors.T @ s.eigenvectors, np.eye(n), 1e-8)
    _same("t", (s.eigenvectors * s.eigenvalues) @ (s.eigenvectors.T @ s.t), y, 1e-6, float(np.abs(y).max()))
    objective = 0.5 * float(np.sum(y * s.t)) + 0.5 * y.shape[1] * float(np.sum(np.log(s.eigenvalues)))
    objective += 0.5 * y.size * math.log(2 * math.pi)
    _same("objective", objective, s.objective, 1e-8, abs(objective))


def _check_general(posterior: DataPosterior) -> None:
    s, task = posterior.solution, posterior.task
    n, p, m = s.weight.size, task.n_samples, task.n_outputs
    g, o, r = s.code_weight.size, s.outlier_weight.size, s.features.shape[1]
    shapes = {
        "readout": (n, m), "weight": (n,), "phi": (n, p), "spread": (n, p), "gain": (n, p), "s": (n, p), "nu": (n, p),
        "basin": (n,), "soft": (n,), "soft_x": (n,), "code_readout": (g, m), "code_covariance": (g, m, m),
        "code_phi": (g, p), "outlier_direction": (o, m), "outlier_w": (o, r), "directions": (len(s.directions), r),
        "cuts": (len(s.cuts), 5),
    }  # fmt: skip
    for name, shape in shapes.items():
        if np.shape(getattr(s, name)) != shape:
            raise ValueError(f"its {name} has shape {np.shape(getattr(s, name))}, expected {shape}.")
    _weights("weights", s.weight)
    _weights("code weights", s.code_weight)
    _weights("outlier weights", s.outlier_weight, None)
    if s.basin.dtype.kind not in "iu" or not np.isin(s.basin, np.arange(g)).all():
        raise ValueError("its components belong to codes that are not there.")
    per_code = np.bincount(s.basin, s.weight, minlength=g)
    _same("code weights", per_code, s.code_weight, 1e-6)
    variance = posterior.network.sigma_a**2 / p
    _same("prior", variance, s.prior, 1e-9, variance)
    _same("tau", posterior.tau, s.tau, 0.0)
    if o == 0:  # what outliers add depends on the solver's limit, see `OutlierSolution`
        output = (s.weight[:, None] * s.phi).T @ s.readout
        scale = float(np.abs(task.targets).max()) + posterior.tau * float(np.abs(s.t).max())
        _same("t", output + posterior.tau * s.t, task.targets, _ROUGHLY, scale)


# ---- sampled chains ----------------------------------------------------------------------------------------------


def check_chains(chains: Chains) -> None:
    """Refuse records that are not those of their network and task; the last draw must have the energy of its weights.

    Raises
    ------
    ValueError
    """
    from meanfield.sampling.problem import problem as problem_of

    q = chains.problem
    fresh = problem_of(chains.network, chains.task, q.width, q.tau)
    for name in ("targets", "labels", "n_groups"):
        if not np.array_equal(getattr(q, name), getattr(fresh, name)):
            raise ValueError(f"its {name} are not those of the task.")
    if q.features.shape != fresh.features.shape or not np.isfinite(q.features).all():
        raise ValueError(f"its features have shape {q.features.shape}, expected {fresh.features.shape}.")
    if q.new_residual.shape != q.new_features.shape[:1]:
        raise ValueError(f"its new features and residuals have shapes {q.new_features.shape}, {q.new_residual.shape}.")
    if chains.energy.ndim != 2 or not chains.energy.size:
        raise ValueError(f"its energy has shape {chains.energy.shape}; expected chains and draws.")
    c, d = chains.energy.shape
    n, m, groups, depth = q.width, q.n_outputs, q.n_groups, chains.network.depth
    shapes = {
        "readout": (c, d, n, m), "class_activation": (c, d, n, groups), "kernel_between": (c, d, depth, groups, groups),
        "kernel_diagonal": (c, d, depth, groups), "residual": (c, d, q.n_samples, m),
        "prediction": (c, d, len(q.new_features), m), "acceptance": (c, d), "divergent": (c, d), "steps": (c, d),
        "step_size": (c,), "state_first": (c, q.n_weights), "state_last": (c, q.n_weights),
    }  # fmt: skip
    for name, shape in shapes.items():
        array = getattr(chains, name)
        if array.shape != shape:
            raise ValueError(f"its {name} has shape {array.shape}, expected {shape}.")
        if name != "kernel_between" and not np.isfinite(array).all():
            raise ValueError(f"its {name} is not finite.")
    if not np.isfinite(chains.energy).all() or (chains.step_size <= 0.0).any() or "start" not in chains.settings:
        raise ValueError("its energy is not finite, a step size is not positive, or the settings are incomplete.")
    last = chains.state_last
    energy = 0.5 * q.coldness * (chains.residual[:, -1] ** 2).sum(axis=(1, 2)) + 0.5 * (last**2).sum(axis=1)
    _same("energy", energy, chains.energy[:, -1], 1e-8, float(np.abs(energy).max()))
    for i, state in enumerate(last):
        readout = q.readout_std * q.readout(state).T  # (N, m)
        _same("readout", readout, chains.readout[i, -1], 1e-9, float(np.abs(readout).max()))
        first, *others = q.weights(state)
        phi = chains.network.activation(
            chains.network.sigma_w * first if q.features.size == 0 else first @ q.features.T
        )
        for weights in others:
            phi = chains.network.activation(chains.network.sigma_w / math.sqrt(q.width) * weights @ phi)
        residual = q.targets - q.output_scale * (readout.T @ phi).T
        _same("residual", residual, chains.residual[i, -1], 1e-8, float(np.abs(residual).max()))
