"""Files of this package: one npz archive of a JSON header and arrays, without pickle.

A file is data from elsewhere: what it declares is bounded before it is read, and whatever is wrong with it is a
ValueError that names the file. What the numbers in it claim is checked where they are loaded, see
`meanfield.posterior.claims`.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from meanfield.validation import file_path

__all__ = [
    "Arrays",
    "Header",
    "npz_path",
    "open_archive",
    "output_path",
    "read_archive",
    "read_arrays",
    "reading",
    "write_archive",
]

Header = dict[str, object]  # what a file says in JSON; read by `entry`, which checks
Arrays = dict[str, np.ndarray]  # of any type: what they must be is checked where they are loaded

LARGEST = 2**31  # bytes of all arrays of a file together
_ROOMY = 2**26  # bytes that a file may unpack to whatever its own size
_PACKED = 200  # times its own size that a larger one may unpack to: zeros reach 1,000
_LONGEST_HEADER = 2**24
_MOST_ARRAYS = 1_000
_MOST_DIMENSIONS = 16


def write_archive(
    path: str | os.PathLike[str], kind: str, header: Mapping[str, object], arrays: Mapping[str, np.ndarray]
) -> Path:
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
        The file written, with the permissions that the user's umask gives.

    Raises
    ------
    ValueError
        For a nonlinearity that no formula describes, which could not be read back.
    IsADirectoryError, FileNotFoundError
        If `path` is a folder, or the folder of `path` does not exist.
    """
    target = npz_path(path)
    reason = _unreadable(header.get("network"))
    if reason is not None:
        raise ValueError(f"a file cannot hold this nonlinearity: {reason} Keep the expression, and solve again.")
    text = json.dumps({"format": f"meanfield {kind}", "version": 1, **header})
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as stream:
            np.savez_compressed(stream, allow_pickle=False, header=np.array(text), **arrays)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target


def _unreadable(network: object) -> object:
    """Why the nonlinearity of a network could not be read back; None where there is none, or it can be."""
    activation = network.get("activation") if isinstance(network, Mapping) else None
    return activation.get("unreadable") if isinstance(activation, Mapping) else None


def npz_path(path: str | os.PathLike[str]) -> Path:
    """`output_path` of an archive."""
    return output_path(path, ".npz")


def output_path(path: str | os.PathLike[str], suffix: str) -> Path:
    """Where a file is written: the suffix is added if missing; a folder, or a path in a missing one, is refused.

    Raises
    ------
    IsADirectoryError, NotADirectoryError, FileNotFoundError
    """
    target = file_path("path", path)
    if target.is_dir() or not target.name:
        raise IsADirectoryError(
            f"{path} is a folder; give the name of a file in it, e.g. {target / f'result{suffix}'}."
        )
    if target.suffix != suffix:
        target = target.with_name(target.name + suffix)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; give the name of a file.")
    if not target.parent.is_dir() and target.parent.exists():
        raise NotADirectoryError(f"{target.parent} is a file, so nothing can be written in it.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist; make it first.")
    return target


def read_archive(path: str | os.PathLike[str], kind: str | tuple[str, ...]) -> tuple[Header, Arrays]:
    """Header and arrays of a file of `write_archive`.

    Raises
    ------
    ValueError
        If the file is not one of this package, holds something other than `kind` (one of them), or declares more than
        2 GiB.
    FileNotFoundError
        If there is no such file.
    """
    found, header, arrays = open_archive(path)
    kinds = (kind,) if isinstance(kind, str) else kind
    if found not in kinds:
        raise ValueError(f"{path} holds a {found}, expected a {' or a '.join(kinds)}; load it with the matching class.")
    return header, arrays


def open_archive(path: str | os.PathLike[str]) -> tuple[str, Header, Arrays]:
    """Kind, header and arrays of a file of `write_archive`; errors as for `read_archive`."""
    arrays = read_arrays(path, what="a file written by meanfield")
    try:
        text = arrays.pop("header")
        if text.dtype.kind != "U" or text.shape != () or text.nbytes > _LONGEST_HEADER:
            raise ValueError("its header is no text, or a text of more than 4 million characters")
        header = json.loads(str(text))
        found, version = header.pop("format"), header.pop("version")
        if not isinstance(found, str) or not found.startswith("meanfield "):
            raise ValueError(f"its format is {str(found)[:40]!r}")
    except KeyError as error:
        raise ValueError(f"{path} is not a file written by meanfield (it has no {error}).") from error
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a file written by meanfield ({error}).") from error
    if type(version) is not int or version != 1:
        shown = str(version)[:20]
        raise ValueError(f"{path} has format version {shown}, this meanfield reads version 1; update meanfield.")
    return found.removeprefix("meanfield ")[:40], header, arrays


def read_arrays(
    path: str | os.PathLike[str], *, what: str = "an npz file of plain arrays", limit: int = LARGEST
) -> Arrays:
    """All arrays of an npz file, whose declared sizes are checked before anything is unpacked.

    Parameters
    ----------
    path : path
    what : str
        What the file should have been, for the error.
    limit : int
        Bytes of all arrays together.

    Raises
    ------
    ValueError
        If the file is no npz, is damaged, holds objects, or declares more than `limit`, more than 64 MiB that is 200
        times the size of the file, or other sizes than it has.
    FileNotFoundError
        If there is no such file.
    """
    file = file_path("path", path)
    if file.exists() and not file.is_file():  # a device may never end
        raise ValueError(f"{path} is not {what} (it is {'a folder' if file.is_dir() else 'no ordinary file'}).")
    try:
        # Given a path, zipfile leaves files that are cut off open.
        with file.open("rb") as whole, zipfile.ZipFile(whole) as archive:
            members = _members(archive, file.stat().st_size, limit)
            return {name: _array(archive, member) for name, member in members.items()}
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}.") from None
    except (
        zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, TypeError, SyntaxError, RuntimeError,
        NotImplementedError, OverflowError, MemoryError, KeyError, IndexError, UnicodeError,
    ) as error:  # fmt: skip
        text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not {what} ({text}).") from error


def _members(archive: zipfile.ZipFile, size: int, limit: int) -> dict[str, zipfile.ZipInfo]:
    """Members by the names of their arrays, if all of them together are within bounds."""
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > _MOST_ARRAYS:
        raise ValueError(f"it has {len(infos)} members, at most {_MOST_ARRAYS} are read")
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name == info.filename or name in members or info.flag_bits & 1:
            raise ValueError(f"its member {info.filename[:40]!r} is no array, encrypted, or there twice")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its member {info.filename[:40]!r} is packed in an unusual way")
        members[name] = info
    total = sum(info.file_size for info in infos)
    if total > limit or total > max(_ROOMY, _PACKED * size):
        raise ValueError(f"it unpacks to {total / 2**20:.0f} MiB, more than is read from {size / 2**20:.2f} MiB")
    return members


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as stream:
        dtype, shape = _declared(stream)
        start = stream.tell()
    expected = math.prod(shape) * dtype.itemsize
    if start + expected != info.file_size:
        raise ValueError(
            f"its array {info.filename[:40]!r} of {dtype} and shape {str(shape)[:60]} takes {expected} bytes, but has "
            f"{info.file_size - start}"
        )
    with archive.open(info) as stream:
        return np.asarray(npy.read_array(stream, allow_pickle=False))


def _declared(stream: IO[bytes]) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape in the header of an array."""
    version = npy.read_magic(stream)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"an array of it has the unknown format version {version}")
    shape, _, dtype = read(stream)
    if dtype.kind not in "biufcSU" or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"an array of it holds {dtype}, in {len(shape)} dimensions; numbers and text are read")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in shape):
        raise ValueError(f"an array of it has the shape {str(shape)[:60]}")
    return dtype, shape


@contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turns what goes wrong while the contents of a file become objects into a ValueError that names the file."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path} is not a valid {kind}: it has no entry {error}.") from error
    except (
        ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError, MemoryError, StopIteration,
        AssertionError, np.linalg.LinAlgError,
    ) as error:  # fmt: skip
        raise ValueError(f"{path} is not a valid {kind}: {str(error) or type(error).__name__}") from error
