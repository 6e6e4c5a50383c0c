"""The data task: shapes, classes, centring and scaling, duplicates, saving."""

import numpy as np
import pytest

import meanfield as mf
from meanfield.problem.data_task import DataTask

X = np.array([[0.0, 2.0], [1.0, 0.0], [3.0, 1.0], [0.0, 2.0]])


def test_labels_become_one_hot_targets_in_the_order_of_their_values():
    task = mf.data_task(X, labels=[8, 3, 5, 8], on=2.0, off=-1.0)
    assert task.class_names == ("3", "5", "8")
    assert task.labels.tolist() == [2, 0, 1, 2]
    np.testing.assert_array_equal(task.targets, [[-1, -1, 2], [2, -1, -1], [-1, 2, -1], [-1, -1, 2]])
    np.testing.assert_array_equal(task.class_targets, [[2, -1, -1], [-1, 2, -1], [-1, -1, 2]])
    assert (task.n_samples, task.n_inputs, task.n_outputs, task.n_classes) == (4, 2, 3, 3)


def test_strings_floats_and_own_names():
    assert mf.data_task(X, labels=["b", "a", "a", "b"]).class_names == ("a", "b")
    assert mf.data_task(X, labels=[1.0, 2.5, 1.0, 1.0]).class_names == ("1", "2.5")
    assert mf.data_task(X, labels=[7, 3, 3, 7], class_names=("three", "seven")).class_names == ("three", "seven")


def test_classes_are_the_distinct_rows_of_the_targets():
    task = mf.data_task(X, [[0, 1], [1, 0], [1, 0], [0, 1]])
    assert task.labels.tolist() == [1, 0, 0, 1]
    assert task.class_names == ("1", "2")
    signs = mf.data_task(X, [-1, 1, 1, -1])
    assert signs.class_names == ("1", "-1")
    assert signs.targets.shape == (4, 1)
    np.testing.assert_array_equal(signs.targets_of([-1, 1], 2), [[-1], [1]])
    regression = mf.data_task(X, [0.1, 0.2, 0.3, 0.4])
    assert regression.labels is None
    assert regression.n_classes == 0
    assert regression.class_targets is None


def test_targets_that_vary_within_a_class_are_kept():
    task = mf.data_task(X, [0.1, 0.2, 0.3, 0.4], labels=[0, 0, 1, 1])
    assert task.class_targets is None
    with pytest.raises(ValueError, match="vary within the classes"):
        task.targets_of(["0", "1"], 2)


@pytest.mark.parametrize("center", [False, True, np.array([1.0, -2.0])])
@pytest.mark.parametrize("scale", [None, "rms", 4.0])
def test_new_inputs_are_transformed_as_the_training_inputs(center, scale):
    task = mf.data_task(X, labels=[0, 1, 1, 0], center=center, scale=scale)
    np.testing.assert_allclose(task.transform(X), task.inputs, atol=1e-15)
    offset = X.mean(0) if center is True else np.zeros(2) if center is False else center
    factor = {None: 1.0, 4.0: 4.0}.get(scale) or np.sqrt(np.mean((X - offset) ** 2))
    np.testing.assert_allclose(task.inputs, (X - offset) / factor, atol=1e-15)


def test_images_are_flattened_and_remembered():
    images = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    task = mf.data_task(images, labels=[0, 1], scale=255.0)
    assert task.image_shape == (3, 4, 3)
    assert task.n_inputs == 36
    np.testing.assert_array_equal(task.transform(images), images.reshape(2, -1) / 255)
    assert "3x4x3 images" in repr(task)


def test_duplicates_are_allowed_and_contradictions_listed():
    assert mf.data_task(X, labels=[0, 1, 1, 0]).conflicts.shape == (0, 2)
    assert mf.data_task(X, labels=[0, 1, 1, 1]).conflicts.tolist() == [[0, 3]]


def test_features_hold_sigma_w_and_are_remembered():
    task = mf.data_task(X, labels=[0, 1, 1, 0])
    features = task.features(1.5)
    np.testing.assert_allclose(features.kernel, 1.5**2 * X @ X.T / 2, atol=1e-14)
    assert task.features(1.5) is features


def test_targets_of_new_samples():
    task = mf.data_task(X, labels=[3, 5, 5, 3])
    np.testing.assert_array_equal(task.targets_of([5, 3, 3], 3), [[0, 1], [1, 0], [1, 0]])
    np.testing.assert_array_equal(task.targets_of([[0.5, 1.0]], 1), [[0.5, 1.0]])
    with pytest.raises(ValueError, match="unknown class '4'"):
        task.targets_of([4, 3], 2)
    with pytest.raises(ValueError, match="2 labels for 3 samples"):
        task.targets_of([5, 3], 3)
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        task.targets_of([[0.5, 1.0]], 2)


def test_round_trip_through_arrays():
    task = mf.data_task(X.reshape(4, 1, 2), labels=["a", "b", "b", "a"], center=True, scale="rms", off=0.5)
    header, arrays = task.to_arrays()
    again = DataTask.from_arrays(header, arrays)
    for name in ("inputs", "targets", "labels", "center"):
        np.testing.assert_array_equal(getattr(again, name), getattr(task, name))
    assert (again.class_names, again.scale, again.image_shape) == (task.class_names, task.scale, task.image_shape)
    with pytest.raises(ValueError, match="read-only"):
        again.inputs[0, 0] = 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": X}, "give targets Y or labels"),
        ({"X": X[0], "labels": [0, 1]}, r"shape \(P, N_0\)"),
        ({"X": [[np.inf, 0.0]], "Y": [1.0]}, "finite"),
        ({"X": X, "Y": [1.0, 2.0]}, "P = 4"),
        ({"X": X, "labels": [0, 1]}, r"shape \(P,\) = \(4,\)"),
        ({"X": X, "labels": [1, 1, 1, 1]}, "all samples belong to class '1'"),
        ({"X": X, "labels": [0, 1, 1, np.nan]}, "NaN"),
        ({"X": X, "labels": [0, 1, 1, 0], "on": 1, "off": 1}, "all targets are equal"),
        ({"X": X, "labels": [0, 1, 1, 0], "class_names": ("a", "b", "c")}, "3 class names"),
        ({"X": X, "labels": [0, 1, 1, 0], "class_names": ("a", "a")}, "a name of its own"),
        ({"X": X, "labels": [0, 1, 1, 0], "scale": "max"}, "'rms'"),
        ({"X": X, "labels": [0, 1, 1, 0], "scale": -1.0}, "scale"),
        ({"X": X, "labels": [0, 1, 1, 0], "center": [1.0]}, "center must be"),
        ({"X": np.ones((2, 3)), "labels": [0, 1], "center": True, "scale": "rms"}, "root mean square"),
    ],
)
def test_bad_input_is_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        mf.data_task(**arguments)


def test_new_inputs_of_another_size_are_refused():
    with pytest.raises(ValueError, match="2 numbers per sample"):
        mf.data_task(X, labels=[0, 1, 1, 0]).transform(np.ones((3, 5)))


class Sparse:
    """What SciPy's sparse arrays have in common."""

    shape = (4, 2)

    def toarray(self):
        return X


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": np.ma.masked_array(X, X > 2), "labels": [0, 1, 1, 0]}, "1 masked entries"),
        ({"X": Sparse(), "labels": [0, 1, 1, 0]}, "toarray"),
        ({"X": np.array([[1, "2"]] * 4, dtype=object), "labels": [0, 1, 1, 0]}, "real numbers"),
        ({"X": X, "labels": ["a", "b", None, "a"]}, "labels are missing"),
        ({"X": X, "labels": np.array(["a", "b", np.nan, "a"], dtype=object)}, "labels are missing"),
        ({"X": X, "labels": np.array([1, 2, np.nan, 1], dtype=object)}, "labels are missing"),
    ],
)
def test_missing_and_hidden_values_are_no_data(arguments, message):
    with pytest.raises(ValueError, match=message):
        mf.data_task(**arguments)


def test_tables_of_several_types():
    mixed = np.array([[0.5, True], [1, False], [np.float32(2), True], [3, np.bool_(False)]], dtype=object)
    task = mf.data_task(mixed, labels=np.array([10, 9, 10, 9], dtype=object))
    np.testing.assert_array_equal(task.inputs, [[0.5, 1], [1, 0], [2, 1], [3, 0]])
    assert task.class_names == ("9", "10")  # by value, not by text


def test_a_constant_feature_is_not_made_into_data_by_rounding():
    constant = np.full((7, 3), 0.1)
    assert constant.mean(axis=0)[0] != 0.1
    with pytest.raises(ValueError, match=r"all \(centred\) inputs are 0"):
        mf.data_task(constant, labels=[0, 1, 0, 1, 0, 1, 0], center=True, scale="rms")
    varied = np.column_stack([np.arange(7.0), constant])
    task = mf.data_task(varied, labels=[0, 1, 0, 1, 0, 1, 0], center=True, scale="rms")
    assert np.all(task.inputs[:, 1:] == 0.0)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_the_scale_of_the_inputs_may_be_anything(size):
    task = mf.data_task(size * X, labels=[0, 1, 1, 0], center=True, scale="rms")
    np.testing.assert_allclose(task.inputs, mf.data_task(X, labels=[0, 1, 1, 0], center=True, scale="rms").inputs)


def test_integers_are_targets_or_labels_but_never_guessed():
    named = mf.data_task(X, [[1.0], [-1.0], [-1.0], [1.0]], labels=["a", "b", "b", "a"])
    np.testing.assert_array_equal(named.targets_of(np.array([1, -1]), 2), [[1.0], [-1.0]])
    np.testing.assert_array_equal(named.targets_of(["a", "b"], 2), [[1.0], [-1.0]])
    numbered = mf.data_task(X, [[1.0], [-1.0], [-1.0], [1.0]], labels=[0, 1, 1, 0])
    np.testing.assert_array_equal(numbered.targets_of([0, 1], 2), [[1.0], [-1.0]])
    swapped = mf.data_task(X, [[1.0], [0.0], [0.0], [1.0]], labels=[0, 1, 1, 0])
    with pytest.raises(ValueError, match="targets or labels"):
        swapped.targets_of([0, 1], 2)
    np.testing.assert_array_equal(swapped.targets_of(["0", "1"], 2), [[1.0], [0.0]])
    np.testing.assert_array_equal(swapped.targets_of([0.0, 1.0], 2), [[0.0], [1.0]])
