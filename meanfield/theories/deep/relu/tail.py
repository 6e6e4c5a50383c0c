"""How the neurons of deep networks of rectifiers divide into parts: not by the size of their activations."""

from __future__ import annotations

from collections.abc import Iterable

from meanfield.posterior.division import Members, WithOutliers, Words

__all__ = ["BulkWithTail"]


class BulkWithTail(WithOutliers):
    """A bulk with a long tail along the rays of the outliers, and outliers beyond it.

    Neurons of the tail have activations of several standard deviations of the prior at every N, so that no level tells
    them from outliers: what sampled networks show of the parts is not what the theory calls by these names, and is not
    held against it. Kernels, outputs and readouts over all neurons are.
    """

    def members(self, words: Words, patterns: Iterable[str]) -> Members:
        """None."""
        return Members({}, {})
