"""Densities of readouts, preactivations and activations of a single neuron on class tasks."""

from __future__ import annotations

import math

import numpy as np

from meanfield.activations import density
from meanfield.activations.cumulant import cumulant
from meanfield.posterior.parts import Code, Outlier
from meanfield.posterior.posterior import SolvedPosterior
from meanfield.problem.class_task import ClassTask
from meanfield.theories.single_layer.readout.lattice import log_integral, readout_lattice
from meanfield.theories.single_layer.solution import Solution
from meanfield.validation import FloatArray, real_array, short

__all__ = ["HERMITE_W", "HERMITE_X", "Densities", "gauss_rule"]

HERMITE_X, HERMITE_W = np.polynomial.hermite_e.hermegauss(24)  # for readouts of a Gaussian code
HERMITE_W = HERMITE_W / HERMITE_W.sum()
_BINS = 4096


class Densities(SolvedPosterior):
    """The questions about densities that the posterior of a class task answers."""

    task: ClassTask
    solution: Solution

    def readout_density(self, a: object) -> FloatArray:
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
        generating, _, _ = cumulant(self.network.activation, self.network.k).direct(a @ s.t.T)
        h = generating @ self.task.fractions - 0.5 * (a**2).sum(axis=-1) / prior
        exponent = n * (h - log_integral(self.task, s))
        return np.asarray(np.exp(exponent + 0.5 * m * math.log(n / (2 * math.pi * prior))))

    def preactivation_density(self, code: object, cls: int | str, grid: object) -> FloatArray:
        """Density of the preactivation z on a sample of class `cls`, given a code.

        Parameters
        ----------
        code : int, str, Code or (m,) array-like
            Index or pattern of a code, a code, or any readout a; None for the marginal over all neurons but outliers.
            At finite P the marginal, and the only code there is, are averages over P(a) (m <= 4); of one code among
            several, and for m > 4, readouts are taken as Gaussian.
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

    def activation_density(self, code: object, cls: int | str, grid: object) -> FloatArray:
        """Density of the activation phi(z) on a sample of class `cls`, given a code; arguments as above.

        Where phi is constant on an interval (ReLU at 0, step) the activation has atoms besides this density, see
        `activation_atoms`.
        """
        value = real_array("grid", grid)
        phi, mixture = self.network.activation, self._mixture(code, cls)
        return np.asarray(sum(w * density.activation_density(phi, k, kappa, value) for w, k, kappa in mixture))

    def activation_atoms(self, code: object, cls: int | str) -> dict[float, float]:
        """Values that the activation takes with positive probability given a code, and these probabilities."""
        atoms: dict[float, float] = {}
        for weight, k, kappa in self._mixture(code, cls):
            for value, mass in zip(*density.activation_atoms(self.network.activation, k, kappa), strict=True):
                atoms[float(value)] = atoms.get(float(value), 0.0) + weight * float(mass)
        return atoms

    def _find_code(self, code: object) -> Code:
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
        if isinstance(code, bool) or not isinstance(code, (int, np.integer)) or not 0 <= code < len(self.codes):
            raise ValueError(f"there is no code number {short(code)}; there are {len(self.codes)} codes: {known}.")
        return self.codes[int(code)]

    def _mixture(self, code: object, cls: int | str) -> list[tuple[float, float, float]]:
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
        if code is None and self.solution.gaussian_covariance is not None:
            # phi has one slope, so that z given a is N(k slope a.t_c, k): Gaussian again over a ~ N(0, U)
            drift = k * self.network.activation.slopes[1]
            return [(1.0, k + drift**2 * float(t @ self.solution.gaussian_covariance @ t), 0.0)]
        if code is None and (nodes := self._readouts()) is not None:
            return [(w, k, kappa) for w, kappa in gauss_rule(nodes[0] @ t, nodes[1])]
        if code is None:
            classes = [t]
            if self.solution.kind is not None:  # the same average over permutations for every class of a kind
                classes = list(self.solution.t[self.solution.kind == self.solution.kind[self._find_class(cls)]])
            parts = [(c.weight / len(classes), _spread(c, row)) for c in self.codes for row in classes]
            return [(share * w, k, kappa) for share, spread in parts for w, kappa in spread]
        found = self._find_code(code)
        if found.covariance is None:
            return [(1.0, k, float(found.readout @ t))]
        (law,) = self._laws(found.readout, found.covariance, len(self.codes) == 1, t[None])
        return [(w, k, kappa) for w, kappa in law]

    def _readouts(self) -> tuple[FloatArray, FloatArray] | None:
        """Nodes and weights of P(a) at finite P, where they are affordable."""
        return readout_lattice(self.network, self.task, self.solution)

    def _laws(
        self, readout: FloatArray, covariance: FloatArray, alone: bool, t: FloatArray | None = None
    ) -> list[list[tuple[float, float]]]:
        """Weights and values of kappa = a.t_c over the readouts of a code, for rows of t: Gaussian, but that of P(a)
        where the code is `alone`."""
        t = self.solution.t if t is None else t
        nodes = self._readouts() if alone else None
        if nodes is not None:
            return [gauss_rule(nodes[0] @ row, nodes[1]) for row in t]
        return [_gaussian(readout, covariance, row) for row in t]


def gauss_rule(x: FloatArray, weight: FloatArray, n: int = 100) -> list[tuple[float, float]]:
    """Gauss's rule with at most `n` nodes for the measure sum_i weight_i delta(x_i): weights and nodes, by Lanczos."""
    mass = weight / weight.sum()
    centre = float(mass @ x)
    at, mass = _few(x - centre, mass) if len(x) > 2 * _BINS else (x - centre, mass)
    basis = np.zeros((n, len(at)))
    basis[0] = np.sqrt(mass)
    diagonal, beside = list[float](), list[float]()
    for k in range(n):
        step = at * basis[k]
        diagonal.append(float(step @ basis[k]))
        for _ in range(2):
            step = step - (basis[: k + 1] @ step) @ basis[: k + 1]
        size = float(np.linalg.norm(step))
        if k + 1 == n or size <= 1e-12 * float(np.abs(at).max()):
            break
        beside.append(size)
        basis[k + 1] = step / size
    value, vector = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return [(float(first) ** 2, float(node) + centre) for node, first in zip(value, vector[0], strict=True)]


def _few(x: FloatArray, mass: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Two points in the place of those in a cell, with the same mass, mean and variance."""
    cell = np.clip(((x - x.min()) * (_BINS / np.ptp(x))).astype(np.intp), 0, _BINS - 1)
    held = np.bincount(cell, mass, _BINS)
    full = held > 0.0
    mean, square = (np.bincount(cell, mass * x**power, _BINS)[full] / held[full] for power in (1, 2))
    away = np.sqrt(np.maximum(square - mean**2, 0.0))
    return np.concatenate([mean - away, mean + away]), np.tile(0.5 * held[full], 2)


def _spread(code: Code, t: FloatArray) -> list[tuple[float, float]]:
    """Weights and values of kappa = a.t over the readouts of a code."""
    if code.covariance is None:
        return [(1.0, float(code.readout @ t))]
    return _gaussian(code.readout, code.covariance, t)


def _gaussian(readout: FloatArray, covariance: FloatArray, t: FloatArray) -> list[tuple[float, float]]:
    kappa = float(readout @ t) + math.sqrt(t @ covariance @ t) * HERMITE_X
    return [(float(w), float(x)) for w, x in zip(HERMITE_W, kappa, strict=True)]
