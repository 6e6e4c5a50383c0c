"""Trajectories: columns, common probes, executors, and the figures."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from meanfield.geometry import glue, neural_collapse, spherical_manifolds, trajectory


def spheres(radius):
    return spherical_manifolds(4, 50, 20, 3, radius, seed=1)


RADII = [0.4, 0.8, 1.2]
QUICK = {"glue": {"n_probes": 60}}


def test_rows_are_the_single_analyses():
    path = trajectory({r: spheres(r) for r in RADII}, parameter_name="radius", options=QUICK, seed=2)
    assert path.parameter.tolist() == RADII
    for index, radius in enumerate(RADII):
        row = glue(spheres(radius), n_probes=60, seed=2).to_dict()
        assert {name: path[name][index] for name in path.columns} == row
    assert (np.diff(path["capacity"]) < 0).all()
    table = path.to_dict()
    assert next(iter(table)) == "radius"
    assert len(path) == 3
    assert str(path).splitlines()[0].split() == ["radius", *[c for c in path.columns if not c.endswith("_error")][:8]]
    with pytest.raises(KeyError, match="no column 'colour'"):
        path["colour"]


def spread(manifolds):
    return {"spread": float(np.mean([part.std() for part in manifolds]))}


def count(manifolds):
    return len(manifolds)


def test_measures_and_names():
    path = trajectory(
        (spheres(r) for r in RADII),
        parameter=["input", "hidden", "output"],
        parameter_name="layer",
        measures=[
            "glue", "replica", "simulated", "neural_collapse", "participation_ratio", "center_correlation",
            spread, count, neural_collapse,
        ],
        options={"glue": {"n_probes": 60}, "replica": {"n_probes": 60}, "simulated": {"n_draws": 10}},
        seed=3,
    )  # fmt: skip
    assert path.parameter.tolist() == ["input", "hidden", "output"]
    for name in ("capacity", "replica_capacity", "simulated_capacity", "neural_collapse_nc1", "participation_ratio"):
        assert np.isfinite(path[name]).all()
    assert (np.diff(path["spread"]) > 0).all()
    assert (path["count"] == 4).all()
    assert np.isnan(path["neural_collapse_nc3"]).all()
    assert trajectory([spheres(0.5)], measures=spread)["spread"].shape == (1,)


def test_executor_gives_the_same_table():
    alone = trajectory([spheres(r) for r in RADII], options=QUICK, seed=4)
    with ThreadPoolExecutor(2) as pool:
        shared = trajectory([spheres(r) for r in RADII], options=QUICK, seed=4, executor=pool)
    assert np.array_equal(alone.values, shared.values)


def test_more_representations_than_are_handed_out_at_once(monkeypatch):
    from meanfield.geometry import trajectories

    monkeypatch.setattr(trajectories, "PENDING", 2)
    with ThreadPoolExecutor(1) as pool:
        path = trajectory([spheres(r) for r in (0.3, 0.4, 0.5, 0.6, 0.7)], measures=spread, executor=pool)
    assert (np.diff(path["spread"]) > 0).all()


def test_common_labels_and_subsamples():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((40, 80))
    y = np.repeat(["a", "b", "c", "d"], 10)
    path = trajectory([X, X, 2 * X], y=y, n_points=5, options=QUICK, seed=6)
    assert path["n_points"].tolist() == [20, 20, 20]
    assert path["capacity"][0] == path["capacity"][1]  # the same points, the same probes
    assert path.names == ("a", "b", "c", "d")
    assert trajectory([X], y=y, options=QUICK, seed=np.random.default_rng(7)).options["seed"] > 0
    unseeded = trajectory([X, X], y=y, n_points=5, options=QUICK)
    assert unseeded["capacity"][0] == unseeded["capacity"][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measures": "entropy"}, "measure 'entropy' is not known"),
        ({"measures": []}, "no measures"),
        ({"options": {"replica": {}}}, r"options are given for \['replica'\]"),
        ({"parameter": [1, 2]}, r"parameter has shape \(2,\) for 1 representations"),
        ({"n_points": 3}, "n_points needs the labels"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        trajectory([spheres(0.5)], **options)
    with pytest.raises(ValueError, match="there are no representations"):
        trajectory([])


def test_progress_bar_where_asked(capsys):
    pytest.importorskip("tqdm", reason="the progress bar is drawn by tqdm, an optional extra")
    trajectory([spheres(0.5)], measures=spread, progress=True)
    assert "geometry" in capsys.readouterr().err
    trajectory([spheres(0.5)], measures=spread)
    assert capsys.readouterr().err == ""
