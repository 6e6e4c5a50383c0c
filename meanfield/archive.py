"""Files of this package: one npz archive of a JSON header and arrays, without pickle."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def write_archive(path: str | os.PathLike[str], kind: str, header: dict[str, Any], arrays: dict[str, Any]) -> Path:
    """Write a JSON header and arrays to one npz file, without pickle and in one step (no half-written file is left).

    Parameters
    ----------
    path : path
        ``.npz`` is added if missing.
    kind : str
        What the file holds; checked by `read_archive`.
    header : dict
        JSON-able; infinities are kept.
    arrays : dict of str to numeric or string array

    Returns
    -------
    Path
        The file written.
    """
    target = Path(path)
    if target.suffix != ".npz":
        target = target.with_name(target.name + ".npz")
    text = json.dumps({"format": f"meanfield {kind}", "version": 1, **header})
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, header=np.array(text), **arrays)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def read_archive(path: str | os.PathLike[str], kind: str | tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and arrays of a file of `write_archive`.

    Raises
    ------
    ValueError
        If the file is not one of this package, or holds something other than `kind`.
    FileNotFoundError
        If there is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(str(arrays.pop("header")))
        found = header.pop("format")
        version = header.pop("version")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a file written by meanfield ({type(error).__name__}).") from error
    found = found.removeprefix("meanfield ")
    kinds = (kind,) if isinstance(kind, str) else kind
    if found not in kinds:
        raise ValueError(f"{path} holds a {found}, expected a {' or a '.join(kinds)}; load it with the matching class.")
    if version != 1:
        raise ValueError(f"{path} has format version {version}, this meanfield reads version 1; update meanfield.")
    return header, arrays


def kind_of(path: str | os.PathLike[str]) -> str:
    """What a file of this package holds."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return str(json.loads(str(archive["header"]))["format"]).removeprefix("meanfield ")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a file written by meanfield ({type(error).__name__}).") from error
