"""How a solve can end: one word for tables and files, and the advice that goes with it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Status"]


class Status(StrEnum):
    """Outcome of a solve; compares equal to its word (``post.status == "optimal"``).

    Attributes
    ----------
    advice : str
        What the word means, and what to try.
    """

    advice: str

    def __new__(cls, word: str, advice: str) -> Status:
        member = str.__new__(cls, word)
        member._value_ = word
        member.advice = advice
        return member

    OPTIMAL = "optimal", "every part of the certificate is below its tolerance"
    NOT_CONVERGED = (
        "not converged",
        "no point satisfies the stationarity equations yet; start from the solution of an easier task nearby "
        "(warm_start=), for example a larger sigma_a, smaller targets or a larger tau",
    )
    RESIDUAL = (
        "residual too large",
        "the stationarity residual, recomputed without the solver's tables, is beyond its tolerance; use larger "
        "sigma_a or smaller targets (larger ones where they are tiny), or start from a neighbouring solution "
        "(warm_start=)",
    )
    DUALITY_GAP = (
        "duality gap too large",
        "the gap between dual and primal objective is beyond its tolerance; start from a neighbouring solution "
        "(warm_start=)",
    )
    NOT_GLOBAL = (
        "not proven global",
        "branch and bound could not exclude a better readout within its budget; increase max_boxes",
    )
    INTEGRATION = (
        "integral too inaccurate",
        "the error of the integral over readouts is larger than the residual may be; use another n_samples, "
        "n_samples=math.inf, or fewer outputs",
    )
    EP_FAILED = (
        "EP failed",
        "expectation propagation has no fixed point, or several; a larger tau, more input dimensions or fewer samples "
        "help",
    )
    STOPPED = (
        "stopped",
        "the time limit was reached before a solution was found and proven; give more (max_seconds=), fewer classes, "
        "or a neighbouring solution (warm_start=)",
    )
    APPROXIMATE = (
        "approximate",
        "the outputs are further from the exact theory than the tolerance, or how far could not be measured; the "
        "message holds the number. Use refine=True where it was switched off, a larger tau, or fewer samples",
    )
    OUT_OF_TIME = (
        "out of time",
        "the budget was used up before the certificate was complete; raise it, or start from a neighbouring solution "
        "(warm_start=)",
    )
    NO_MAXIMUM = (
        "no maximum",
        "the objective is larger along a path that ends in no solution; the message says which path, and what has a "
        "solution",
    )
    FAILED = "failed", "the solver stopped with an error of its own; the message holds its words"

    @classmethod
    def of(cls, word: str) -> Status:
        """The member of this word.

        Raises
        ------
        ValueError
            If there is none.
        """
        for member in cls:
            if member.value == word:
                return member
        raise ValueError(f"{word!r} is no status; there are {', '.join(member.value for member in cls)}.")
