"""Files from elsewhere: damaged, forged or hostile archives are refused in words; those of earlier versions load."""

import dataclasses
import io
import json
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

import meanfield as mf
from meanfield.archive import read_archive, read_arrays, write_archive
from meanfield.phases.diagram import PhaseDiagram
from meanfield.posterior.data_posterior import DataPosterior
from meanfield.sampling.chains import Chains
from meanfield.theories.general_data.solution import GeneralSolution
from meanfield.theories.single_layer.posterior import SingleNeuronPosterior

FILES = Path(__file__).parent / "files"
READERS = {
    "posterior-sigmoid": SingleNeuronPosterior.load,
    "posterior-formula": SingleNeuronPosterior.load,
    "posterior-relu": SingleNeuronPosterior.load,
    "posterior-linear": SingleNeuronPosterior.load,
    "posterior-finite": SingleNeuronPosterior.load,
    "data-linear": DataPosterior.load,
    "data-lazy": DataPosterior.load,
    "data-general": DataPosterior.load,
    "diagram": PhaseDiagram.load,
    "chains": Chains.load,
    "geometry": mf.geometry.load,
}
POSTERIORS = [name for name in READERS if name.startswith("posterior")]
CODE = "__import__('os').mkdir('ran')"


def parts(name):
    with np.load(FILES / f"{name}.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    return json.loads(str(arrays.pop("header"))), arrays


def written(folder, header, arrays):
    path = folder / "file.npz"
    np.savez(path, header=np.array(header if isinstance(header, str) else json.dumps(header)), **arrays)
    return path


@pytest.mark.parametrize("name", READERS)
def test_files_of_the_first_version_load_and_are_written_again(name, tmp_path):
    found = READERS[name](FILES / f"{name}.npz")
    assert repr(READERS[name](found.save(tmp_path / "again"))) == repr(found)


def refused(name, path):
    with pytest.raises(ValueError, match=str(path)):
        READERS[name](path)


@pytest.mark.parametrize("name", READERS)
def test_every_missing_entry_is_named(name, tmp_path):
    header, arrays = parts(name)
    optional = {"labels", "on", "off"}
    later = [
        f.name for f in dataclasses.fields(GeneralSolution) if {f.default, f.default_factory} != {dataclasses.MISSING}
    ]
    optional |= {*later, *(f"solution_{key}" for key in later), "solution_targets"}
    for key in list(header):
        refused(name, written(tmp_path, {k: v for k, v in header.items() if k != key}, arrays))
        for inner in header[key] if isinstance(header[key], dict) and key not in ("settings",) else ():
            if inner not in optional:
                cut = {k: v for k, v in header[key].items() if k != inner}
                refused(name, written(tmp_path, header | {key: cut}, arrays))
    for key in arrays:
        if key not in optional:
            refused(name, written(tmp_path, header, {k: v for k, v in arrays.items() if k != key}))


@pytest.mark.parametrize("name", READERS)
def test_arrays_of_other_shapes_types_and_nan_are_refused(name, tmp_path):
    header, arrays = parts(name)
    for key, array in arrays.items():
        if key == "labels" or array.size == 0:
            continue
        refused(name, written(tmp_path, header, arrays | {key: np.full(array.shape, "text")}))
        if name != "geometry":  # whose arrays are pictures of the result, not bound to each other
            refused(name, written(tmp_path, header, arrays | {key: array[..., None]}))
            refused(name, written(tmp_path, header, arrays | {key: np.concatenate([array, array])}))
    for key in {"t", "solution_t", "residual", "weight", "readout"} & {k for k, a in arrays.items() if a.size}:
        for bad in (np.nan, np.inf):
            forged = arrays[key].copy()
            forged.flat[0] = bad
            refused(name, written(tmp_path, header, arrays | {key: forged}))


@pytest.mark.parametrize("name", [*POSTERIORS, "data-linear", "data-lazy", "data-general", "diagram"])
@pytest.mark.parametrize("factor", [1.3, -1.0, 0.0])
def test_forged_order_parameters_are_recognised(name, factor, tmp_path):
    header, arrays = parts(name)
    key = "t" if "t" in arrays else "solution_t"
    refused(name, written(tmp_path, header, arrays | {key: factor * arrays[key]}))


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize(
    "change",
    [
        {"objective": -12.0}, {"objective": "1"}, {"objective": None}, {"objective": float("nan")}, {"tau": -1.0},
        {"tau": float("inf")}, {"tau": 3.0}, {"n_samples": 7}, {"n_samples": True}, {"status": "perfect"},
        {"status": 1}, {"certificate": {}}, {"certificate": None}, {"notes": "abc"}, {"message": None}, {"more": 1},
        {"level": "0"},
    ],
)  # fmt: skip
def test_forged_headers_of_posteriors(name, change, tmp_path):
    header, arrays = parts(name)
    refused(name, written(tmp_path, header | {"solution": header["solution"] | change}, arrays))


@pytest.mark.parametrize("change", [{"kkt_residual": -1.0}, {"kkt_residual": 0.3}, {"kkt_residual": None},
    {"boxes": "9"},
                                    {"kkt_residual": float("nan")}, {"global_check": 1},
                                    {"unique": "yes"}])  # fmt: skip
def test_forged_certificates(change, tmp_path):
    header, arrays = parts("posterior-sigmoid")
    header["solution"]["certificate"] |= change
    refused("posterior-sigmoid", written(tmp_path, header, arrays))


@pytest.mark.parametrize(
    "change",
    [
        {"targets": [[1, 0, 0], [0, 1, 0]], "fractions": [0.5, 0.5]}, {"targets": "abc"}, {"fractions": [2, -1, 0]},
        {"fractions": None}, {"n_samples": "many"}, {"n_samples": 10**400}, {"labels": 3}, {"on": 5.0},
    ],
)  # fmt: skip
def test_forged_tasks(change, tmp_path):
    header, arrays = parts("posterior-sigmoid")
    refused("posterior-sigmoid", written(tmp_path, header | {"task": header["task"] | change}, arrays))


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 2}, {"depth": "1"}, {"depth": 10**400}, {"sigma_a": -1}, {"sigma_a": None}, {"sigma_w": 3.0},
        {"sigma_w": "1"}, {"scaling": "lazy"}, {"scaling": []}, {"activation": "tanh"},
            {"activation": {"name": "tanh"}},
        {"activation": {"name": "tanh", "parameters": {}}}, {"activation": {"name": "os", "parameters": {}}},
        {"activation": {"name": "tanh", "parameters": {"gain": 10**400}}},
        {"activation": {"name": "tanh", "parameters": [1]}},
    ],
)  # fmt: skip
def test_forged_networks(change, tmp_path):
    header, arrays = parts("posterior-sigmoid")
    refused("posterior-sigmoid", written(tmp_path, header | {"network": header["network"] | change}, arrays))


def test_forged_weights_energies_and_kernels(tmp_path):
    for name, key, value in [
        ("posterior-sigmoid", "weight", np.array([1.5, -0.5, 0.0, 0.0])),
        ("posterior-sigmoid", "weight", np.array([3.0, 0.0, 0.0, 0.0])),
        ("posterior-relu", "outlier_weight", -parts("posterior-relu")[1]["outlier_weight"]),
        ("posterior-relu", "outlier_direction", 2 * parts("posterior-relu")[1]["outlier_direction"]),
        ("posterior-finite", "covariance", -parts("posterior-finite")[1]["covariance"]),
        ("posterior-linear", "gaussian_covariance", 2 * parts("posterior-linear")[1]["gaussian_covariance"]),
        ("data-lazy", "solution_eigenvalues", 2 * parts("data-lazy")[1]["solution_eigenvalues"]),
        ("data-linear", "solution_learned", 2 * parts("data-linear")[1]["solution_learned"]),
        ("data-general", "solution_weight", 2 * parts("data-general")[1]["solution_weight"]),
        ("diagram", "weight", 2 * parts("diagram")[1]["weight"]),
        ("diagram", "axis_off", parts("diagram")[1]["axis_off"] + 0.1),
        ("chains", "energy", parts("chains")[1]["energy"] + 1.0),
        ("chains", "state_last", 2 * parts("chains")[1]["state_last"]),
    ]:
        header, arrays = parts(name)
        assert key in arrays, (name, key)
        refused(name, written(tmp_path, header, arrays | {key: value}))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "header", ["", "[]", "null", "{", "[" * 100_000, "1" * 5000, '{"format": 1, "version": 1}', '{"version": 1}',
               '{"format": "meanfield cake", "version": 1}'],
)  # fmt: skip
def test_headers_that_are_none(name, header, tmp_path):
    refused(name, written(tmp_path, header, parts(name)[1]))


@pytest.mark.parametrize("version", [0, 2, "1", True, None, [1], 10**30])
def test_other_versions(version, tmp_path):
    header, arrays = parts("posterior-sigmoid")
    with pytest.raises(ValueError, match="version"):
        SingleNeuronPosterior.load(written(tmp_path, header | {"version": version}, arrays))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(share, tmp_path):
    raw = (FILES / "posterior-sigmoid.npz").read_bytes()
    path = tmp_path / "file.npz"
    path.write_bytes(raw[: int(share * len(raw))])
    refused("posterior-sigmoid", path)


def test_flipped_bytes(tmp_path):
    raw = bytearray((FILES / "posterior-sigmoid.npz").read_bytes())
    path = tmp_path / "file.npz"
    for at in range(0, len(raw), 41):
        damaged = raw.copy()
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found = SingleNeuronPosterior.load(path)
        except ValueError as refusal:
            said = str(refusal)
            if str(path) not in said:
                pytest.fail(f"the message does not name the file: {said}")
        else:  # a byte of a time stamp or a comment
            assert repr(found) == repr(SingleNeuronPosterior.load(FILES / "posterior-sigmoid.npz"))


def npy(shape, dtype="<f8", data=b""):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "raw",
    [
        npy((10**12,)), npy((2**62, 2**62)), npy((-1,)), npy((1,), "|O", b"x" * 8), npy((), "<U1000000000"),
        npy((0, 2**60)), npy((1,), "<M8[s]", b"x" * 8), npy((1,) * 40, data=b"x" * 8), npy((2,), data=b"x" * 8),
        npy((True,), data=b"x" * 8), npy("x"), b"", b"\x93NUMPY\x09\x00", b"junk", npy((1,), "evil"),
        npy((1,))[:20], b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
    ],
)  # fmt: skip
def test_declared_shapes_are_checked_before_memory_is_taken(raw, tmp_path):
    path = tmp_path / "file.npz"
    header, _ = parts("posterior-sigmoid")
    text = io.BytesIO()
    np.save(text, np.array(json.dumps(header)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", text.getvalue())
        archive.writestr("t.npy", raw)
    refused("posterior-sigmoid", path)


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path):
    path = tmp_path / "file.npz"
    zeros = bytes(2**20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("t.npy", "w") as stream:
        stream.write(npy((2**24,)))
        for _ in range(128):
            stream.write(zeros)
    assert path.stat().st_size < 2**18
    with pytest.raises(ValueError, match="128 MiB, more than is read"):
        read_arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(1001):
            archive.writestr(f"{i}.npy", npy((0,)))
    with pytest.raises(ValueError, match="1001 members"):
        read_arrays(path)


def test_members_that_are_no_arrays(tmp_path):
    path = tmp_path / "file.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", npy((0,)))
        archive.writestr("../../evil.sh", b"x")
    with pytest.raises(ValueError, match="no array"):
        read_arrays(path)
    with pytest.raises(ValueError, match="is a folder"):
        read_arrays(tmp_path)
    with pytest.raises(ValueError, match="no ordinary file"):
        read_arrays("/dev/zero")  # a device that never ends
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "nowhere.npz")


ATTACKS = [
    f"Sum(z, (Symbol({CODE!r}), 1, 2))",
    f"Sum(Symbol('z', real=True), Tuple(Symbol({CODE!r}), Integer(1), Integer(2)))",
    f"Integral(z, (Symbol({CODE!r}), 0, 1)) + z",
    f"tanh(z) + Symbol({CODE!r})",
    f"Function({CODE!r})(z)",
    f"Lambda(Symbol({CODE!r}), z)",
    f"Add({CODE!r}, 1)",
    f"Float({CODE!r}, precision=53)",
    f"Float('1', precision={CODE})",
    f"Symbol('z', real={CODE})",
    f"IndexedBase({CODE!r})[1]",
    f"MatrixSymbol({CODE!r}, 1, 1)",
    f"sympify({CODE!r})",
    CODE,
    f"z if {CODE} else 1",
    f"[{CODE} for _ in (1,)][0]",
    f"(lambda: {CODE})()",
    f"f'{{{CODE}}}'",
    "().__class__.__base__.__subclasses__()",
    "9**9**9**9*z",
    "z**9**9**9",
    "2**10**10*z",
    "exp(exp(exp(exp(9))))*z",
    "gamma(10**9)*z",
    "floor(exp(600)*exp(600))*z",
    "(1+z+exp(z)+sin(z))**200",
    "9**9**9**z",
    "(" * 500 + "z" + ")" * 500,
    "-" * 9000 + "z",
    "z" + "+z" * 9000,
    "**".join(["2"] * 3000),
    "1" * 10_000,
]


@pytest.mark.parametrize("text", ATTACKS)
def test_no_text_of_a_file_is_executed_or_grows(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    phi = {"name": "mine", "parameters": {}, "symbol": "z", "expression": text}
    for name in ("posterior-sigmoid", "data-general", "diagram", "chains"):
        header, arrays = parts(name)
        harmless = text.startswith("Symbol('z'")  # the variable, whatever is said of it, and another network's file
        path = written(tmp_path, header | {"network": header["network"] | {"activation": phi}}, arrays)
        with pytest.raises(ValueError, match="file.npz" if harmless else "SymPy|it may|it has"):
            READERS[name](path)
    assert not Path("ran").exists()


def test_files_have_the_permissions_of_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        path = write_archive(tmp_path / "file", "posterior", {}, {"x": np.zeros(2)})
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["file.npz"]
    assert read_archive(path, "posterior")[1]["x"].shape == (2,)


def test_a_folder_is_no_file_to_write_to(tmp_path):
    with pytest.raises(IsADirectoryError, match="give the name of a file"):
        write_archive(tmp_path, "posterior", {}, {})
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_archive(tmp_path / "no" / "file", "posterior", {}, {})
    assert list(tmp_path.iterdir()) == []
