"""Forged archives of deep networks are refused: every array and the objective, at P = infinity and at finite P."""

import json

import numpy as np
import pytest

import meanfield as mf

CASES = {
    "saturated": (mf.Network("sigmoid", depth=2), mf.class_task(n_classes=2, off=0.3)),
    "reduced": (mf.Network("sigmoid", depth=2, readout_exponent=0.5), mf.class_task(n_classes=2, off=0.3)),
    "finite": (mf.Network("sigmoid", depth=2), mf.class_task(n_classes=2, off=0.3, n_samples=60)),
    "rectifiers": (mf.Network("relu", depth=2), mf.class_task(n_classes=2, off=-1.0, n_samples=100)),
    "rectifiers at a width": (mf.Network("relu", depth=2), mf.class_task(n_classes=2, off=-1.0, n_samples=100)),
    "mirrored classes": (mf.Network("tanh", depth=2), mf.class_task(targets=[[1.0], [0.0], [-1.0]], n_samples=60)),
}


@pytest.fixture(scope="module", params=CASES)
def written(request, tmp_path_factory):
    network, task = CASES[request.param]
    width = {"width": 3e4} if "width" in request.param else {}
    path = mf.solve(network, task, 0.1, **width).save(tmp_path_factory.mktemp("deep") / "whole.npz")
    with np.load(path) as file:
        return request.param, path, {name: file[name] for name in file.files}


def loaded(path, arrays):
    forged = path.with_name("forged.npz")
    np.savez(forged, **arrays)
    return mf.load(forged)


def test_whole_files_are_read(written):
    _, path, arrays = written
    assert loaded(path, arrays).objective == mf.load(path).objective


def test_forged_arrays_are_refused(written):
    _, path, arrays = written
    accepted = []
    for name, array in arrays.items():
        if name == "header" or not array.size:
            continue
        changes = {"nan": array * np.nan, "text": array.astype(str), "complex": array + 0j}
        if np.isfinite(array).all():  # barriers at N = infinity are not
            changes["moved"] = array + 1e-3 * np.arange(1, array.size + 1).reshape(array.shape)
        for change, value in changes.items():
            try:
                loaded(path, arrays | {name: value})
            except ValueError:
                continue
            accepted.append((name, change))
    assert accepted == []


@pytest.mark.parametrize("change", [{"free_energy": -1.0}, {"patterns": [None]}, {"patterns": ["10", "x1", "11"]}])
def test_forged_headers_are_refused(written, change):
    case, path, arrays = written
    if case == "reduced" and "free_energy" in change:
        return  # of the reduced problem only the conditions are recomputed
    header = json.loads(str(arrays["header"]))
    header["solution"] |= change
    with pytest.raises(ValueError, match="is not a valid posterior"):
        loaded(path, arrays | {"header": np.array(json.dumps(header))})
