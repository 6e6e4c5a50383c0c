"""Images to try the theory on: from installed packages or from files of the user. Nothing is ever downloaded.

>>> from meanfield import datasets
>>> train, test = datasets.digits().classes(0, 1, 2).split(90, rng=0)
>>> train.task(off=0.5)
DataTask(P=90, 8x8 images, m=3, 3 classes (0, 1, 2))
"""

from meanfield.datasets.collections import cifar10, digits, fashion_mnist, mnist
from meanfield.datasets.formats import load_cifar, load_idx, load_npz
from meanfield.datasets.images import ImageSet

__all__ = ["ImageSet", "cifar10", "digits", "fashion_mnist", "load_cifar", "load_idx", "load_npz", "mnist"]
