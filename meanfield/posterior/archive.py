"""Posteriors from files: the header says which theory wrote them."""

from __future__ import annotations

import os

from meanfield.archive import Arrays, Header, read_archive, reading
from meanfield.posterior.claims import real_arrays
from meanfield.posterior.registry import Answer, theory_named
from meanfield.validation import entry, real_number

__all__ = ["KINDS", "load_posterior"]

KINDS = ("posterior", "data posterior")
_FIRST_NAMES = {"general": "general_data"}  # of theories, in files that do not name theirs


def load_posterior(path: str | os.PathLike[str]) -> Answer:
    """The posterior that `Posterior.save` wrote.

    Raises
    ------
    ValueError
        If the file holds something else, or numbers that do not satisfy the equations they claim to.
    FileNotFoundError
        If there is none.
    """
    header, arrays = read_archive(path, KINDS)
    with reading(path, "posterior"):
        if "kind" in header:
            real_arrays(arrays)
            real_number("tau", entry(header, "tau", (int, float)), at_least=0.0)
        return theory_named(_theory_of(header, arrays)).load(header, arrays)


def _theory_of(header: Header, arrays: Arrays) -> str:
    if "theory" in header:
        return str(header["theory"])
    if "kind" in header:
        kind = entry(header, "kind", str)
        return _FIRST_NAMES.get(kind, kind)
    return "linear" if "gaussian_covariance" in arrays else "single_layer"
