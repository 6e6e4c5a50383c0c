"""Readers of published file formats: IDX (MNIST), CIFAR batches, npz. Only arrays are read, never code."""

from __future__ import annotations

import gzip
import io
import math
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from meanfield.archive import LARGEST, read_arrays
from meanfield.validation import file_path

__all__ = ["load_cifar", "load_idx", "load_npz"]

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_CIFAR_PIXELS = 3 * 32 * 32
_LARGEST_BATCH = 2**29
_PIECE = 2**20
_GZIP = b"\x1f\x8b"
# What a pickled array is made of, in old and new NumPy; nothing in this list runs code of the file.
_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def load_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Array of an IDX file (the format of MNIST), gzipped or not.

    Raises
    ------
    ValueError
        If the file is not IDX, is cut off, or has something after its data.
    FileNotFoundError
        If there is no such file.
    """
    with _opened(path) as stream:
        return _idx_array(path, stream)


def _idx_array(path: str | os.PathLike[str], stream: IO[bytes]) -> np.ndarray:
    """The array of an open IDX file: what the header declares is read, and a byte more to see that nothing follows."""
    raw = _bytes(path, stream, 4)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_TYPES:
        raise ValueError(f"{path} is not an IDX file (it starts with {raw[:4]!r}); expected bytes 0 0, type, rank.")
    rank = raw[3]
    sizes = _bytes(path, stream, 4 * rank)
    if len(sizes) < 4 * rank:
        raise ValueError(f"{path} is cut off within its header.")
    shape = struct.unpack(f">{rank}I", sizes)
    dtype = np.dtype(_IDX_TYPES[raw[2]])
    expected = math.prod(shape) * dtype.itemsize
    if expected > LARGEST or rank > 16:
        raise ValueError(f"{path} declares {expected} bytes of an array {shape[:16]}; at most {LARGEST} are read.")
    data = _bytes(path, stream, expected + 1)
    if len(data) != expected:
        found = "more" if len(data) > expected else str(len(data))
        raise ValueError(f"{path} should hold {expected} bytes of an array {shape}, but has {found}: a broken copy?")
    array = np.frombuffer(data, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def load_cifar(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Images (n, 32, 32, 3) and labels (n,) of one CIFAR-10 batch, binary (``.bin``) or python version.

    The python version is a pickle. It is read with an unpickler that knows arrays, lists, numbers and text only; a
    file that asks for anything else is refused before anything of it runs.

    Raises
    ------
    ValueError
        If the file is not a CIFAR-10 batch, or asks for more than arrays.
    FileNotFoundError
        If there is no such file.
    """
    with _opened(path) as stream:
        raw = _bytes(path, stream, _LARGEST_BATCH + 1)
    if len(raw) > _LARGEST_BATCH:
        raise ValueError(f"{path} unpacks to more than {_LARGEST_BATCH} bytes: no CIFAR-10 batch.")
    if Path(path).name.removesuffix(".gz").endswith(".bin"):
        if not raw or len(raw) % (_CIFAR_PIXELS + 1):
            raise ValueError(f"{path} is not a binary CIFAR-10 batch: {len(raw)} bytes are no multiple of 3073.")
        rows = np.frombuffer(raw, np.uint8).reshape(-1, _CIFAR_PIXELS + 1)
        labels, pixels = rows[:, 0], rows[:, 1:]
    else:
        batch = _unpickle(path, raw)
        try:  # keys are bytes, or text in batches that were written again by Python 3
            entries = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
            pixels, labels = np.asarray(entries["data"]), np.asarray(entries["labels"])
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(f"{path} is not a CIFAR-10 batch: it has no entries 'data' and 'labels'.") from None
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), _CIFAR_PIXELS) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: expected uint8 pixels (n, 3072) and n integer labels, got {pixels.dtype} {pixels.shape} and "
            f"{labels.dtype} {labels.shape}."
        )
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), labels.astype(np.intp)


def load_npz(path: str | os.PathLike[str], part: str | None = None) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images, labels (n,) and class names (may be empty) of an ``.npz`` file.

    Parameters
    ----------
    path : path
        With arrays ``images`` and ``labels`` (or x, y), or ``x_train``, ``y_train``, ``x_test``, ``y_test`` (also
        train_images, ... in any case of letters), and possibly ``class_names`` (or classes).
    part : {None, "train", "test"}
        Which of them; None: all that is there.

    Raises
    ------
    ValueError
        If the file is not npz, has pickled objects, or not these arrays.
    FileNotFoundError
        If there is no such file.
    """
    if file_path("path", path).exists() and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an npz file, or a broken one; of IDX files and CIFAR batches give the folder.")
    arrays = {name.lower(): array for name, array in read_arrays(path).items()}
    names = next((arrays[key] for key in ("class_names", "classes") if key in arrays), np.empty(0))
    found = []
    for which in ("train", "test") if part is None else (part,):
        forms = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}"))
        keys = [(x.format(which), y.format(which)) for x, y in forms]
        found += [(arrays[x], arrays[y]) for x, y in keys if x in arrays and y in arrays]
    if not found and part is None:
        found = [(arrays[x], arrays[y]) for x, y in (("images", "labels"), ("x", "y")) if x in arrays and y in arrays]
    if not found:
        wanted = "images and labels, or x_train, y_train, x_test, y_test" if part is None else f"x_{part} and y_{part}"
        raise ValueError(f"{path} has arrays {', '.join(arrays) or 'none'}; expected {wanted}.")
    images, labels = (np.concatenate([pair[i] for pair in found]) for i in (0, 1))
    if labels.shape not in ((len(labels),), (len(labels), 1)) or not len(labels):
        raise ValueError(f"{path} has labels of shape {labels.shape}; expected one per image, (n,), e.g. its argmax.")
    labels = labels.ravel()
    if labels.dtype.kind == "f" and (labels == np.rint(labels)).all():
        labels = labels.astype(np.intp)
    return images, labels, tuple(str(name) for name in names.tolist())


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) in _HARMLESS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _unpickle(path: object, raw: bytes) -> Any:
    try:
        return _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()
    except Exception as error:
        raise ValueError(
            f"{path} is not a plain CIFAR batch and was not read ({error}); get the binary version instead."
        ) from error


def _bytes(path: str | os.PathLike[str], stream: IO[bytes], count: int) -> bytes:
    """At most `count` bytes from the stream of a file."""
    parts = []
    try:
        while count > 0 and (part := stream.read(min(count, _PIECE))):
            parts.append(part)
            count -= len(part)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a broken gzip file ({error}).") from error
    return b"".join(parts)


def _opened(path: str | os.PathLike[str]) -> IO[bytes]:
    """The file, unpacked as it is read if it is gzipped."""
    file = file_path("path", path)
    if file.is_dir():
        raise ValueError(f"{path} is a folder; give the file in it.")
    if not file.exists():
        raise FileNotFoundError(f"there is no file {path}.")
    with file.open("rb") as stream:
        zipped = stream.read(2) == _GZIP
    return cast("IO[bytes]", gzip.open(file, "rb")) if zipped else file.open("rb")
