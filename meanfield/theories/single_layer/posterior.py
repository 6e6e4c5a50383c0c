"""The single-neuron posterior: codes, bulk, outliers or a Gaussian; its kernels, densities and drawn neurons."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from meanfield.activations import density
from meanfield.activations.cumulant import cumulant
from meanfield.archive import read_archive, reading, write_archive
from meanfield.coverage import covering_theory
from meanfield.posterior.neurons import Neurons, draw
from meanfield.posterior.parts import Code, Kernel, Outlier
from meanfield.posterior.result import Certificate, Solution, pack_solution, unpack_solution
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.single_layer.readout_lattice import log_integral, readout_lattice
from meanfield.theories.single_layer.table import posterior_table
from meanfield.validation import FloatArray, read_only, real_array

_HERMITE_X, _HERMITE_W = np.polynomial.hermite_e.hermegauss(24)
_HERMITE_W = _HERMITE_W / _HERMITE_W.sum()


@dataclass(frozen=True, eq=False)
class SingleNeuronPosterior:
    """Posterior of the readout a in R^m and the preactivations z of one neuron; what `solve` returns.

    Parameters
    ----------
    network : Network
    task : ClassTask
    tau : float
        N T, the rescaled temperature.
    solution : Solution
        Order parameters, readouts and weights with their certificate.
    """

    network: Network
    task: ClassTask
    tau: float
    solution: Solution

    # ---- what was found --------------------------------------------------------------------------

    @property
    def scheme(self) -> str:
        """The coding scheme, decided by the growth of G.

        "analog": Gaussian readouts (phi affine). "redundant": codes only (bounded phi). "sparse": a bulk,
        and outliers where the constraint on t is active (phi unbounded). "mixed": several codes besides outliers.
        """
        if self.solution.gaussian_covariance is not None:
            return "analog"
        if self.network.activation.parts == "codes":
            return "redundant"
        return "sparse" if len(self.codes) == 1 else "mixed"

    @cached_property
    def codes(self) -> tuple[Code, ...]:
        """Codes, heaviest first; the bulk is one of them, a Gaussian posterior has none."""
        s = self.solution
        if s.gaussian_covariance is not None:
            return ()
        covariance: Any = [None] * s.weight.size if s.covariance is None else s.covariance
        return tuple(self._code(*parts) for parts in zip(s.weight, s.readout, covariance, strict=True))

    def _code(self, weight: float, readout: FloatArray, covariance: FloatArray | None) -> Code:
        kappa = self._kappa(readout)
        if covariance is not None:  # (C, q): kappa_c is Gaussian around a_gamma.t_c
            t = self.solution.t
            kappa = kappa[:, None] + np.sqrt(np.einsum("ci,ij,cj->c", t, covariance, t))[:, None] * _HERMITE_X
            covariance = read_only(covariance)
        _, first, second = self._cumulant.direct(kappa)
        if covariance is not None:
            mean = first @ _HERMITE_W
            second = (second + (first - mean[:, None]) ** 2) @ _HERMITE_W
            first = mean
        pattern = code_pattern(self.network, first)
        return Code(pattern, float(weight), read_only(readout), read_only(first), read_only(second), covariance)

    @property
    def bulk(self) -> Code | None:
        """The readout a_0 shared by all neurons that are not outliers, where phi allows outliers; else None."""
        return self.codes[0] if self.network.activation.parts == "outliers" else None

    @cached_property
    def outliers(self) -> tuple[Outlier, ...]:
        """Outliers, heaviest first; empty where there are none."""
        s, phi, k = self.solution, self.network.activation, self.network.k
        found = []
        for direction, weight in zip(s.outlier_direction, s.outlier_weight, strict=True):
            readout = math.sqrt(weight) * direction
            kappa = self._kappa(readout)
            # zbar maximises kappa phi(zbar) - zbar^2/2k with phi = slope * z on the branch of zbar's sign.
            slope_minus, slope_plus = phi.slopes
            right, left = np.maximum(kappa * slope_plus, 0.0), np.minimum(kappa * slope_minus, 0.0)
            zbar = k * np.where(right >= -left, right, left)
            active = np.where(zbar > 0, slope_plus, slope_minus) * zbar
            threshold = 1e-9 * np.abs(active).max()
            pattern = "".join("1" if x > threshold else "0" for x in active)
            found.append(Outlier(pattern, float(weight), read_only(readout), read_only(zbar), read_only(active)))
        found.sort(key=lambda outlier: outlier.pattern, reverse=True)
        return tuple(sorted(found, key=lambda outlier: -round(outlier.weight, 9)))  # equal weights: by pattern

    @cached_property
    def readout_covariance(self) -> FloatArray:
        """(m, m) covariance of the readout over all neurons, outliers included; U of the analog scheme."""
        s = self.solution
        if s.gaussian_covariance is not None:
            return s.gaussian_covariance
        centred = s.readout - s.weight @ s.readout
        total = np.einsum("n,ni,nj->ij", s.weight, centred, centred)
        if s.covariance is not None:
            total = total + np.einsum("n,nij->ij", s.weight, s.covariance)
        return read_only(total + sum(np.outer(o.readout, o.readout) for o in self.outliers))

    @property
    def order_parameters(self) -> dict[str, Any]:
        """Named solution of the stationarity conditions: t (C, m), level s = max_a h(a; t), readout, weight, ..."""
        s = self.solution
        values: dict[str, Any] = {"t": s.t, "level": s.level}
        if s.gaussian_covariance is not None:
            return values | {"covariance": s.gaussian_covariance}
        values |= {"readout": s.readout, "weight": s.weight}
        if self.outliers:
            values |= {"outlier_direction": s.outlier_direction, "outlier_weight": s.outlier_weight}
        return values

    @property
    def objective(self) -> float:
        """min J."""
        return self.solution.objective

    @property
    def certificate(self) -> Certificate:
        """The proof that the solution is the right one."""
        return self.solution.certificate

    @property
    def status(self) -> str:
        """ "optimal", or what went wrong."""
        return self.solution.status

    @property
    def message(self) -> str:
        """The status in words, and what to try."""
        return self.solution.message

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks, e.g. that the weights are not unique and were selected."""
        return self.solution.notes

    @property
    def residual(self) -> FloatArray:
        """(C, m) training residual y_c - f_c = tau t_c."""
        return self.tau * self.solution.t

    @property
    def predictions(self) -> FloatArray:
        """(C, m) output f_c on the training samples of class c."""
        return self.task.targets - self.residual

    # ---- kernel and densities --------------------------------------------------------------------

    def kernel(self) -> Kernel:
        """Posterior kernel of the hidden layer, block-structured by class.

        K_mu,nu = sum_gamma P_gamma G'_c G'_c' + sum_o phi(zbar_oc) phi(zbar_oc') for two samples, with G'' added on the
        diagonal; for the analog scheme, where G' is affine, its mean square over a ~ N(0, U). At finite P the sum over
        codes is the average over P(a): on a lattice for bounded phi and m <= 4, else with codes taken as Gaussian.
        """
        t = self.solution.t
        if self.solution.gaussian_covariance is not None:
            _, first, second = (float(g[0]) for g in self._cumulant.direct(np.zeros(1)))
            block = first**2 + second**2 * t @ self.solution.gaussian_covariance @ t.T
            return Kernel(read_only(block), read_only(np.diag(block) + second))
        lattice = readout_lattice(self.network, self.task, self.solution)
        if lattice is not None:
            readouts, weight = lattice
            _, first, second = self._cumulant.direct(readouts @ t.T)
            block = (first.T * weight) @ first
            diagonal = np.diag(block) + weight @ second
        else:
            block = np.sum([c.weight * self._second_moment(c) for c in self.codes], axis=0)
            diagonal = np.sum([c.weight * (c.activation**2 + c.activation_variance) for c in self.codes], axis=0)
        for outlier in self.outliers:
            block = block + np.outer(outlier.activation, outlier.activation)
            diagonal = diagonal + outlier.activation**2
        return Kernel(read_only(block), read_only(diagonal))

    def _second_moment(self, code: Code) -> FloatArray:
        """(C, C) mean of G'(a.t_c) G'(a.t_c') over the readouts of a code."""
        if code.covariance is None:
            return np.outer(code.activation, code.activation)
        t = self.solution.t
        moment = np.empty((len(t), len(t)))
        weight = np.outer(_HERMITE_W, _HERMITE_W)
        for c in range(len(t)):
            for d in range(c + 1):
                pair = t[[c, d]]
                value, vector = np.linalg.eigh(pair @ code.covariance @ pair.T)
                root = vector * np.sqrt(np.maximum(value, 0.0))
                grid = np.stack(np.meshgrid(_HERMITE_X, _HERMITE_X, indexing="ij"))
                kappa = (pair @ code.readout)[:, None, None] + np.tensordot(root, grid, axes=1)
                _, first, _ = self._cumulant.direct(kappa)
                moment[c, d] = moment[d, c] = np.sum(weight * first[0] * first[1])
        return moment

    def readout_density(self, a: Any) -> FloatArray:
        """Density of the readout at `a`, shape (..., m): (P / 2 pi sigma_a^2)^(m/2) exp(P [h(a; t) - S]) at finite P.

        For unbounded phi this is the density of the bulk; outliers lie beyond, at a = sqrt(N) abar.

        Raises
        ------
        ValueError
            At P = infinity, where the posterior is a sum of deltas (use `codes`), for a singular Gaussian, and for a
            wrong shape.
        """
        a = real_array("a", a)
        m = self.task.n_outputs
        if a.shape[-1:] != (m,):
            raise ValueError(f"a must have shape (..., m) with m = {m}, got {a.shape}.")
        s = self.solution
        if s.gaussian_covariance is not None:
            value, vector = np.linalg.eigh(s.gaussian_covariance)
            if value[0] <= 1e-12 * value[-1]:
                raise ValueError(
                    "the readout covariance is singular (some combination of outputs is not used), so the readout has "
                    "no density; use readout_covariance or sample_neurons."
                )
            quadratic = ((a @ vector) ** 2 / value).sum(axis=-1)
            return np.asarray(np.exp(-0.5 * quadratic) / math.sqrt(float(np.prod(2 * np.pi * value))))
        if math.isinf(self.task.n_samples):
            raise ValueError(
                "at P = infinity the readout posterior is a sum of deltas sum_gamma P_gamma delta(a - a_gamma), "
                "which has no density; read .codes (readout, weight), or solve the task with a finite n_samples."
            )
        prior, n = self.network.sigma_a**2, self.task.n_samples
        generating, _, _ = self._cumulant.direct(a @ s.t.T)
        h = generating @ self.task.fractions - 0.5 * (a**2).sum(axis=-1) / prior
        exponent = n * (h - log_integral(self.task, s))
        return np.asarray(np.exp(exponent + 0.5 * m * math.log(n / (2 * math.pi * prior))))

    def preactivation_density(self, code: Any, cls: int | str, grid: Any) -> FloatArray:
        """Density of the preactivation z on a sample of class `cls`, given a code.

        Parameters
        ----------
        code : int, str, Code or (m,) array-like
            Index or pattern of a code, a code, or any readout a; None for the marginal over all neurons but outliers.
        cls : int or str
            Class index 0..C-1 or label.
        grid : array-like
            Values of z.

        Raises
        ------
        ValueError
            For an unknown or ambiguous code, or an unknown class.
        """
        z = real_array("grid", grid)
        phi, mixture = self.network.activation, self._mixture(code, cls)
        return np.asarray(sum(w * density.preactivation_density(phi, k, kappa, z) for w, k, kappa in mixture))

    def activation_density(self, code: Any, cls: int | str, grid: Any) -> FloatArray:
        """Density of the activation phi(z) on a sample of class `cls`, given a code; arguments as above.

        Where phi is constant on an interval (ReLU at 0, step) the activation has atoms besides this density, see
        `activation_atoms`.
        """
        value = real_array("grid", grid)
        phi, mixture = self.network.activation, self._mixture(code, cls)
        return np.asarray(sum(w * density.activation_density(phi, k, kappa, value) for w, k, kappa in mixture))

    def activation_atoms(self, code: Any, cls: int | str) -> dict[float, float]:
        """Values that the activation takes with positive probability given a code, and these probabilities."""
        atoms: dict[float, float] = {}
        for weight, k, kappa in self._mixture(code, cls):
            for value, mass in zip(*density.activation_atoms(self.network.activation, k, kappa), strict=True):
                atoms[float(value)] = atoms.get(float(value), 0.0) + weight * float(mass)
        return atoms

    def sample_neurons(self, n: int, *, rng: Any = None, samples_per_class: Any = None) -> Neurons:
        """Draw `n` neurons of a network from the theory, with their responses to a few samples of every class.

        Parameters
        ----------
        n : int
            Number of neurons N; outliers are among them, with readout sqrt(N) abar.
        rng : None, int, SeedSequence or Generator
        samples_per_class : int or (C,) sequence of int, optional
            Samples shown of each class; about 100 in all, in proportion to the class fractions, if left out.

        Raises
        ------
        ValueError
            For numbers that are not positive integers, and if there are not more neurons than outliers.
        """
        return draw(self, n, rng, samples_per_class)

    # ---- printing, saving ------------------------------------------------------------------------

    def __repr__(self) -> str:
        found = [f"{code.label} ({code.weight:.3g})" for code in self.codes[:4]] + ["..."] * (len(self.codes) > 4)
        if self.scheme == "analog":
            body = f"Gaussian readouts of rank {np.linalg.matrix_rank(self.readout_covariance)}"
        elif self.scheme == "sparse":
            body = "bulk and outliers " + ", ".join(f"{o.label} ({o.weight:.3g})" for o in self.outliers)
        else:
            body = f"{len(self.codes)} code{'s' * (len(self.codes) > 1)} " + ", ".join(found)
            body += f" and {len(self.outliers)} outliers" * bool(self.outliers)
        return f"<SingleNeuronPosterior: {self.scheme}, {body}; J = {self.objective:.9g}, {self.status}>"

    def table(self) -> str:
        """The posterior as a printed table."""
        return posterior_table(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to an ``.npz`` file (no pickle inside); returns its path."""
        header, arrays = pack_solution(self.solution)
        header = {"network": self.network.to_dict(), "task": self.task.to_dict(), "solution": header}
        return write_archive(path, "posterior", header, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SingleNeuronPosterior:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file holds something else, or numbers that do not solve its task (see `meanfield.checked`).
        FileNotFoundError
            If there is none.
        """
        from meanfield.checked import check_posterior

        header, arrays = read_archive(path, "posterior")
        with reading(path, "posterior"):
            solution = unpack_solution(header["solution"], arrays)
            network, task = Network.from_dict(header["network"]), ClassTask.from_dict(header["task"])
            covering_theory(network, task, solution.tau)
            posterior = cls(network, task, solution.tau, solution)
            check_posterior(posterior)
        return posterior

    # ---- helpers ---------------------------------------------------------------------------------

    @property
    def _cumulant(self) -> Any:
        return cumulant(self.network.activation, self.network.k)

    def _kappa(self, readout: FloatArray) -> FloatArray:
        return np.asarray(self.solution.t @ readout)

    def _find_code(self, code: Any) -> Code:
        if isinstance(code, Code):
            return code
        known = ", ".join(c.pattern for c in self.codes) or "none (the posterior is Gaussian)"
        if isinstance(code, str):
            found = [c for c in self.codes if c.pattern == code.replace("-", "")]
            if len(found) > 1:
                raise ValueError(f"{len(found)} codes have the pattern {code!r}; give the index into .codes instead.")
            if not found:
                raise ValueError(f"there is no code {code!r}; the codes are {known}.")
            return found[0]
        if not 0 <= int(code) < len(self.codes):
            raise ValueError(f"there is no code number {code}; there are {len(self.codes)} codes: {known}.")
        return self.codes[int(code)]

    def _find_class(self, cls: int | str) -> int:
        labels = self.task.labels
        if isinstance(cls, str) and cls in labels:
            return labels.index(cls)
        if isinstance(cls, (int, np.integer)) and 0 <= cls < len(labels):
            return int(cls)
        raise ValueError(f"there is no class {cls!r}; give an index 0..{len(labels) - 1} or one of {labels}.")

    def _mixture(self, code: Any, cls: int | str) -> list[tuple[float, float, float]]:
        """Weight, k and kappa = a.t_c of the single-site densities that add up to the one asked for."""
        k = self.network.k
        t = self.solution.t[self._find_class(cls)]
        if isinstance(code, Outlier):
            raise ValueError("an outlier has preactivations sqrt(N) zbar without a density; read .preactivation.")
        if isinstance(code, (list, tuple, np.ndarray)):
            readout = real_array("code", code)
            if readout.shape != t.shape:
                raise ValueError(f"a readout must have shape ({t.size},), got {readout.shape}.")
            return [(1.0, k, float(readout @ t))]
        if code is None:
            if self.solution.gaussian_covariance is not None:
                # phi has one slope, so that z given a is N(k slope a.t_c, k): Gaussian again over a ~ N(0, U)
                drift = k * self.network.activation.slopes[1]
                return [(1.0, k + drift**2 * float(t @ self.solution.gaussian_covariance @ t), 0.0)]
            return [(c.weight * w, k, kappa) for c in self.codes for w, kappa in _spread(c, t)]
        return [(w, k, kappa) for w, kappa in _spread(self._find_code(code), t)]


def activity_threshold(network: Network) -> float:
    """Mean activation above which a neuron counts as active: the midpoint of the range of phi.

    Where phi is unbounded there is no midpoint; there it is the mean under the prior.
    """
    middle = network.activation.midpoint
    if middle is None:
        middle = float(cumulant(network.activation, network.k).direct(np.zeros(1))[1][0])
    return middle


def code_pattern(network: Network, activation: FloatArray) -> str:
    """Pattern of a code with mean activations (C,): "1" above `activity_threshold` (a.t_c > 0 for unbounded phi)."""
    middle = activity_threshold(network)
    return "".join("1" if x > middle else "0" for x in activation)


def _spread(code: Code, t: FloatArray) -> list[tuple[float, float]]:
    """Weights and values of kappa = a.t over the readouts of a code."""
    centre = float(code.readout @ t)
    if code.covariance is None:
        return [(1.0, centre)]
    kappa = centre + math.sqrt(t @ code.covariance @ t) * _HERMITE_X
    return [(float(w), float(x)) for w, x in zip(_HERMITE_W, kappa, strict=True)]
