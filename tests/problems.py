"""Random numbers that define a problem: the same whatever seeds the tests of its statistics are given."""

import numpy as np


def fixed_rng(seed):
    """Generator of a seed that `MEANFIELD_TEST_SEED_OFFSET` (see conftest.py) leaves alone."""
    return np.random.Generator(np.random.PCG64(seed))
