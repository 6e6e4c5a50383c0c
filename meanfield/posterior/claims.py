"""What a file claims is checked before it becomes an object: what the checks of all theories have in common.

The stationarity conditions and the objective are recomputed from the order parameters by the theory that reads them;
both are cheap beside a solve. That no better solution exists (branch and bound) is not proven again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from meanfield.posterior.certificate import Certificate
from meanfield.posterior.status import Status
from meanfield.validation import FloatArray, entry

__all__ = [
    "certificate_from",
    "check_covariances",
    "check_weights",
    "numbers",
    "real_arrays",
    "same",
]


def real_arrays(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays of something else than real numbers."""
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"the array {name!r} holds {array.dtype}, not real numbers.")


def numbers(values: Mapping[str, object], *names: str) -> None:
    """Refuse entries that are no real numbers (NaN and infinities are)."""
    for name in names:
        entry(values, name, (int, float))


def certificate_from(values: dict, status: str) -> Certificate:
    """The certificate of a header, consistent with the status that stands beside it."""
    numbers(values, "kkt_residual", "duality_gap", "bound_gap", "nullity", "boxes")
    entry(values, "global_check", bool), entry(values, "unique", bool)
    found = Certificate(**values)
    Status.of(status)
    if status == "optimal" and not 0.0 <= found.kkt_residual < 0.1:
        raise ValueError(f"it claims to be optimal with a residual of {found.kkt_residual:g}.")
    return found


def same(name: str, found: object, claimed: object, tolerance: float, scale: float = 1.0) -> None:
    """Refuse numbers that are not what they claim to be."""
    off = float(np.max(np.abs(np.asarray(found) - np.asarray(claimed)), initial=0.0))
    if not off <= tolerance * max(1.0, scale):
        raise ValueError(f"its {name} does not belong to the solution: off by {off:.3g}.")


def check_weights(name: str, weight: FloatArray, total: float | None = 1.0) -> None:
    if not (np.isfinite(weight).all() and (weight >= -1e-12).all()):
        raise ValueError(f"its {name} are not all finite and non-negative.")
    if total is not None and not abs(float(weight.sum()) - total) <= 1e-6:
        raise ValueError(f"its {name} sum to {float(weight.sum()):.6g}, not to {total:g}.")


def check_covariances(name: str, stack: FloatArray) -> None:
    if not np.isfinite(stack).all():
        raise ValueError(f"its {name} is not finite.")
    size = float(np.max(np.abs(stack), initial=0.0))
    if np.abs(stack - np.swapaxes(stack, -1, -2)).max(initial=0.0) > 1e-9 * size:
        raise ValueError(f"its {name} is not symmetric.")
    if stack.size and np.linalg.eigvalsh(stack).min() < -1e-9 * size:
        raise ValueError(f"its {name} is not positive.")
