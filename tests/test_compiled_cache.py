"""The cache of compiled code where disks are damaged, full, or read-only, and where nobody has a home."""

import errno
import hashlib
import itertools
import os
import pickle
import pwd
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numba
import numpy as np
import pytest
from llvmlite.binding import Linkage

from meanfield.numerics import cache, claims
from meanfield.numerics.inside import Inside
from meanfield.numerics.jit import jit, jit_apart


def double(x):
    return x + x


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(cache, "_told", False)


def kept(folder):
    """A dispatcher of its own, as in a new process."""
    return cache.keep_on_disk(numba.njit(double), folder)


def hits(dispatcher):
    return sum(dispatcher.stats.cache_hits.values())


@pytest.fixture
def filled(tmp_path):
    """A folder with the code for integers."""
    folder = tmp_path / "new" / "folder"
    assert kept(folder)(2) == 4
    return folder


def test_code_is_found_again(filled):
    (path,) = filled.iterdir()
    again = kept(filled)
    assert again(3) == 6
    assert hits(again) == 1
    assert again(1.5) == 3.0  # another signature is another file
    assert len(list(filled.iterdir())) == 2
    assert kept(filled)(1.5) == 3.0
    again._cache.flush()
    assert not path.exists()


def with_digest(content):
    return hashlib.sha256(content).digest() + content


DAMAGE = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "one bit": lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
    "garbage": lambda data: b"\x80\x04garbage" * 1000,
    "no pickle": lambda data: with_digest(b"garbage"),
    "another function": lambda data: with_digest(pickle.dumps(("key", ()))),
    "a class that is gone": lambda data: with_digest(b"\x80\x04\x8c\x04gone\x8c\x05Class\x93."),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_compiled_again_and_replaced(filled, damage):
    (path,) = filled.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again = kept(filled)
    assert again(3) == 6
    assert hits(again) == 0
    assert list(filled.iterdir()) == [path]
    third = kept(filled)
    assert third(3) == 6
    assert hits(third) == 1


def test_directory_in_place_of_a_file(filled):
    (path,) = filled.iterdir()
    path.unlink()
    path.mkdir()
    with pytest.warns(RuntimeWarning, match="cannot write compiled code"):
        assert kept(filled)(3) == 6


def no_writing(monkeypatch, code):
    """Every write ends after some bytes with an error; permissions would not stop root."""
    original = Path.write_bytes

    def write_bytes(self, data):
        original(self, data[:100])
        raise OSError(code, "no writing today", str(self))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_cannot_be_written_is_used_and_said_once(filled, monkeypatch, code):
    no_writing(monkeypatch, code)
    again = kept(filled)
    assert again(3) == 6  # nothing is missing: nothing to say
    assert hits(again) == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert again(1.5) == 3.0
        assert kept(filled)(2.5) == 5.0
        assert kept(filled)(1j) == 2j
    (warning,) = caught
    assert warning.category is RuntimeWarning
    for words in (str(filled), "no writing today", "every new process", "minutes", "MEANFIELD_CACHE_DIR"):
        assert words in str(warning.message)
    assert len(list(filled.iterdir())) == 1  # nothing half-written is left


def test_interrupted_writing_leaves_nothing(filled, monkeypatch):
    def write_bytes(self, data):
        self.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(KeyboardInterrupt):
        kept(filled)(1.5)
    assert len(list(filled.iterdir())) == 1


def test_nobody_has_a_home(monkeypatch):
    for name in ("MEANFIELD_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def getpwuid(_):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    assert cache.cache_home() is None
    monkeypatch.setenv("MEANFIELD_CACHE_DIR", "~/cache")
    assert cache.cache_home() is None
    with pytest.warns(RuntimeWarning, match="no home directory"):
        assert kept(None)(3) == 6
    assert kept(None)(1.5) == 3.0


def test_where_the_cache_is(monkeypatch, tmp_path):
    for name in ("MEANFIELD_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # as good as not set
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_home() == tmp_path / ".cache" / "meanfield"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_home() == tmp_path / "xdg" / "meanfield"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    assert cache.cache_home() == tmp_path / "numba"
    monkeypatch.setenv("MEANFIELD_CACHE_DIR", "~/own")
    assert cache.cache_home() == tmp_path / "own"
    monkeypatch.setenv("MEANFIELD_CACHE_DIR", "here")
    monkeypatch.chdir(tmp_path)
    assert cache.cache_home() == tmp_path / "here"


def test_another_numba(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "_MISSING", "this version of Numba lacks what the cache needs")
    with pytest.warns(RuntimeWarning, match="this version of Numba"):
        dispatcher = kept(tmp_path)
    assert dispatcher(3) == 6
    assert not list(tmp_path.iterdir())


def test_writers_side_by_side(tmp_path):
    """Readers see a file complete or not at all."""
    path, contents = tmp_path / "file", [bytes([i]) * 200_000 for i in range(4)]
    cache.write_whole(path, contents[0])

    def write(content):
        for _ in range(20):
            cache.write_whole(path, content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


NEXT_NUMBERS = """
import os
from numba.core.bytecode import FunctionIdentity
import meanfield.numerics.jit
print(next(FunctionIdentity._unique_ids), flush=True)
if hasattr(os, "fork"):
    if os.fork() == 0:
        print(next(FunctionIdentity._unique_ids), flush=True)
        os._exit(0)
    os.wait()
"""


def test_processes_name_their_functions_differently():
    """Names of sort and argsort that agreed once left arrays unsorted: the code of all processes is linked by name."""
    numbers = []
    for _ in range(3):
        found = subprocess.run([sys.executable, "-c", NEXT_NUMBERS], capture_output=True, text=True, check=True)
        numbers += [int(word) for word in found.stdout.split()]
    assert len(numbers) == (6 if hasattr(os, "fork") else 3)
    distances = [abs(a - b) for a, b in itertools.combinations(numbers, 2)]
    assert min(distances) > 1e6  # functions that a process may compile


def ends_of_many(x):
    found = 0.0
    for y in (x, 2.0 * x, 3.0 * x):
        found += np.sort(y)[0] - np.sort(-y)[-1] + np.sort(y + 1.0)[1] + np.sort(y - 1.0)[2]
    return found + np.sort(x)[0] + np.sort(2.0 * x)[1] - np.sort(-x)[0]


def test_callers_call_their_own_copies_of_callees(tmp_path):
    """Symbols of linked callees were weak: the copy that a process had loaded first served all callers."""
    dispatcher = cache.keep_on_disk(numba.njit(ends_of_many), tmp_path)
    assert dispatcher(np.array([3.0, 1.0, 2.0])) == 50.0
    (compiled,) = dispatcher.overloads.values()
    defined = list(compiled.library.get_defined_functions())
    copies = [one for one in defined if "np_sort" in one.name]
    assert copies  # not inlined, or there would be nothing to see
    assert all(one.linkage == Linkage.internal for one in copies)
    assert not [one.name for one in defined if one.linkage not in (Linkage.internal, Linkage.external)]
    again = cache.keep_on_disk(numba.njit(ends_of_many), tmp_path)
    assert again(np.array([3.0, 1.0, 2.0])) == 50.0
    assert hits(again) == 1


@jit
def _linked(x):
    if x.size == 0:
        raise ValueError("nothing")
    return np.sort(x)[-1]


@jit_apart
def _called(x):
    return 2.0 * _linked(x)


@jit_apart(from_python=True)
def _called_by_both(x):
    return 3.0 * _linked(x)


@jit
def _caller(x):
    return _linked(x) + _called(x) + _called_by_both(x)


def test_what_only_compiled_code_calls_has_no_wrapper_until_python_calls():
    x, whole = np.array([1.0, 3.0, 2.0]), []
    for function in (_linked, _called, _called_by_both, _caller):
        function._cache.flush()
    assert _caller(x) == 18.0
    for function in (_linked, _called, _called_by_both, _caller):
        (form,) = function.overloads.values()
        whole.append(not isinstance(form.entry_point, Inside))
    assert whole == [False, False, True, True]
    (linked,) = _linked.overloads.values()
    assert linked.library._waits  # for a translation that nobody has asked for
    assert (_linked(x), _called(x), _called_by_both(x), _caller(x)) == (3.0, 6.0, 9.0, 18.0)
    for function in (_linked, _caller):
        with pytest.raises(ValueError, match="nothing"):
            function(np.empty(0))


def test_claims_are_waited_for_while_their_process_lives(tmp_path):
    path = tmp_path / "code.nbc"
    claims.begin(path)
    assert not list(tmp_path.iterdir())  # announced only to a partner
    program = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as other:
        with claims.sharing_with(other.pid, other.poll):
            claims.begin(path)
            assert not claims.wait_for(path)  # of this process
            (claim,) = tmp_path.iterdir()
            claim.write_text(str(other.pid))
            threading.Timer(0.2, claims.end, [path]).start()
            assert claims.wait_for(path)
            assert not claim.exists()
            claim.write_text(str(other.pid))
            threading.Timer(0.2, other.stdin.close).start()
            assert claims.wait_for(path)  # the process has ended
        claim.write_text(str(other.pid))
        assert not claims.wait_for(path)


def test_other_versions_of_numba_compile_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_MISSING", "this version of Numba names functions otherwise")
    with pytest.warns(RuntimeWarning, match="names functions otherwise"):
        dispatcher = kept(tmp_path / "folder")
    assert dispatcher(2) == 4
    assert not (tmp_path / "folder").exists()
