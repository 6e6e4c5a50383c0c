"""Sweeps that are interrupted, killed, shared, or given damaged checkpoints; points that fail; kernels that stop."""

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import killed_sweeps
import numpy as np
import pytest
from killed_sweeps import killed_and_resumed, same_bits

import meanfield as mf
from meanfield.numerics.jit import cache_directory
from meanfield.phases import raster
from meanfield.phases import work as phase
from meanfield.theories.single_layer import limit as codes

SIGMOID = mf.Network("sigmoid")
TASK = mf.class_task(fractions=(0.5, 0.25, 0.25))
FINITE = mf.class_task(n_classes=2, n_samples=40)
AXES = {"off": np.linspace(0, 0.5, 6), "sigma_a": [0.8, 1.0, 1.2]}


@pytest.fixture
def small_steps(monkeypatch):
    """Segments of two rows; every point is a slice of its own, and every slice is written at once."""
    monkeypatch.setattr(phase, "segment_size", lambda problem: 6)
    monkeypatch.setattr(phase, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(phase, "_SLICE", 0.0)
    monkeypatch.setattr(phase, "_POOL_SLICE", 0.0)
    monkeypatch.setattr(codes, "_SLICE", 0)


def assert_same_bits(one, other):
    assert one.points.arrays().keys() == other.points.arrays().keys()
    for name, array in one.points.arrays().items():
        np.testing.assert_array_equal(array, other.points.arrays()[name], err_msg=name)


@pytest.fixture(params=["limit", "finite", "linear"])
def problem(request):
    if request.param == "linear":
        return mf.Network("linear"), FINITE
    return SIGMOID, TASK if request.param == "limit" else FINITE


class Interrupted(Exception):
    pass


def stopping_after(monkeypatch, calls, error):
    """Let `calls` slices pass, then raise."""
    original, seen = phase.solve_segment, []

    def solve_segment(*job):
        if len(seen) == calls:
            raise error
        seen.append(None)
        return original(*job)

    monkeypatch.setattr(phase, "solve_segment", solve_segment)
    return seen


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("pool", [False, True], ids=["here", "pool"])
def test_a_resumed_sweep_has_the_same_bits(problem, pool, error, small_steps, tmp_path, monkeypatch):
    axes = AXES if problem[1] == TASK else {"off": AXES["off"]}
    with monkeypatch.context() as patch:
        patch.setattr(phase, "_SLICE", 1e9)
        patch.setattr(codes, "_SLICE", 10**9)
        whole = mf.sweep(*problem, **axes)
    with monkeypatch.context() as patch:
        stopping_after(patch, 4, error)
        with ThreadPoolExecutor(2) as executor, pytest.raises(error):
            mf.sweep(*problem, executor=executor if pool else None, checkpoint=tmp_path, **axes)
    kept = len(list(tmp_path.iterdir()))
    assert kept == 4 if not pool else 1 <= kept <= 4
    with ThreadPoolExecutor(2) as executor:
        again = mf.sweep(*problem, executor=executor if pool else None, checkpoint=tmp_path, **axes)
    assert_same_bits(again, whole)
    stopping_after(monkeypatch, 0, AssertionError)
    assert_same_bits(mf.sweep(*problem, checkpoint=tmp_path, **axes), whole)  # nothing is left to solve


_KILLED = """
import os, signal, sys
import numpy as np
import meanfield as mf
from meanfield.phases import work as phase
from meanfield.phases.checkpoint import Checkpoint
phase._SAVE_EVERY = phase._SLICE = 0.0
write, count = Checkpoint.write, []
def killing(self, pieces):
    write(self, pieces)
    count.append(None)
    if len(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoint.write = killing
mf.sweep(mf.Network("sigmoid"), mf.class_task(n_classes=2, n_samples=40),
         off=np.linspace(0, 0.5, 6), checkpoint=sys.argv[1])
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The sweep of killed_sweeps.py by a process that finds all code compiled."""
    killed_sweeps.elsewhere(tmp_path_factory.mktemp("first"))
    return killed_sweeps.elsewhere(tmp_path_factory.mktemp("second"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_sweep_goes_on_from_its_checkpoint(tmp_path):
    environment = os.environ | {"MEANFIELD_CACHE_DIR": str(cache_directory())}
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    written = sorted(tmp_path.glob("*.npz"))
    assert len(written) == 3
    before = [path.read_bytes() for path in written]
    found = mf.sweep(SIGMOID, FINITE, off=np.linspace(0, 0.5, 6), checkpoint=tmp_path)
    assert [path.read_bytes() for path in written] == before  # what was there is kept as it was
    whole = mf.sweep(SIGMOID, FINITE, off=np.linspace(0, 0.5, 6))
    # Not to the bit where this process has compiled the code itself (killed_sweeps.py); the next test is.
    np.testing.assert_allclose(found.points.arrays()["t"], whole.points.arrays()["t"], rtol=1e-10)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("pool", [False, True], ids=["here", "pool"])
def test_sweeps_killed_at_random_moments_resume_with_the_same_bits(pool, undisturbed, tmp_path):
    again, files = killed_and_resumed(tmp_path, 2, pool, seed=1)
    assert files[-1] > 0
    assert same_bits(again, undisturbed)


def rewritten(path, change, header_change=None, *, sign=True):
    """The file with some arrays changed, by someone who can also write the digest that belongs to them."""
    from meanfield.phases.checkpoint import _digest

    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    header = json.loads(str(arrays.pop("header")))
    arrays = change(arrays) or arrays
    if sign:
        header["digest"] = _digest(arrays)
    header |= header_change or {}
    np.savez(path, header=np.array(json.dumps(header)), **arrays)


def scaled(arrays, name, factor):
    arrays[name] *= factor


DAMAGE = {
    "weights x 3": (lambda a: scaled(a, "weight", 3.0), {}, "not those of a solution"),
    "nan": (lambda a: scaled(a, "t", np.nan), {}, "not those of a solution"),
    "too few points": (
        lambda a: {name: x if name == "pieces" else x[:-1] for name, x in a.items()}, {}, "points where",
    ),
    "other shape": (lambda a: a | {"t": a["t"][:, :2]}, {}, "t has shape"),
    "no array": (lambda a: {name: x for name, x in a.items() if name != "t"}, {}, "arrays are missing"),
    "beyond the grid": (lambda a: a | {"pieces": a["pieces"] + [[9, 0, 0]]}, {}, "the grid does not have"),
    "status": (lambda a: a | {"numbers": a["numbers"] - 1.0}, {}, "impossible"),
    "another sweep": (lambda a: None, {"fingerprint": "0" * 64}, "belongs to another sweep"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "header", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_pieces_are_solved_again(change, header, reason, small_steps, tmp_path):
    off = AXES["off"][:3]
    whole = mf.sweep(SIGMOID, TASK, off=off, checkpoint=tmp_path)
    rewritten(sorted(tmp_path.iterdir())[0], change, header)
    with pytest.warns(RuntimeWarning, match=f"are solved again: .*{reason}"):
        again = mf.sweep(SIGMOID, TASK, off=off, checkpoint=tmp_path)
    assert_same_bits(again, whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the damaged file has been replaced
        assert_same_bits(mf.sweep(SIGMOID, TASK, off=off, checkpoint=tmp_path), whole)


def test_changed_and_broken_files_are_noticed(small_steps, tmp_path):
    off = AXES["off"][:3]
    whole = mf.sweep(SIGMOID, TASK, off=off, checkpoint=tmp_path)
    first, second, _ = sorted(tmp_path.iterdir())
    rewritten(first, lambda a: scaled(a, "t", 1.0 + 1e-15), sign=False)
    second.write_bytes(b"not an archive")
    with pytest.warns(RuntimeWarning) as caught:
        again = mf.sweep(SIGMOID, TASK, off=off, checkpoint=tmp_path)
    said = " ".join(str(warning.message) for warning in caught)
    assert "changed after" in said
    assert "not a file written" in said
    assert_same_bits(again, whole)


@pytest.mark.parametrize(
    "other",
    [(mf.Network("tanh"), TASK), (SIGMOID, TASK.with_(on=2.0)), (mf.Network("sigmoid", sigma_w=1.1), TASK)],
    ids=["phi", "task", "scale"],
)
def test_another_sweep_in_the_same_folder_is_not_touched(other, small_steps, tmp_path):
    mf.sweep(SIGMOID, TASK, off=[0.1, 0.2], checkpoint=tmp_path)
    before = set(tmp_path.iterdir())
    there = mf.sweep(*other, off=[0.1, 0.2], checkpoint=tmp_path)
    assert before < set(tmp_path.iterdir())
    assert_same_bits(there, mf.sweep(*other, off=[0.1, 0.2]))


def test_the_name_of_a_file_is_no_folder(tmp_path):
    (tmp_path / "notes").write_text("")
    for name, said in (("points.npz", "folder of many files"), ("notes", "is a file")):
        with pytest.raises(ValueError, match=said):
            mf.sweep(SIGMOID, TASK, off=[0.1], checkpoint=tmp_path / name)
    (tmp_path / "old.npz").mkdir()  # as there may be
    assert mf.sweep(SIGMOID, TASK, off=[0.1], checkpoint=tmp_path / "old.npz").certified.all()
    assert len(list((tmp_path / "old.npz").iterdir())) == 1


# ---- points that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [IndexError("off by one"), np.linalg.LinAlgError("singular"), ValueError("NaN")])
@pytest.mark.parametrize("n_samples", [60.0, np.inf])
def test_a_point_that_fails_says_why_and_takes_no_other_with_it(error, n_samples, monkeypatch):
    if np.isinf(n_samples):
        original = codes.sweep.sweep_points

        def failing(tables, tasks, phi_range, parent, max_boxes, first, last, *rest):
            if first <= 1 < last:
                if first == 1:
                    raise error
                last = 1
            return original(tables, tasks, phi_range, parent, max_boxes, first, last, *rest)

        monkeypatch.setattr(codes.sweep, "sweep_points", failing)
    else:
        original = raster.solve

        def failing(network, task, tau, **options):
            if task.off == 0.2:
                raise error
            return original(network, task, tau, **options)

        monkeypatch.setattr(raster, "solve", failing)
    diagram = mf.sweep(SIGMOID, TASK.with_(n_samples=n_samples), off=[0.1, 0.2, 0.3])
    assert diagram.certified.tolist() == [True, False, True]
    assert diagram.status.tolist() == ["optimal", "failed", "optimal"]
    assert diagram.messages[1] == f"{type(error).__name__}: {error}"
    assert np.isnan(diagram.objective[1])
    assert np.isinf(diagram.kkt_residual[1])
    assert np.isnan(diagram.weights(diagram.codes[0])[1])
    with pytest.raises(mf.ConvergenceError, match=f"failed.*{error}"):
        diagram.posterior(1)


def test_the_reason_of_a_failure_survives_the_file(monkeypatch, tmp_path):
    def failing(*problem, **options):
        raise mf.ConvergenceError("nothing was found")

    monkeypatch.setattr(raster, "solve", failing)
    diagram = mf.sweep(SIGMOID, TASK.with_(n_samples=60), off=[0.1, 0.2])
    again = mf.PhaseDiagram.load(diagram.save(tmp_path / "diagram"))
    assert again.status.tolist() == ["not converged"] * 2
    assert again.messages.tolist() == ["nothing was found"] * 2


# ---- many classes: budgets and interrupts --------------------------------------------------------------------------

# No two classes are alike, so none can be divided out.
UNEQUAL = np.linspace(1.0, 2.0, 24) / np.linspace(1.0, 2.0, 24).sum()


def test_a_time_limit_ends_in_words():
    many = mf.class_task(UNEQUAL)
    with pytest.raises(mf.ConvergenceError, match=r"the time limit was reached.*max_seconds") as caught:
        mf.solve(SIGMOID, many, max_seconds=0.2)
    assert caught.value.result.status == "stopped"
    assert caught.value.result.task == many
    assert not caught.value.result.certificate.global_check


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, "long"])
def test_time_limits_are_checked(bad):
    with pytest.raises(ValueError, match="max_seconds must be"):
        mf.solve(SIGMOID, TASK, max_seconds=bad)


@pytest.mark.parametrize("run", [mf.solve, lambda network, task: mf.sweep(network, task, off=[0.0, 0.1])])
def test_many_classes_can_be_interrupted(run, monkeypatch):
    """The signal comes while compiled code runs; without the stop word this task runs for many minutes."""
    from meanfield.numerics import limits

    begun = threading.Event()
    monkeypatch.setattr(limits, "_running", _Noting(begun))

    def press():
        begun.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(SIGMOID, mf.class_task(UNEQUAL))
    assert begun.is_set()


class _Noting(dict):
    """Says when the first call in a thread is registered."""

    def __init__(self, begun):
        super().__init__()
        self.begun = begun

    def __setitem__(self, key, stop):
        super().__setitem__(key, stop)
        self.begun.set()


def test_slices_and_threads_do_not_change_a_solution(monkeypatch):
    whole = mf.solve(SIGMOID, TASK)
    monkeypatch.setattr(codes, "_LONG", 1)  # every point goes to a thread
    alone = mf.solve(SIGMOID, TASK)
    assert alone.objective == whole.objective
    np.testing.assert_array_equal(alone.solution.t, whole.solution.t)
    np.testing.assert_array_equal(alone.solution.weight, whole.solution.weight)
