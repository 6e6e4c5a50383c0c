"""Other random numbers for every test, on demand.

Tests marked `statistical` hold a statistic of random draws against a limit. Markov chains of the same seed are other
chains on another processor, so such a test has to pass for any draws, not for those of its seed. To see that it does:

    for i in $(seq 30); do MEANFIELD_TEST_SEED_OFFSET=$i pytest -m statistical || break; done

An offset other than 0 changes every seed that a test, or the package on its behalf, gives to NumPy. Data that define a
problem rather than a draw come from `fixed_rng` and stay the same.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np

OFFSET = int(os.environ.get("MEANFIELD_TEST_SEED_OFFSET", "0"))
_MARK = 0x5EED  # the last but one word of a seed that has been changed already: children keep the entropy of parents


class _Kind(type):
    """Seed sequences made inside NumPy count as instances too."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _SeedSequence)


_SeedSequence, _default_rng = np.random.SeedSequence, np.random.default_rng


class ShiftedSeedSequence(_SeedSequence, metaclass=_Kind):
    """A seed sequence of the given entropy and the offset."""

    def __init__(self, entropy: Any = None, **options: Any) -> None:
        words = [] if entropy is None else [int(word) for word in np.atleast_1d(np.asarray(entropy, dtype=object))]
        if words and words[-2:] != [_MARK, OFFSET]:
            entropy = [*words, _MARK, OFFSET]
        super().__init__(entropy, **options)


def _shifted_rng(seed: Any = None) -> np.random.Generator:
    kinds = (_SeedSequence, np.random.BitGenerator, np.random.Generator, type(None))
    return _default_rng(seed if isinstance(seed, kinds) else ShiftedSeedSequence(seed))


def pytest_configure(config: Any) -> None:
    """Before any test module is read: some draw while they are imported."""
    # Jobs that a shell starts in the background ignore Ctrl-C, and tests of it would wait for ever.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if OFFSET:
        np.random.SeedSequence, np.random.default_rng = ShiftedSeedSequence, _shifted_rng  # type: ignore[misc]
