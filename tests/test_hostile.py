"""The table of bad inputs: entry point x bad value -> a ValueError in words that name what was wrong.

Every entry point has the words that its refusals must contain, and the few values that it takes. What is not refused,
ends in another exception, in the words of another library, or in a long text, is a fault.
"""

import traceback
from pathlib import Path

import hostile_entries
import numpy as np
import pytest
from hostile_values import EVERYTHING

import meanfield as mf

ENTRIES = hostile_entries.ENTRIES
CASES = [
    (entry, kind)
    for entry, (_, _, taken) in ENTRIES.items()
    for kind in EVERYTHING
    if kind not in taken and (EVERYTHING[kind] is not None or "None" not in taken)
]
OWN = str(Path(mf.__file__).parent)


def test_the_table_is_long():
    assert len(CASES) > 3000
    assert len(ENTRIES) > 80


@pytest.mark.parametrize("entry", ENTRIES)
def test_bad_values_are_refused_in_words(entry, tmp_path, monkeypatch):
    """All bad values of an entry in one test: most of them take no time at all."""
    monkeypatch.chdir(tmp_path)
    call, words, taken = ENTRIES[entry]
    faults = []
    for kind, value in EVERYTHING.items():
        if kind in taken:
            continue
        fault = fault_of(call, value, words, entry in hostile_entries.TYPE_ERRORS)
        if fault:
            faults.append(f"{entry} of {kind}: {fault}")
    assert not faults, "\n".join(faults)
    assert not list(tmp_path.iterdir())


def fault_of(call, value, words, type_errors):
    """What is wrong with the answer to a bad value; empty if it is refused well."""
    refusals = (ValueError, FileNotFoundError, TypeError) if type_errors else (ValueError, FileNotFoundError)
    try:
        call(value)
    except refusals as error:
        said = str(error)
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if isinstance(error, np.linalg.LinAlgError) or not last.startswith(OWN):
            return f"the words of {Path(last).name}: {said[:100]}"
        if len(said) < 15 or len(said) > 700:
            return f"{len(said)} characters: {said[:100]}"
        if not any(word in said for word in words):
            return f"names none of {words}: {said[:100]}"
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    return "accepted"


def test_what_is_not_bad_is_taken():
    """Types that stand for numbers and arrays, whatever their layout."""
    X = np.arange(12.0).reshape(4, 3) ** 2
    reference = mf.data_task(X, labels=[0, 1, 0, 1])
    wide = np.zeros((8, 6))
    wide[::2, ::2] = X
    frozen = X.copy()
    frozen.setflags(write=False)
    forms = (X.astype(int), X.astype(">f8"), np.asfortranarray(X), wide[::2, ::2], frozen, X.tolist(), X.astype(object))
    for same in (*forms, np.ma.MaskedArray(X), X.astype(np.float32), X.astype(np.uint8), [tuple(row) for row in X]):
        task = mf.data_task(same, labels=np.array([0, 1, 0, 1], dtype=np.int8))
        assert np.array_equal(task.inputs, reference.inputs)
        assert task.class_names == reference.class_names
    assert mf.class_task(n_classes=np.int64(2), off=np.float32(0.5)).off == 0.5
    assert mf.Network("tanh", sigma_a=np.array(2.0)).sigma_a == 2.0
    assert mf.class_task(n_classes=2, n_samples=np.inf) == mf.class_task(n_classes=2)
