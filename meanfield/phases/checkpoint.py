"""Checkpoints of a sweep: files of finished points, each of which says what it belongs to and is checked when read."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from meanfield.archive import Arrays, Header, read_archive, write_archive
from meanfield.phases.kept import has_kept
from meanfield.phases.raster import TEXTS, PointArrays
from meanfield.theories.single_layer.compiled.sweep import CONVERGED, NUMBERS, STOPPED

__all__ = ["Checkpoint", "Piece"]

_KIND = "sweep chunk"
_SUM_TOLERANCE = 1e-6


class Piece(NamedTuple):
    """Consecutive points of a segment, raw as `raster.solve_segment` gives them."""

    segment: int
    first: int
    points: PointArrays


class Checkpoint:
    """A folder of pieces of one sweep.

    Parameters
    ----------
    folder : path
        Made if it does not exist; other files in it are left alone.
    key : str
        Fingerprint of problem, grid and code; files with another one are not read.
    sizes : sequence of int
        Number of points of each segment.
    shape : (int, int)
        (C, m).
    """

    def __init__(self, folder: Path, key: str, sizes: Sequence[int], shape: tuple[int, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.key, self.sizes, self.shape = folder, key, sizes, shape

    def write(self, pieces: Sequence[Piece]) -> None:
        """Write some pieces to one file, which is named after the first of them."""
        points = PointArrays.concatenate([piece.points for piece in pieces])
        where = np.array([(piece.segment, piece.first, len(piece.points)) for piece in pieces])
        arrays = {**points.arrays(), "pieces": where}
        header = {"fingerprint": self.key, "digest": _digest(arrays)}
        write_archive(self.folder / f"{self._stem}-{where[0, 0]:06d}-{where[0, 1]:06d}", _KIND, header, arrays)

    def read(self) -> dict[int, PointArrays]:
        """The points at the beginning of each segment that are known; others are named in warnings."""
        found: list[Piece] = []
        for path in sorted(self.folder.glob(f"{self._stem}-*.npz")):
            try:
                found += self._pieces(*read_archive(path, _KIND))
            except (ValueError, OSError) as error:
                warnings.warn(
                    f"the points in the checkpoint {path} are solved again: {error}", RuntimeWarning, stacklevel=3
                )
        known: dict[int, list[PointArrays]] = {}
        done = dict.fromkeys(range(len(self.sizes)), 0)
        for segment, first, points in sorted(found, key=lambda piece: piece[:2]):
            if first == done[segment]:
                known.setdefault(segment, []).append(points)
                done[segment] += len(points)
        return {segment: PointArrays.concatenate(parts) for segment, parts in known.items()}

    @property
    def _stem(self) -> str:
        return f"sweep-{self.key[:16]}"

    def _pieces(self, header: Header, arrays: Arrays) -> list[Piece]:
        if header.get("fingerprint") != self.key:
            raise ValueError("it belongs to another sweep, or another version of the code.")
        if header.get("digest") != _digest(arrays):
            raise ValueError("it was changed after it had been written.")
        where = arrays.pop("pieces", np.empty(0))
        if where.ndim != 2 or where.shape[1] != 3 or where.dtype.kind != "i" or where.min(initial=0) < 0:
            raise ValueError("it does not say which points it holds.")
        try:
            points = PointArrays(**arrays)
        except TypeError:
            raise ValueError("arrays are missing.") from None
        _check_points(points, self.shape)
        if len(points) != where[:, 2].sum():
            raise ValueError(f"it holds {len(points)} points where {where[:, 2].sum()} are announced.")
        pieces, start = [], 0
        for segment, first, size in where.tolist():
            if segment >= len(self.sizes) or size < 1 or first + size > self.sizes[segment]:
                raise ValueError("it holds points that the grid does not have.")
            part = {name: array[start : start + size] for name, array in points.arrays().items()}
            pieces.append(Piece(segment, first, PointArrays(**part)))
            start += size
        return pieces


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _check_points(points: PointArrays, task_shape: tuple[int, int]) -> None:
    """ValueError unless shapes agree and certified points have finite numbers and weights that sum to 1."""
    n = len(points.t)
    k, o, wide = (array.shape[1] for array in (points.weight, points.outlier_weight, points.covariance))
    m = task_shape[1]
    wanted = {
        "t": (n, *task_shape),
        "readout": (n, k, m),
        "weight": (n, k),
        "outlier_direction": (n, o, m),
        "outlier_weight": (n, o),
        "covariance": (n, wide, m, m),
        "gaussian_covariance": (n, m, m),
        "numbers": (n, len(NUMBERS)),
        **dict.fromkeys(TEXTS, (n,)),
        "kept": (n, 0 if points.kept is None else points.kept.shape[1]),
    }
    for name, array in points.arrays().items():
        if array.shape != wanted[name] or array.dtype.kind != ("U" if name in TEXTS else "f"):
            raise ValueError(f"{name} has shape {array.shape}, expected {wanted[name]}.")
    status, codes, outliers = (points.column(name) for name in ("status", "n_codes", "n_outliers"))
    if not (np.isin(status, range(STOPPED)) & (codes >= 0) & (codes <= k) & (outliers >= 0) & (outliers <= o)).all():
        raise ValueError("statuses or numbers of codes are impossible.")
    for i in np.flatnonzero(status == CONVERGED):
        weight = points.weight[i, : int(codes[i])]
        numbers = points.numbers[i] if not has_kept(points.packed, int(i)) else points.column("objective")[i]
        sound = np.isfinite(points.t[i]).all() and np.isfinite(numbers).all()
        sound = sound and np.isfinite(points.readout[i, : weight.size]).all()
        if weight.size:
            sound = sound and abs(weight.sum() - 1.0) <= _SUM_TOLERANCE and weight.min() >= -_SUM_TOLERANCE
        if not sound:
            raise ValueError(f"point {i} is called certified, but its numbers are not those of a solution.")
