"""Posteriors on paper and on disk: tables, names, files."""

import math

import numpy as np
import pytest

from meanfield.archive import read_archive, write_archive
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior


@pytest.mark.parametrize("name", ["redundant", "sparse", "analog", "finite"])
def test_save_and_load(request, tmp_path, name):
    post = request.getfixturevalue(name)
    path = post.save(tmp_path / "posterior")
    assert path.name == "posterior.npz"
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.npz"]
    back = SingleNeuronPosterior.load(path)
    assert (back.network, back.task, back.tau) == (post.network, post.task, post.tau)
    assert (back.certificate, back.status, back.objective) == (post.certificate, post.status, post.objective)
    assert repr(back) == repr(post)
    assert back.table() == post.table()
    for key, value in post.order_parameters.items():
        assert np.array_equal(back.order_parameters[key], value)


def test_loading_something_else_is_refused(tmp_path):
    other = write_archive(tmp_path / "other.npz", "phase diagram", {}, {"x": np.zeros(2)})
    with pytest.raises(ValueError, match="holds a phase diagram, expected a posterior"):
        SingleNeuronPosterior.load(other)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(ValueError, match="not a file written by meanfield"):
        SingleNeuronPosterior.load(tmp_path / "junk.npz")
    with pytest.raises(FileNotFoundError):
        SingleNeuronPosterior.load(tmp_path / "nowhere.npz")


def test_objects_are_never_pickled(tmp_path):
    with pytest.raises(ValueError, match="pickle"):
        write_archive(tmp_path / "bad", "posterior", {}, {"x": np.array([{}], dtype=object)})
    assert list(tmp_path.iterdir()) == []
    path = write_archive(tmp_path / "good", "posterior", {"big": math.inf}, {})
    assert read_archive(path, "posterior") == ({"big": math.inf}, {})


def test_table_of_codes(redundant):
    text = redundant.table()
    assert "redundant coding: sigmoid, 3 classes (0.5, 0.25, 0.25), one-hot on 1, off 0.5" in text
    assert "0-1-1   0.331569 |   -0.3275   1.6126   1.6126 |    0.1996   0.9412   0.9412" in text
    assert "min J = -3.754332057" in text
    assert "no better readout exists (100 boxes), weights unique" in text
    assert max(map(len, text.splitlines())) <= 120


def test_tables_of_the_other_schemes(sparse, analog):
    assert "outlier 1-0-0   0.591951 |    0.7596  -0.0865  -0.0865 |    1.0881   0.0000   0.0000" in sparse.table()
    assert sparse.table().count("bulk ") == 1
    assert "readouts ~ N(0, U)" in analog.table()


def test_reprs_are_short(redundant, sparse, analog):
    assert repr(redundant).startswith("<SingleNeuronPosterior: redundant, 4 codes 0-1-1 (0.332), 1-1-0 (0.315)")
    assert "bulk and outliers 1-0-0 (0.592)" in repr(sparse)
    assert "Gaussian readouts of rank 3" in repr(analog)
    for post in (redundant, sparse, analog):
        assert len(repr(post)) < 160
        assert "samples" in repr(post.sample_neurons(10, rng=0))
    assert repr(redundant.codes[0]) == "Code(0-1-1, weight=0.331569, readout=(-0.3275, 1.6126, 1.6126))"


def test_order_parameters_are_named(redundant, sparse, analog):
    assert set(redundant.order_parameters) == {"t", "level", "readout", "weight"}
    assert set(sparse.order_parameters) >= {"outlier_direction", "outlier_weight"}
    assert set(analog.order_parameters) == {"t", "level", "covariance"}
