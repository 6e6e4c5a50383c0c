"""Statistics of random draws against limits, with a record of how close they came.

The limits hold for any draws. LIMIT is in standard errors. A run of all tests compares some thousand numbers with their
errors; for one in a thousand runs to fail by chance, each may exceed the limit once in a million times. That is 4.9 for
Gaussian errors and 5.8 where the error itself comes from 40 effective draws (Student's t). Limits in other units are
six standard deviations over seeds or more from the mean over seeds, or say what they rest on: benchmarks/seeds.py
prints the distance. A planted error has to be expected at twice the limit or more.

MEANFIELD_TEST_MARGINS names a file to which every comparison adds a line: test, statistic, limit, value
(tab-separated); conftest.py says how to repeat tests with other seeds.
"""

import os

import numpy as np
from scipy.stats import t as student

LIMIT = 6.0

# For the largest of n numbers z that `meanfield.compare` has made normal deviates, whatever their degrees of freedom: n
# times 6e-7 is the chance of one beyond, 6e-5 for hundred. The expected largest is 2.5 for n = 50, 2.7 for n = 100.
MAX_Z = 5.0


def _record(what, sign, limit, value):
    path = os.environ.get("MEANFIELD_TEST_MARGINS")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
            file.write(f"{test}\t{what}\t{sign}\t{limit:.4g}\t{value:.4g}\n")


def below(values, limit=LIMIT, what="|z|"):
    """Whether all |values| are below the limit; NaN is not."""
    worst = float(np.max(np.abs(values), initial=0.0))
    _record(what, "<", limit, worst)
    return worst < limit


def beyond(values, limit=LIMIT, what="planted |z|"):
    """Whether some |value| is above the limit, as it has to be where an error was planted."""
    worst = float(np.max(np.abs(values)))
    _record(what, ">", limit, worst)
    return worst > limit


def reach(error, dof, systematic=0.0):
    """A limit: what is known to differ, and as many standard errors as Student's t exceeds once in a million."""
    return systematic + student.isf(0.5e-6, dof) * error


def ratio(deviation, error):
    """deviation / error, where a deviation of zero counts as none whatever its error."""
    deviation, error = np.broadcast_arrays(np.abs(deviation), error)
    return np.divide(deviation, error, out=np.where(deviation == 0, 0.0, np.inf), where=error > 0)
