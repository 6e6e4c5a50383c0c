"""``meanfield geometry``: features and labels in, table, result and figure out."""

import argparse

import numpy as np
import pytest

from meanfield.cli import geometry as cli
from meanfield.geometry import glue, load


def call(*arguments):
    parser = argparse.ArgumentParser(prog="meanfield")
    cli.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["geometry", *map(str, arguments)])
    return args.run(args)


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((3, 1, 4, 6))
    X = (centers + 0.5 * rng.standard_normal((3, 10, 4, 6))).reshape(30, 4, 6)
    path = tmp_path / "features.npz"
    np.savez(path, X=X, y=np.repeat(["a", "b", "c"], 10), other=np.arange(30))
    return path


def test_table_result_and_figure(file, tmp_path, capsys):
    output, figure = tmp_path / "result.npz", tmp_path / "figure.png"
    options = ("--replica", "--simulate", "--collapse", "--probes", 60, "--seed", 3)
    assert call(file, *options, "--output", output, "--figure", figure) == 0
    text = capsys.readouterr().out
    for word in ("capacity", "replica theory", "simulated", "neural collapse", "written to"):
        assert word in text
    result = load(output)
    with np.load(file) as archive:
        data = dict(archive)
    assert result.capacity == glue((data["X"].reshape(30, -1), data["y"]), n_probes=60, seed=3).capacity
    assert result.names == ("a", "b", "c")
    assert figure.stat().st_size > 10_000


def test_options(file, capsys):
    assert call(file, "--points", 5, "--pairwise", "--center", "--probes", 60, "--threads", 2, "--labels", "y") == 0
    assert "n_points" in capsys.readouterr().out


def test_bad_files(file, tmp_path):
    with pytest.raises(ValueError, match="has no array z for the features; it holds X, y, other"):
        call(file, "--features", "z")
    with pytest.raises(ValueError, match="does not exist"):
        call(tmp_path / "none.npz")
    text = tmp_path / "text.npz"
    text.write_text("hello")
    with pytest.raises(ValueError, match="is no npz file"):
        call(text)
    array = tmp_path / "array.npy"
    np.save(array, np.ones(3))
    with pytest.raises(ValueError, match="is no npz file"):
        call(array)
    np.savez(tmp_path / "unlabelled.npz", X=np.ones((3, 2)))
    with pytest.raises(ValueError, match="no array y or labels or targets or target for the labels"):
        call(tmp_path / "unlabelled.npz")
