"""Posteriors of the four schemes as fixtures."""

from reference_posteriors import analog, finite, redundant, sparse

__all__ = ["analog", "finite", "redundant", "sparse"]
