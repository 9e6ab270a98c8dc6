"""Drawing in looks: stop where the decision is sure, draw on where it is not, and err no more often for having looked.

At each of L looks an interval misses the truth with probability (1 - CONFIDENCE) / L at most, so that all of them hold
it with probability CONFIDENCE, whatever is decided at a look (Bonferroni). That is true of every number that is looked
at, not only of those that decide when to stop.
"""

from __future__ import annotations

from erasediff.metrics.intervals import CONFIDENCE, Estimate, Outcome, of_share, outcome


def looks_at(draws: int, most: int | None) -> tuple[int, ...]:
    """Numbers of draws after which it is looked: 1, 2, 4, … below ``draws``, ``draws``, its doubles, and ``most``.

    They double: a look costs some confidence, and one that adds little to what is known is not worth it.

    Args:
        most: draws there may be; ``None``: ``draws``, and one look.
    """
    if most is None:
        return (draws,)
    before = [2**i for i in range(draws.bit_length()) if 2**i < draws]
    after = [draws * 2**i for i in range(most.bit_length()) if draws * 2**i < most]
    return tuple(sorted({*before, *after, most}))


def confidence_of(looks: int) -> float:
    """Of each of so many intervals, which together have :data:`CONFIDENCE`."""
    return 1 - (1 - CONFIDENCE) / looks


def told(successes: int, n: int, limit: float, confidence: float, least: int = 1) -> Outcome:
    """Whether a share keeps the least that it may be, as far as ``n`` pictures tell.

    Args:
        least: pictures without which nothing is told.
    """
    if n < least:
        return "cannot be told"
    return outcome(Estimate(successes / n, *of_share(successes, n, confidence)), limit, "min")
