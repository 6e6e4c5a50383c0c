"""The posterior of a deep network on a class task, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, cast

import numpy as np

from meanfield.posterior.certificate import ConvergenceError
from meanfield.posterior.finite_width import OneLoop
from meanfield.posterior.generalization import Generalization
from meanfield.posterior.neurons import Neurons, positive_count, sample_counts
from meanfield.posterior.parts import Code
from meanfield.posterior.posterior import NotAvailable
from meanfield.posterior.registry import Freezes, theory_named
from meanfield.posterior.table import number_row
from meanfield.problem.class_task import ClassTask
from meanfield.problem.network import Network
from meanfield.theories.deep.certificate import Branch
from meanfield.theories.deep.codes.single_samples import drawn_samples
from meanfield.theories.deep.codes.states import code_parts, sampled_states
from meanfield.theories.deep.densities import LayerDensities
from meanfield.theories.deep.exchangeable.neurons import drawn
from meanfield.theories.deep.fluctuations.one_loop import one_loop
from meanfield.theories.deep.layers.rules import NotCovered, code_words
from meanfield.theories.deep.reduction import problem_of
from meanfield.theories.deep.search.branches import NoBranch
from meanfield.theories.deep.search.fold import BranchEnd, uncoded_end
from meanfield.theories.deep.search.rivals import other_solutions
from meanfield.theories.deep.solution import DeepSolution
from meanfield.theories.deep.system import System
from meanfield.validation import FloatArray, read_only, whole_number
from meanfield.validation import generator as new_generator

__all__ = ["DeepPosterior"]

_NO_FIELD = 1e-9  # of the largest singular value of t, below which a readout has no field


@dataclass(frozen=True, eq=False)
class DeepPosterior(LayerDensities):
    """Posterior of the neurons of every hidden layer; what `solve_deep` returns.

    Layers are numbered 1 .. L, or from the last by negative numbers.

    Parameters
    ----------
    network : Network
    task : ClassTask
    tau : float
    solution : DeepSolution
    """

    network: Network
    task: ClassTask
    tau: float
    solution: DeepSolution

    _named: ClassVar[tuple[str, ...]] = ("readout", "weight")
    _instead: ClassVar[str] = "codes, layer_codes(layer) and kernel(layer)"

    # ---- what was found --------------------------------------------------------------------------

    @property
    def scheme(self) -> str:
        """ "redundant" (codes) for bounded phi, "analog" (Gaussian readouts) for linear phi."""
        return "analog" if self.network.activation.parts == "gaussian" else "redundant"

    @cached_property
    def codes(self) -> tuple[Code, ...]:
        """Codes of the last layer, heaviest first; none in linear networks."""
        s = self.solution
        spread = None if math.isinf(s.n_samples) else s.covariance
        return tuple(
            Code(
                s.patterns[i], float(s.weight[i]), read_only(s.readout[i]), read_only(s.activation[i]),
                read_only(s.activation_variance[i]), None if spread is None else read_only(spread[i]),
            )
            for i in range(len(s.patterns))
        )  # fmt: skip

    @property
    def readout_covariance(self) -> FloatArray:
        """(m, m) covariance of the readout over all neurons."""
        s = self.solution
        mean = s.weight @ s.readout if len(s.weight) else np.zeros(self.task.n_outputs)
        return read_only(s.second_readout - np.outer(mean, mean))

    # ---- kernels and laws ------------------------------------------------------------------------

    def sample_neurons(
        self, n: int, *, rng: object = None, samples_per_class: object = None, layer: int = -1
    ) -> Neurons:
        """Draw `n` neurons of a layer from the theory, with their responses to a few training samples of every class.

        Neurons of layers below the last have no readout: `readouts` then has shape (n, 0).
        """
        self._finite("sampling neurons")
        layer = self._layer(layer) - 1
        n = positive_count("n", n)
        generator = new_generator("rng", rng)
        labels = np.repeat(np.arange(self.task.n_classes), sample_counts(self.task.fractions, samples_per_class))
        system, order = self._system, self._order
        setting = system.setting(order, layer)
        if self._exchanged:
            b, h = drawn(system.layers[layer], setting, n, generator)
        else:
            detail, words = self._nodes(layer)
            pick = np.sort(generator.choice(len(words), size=n, p=detail.share / detail.share.sum()))
            if system.around_peaks:
                b, h, row = system.layers[layer].drawn(setting, pick, generator)
            else:
                b, h, row = self._drawn(layer, detail.beta[pick], words[pick], generator)
        phi = self.network.activation
        z, active = np.empty((n, labels.size)), np.empty(b.shape)
        for which in np.unique(labels):
            c, sign, columns = self._members.index[which], self._members.sign[which], np.flatnonzero(labels == which)
            site = b[:, c], h[:, c], float(setting.d[c]), float(setting.delta[c])
            value, active[:, c] = drawn_samples(phi, *site, len(columns), generator)
            z[:, columns] = sign * value
        given = system.codes and layer == self.network.depth - 1
        own = words[pick[row]] if given else code_words(phi, active)  # neurons of a node may be on both sides of a cut
        label = {word: "-".join(self._members.word(word)) for word in own.tolist()}
        full = list(dict.fromkeys([*(code.label for code in self._codes_of(layer)), *label.values()]))
        part = np.array([full.index(label[word]) for word in own], dtype=np.intp)
        last = layer == self.network.depth - 1
        readouts = self._readouts(b, order.t, generator) if last else np.empty((n, 0))
        return Neurons(readouts, part, tuple(full), z, np.asarray(phi(z)), labels, self.task.class_names)

    def _readouts(self, b: FloatArray, t: FloatArray, generator: np.random.Generator) -> FloatArray:
        """(n, m) readouts of neurons with fields b = a.t; those that no class sees are as under the prior."""
        inverse = np.linalg.pinv(t, rcond=_NO_FIELD)
        unseen = np.eye(t.shape[1]) - inverse @ t
        readouts = b @ inverse.T
        if np.trace(unseen) > 0.5:
            prior = generator.normal(0.0, math.sqrt(self._system.problem.readout_variance), readouts.shape)
            readouts += prior @ unseen
        return np.asarray(readouts)

    def _drawn(
        self, layer: int, beta: FloatArray, words: FloatArray, generator: np.random.Generator
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Fields b and h of neurons at nodes, and which node each came from; numbers of neurons per code are kept."""
        setting = self._system.setting(self._order, layer)
        found = []
        for word in dict.fromkeys(words.tolist()):
            rows = np.flatnonzero(words == word)
            b, h, row = self._system.layers[layer].draw(setting, beta[rows], generator)
            found.append((b, h, rows[row]))
        b, h, row = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(row, kind="stable")
        return b[order], h[order], row[order]

    def generalization_error(self, X: object, Y: object, *, width: float | None = None) -> Generalization:
        """Refused: a class task has no new inputs, and deep nonlinear networks are solved on class tasks only."""
        self._refuse("the generalisation error", "deep networks are solved on class tasks, which have no new inputs")

    def stability(self) -> dict[str, float]:
        """How far each code of the last layer is from losing its stability: the smallest of its fields.

        A neuron with readout a has the field b_c = a.t_c on class c, which has to keep the sign of the code (positive
        where it is active). At b_c = 0 the neuron changes its code; given fractions are admissible only while this is
        positive for every code that has neurons. Where it is small at given fractions `certificate.cuts` has the part
        of the code's neurons that are at the cut to another one; above 1e-3 `solution.notes` says so. Beside strong
        fields h, which classes share, a code may be stable at a field of the wrong sign (exponents below 1): whether it
        is, `frozen` tells.

        Raises
        ------
        NotAvailable
            At P = infinity and an exponent below 1, where t vanishes, and with it these fields.
        """
        if self.scheme == "analog":
            return {}
        if math.isinf(self.task.n_samples) and not self.solution.t.any():
            self._refuse(
                "how far codes are from losing their stability, at P = infinity and a readout_exponent below 1, where "
                "t vanishes and fields h alone decide on codes,",
                "ask at a finite n_samples",
            )
        sign = np.array([[1.0 if bit == "1" else -1.0 for bit in code.pattern] for code in self.codes])
        fields = np.array([code.readout for code in self.codes]) @ self.solution.t.T
        return {code.pattern: float(value) for code, value in zip(self.codes, (sign * fields).min(axis=1))}

    def frozen(self, fractions: object) -> DeepPosterior:
        """The theory with given shares of the last layer's codes, as a sampler has frozen them.

        Fractions are admissible only while every code among them is locally stable, see `stability`.

        Parameters
        ----------
        fractions : mapping of pattern to number, or (codes,) array-like
            Shares of the codes, normalised.

        Raises
        ------
        UnstableFractions
            If neurons with one of these codes would leave it.
        ConvergenceError
            If no certified solution was found.
        """
        theory = theory_named(self.theory)
        assert isinstance(theory, Freezes)
        return cast(DeepPosterior, theory.frozen(self, fractions))

    def by_activation(self, counts: object) -> DeepPosterior:
        """This posterior with neurons assigned to the codes of the last layer as in samples, by their mean activations
        over `counts` (C,) samples of each class; a note says so. Given both fields of a neuron the law of these means
        is normal with terms to order 1 / counts (shares of rare codes: within the errors of a million draws, .5 %, from
        two samples on). Drawn neurons and densities keep the codes by fields. The same posterior at given shares, in
        linear networks and at P = infinity.

        Raises
        ------
        NotAvailable
            For codes whose law is known node by node only: more than three classes of different targets.
        """
        sizes = self._counts(counts)
        if self.scheme == "analog" or self.solution.frozen or math.isinf(self.task.n_samples):
            return self
        problem, alike = problem_of(self.network, self.task, self.tau, merge=False)
        system = System(problem)
        try:
            states = sampled_states(system, alike.order(self.solution), sizes)
        except NotCovered as error:
            self._refuse(f"codes by mean activations over finitely many samples ({error})")
        note = f"codes are told by mean activations over {', '.join(f'{size:g}' for size in sizes)} samples of a class"
        parts = code_parts(states, alike, problem.readout_variance)
        return replace(self, solution=replace(self.solution, notes=(*self.solution.notes, note), **parts))

    def uncoded_end(self) -> BranchEnd:
        """Where the solution that continues the prior ends as tau falls: a fold of the saddle equations.

        Below its tau no such solution rivals the one with codes. Followed from large tau; takes seconds.

        Raises
        ------
        ValueError
            For linear phi and at P = infinity, where there are no such branches, and if the branch does not end or was
            lost.
        """
        self._finite("the end of a branch of solutions")
        if self.scheme == "analog":
            raise NotAvailable("deep linear networks have one solution, no branches of them.")
        problem = problem_of(self.network, self.task, self.tau)[0]
        try:
            return uncoded_end(problem)
        except (NotCovered, np.linalg.LinAlgError) as error:
            raise NoBranch(f"the branch without codes was not followed to its end: {error}") from error

    def rivals(self, starts: int = 8, *, rng: object = None) -> tuple[Branch, ...]:
        """Solutions of the saddle equations found from many starts, largest Phi first; takes seconds to minutes.

        Starts are the branch without codes (followed from larger tau), the usual planted codes, every set of one or two
        orbits of codes up to four classes, and random kernels. One of larger Phi than `free_energy` would be the better
        answer; that none is found proves nothing.

        Parameters
        ----------
        starts : int
            Number of random kernels.
        rng : None, int or numpy.random.Generator

        Returns
        -------
        tuple of Branch
            Name of the first start that led there, Phi, and residual by an independent quadrature. The reported
            solution is among them, if any start leads to it.

        Raises
        ------
        ValueError
            For linear phi, at P = infinity and with given shares, where there are no such branches, and for more than
            three classes of different targets.
        """
        self._finite("a search for other solutions")
        if self.scheme == "analog" or self.solution.frozen:
            raise NotAvailable("only solutions of deep nonlinear networks at equilibrium have rivals.")
        self._on_one_lattice("a search from many starts")
        problem = problem_of(self.network, self.task, self.tau)[0]
        found = other_solutions(problem, whole_number("starts", starts, at_least=0), new_generator("rng", rng))
        return tuple(branch for branch, _ in found)

    def one_loop(self) -> OneLoop:
        """What a network of finite width N has beyond this solution, at order 1/N: kernels of all layers, outputs and
        readouts, from the fluctuations of all order parameters around it (THEORY.md, "One loop").

        Also says whether the solution is stable against perturbations that tell the samples of a class apart. Takes
        half a second for two classes and two layers, a minute for three and three. At given shares of the codes these
        do not fluctuate.

        Raises
        ------
        ValueError
            At P = infinity, for linear phi and for more than three classes of different targets.
        ConvergenceError
            If integrals beside the solution are outside of what the quadrature covers.
        """
        self._finite("a term of order 1/N")
        if self.scheme == "analog":
            raise NotAvailable("one_loop() is there for deep networks with codes; phi is linear.")
        self._on_one_lattice("a term of order 1/N")
        try:
            return one_loop(self._system, self._order, self._members)
        except NotCovered as error:
            raise ConvergenceError(f"the term of order 1/N was not found: {error}.", self) from error

    # ---- printing, saving ------------------------------------------------------------------------

    def __repr__(self) -> str:
        found = ", ".join(f"{code.label} ({code.weight:.3g})" for code in self.codes[:4])
        found += ", ..." * (len(self.codes) > 4)
        body = f"codes {found}" if self.codes else "Gaussian readouts"
        return (
            f"<DeepPosterior: {self.network.depth} layers, {self.scheme}, {body}; Phi = {self.free_energy:.9g}, "
            f"{self.status}>"
        )

    def table(self) -> str:
        """The posterior as a printed table, layer by layer."""
        proof = self.certificate
        lines = [
            *self._said_of_problem(),
            "",
            "kernels (samples of two classes; last column: what the diagonal has beyond)",
        ]
        lines += self._said_of_kernels(self.solution.kernel)
        if self.codes:
            shares = "given shares" if self.solution.frozen else "shares"
            lines += ["", f"codes of the last layer ({shares}; readout | mean activation on each class)"]
        for code in self.codes:
            row = f"{number_row(code.readout)} | {number_row(code.activation)}"
            lines.append(f"{code.label} {code.weight:>10.6f} | {row}")
        if math.isinf(self.task.n_samples):
            said = f"certificate: residual {proof.residual:.1e}, duality gap {proof.duality_gap:.1e}"
        else:
            said = (
                f"certificate: residual {proof.residual:.1e} by an independent quadrature "
                f"(solver {proof.solver_residual:.1e}), Phi to {proof.quadrature_error:.1e}"
            )
        return "\n".join([*lines, "", *self._said_of_proof(said)])
