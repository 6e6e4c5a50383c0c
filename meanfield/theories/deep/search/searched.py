"""Where solutions were looked for, in the words of certificates."""

from __future__ import annotations

from meanfield.theories.deep.certificate import ANSWER, PRIOR, SAME, Branch

__all__ = ["ENDED", "NO_CODES", "UNKNOWN", "where_searched"]

# How remarks on a competing branch begin.
NO_CODES = "the branch with codes was not compared: "
UNKNOWN = "the branch without codes was not compared: "
ENDED = "there is no branch without codes that continues the prior, the only one looked for: "


def where_searched(
    competitors: bool, warm: bool, given: bool, branches: list[Branch], remark: str, again: str
) -> tuple[str, ...]:
    """Where solutions were looked for, and with what outcome.

    From whether competitors were asked for, the start was a warm one and shares of codes were given, the branches
    found, the remark of their comparison, and the outcome `again` of a second start.
    """
    if given:
        return ("codes with the given shares",)
    start = "the solution that a warm start led to" if warm else "codes planted from the limit of many samples"
    others = f"; {again}"
    first = start + others
    if not competitors:
        return (first,)
    if any(branch.name == "uncoded" for branch in branches):
        return first, f"{PRIOR}: found"
    if remark.startswith(NO_CODES):
        return f"{start}: not compared, {remark.removeprefix(NO_CODES)}", f"{PRIOR}: {ANSWER}"
    if any(branch.name == "coding" for branch in branches):
        return f"{start}: found{others}", f"{PRIOR}: {ANSWER}"
    outcome = remark.removeprefix(ENDED).replace(UNKNOWN, "not compared, ") or SAME
    return first, f"{PRIOR}: {outcome}"
