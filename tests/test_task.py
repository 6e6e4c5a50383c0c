"""Class tasks: what is built, what is refused and in which words."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from meanfield.phases.diagram import sweep
from meanfield.problem.class_task import ClassTask, class_task
from meanfield.problem.network import Network

FRACTIONS = [0.5, 0.25, 0.25]


def test_one_hot_targets_are_on_on_the_diagonal():
    task = class_task(FRACTIONS, on=2.0, off=-0.5)
    assert np.array_equal(task.targets, [[2, -0.5, -0.5], [-0.5, 2, -0.5], [-0.5, -0.5, 2]])
    assert (task.n_classes, task.n_outputs, task.n_samples) == (3, 3, math.inf)
    assert task.is_one_hot
    assert task.class_names == ("1", "2", "3")


def test_vector_of_targets_means_one_output():
    task = class_task(targets=[1, -1], n_samples=50)
    assert task.targets.shape == (2, 1)
    assert np.array_equal(task.fractions, [0.5, 0.5])
    assert task.n_samples == 50
    assert not task.is_one_hot


def test_equal_fractions_sum_to_one_exactly_enough():
    for count in range(2, 30):
        assert abs(class_task(n_classes=count).fractions.sum() - 1) < 1e-15 * count


def test_rounded_fractions_are_normalised_and_wrong_ones_are_not():
    assert abs(class_task([0.333333333, 0.333333333, 0.333333333]).fractions.sum() - 1) < 1e-15
    with pytest.raises(ValueError, match=r"sum to 0\.9999; divide"):
        class_task([0.3333, 0.3333, 0.3333])


def test_arrays_are_copies_that_cannot_be_written():
    fractions = np.array(FRACTIONS)
    task = class_task(fractions)
    fractions[0] = 9
    assert task.fractions[0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        task.targets[0, 0] = 3
    with pytest.raises(AttributeError):
        task.n_samples = 3


def test_with_replaces_and_keeps_the_rest():
    task = class_task(FRACTIONS, off=0.2, n_samples=300)
    assert task.with_(off=0.7) == class_task(FRACTIONS, off=0.7, n_samples=300)
    assert task.with_(n_samples=math.inf).off == 0.2
    assert task.with_(fractions=[0.5, 0.5]) == class_task([0.5, 0.5], off=0.2, n_samples=300)
    assert task.with_(targets=[1, 0, 0]).targets.shape == (3, 1)
    assert task.with_() == task
    assert hash(task.with_()) == hash(task)
    assert task != task.with_(off=0.3)


def test_dict_round_trip():
    task = class_task(FRACTIONS, off=1 / 3, n_samples=math.inf, class_names=("a", "b", "c"))
    assert ClassTask.from_dict(task.to_dict()) == task


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "number of classes is unknown"),
        ({"n_classes": 1}, "at least two classes, got 1"),
        ({"n_classes": 2.0}, "n_classes must be an integer >= 2"),
        ({"n_classes": 4, "fractions": FRACTIONS}, "n_classes = 4, but fractions has 3"),
        ({"fractions": [1.0]}, "at least two classes"),
        ({"fractions": []}, "fractions is empty"),
        ({"fractions": [[0.5, 0.5]]}, r"shape \(C,\).*got shape \(1, 2\)"),
        ({"fractions": [0.5, 0.4]}, r"sum to 0\.9; divide"),
        ({"fractions": [1.5, -0.5]}, "positive, got -0.5 for class 2"),
        ({"fractions": [0.5, 0.5, 0.0]}, "positive, got 0 for class 3"),
        ({"fractions": [0.5, math.nan]}, "finite.*nan, at index 1"),
        ({"fractions": [0.5, 0.5j]}, "real numbers"),
        ({"fractions": "ab"}, "real numbers"),
        ({"targets": [[1, 2], [1]]}, "equally long rows"),
        ({"targets": [[1, math.inf], [0, 0]]}, r"finite.*inf, at index \(0, 1\)"),
        ({"targets": [1, 1]}, r"same target \[1\]"),
        ({"targets": [[1, 0], [1, 0]]}, r"same target \[1, 0\]"),
        ({"targets": 3.0}, "at least two classes, got 1"),
        ({"targets": [1, 0, 0], "fractions": [0.5, 0.5]}, r"\(C, m\) = \(2, m\).*got shape \(3,\)"),
        ({"targets": [1, 0], "on": 1.0}, "not both"),
        ({"n_classes": 3, "off": 1.0}, "on and off are both 1"),
        ({"n_classes": 3, "off": math.nan}, "off must be a real number, got nan"),
        ({"n_classes": 3, "on": "one"}, "on must be a real number, got 'one'"),
        ({"n_classes": 3, "n_samples": 2}, "smaller than the number of classes 3"),
        ({"fractions": [0.1, 0.9], "n_samples": 9}, r"n_samples = 9 leaves 0\.9 for class 1; give more samples"),
        ({"n_classes": 3, "n_samples": 0}, "n_samples must be a real number >= 1 or math.inf, got 0"),
        ({"n_classes": 3, "n_samples": math.nan}, "n_samples must be"),
        ({"n_classes": 3, "n_samples": True}, "n_samples must be"),
        ({"n_classes": 3, "class_names": ("a", "b")}, "3 different names"),
        ({"n_classes": 3, "class_names": ("a", "b", "b")}, "3 different names"),
    ],
)
def test_bad_input_is_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        class_task(**arguments)


def test_a_class_of_less_than_one_sample_is_refused_at_every_door():
    """exp(n g) is an average over n samples, of n <= 1 one over none or one: no network has such a class."""
    task = class_task([0.1, 0.9], targets=[1, -1], n_samples=10)  # one sample, up to rounding
    assert class_task(np.full(49, 1 / 49), targets=np.eye(49), n_samples=49).n_samples == 49
    refused = {"match": r"leaves 0\.\d+ for class 1"}
    with pytest.raises(ValueError, **refused):
        task.with_(n_samples=9.9)
    with pytest.raises(ValueError, **refused):
        ClassTask.from_dict(task.to_dict() | {"fractions": [0.09, 0.91]})  # as files hold it
    for network in (Network("sigmoid"), Network("linear"), Network("sigmoid", 2)):
        with pytest.raises(ValueError, **refused):
            sweep(network, task, n_samples=[9, 20], tau=[0.1])
        with pytest.raises(ValueError, **refused):
            sweep(network, task, fractions=[[0.05, 0.95], [0.5, 0.5]])
        with pytest.raises(ValueError, **refused):
            sweep(network, task, fraction_1=[0.05, 0.5])


def test_on_and_off_must_agree_with_targets():
    with pytest.raises(ValueError, match="contradict the targets"):
        ClassTask(np.array([0.5, 0.5]), np.array([[1.0, 0.0], [0.0, 1.0]]), on=1.0, off=0.5)
    with pytest.raises(ValueError, match="give both or neither"):
        ClassTask(np.array([0.5, 0.5]), np.array([[1.0, 0.0], [0.0, 1.0]]), on=1.0)


def test_on_and_off_of_general_targets_cannot_be_changed():
    with pytest.raises(ValueError, match="only be changed for one-hot targets"):
        class_task(targets=[1, -1]).with_(off=0.3)
    with pytest.raises(ValueError, match="no parameter 'of'; it has fractions, targets"):
        class_task(targets=[1, -1]).with_(of=0.3)


@given(
    hnp.arrays(np.float64, st.integers(2, 6), elements=st.floats(0.05, 1)),
    st.floats(-2, 2),
    st.floats(-2, 2).filter(lambda off: abs(off) > 1e-3),
    st.floats(200, 1e6),  # more than one sample in a class of .05 / 5.05
)
def test_any_good_task_survives_a_round_trip(weights, on, gap, n_samples):
    task = class_task(weights / weights.sum(), on=on, off=on - gap, n_samples=n_samples)
    assert ClassTask.from_dict(task.to_dict()) == task == task.with_(on=on)
    assert task.fractions.sum() == pytest.approx(1, abs=1e-14)
    assert np.ptp(task.targets) == pytest.approx(abs(gap), rel=1e-9)
