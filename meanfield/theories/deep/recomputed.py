"""What a deep posterior computes again from its order parameters: the neurons of every layer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import numpy as np

from meanfield.posterior.parts import Code
from meanfield.posterior.posterior import NotAvailable
from meanfield.theories.deep.codes.cuts import said_of_layer
from meanfield.theories.deep.codes.free_words import FreeLaw
from meanfield.theories.deep.codes.states import (
    NodesByWord,
    States,
    exchanged,
    free_words,
    kept_fields,
    layer_nodes,
    layer_states,
    mean_kurtosis,
    word_law,
)
from meanfield.theories.deep.exchangeable.neurons import ClassLaw, class_law
from meanfield.theories.deep.layered import LayeredPosterior
from meanfield.theories.deep.layers.rules import Detail, NotCovered, threshold
from meanfield.theories.deep.reduction import Members, problem_of
from meanfield.theories.deep.solution import DeepSolution
from meanfield.theories.deep.system import LATTICE_CLASSES, Order, System
from meanfield.validation import FloatArray, read_only, short

__all__ = ["MOST_NODES", "RecomputedLayers"]

_Law = TypeVar("_Law", FreeLaw, NodesByWord)

MOST_NODES = 3000  # of one density, or mean over both fields


class RecomputedLayers(LayeredPosterior):
    """The system at the solution, the neurons of its layers on their lattices, and their code words."""

    solution: DeepSolution

    def layer_codes(self, layer: int = -1) -> tuple[Code, ...]:
        """Codes of any layer: neurons grouped by the classes on which their mean activation is above the midpoint.

        Below the last layer a code is soft: the group of neurons, not a delta; its "readout" is the mean field b (C,)
        that the layers above exert. Where codes are those of whole nodes (four unlike classes, and where `WordLaw`
        would need too large lattices) and a noticeable part of the neurons may have another one, a RuntimeWarning says
        how many; of the last layer a note and `certificate.cuts` do.
        """
        layer = self._layer(layer) - 1
        if layer < self.network.depth - 1:
            states = self._states(layer)
            said = said_of_layer(layer + 1, float(states.share @ states.unsure))
            if said:
                warnings.warn(said, RuntimeWarning, stacklevel=2)
        return self._codes_of(layer)

    def _codes_of(self, layer: int) -> tuple[Code, ...]:
        """Codes of layer 0 .. L - 1."""
        if layer == self.network.depth - 1:
            return self.codes
        states = self._states(layer)
        root = self._system.setting(self._order, layer).root
        own = self._members
        return tuple(
            Code(
                own.word(states.patterns[i]), float(states.share[i]),
                read_only(own.means(root @ states.beta[i])), read_only(own.means(states.activation[i])),
                read_only(own.variances(states.variance[i])),
                read_only(own.matrices(root @ states.covariance[i] @ root.T)),
            )
            for i in range(len(states.patterns))
        )  # fmt: skip

    def separation(self, layer: int = -1) -> dict[str, FloatArray]:
        """How sharp the code of a layer is: class-mean activation of active and of inactive neurons, per class (C,),
        and kurtosis (C, C) of the difference of two class means over neurons (1: two deltas, 3: Gaussian).

        Neurons are active or not by their mean <phi> given both of their fields, without the scatter of a mean over
        finitely many samples; the line between the two runs through a lattice, so that "on" and "off" of soft layers
        are good to 1e-3 to 3e-3. The kurtosis is that of means over the n_c samples of each class, as in networks; NaN
        where two classes differ by so little that rounding errors remain.
        """
        layer = self._layer(layer) - 1
        self._finite("the law of a layer's neurons")
        own = self._members
        if self._exchanged:
            count = len(self._system.problem.n)
            on, off = (np.full(count, value) for value in self._class_law(layer).on_and_off())
            centres = np.zeros(len(own.index))
        else:
            detail, _ = self._nodes(layer)
            centres = (detail.share / detail.share.sum() @ detail.activation)[own.index]
            on, off = np.array([self._on_and_off(layer, detail, c) for c in range(detail.activation.shape[1])]).T
        with np.errstate(invalid="ignore", divide="ignore"):
            sizes = self.task.n_samples * np.array(self.task.fractions)
            kurtosis = mean_kurtosis(self._system, self._order, layer, own, sizes, centres)
        on, off = own.variances(on), own.variances(off)  # of a mirror image -off and -on
        on, off = np.where(own.sign > 0.0, on, -off), np.where(own.sign > 0.0, off, -on)
        return {"on": on, "off": off, "kurtosis": kurtosis}

    def _on_and_off(self, layer: int, detail: Detail, c: int) -> tuple[float, float]:
        """Mean of <phi> over neurons where it is above and below the midpoint."""
        setting = self._system.setting(self._order, layer)
        share, mean = detail.share[:, None], detail.activation[:, c, None]
        if setting.covariance.any() and not self._system.around_peaks:
            rows = np.argsort(-detail.share)[:MOST_NODES]
            ((joint, mean),) = self._system.layers[layer].class_means(setting, detail.beta[rows], [c])
            share = share[rows] * joint
        on = (mean > threshold(self.network.activation)).astype(float)
        law = self._free_law(layer) if layer == 0 else None
        if law is not None:
            share, mean, on = law.share, law.mean[:, c], law.on[:, c]
        with np.errstate(invalid="ignore"):
            active, silent = ((share * mean * kind).sum() / (share * kind).sum() for kind in (on, 1.0 - on))
        return float(active), float(silent)

    @cached_property
    def _reduced(self) -> tuple[System, Members]:
        problem, members = problem_of(self.network, self.task, self.tau, merge=not self.solution.frozen)
        shares = None
        if self.solution.frozen:
            shares = dict(zip(self.solution.patterns, self.solution.weight.tolist()))
        return System(problem, fractions=shares), members

    @property
    def _system(self) -> System:
        return self._reduced[0]

    @property
    def _members(self) -> Members:
        return self._reduced[1]

    @cached_property
    def _order(self) -> Order:
        return kept_fields(self._system.problem, self._members.order(self.solution))

    @property
    def _exchanged(self) -> bool:
        """Whether the neurons of a layer are known as those of exchangeable classes, not node by node."""
        self._finite("the law of a layer's neurons")
        return self._system.exchanged

    @cached_property
    def _laws(self) -> dict[int, ClassLaw]:
        return {}

    def _class_law(self, layer: int) -> ClassLaw:
        """The law of the fields of one of exchangeable classes."""
        if layer not in self._laws:
            setting = self._system.setting(self._order, layer)
            self._laws[layer] = class_law(self._system.layers[layer], setting)
        return self._laws[layer]

    @cached_property
    def _free_laws(self) -> dict[int, FreeLaw | None]:
        return {}

    def _free_law(self, layer: int) -> FreeLaw | None:
        """Of a layer whose neurons have no fields h; None where it is not known."""
        return self._where_covered(self._free_laws, free_words, layer)

    @cached_property
    def _word_laws(self) -> dict[int, NodesByWord | None]:
        return {}

    def _word_law(self, layer: int) -> NodesByWord | None:
        """`word_law` of a layer with fields h; None where it is not known."""
        return self._where_covered(self._word_laws, word_law, layer)

    def _where_covered(
        self, known: dict[int, _Law | None], law: Callable[[System, Order, int, Detail], _Law | None], layer: int
    ) -> _Law | None:
        """What is known of a layer, worked out once."""
        if layer not in known:
            try:
                known[layer] = law(self._system, self._order, layer, self._nodes(layer)[0])
            except NotCovered:
                known[layer] = None
        return known[layer]

    @cached_property
    def _grouped(self) -> dict[int, States]:
        return {}

    def _states(self, layer: int) -> States:
        """The groups of neurons of a layer below the last."""
        if layer not in self._grouped:
            if self._exchanged:
                self._grouped[layer] = exchanged(self._system, self._order, layer)
            else:
                self._grouped[layer] = layer_states(self._system, self._order, layer, *self._nodes(layer))
        return self._grouped[layer]

    @cached_property
    def _kept(self) -> dict[int, tuple[Detail, FloatArray]]:
        return {}

    def _nodes(self, layer: int) -> tuple[Detail, FloatArray]:
        self._finite("the law of a layer's neurons")
        if self.scheme == "analog":
            raise NotAvailable("neurons of a deep linear network are Gaussian; read kernel and readout_covariance.")
        if layer not in self._kept:
            self._kept[layer] = layer_nodes(self._system, self._order, layer)
        return self._kept[layer]

    def _finite(self, what: str) -> None:
        if math.isinf(self.task.n_samples):
            raise NotAvailable(
                f"{what} is not there at P = infinity, where neurons are a sum of deltas; read .codes, or give a "
                "finite n_samples."
            )

    def _on_one_lattice(self, what: str) -> None:
        """Refuses what is worked out where a layer is integrated on one lattice."""
        if self.scheme == "redundant" and len(self._system.problem.n) > LATTICE_CLASSES:
            raise NotAvailable(
                f"{what} is there for up to {LATTICE_CLASSES} classes of different targets; read .codes and .kernel(), "
                "or draw neurons with .sample_neurons()."
            )

    def _word(self, code: object, layer: int) -> str:
        """Pattern over the reduced classes of a code of a layer."""
        known = self._codes_of(layer)
        if isinstance(code, Code):
            code = code.pattern
        if isinstance(code, (int, np.integer)) and not isinstance(code, bool) and 0 <= code < len(known):
            code = known[int(code)].pattern
        pattern = code.replace("-", "") if isinstance(code, str) else ""
        if pattern not in {c.pattern for c in known}:
            raise ValueError(
                f"there is no code {short(code)} in layer {layer + 1}; there are {', '.join(c.pattern for c in known)}."
            )
        return "".join(pattern[c] for c in self._members.first)
