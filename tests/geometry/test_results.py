"""Result objects: tables, dicts, files; and what importing the package costs."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import meanfield.geometry as geometry
from meanfield.archive import write_archive
from meanfield.geometry.results import format_value


def clouds():
    return geometry.spherical_manifolds(4, 40, 15, 3, 0.8, seed=0)


def every_result():
    points = clouds()
    return [
        geometry.glue(dict(zip("abcd", points)), n_probes=60, seed=1),
        geometry.glue(points, n_probes=60, seed=1, pairwise=True),
        geometry.anchor_points(points, n_probes=60, seed=1),
        geometry.replica_capacity(points, n_probes=60, seed=1),
        geometry.simulated_capacity(points, n_draws=20, seed=1),
        geometry.remove_center_components(points, seed=1)[1],
        geometry.neural_collapse(points),
        geometry.trajectory([points, 2 * points], options={"glue": {"n_probes": 60}}, seed=1),
    ]


@pytest.mark.parametrize("index", range(8))
def test_save_and_load(index, tmp_path):
    result = every_result()[index]
    path = tmp_path / "result.npz"
    result.save(path)
    loaded = geometry.load(path)
    assert type(loaded) is type(result)
    for name, value in vars(result).items():
        again = getattr(loaded, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == again.dtype, name
            np.testing.assert_array_equal(value, again)
        elif isinstance(value, float) and np.isnan(value):
            assert np.isnan(again), name
        else:
            assert value == again, name
    assert str(loaded) == str(result)
    assert type(result).load(path).to_dict().keys() == result.to_dict().keys()


def test_load_refuses_other_files(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, X=np.ones(3))
    with pytest.raises(ValueError, match="not a file written by meanfield"):
        geometry.load(path)
    np.savez(path, header=np.array(json.dumps({"format": "meanfield geometry result", "version": 99})))
    with pytest.raises(ValueError, match="format version 99"):
        geometry.load(path)
    write_archive(path, "geometry result", {"class": "Unknown", "fields": {}}, {})
    with pytest.raises(ValueError, match="unknown kind of result: 'Unknown'"):
        geometry.load(path)
    geometry.neural_collapse(clouds()).save(path)
    with pytest.raises(ValueError, match="holds a NeuralCollapse, not a Glue"):
        geometry.Glue.load(path)


def test_dict_and_table_name_every_quantity():
    result = geometry.glue(clouds(), n_probes=60, seed=1)
    row = result.to_dict()
    assert row["capacity"] == result.capacity
    assert row["capacity_error"] == result.standard_error
    assert all(isinstance(value, float) for value in row.values())
    text = str(result)
    for name, _ in result.quantities:
        assert name in text
    assert "±" in repr(result)
    with pytest.raises(AttributeError):
        result.capacity = 1.0  # frozen


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.27254, 0.0045, "0.2725 ± 0.0045"),
        (12.3456, 0.5, "12.35 ± 0.50"),
        (1234.5, 20.0, "1234 ± 20"),
        (3.0, None, "3"),
        (np.nan, 0.1, "nan"),
        (2.0, 0.0, "2"),
    ],
)
def test_digits_follow_the_error(value, error, text):
    assert format_value(value, error) == text


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_import_is_light():
    done = run_python(
        "import sys, meanfield.geometry as g\n"
        "assert 'glue' in dir(g)\n"
        "heavy = {'numba', 'matplotlib', 'scipy', 'sympy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "g.glue, g.replica_capacity, g.trajectory, g.cka\n"
        "heavy = {'numba', 'matplotlib', 'sympy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert done.returncode == 0, done.stderr


def test_all_public_names_exist():
    assert all(callable(getattr(geometry, name)) for name in geometry.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = geometry.nothing


def test_without_compilation():
    done = run_python(
        "import meanfield.geometry as g\n"
        "r = g.glue(g.spherical_manifolds(3, 20, 6, 2, 0.8, seed=0), n_probes=50, seed=1)\n"
        "print(repr(r.capacity))\n",
        NUMBA_DISABLE_JIT="1",
    )
    assert done.returncode == 0, done.stderr
    compiled = geometry.glue(geometry.spherical_manifolds(3, 20, 6, 2, 0.8, seed=0), n_probes=50, seed=1).capacity
    assert float(done.stdout) == pytest.approx(compiled, rel=1e-10)
