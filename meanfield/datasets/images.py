"""A set of labelled images: choose classes, turn grey, split with balanced classes, make a task of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from meanfield.problem.data_task import DataTask, data_task
from meanfield.validation import (
    Rows,
    class_labels,
    class_name_tuple,
    generator,
    plain_array,
    short,
    whole_number,
)

__all__ = ["ImageSet"]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes.

    Parameters
    ----------
    images : (n, h, w) or (n, h, w, 3) array
        Pixels as they are in the source (uint8, or float).
    labels : (n,) array of str
        Name of the class of every image.
    class_names : tuple of str
        The classes in their order; sorted names by default.
    name : str
        Where the images come from.

    Raises
    ------
    ValueError
        For shapes that do not fit, and labels without a class name.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = field(default=())
    name: str = "images"

    def __post_init__(self) -> None:
        images, labels = plain_array("images", self.images), class_labels("labels", self.labels)[0].astype(str)
        if images.dtype.kind not in "biuf":
            raise ValueError(f"images must hold numbers, got an array of {images.dtype}.")
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
            raise ValueError(f"images must have shape (n, h, w) or (n, h, w, 3), got {images.shape}.")
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} images need labels of shape ({len(images)},), got {labels.shape}.")
        names = class_name_tuple(self.class_names) or tuple(np.unique(labels).tolist())
        unknown = sorted(set(np.unique(labels).tolist()) - set(names))
        if unknown:
            raise ValueError(f"labels {unknown} are not among the classes {names}.")
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "class_names", names)

    def __len__(self) -> int:
        return len(self.images)

    def classes(self, *wanted: str | int) -> ImageSet:
        """Only the images of some classes, given by name or by number (position in `class_names`).

        Raises
        ------
        ValueError
            For a class that is not there, and for none.
        """
        names = [self._name(value) for value in wanted]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"give different classes out of {', '.join(self.class_names)}, got {wanted}.")
        chosen = self._take(np.isin(self.labels, names))
        return replace(chosen, class_names=tuple(names))

    def gray(self) -> ImageSet:
        """Colour images as grey ones (luma 0.299 R + 0.587 G + 0.114 B); grey images are returned as they are."""
        return self if self.images.ndim == 3 else replace(self, images=self.images @ _LUMA)

    def split(self, n_train: int, n_test: int | None = None, *, rng: object = None) -> tuple[ImageSet, ImageSet]:
        """Random training and test images, equally many of every class (up to one), sorted by class.

        Parameters
        ----------
        n_train, n_test : int
            Numbers of images; all others are test images if `n_test` is left out.
        rng : None, int, SeedSequence or Generator

        Raises
        ------
        ValueError
            If a class has too few images, or a number is smaller than the number of classes.
        """
        draws = generator("rng", rng)
        train, test = [], []
        sizes = self._sizes("n_train", n_train)
        more = None if n_test is None else self._sizes("n_test", n_test)
        for c, name in enumerate(self.class_names):
            index = draws.permutation(np.flatnonzero(self.labels == name))
            needed = sizes[c] + (1 if more is None else more[c])
            if index.size < needed:
                raise ValueError(
                    f"class {name!r} has {index.size} images, but {sizes[c]} for training and "
                    f"{needed - sizes[c]} for testing are wanted; ask for fewer."
                )
            train.append(index[: sizes[c]])
            test.append(index[sizes[c] :] if more is None else index[sizes[c] : needed])
        return self._take(np.concatenate(train)), self._take(np.concatenate(test))

    def task(
        self, *, on: float = 1.0, off: float = 0.0, center: object = True, scale: object = "rms", targets: object = None
    ) -> DataTask:
        """The images as a training set; see `meanfield.data_task`.

        By default pixels are centred by their mean over the images and divided by one global scale, so that the
        kernel has diagonal sigma_w^2 on average. Apply ``task.transform`` to new images (predictors do it themselves).
        """
        given = {"center": center, "scale": scale, "labels": self.labels, "class_names": self.class_names}
        return data_task(self.images, targets, on=on, off=off, **given)

    def __repr__(self) -> str:
        count = ", ".join(f"{name}: {np.sum(self.labels == name)}" for name in self.class_names)
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"<{self.name}: {len(self)} images {shape} of {self.images.dtype}; {count}>"

    def _take(self, index: Rows) -> ImageSet:
        return replace(self, images=self.images[index], labels=self.labels[index])

    def _name(self, value: str | int) -> str:
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if (isinstance(value, str) or whole) and short(value).strip("'") in self.class_names:
            return str(value)
        if whole and 0 <= int(value) < len(self.class_names):
            return self.class_names[int(value)]
        raise ValueError(f"there is no class {short(value)} in {self.name}; there are {', '.join(self.class_names)}.")

    def _sizes(self, name: str, total: int) -> list[int]:
        count = len(self.class_names)
        total = whole_number(name, total, at_least=count)  # one image per class
        return [int(total) // count + (c < total % count) for c in range(count)]
