"""`load`: whatever this package has written to a file."""

from __future__ import annotations

import importlib
import os
from typing import Any

from meanfield.archive import open_archive
from meanfield.posterior.archive import KINDS, load_posterior

__all__ = ["load"]

# Kind of file -> who reads it; loaded only then.
_READERS = {
    "phase diagram": ("meanfield.phases.diagram", "PhaseDiagram"),
    "chains": ("meanfield.sampling.chains", "Chains"),
}
_GEOMETRY = "geometry"  # its kinds begin like this


def load(path: str | os.PathLike[str]) -> Any:
    """Read a file of this package, of any kind: a posterior, a phase diagram, chains, a result of `meanfield.geometry`.

    Nothing in a file is executed, and what it claims (stationarity, objective, weights) is computed again.

    Parameters
    ----------
    path : path of an ``.npz`` file written by a ``save`` method.

    Returns
    -------
    Posterior, PhaseDiagram, Chains, or a result of `meanfield.geometry`

    Raises
    ------
    ValueError
        If the file holds something else, or numbers that are not what they claim to be.
    FileNotFoundError
        If there is none.

    Examples
    --------
    >>> import tempfile
    >>> import meanfield as mf
    >>> post = mf.solve(mf.Network("linear"), mf.class_task(fractions=[0.5, 0.25, 0.25]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = mf.load(post.save(f"{folder}/post.npz"))
    >>> again.objective == post.objective
    True
    """
    kind = open_archive(path)[0]
    if kind in KINDS:
        return load_posterior(path)
    if kind in _READERS:
        module, name = _READERS[kind]
        return getattr(importlib.import_module(module), name).load(path)
    if kind.startswith(_GEOMETRY):
        return importlib.import_module("meanfield.geometry.results").load(path)
    raise ValueError(f"{path} holds a {kind}, which is not meant to be loaded by itself.")
