"""How the neurons of a network divide into parts: by their codes, into a bulk and outliers, or not at all.

One noun for both sides of every comparison: the parts that a theory gives one neuron, and the parts that sampled
networks show. A theory whose neurons divide in another way has a `Division` of its own and says so (`Divides` of
`meanfield.posterior.registry`); otherwise the growth of phi decides (`division_by_growth`).

A *word* is the code of a sampled neuron as an integer, class 1 the highest bit; a *pattern* the same as text, "110".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from meanfield.posterior.parts import Code, Outlier, activity_threshold, prior_variance
from meanfield.problem.class_task import ClassTask
from meanfield.problem.data_task import DataTask
from meanfield.problem.network import Network
from meanfield.validation import BoolArray, FloatArray

__all__ = [
    "OUTLIER_LEVEL",
    "ByCode",
    "Division",
    "DrawnLine",
    "Members",
    "OfOneGaussian",
    "Part",
    "WithOutliers",
    "division_by_growth",
    "label_of",
    "pattern_of",
]

# Averaged over the samples of a class, a neuron of the bulk stays below about one standard deviation of the prior; an
# outlier grows like sqrt(N).
OUTLIER_LEVEL = 2.5
_LEAST_SHARE = 1e-3  # of the neurons; rarer codes are not listed

Words = NDArray[np.int64]


class Part(NamedTuple):
    """A row of what is shown of a posterior: name, weight, readout (m,), mean activation per class (C,)."""

    name: str
    weight: float
    readout: FloatArray
    activation: FloatArray


class Members(NamedTuple):
    """Which neurons belong to the parts, by the labels of the parts: masks (k, d, N).

    Attributes
    ----------
    codes : mapping
        Shares of the neurons: their averages are compared.
    outliers : mapping of pattern to mask
        Single neurons of order sqrt(N): their totals are.
    """

    codes: Mapping[str, BoolArray]
    outliers: Mapping[str, BoolArray]


class Answered(Protocol):
    """What is asked of a posterior here."""

    @property
    def task(self) -> ClassTask | DataTask: ...
    @property
    def codes(self) -> tuple[Code, ...]: ...
    @property
    def outliers(self) -> tuple[Outlier, ...]: ...
    @property
    def readout_covariance(self) -> FloatArray: ...


class DrawnLine(Protocol):
    """What is asked of a sweep over one parameter, a `meanfield.phases.diagram.PhaseDiagram`."""

    @property
    def task(self) -> ClassTask: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def certified(self) -> BoolArray: ...
    @property
    def codes(self) -> tuple[str, ...]: ...
    def weights(self, pattern: str) -> FloatArray: ...
    def posterior(self, index: int) -> Answered: ...


def label_of(pattern: str) -> str:
    """ "1-1-0" of "110"."""
    return "-".join(pattern)


def pattern_of(word: int, n_classes: int) -> str:
    """ "110" of a word."""
    return format(int(word), f"0{n_classes}b")


class Division:
    """Every neuron has a code, and many neurons share one: what holds where nothing else is said.

    Attributes
    ----------
    quantity, said, key : str
        What characterises the phases along a line (`line`), in LaTeX and without, and what tells its curves.
    carriers : str
        What the neurons are called whose codes are followed in time.
    freezes : bool
        Whether sampled neurons keep their code, so that the shares of the codes are those of the start.
    alike : bool
        Whether averages are over many neurons, none of which matters alone.
    """

    quantity = r"code weight $P_\gamma$"
    said = "code weight P"
    key = "code"
    carriers = "neurons"
    freezes = True
    alike = True

    # ---- posteriors ------------------------------------------------------------------------------

    def names(self, posterior: Answered) -> list[str]:
        """What the codes of a posterior are called."""
        return [code.label for code in posterior.codes]

    def parts(self, posterior: Answered) -> list[Part]:
        """All parts of a posterior, a row each."""
        rows = [
            Part(name, code.weight, code.readout, code.activation)
            for name, code in zip(self.names(posterior), posterior.codes, strict=True)
        ]
        rows += [Part(f"outlier {o.label}", o.weight, o.readout, o.activation) for o in posterior.outliers]
        return rows

    def gaussians(self, posterior: Answered) -> list[tuple[float, FloatArray, FloatArray | None]]:
        """Weight, mean and covariance of the readout of each part that holds a share of the neurons."""
        return [(code.weight, code.readout, code.covariance) for code in posterior.codes]

    # ---- phases ----------------------------------------------------------------------------------

    def line(self, diagram: DrawnLine) -> dict[str, FloatArray]:
        """What characterises the phases over one parameter, by name: the weight of each code ("1-1-0")."""
        return {label_of(pattern): diagram.weights(pattern) for pattern in diagram.codes}

    def phase_name(self, codes: Sequence[str], n_codes: int, sharing: Sequence[str]) -> str:
        """Name of a phase.

        Parameters
        ----------
        codes : sequence of str
            Labels of the codes present, with their multiplicity where it is not one.
        n_codes : int
            How many codes are present.
        sharing : sequence of str
            Groups of classes that share outliers, "1+2".
        """
        return ", ".join(codes)

    def telling(self, patterns: Iterable[str]) -> frozenset[str]:
        """Of the patterns present those that tell the phase from others."""
        return frozenset(patterns)

    # ---- sampled networks ------------------------------------------------------------------------

    def threshold(self, network: Network, layer: int = -1) -> float:
        """Mean activation on a class beyond which a sampled neuron of a layer counts as active."""
        return activity_threshold(network)

    def words(self, activation: FloatArray, network: Network, layer: int = -1) -> Words:
        """(...) codes of neurons of a layer from their mean activations (..., C) on the classes."""
        return np.asarray((activation > self.threshold(network, layer)) @ (1 << np.arange(activation.shape[-1])[::-1]))

    def told_apart(self, words: Words) -> Words:
        """The words, equal for neurons of one part."""
        return words

    def label(self, word: int, n_classes: int) -> str:
        """What sampled neurons with a word are called."""
        return label_of(pattern_of(word, n_classes))

    def legend(self, word: int, n_classes: int) -> str:
        """The same beside a picture of all neurons."""
        return self.label(word, n_classes)

    def patterns(self, words: Words, n_classes: int) -> list[str]:
        """Patterns that are looked at one by one: those of at least a thousandth of the neurons, heaviest first.

        `words` (k, d, N) of all chains, draws and neurons.
        """
        share = word_shares(words, n_classes).mean(axis=0)
        return [pattern_of(word, n_classes) for word in np.argsort(-share) if share[word] > _LEAST_SHARE]

    def shown(self, words: Words) -> list[int]:
        """Words that a picture of all neurons shows."""
        return [int(word) for word in np.unique(words)[::-1] if np.mean(words == word) > _LEAST_SHARE]

    def members(self, words: Words, patterns: Iterable[str]) -> Members:
        """Which neurons belong to the parts, for the patterns that are looked at one by one."""
        return Members({label_of(pattern): words == int(pattern, 2) for pattern in patterns}, {})

    def carrying(self, words: Words) -> BoolArray:
        """Which neurons have a code that is followed in time."""
        return np.ones(words.shape, dtype=bool)

    def readout_unit(self, width: int) -> tuple[float, str]:
        """In which readouts of neurons are drawn, and how it is written."""
        return 1.0, ""


class ByCode(Division):
    """Bounded phi: P -> infinity gives finitely many codes, each shared by a fraction of the neurons."""


class WithOutliers(Division):
    """Phi that grows: a bulk, and single neurons with activations of order sqrt(N) that carry the classes."""

    quantity = "outlier overlap $M_{cc'}$"
    said = "outlier overlap M"
    key = "$(c, c')$"
    carriers = "outliers"
    freezes = False
    alike = False

    def names(self, posterior: Answered) -> list[str]:
        return ["bulk"] if len(posterior.codes) == 1 else super().names(posterior)

    def line(self, diagram: DrawnLine) -> dict[str, FloatArray]:
        """The overlap M_cc' = sum_o phi(zbar_oc) phi(zbar_oc') of the classes in the outliers ("(1, 2)").

        It is unique, single outliers need not be (phases/THEORY.md, "ReLU").
        """
        overlap = np.full((*diagram.shape, diagram.task.n_classes, diagram.task.n_classes), np.nan)
        for i in np.flatnonzero(diagram.certified):
            active = np.array([outlier.activation for outlier in diagram.posterior(int(i)).outliers])
            overlap[i] = active.T @ active if active.size else 0.0
        labels = diagram.task.class_names
        pairs = [(c, d) for c in range(len(labels)) for d in range(c, len(labels))]
        pairs.sort(key=lambda pair: pair[0] != pair[1])
        return {f"({labels[c]}, {labels[d]})": overlap[:, c, d] for c, d in pairs}

    def phase_name(self, codes: Sequence[str], n_codes: int, sharing: Sequence[str]) -> str:
        bulk = "bulk" if n_codes == 1 else f"{n_codes} codes"
        return f"{bulk}, outliers {', '.join(sharing)}" if sharing else f"{bulk}, no outliers"

    def telling(self, patterns: Iterable[str]) -> frozenset[str]:
        return frozenset()  # what tells phases apart is which classes share outliers

    def threshold(self, network: Network, layer: int = -1) -> float:
        """Only outliers carry codes: the level that makes a neuron one of them."""
        return float(OUTLIER_LEVEL * np.sqrt(prior_variance(network, layer)) * np.abs(network.activation.slopes).max())

    def label(self, word: int, n_classes: int) -> str:
        return f"outlier {super().label(word, n_classes)}" if word else "bulk"

    def legend(self, word: int, n_classes: int) -> str:
        return super().label(word, n_classes) if word else "bulk"

    def patterns(self, words: Words, n_classes: int) -> list[str]:
        """Those of all outliers."""
        return [pattern_of(word, n_classes) for word in np.unique(words) if word > 0]

    def shown(self, words: Words) -> list[int]:
        return [int(word) for word in np.unique(words)[::-1]]

    def members(self, words: Words, patterns: Iterable[str]) -> Members:
        return Members({"bulk": words == 0}, {pattern: words == int(pattern, 2) for pattern in patterns})

    def carrying(self, words: Words) -> BoolArray:
        return np.asarray(words > 0)

    def readout_unit(self, width: int) -> tuple[float, str]:
        return float(np.sqrt(width)), r"$/\sqrt{N}$"


class OfOneGaussian(Division):
    """Linear phi: all neurons are draws of one Gaussian."""

    quantity = "readout variance $U_{rr}$"
    said = "readout variance U"
    key = ""
    freezes = False

    def parts(self, posterior: Answered) -> list[Part]:
        spread = np.sqrt(np.diag(posterior.readout_covariance))
        return [Part("Gaussian, ± std", 1.0, spread, np.full(posterior.task.n_classes, np.nan))]

    def gaussians(self, posterior: Answered) -> list[tuple[float, FloatArray, FloatArray | None]]:
        covariance = posterior.readout_covariance
        return [(1.0, np.zeros(len(covariance)), covariance)]

    def line(self, diagram: DrawnLine) -> dict[str, FloatArray]:
        """The variances of the readout."""
        covariance = [diagram.posterior(i).readout_covariance for i in range(*diagram.shape)]
        return {f"output {r + 1}": np.array([u[r, r] for u in covariance]) for r in range(diagram.task.n_outputs)}

    def phase_name(self, codes: Sequence[str], n_codes: int, sharing: Sequence[str]) -> str:
        return "analog"

    def told_apart(self, words: Words) -> Words:
        return np.zeros_like(words)

    def label(self, word: int, n_classes: int) -> str:
        return "Gaussian"

    def legend(self, word: int, n_classes: int) -> str:
        return ""

    def patterns(self, words: Words, n_classes: int) -> list[str]:
        """None."""
        return []

    def members(self, words: Words, patterns: Iterable[str]) -> Members:
        return Members({}, {})


def word_shares(words: Words, n_classes: int) -> FloatArray:
    """(k, 2^C) fraction of the neurons with each word, mean over the draws of a chain."""
    size = 2**n_classes
    return np.stack([np.bincount(chain.ravel(), minlength=size) / chain.size for chain in words])


_BY_GROWTH: dict[str, Division] = {"codes": ByCode(), "outliers": WithOutliers(), "gaussian": OfOneGaussian()}


def division_by_growth(network: Network) -> Division:
    """That of a network of which no theory says another: phi is bounded, grows, or is linear."""
    return _BY_GROWTH[network.activation.parts]
