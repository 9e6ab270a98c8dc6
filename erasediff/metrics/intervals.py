"""Intervals around what was measured, and what can be told from them; plain numbers in, plain numbers out.

The error of the decision: each end of an interval is wrong in one case of forty. A model whose true figure misses a
limit passes that gate so often at most, and one that keeps it fails so often at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

#: Of every interval, both ends together.
CONFIDENCE = 0.95
#: Standard deviations from the middle of a normal distribution to an end of such an interval.
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
#: A number below this counts as this, where another is divided by it.
NOTHING = 1e-9
#: Shares are means: exactly 90 % may read 0.8999999985.
ROUNDING = 1e-6
#: The widest a distance is said to be: a factor of about 10^21 either way.
_WIDEST = 50.0


def beside(name: str, suffix: str) -> str:
    """The name of a figure that stands beside a number, such as its ``low`` end: ``NAME_low``, ``NAME_low.CONCEPT``."""
    head, dot, concept = name.partition(".")
    return f"{head}_{suffix}{dot}{concept}" if suffix else name


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; where none is known, both ends are the number itself."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Mapping[str, float], name: str) -> Estimate:
        """A number and its ends from flat numbers, by the names of :func:`beside`."""
        value = numbers[name]
        return cls(value, *(numbers.get(beside(name, end), value) for end in ("low", "high")))

    @property
    def is_exact(self) -> bool:
        return self.low == self.value == self.high


def z_of(confidence: float) -> float:
    """Standard deviations from the middle of a normal distribution to the ends of an interval."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The score interval of a share.

    Args:
        successes: of ``n`` independent trials.

    Returns: both ends, in [0, 1].
    Raises: ValueError: no trial.
    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927).
    """
    if n < 1:
        raise ValueError("no share is known of no picture")
    share, z2 = successes / n, Z * Z
    middle, half = share + z2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
    return max(0.0, low) if successes > 0 else 0.0, min(1.0, high) if successes < n else 1.0


def exact(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """The interval of a share that misses the truth no more often than it says, whatever share and ``n``.

    Wilson's errs by chance a little more at one end, where shares are near 0 or 1 and much confidence is asked for.

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, n - successes + 1)) if successes > 0 else 0.0
    return low, float(beta.isf(tail, successes + 1, n - successes)) if successes < n else 1.0


def of_share(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of a share of ``n`` pictures: :func:`wilson`, and :func:`exact` where it is looked at repeatedly."""
    return wilson(successes, n) if confidence == CONFIDENCE else exact(successes, n, confidence)


def of_mean(value: float, deviation: float, n: int, z: float = Z) -> tuple[float, float]:
    """The normal interval of a mean of ``n`` numbers with this standard deviation."""
    half = z * deviation / math.sqrt(n)
    return value - half, value + half


def of_replicates(
    value: float, replicates: Sequence[float], ends: tuple[float, float], z: float = Z
) -> tuple[float, float]:
    """The normal interval of a number between two ends from its bootstrap replicates, by their spread alone."""
    half = z * float(np.std(replicates, ddof=1))
    return max(ends[0], value - half), min(ends[1], value + half)


def of_distance(value: float, replicates: Sequence[float], z: float = Z) -> tuple[float, float]:
    """The log-normal interval of a number ``>= 0`` from its bootstrap replicates.

    Only the spread of the replicates is used: a Fréchet distance of resampled pictures is too large by its own bias,
    so that the replicates' quantiles would lie to one side of the number.
    """
    spread = min(z * float(np.std(replicates, ddof=1)) / max(value, NOTHING), _WIDEST)
    return value * math.exp(-spread), value * math.exp(spread)


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Pearson's correlation of pairs; 0 where one of both does not vary. Of yes and no it is the phi coefficient."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def difference(a: Estimate, b: Estimate, paired: float = 0.0) -> Estimate:
    """``a - b`` with its interval, from those of both.

    Args:
        paired: correlation of both, where they were measured on the same prompts and seeds; else 0.

    Source: R. G. Newcombe, Statistics in Medicine 17 (1998), method 10; of distances Zou and Donner, ibid. 27 (2008).
    """
    value = a.value - b.value
    below = _joined(a.value - a.low, b.high - b.value, paired)
    above = _joined(a.high - a.value, b.value - b.low, paired)
    return Estimate(value, value - below, value + above)


def _joined(one: float, other: float, paired: float) -> float:
    return math.sqrt(max(0.0, one * one + other * other - 2 * paired * one * other))


def ratio(number: float, reference: float) -> float:
    """How many times the reference a number ``>= 0`` is: always finite, and 1 of nothing to nothing."""
    return max(number, NOTHING) / max(reference, NOTHING)


def times(a: Estimate, b: Estimate, paired: float = 0.0) -> Estimate:
    """``a / b`` of numbers ``>= 0`` with its interval: :func:`difference` of their logarithms."""
    found = difference(_logarithm(a), _logarithm(b), paired)
    low, high = (math.exp(max(-2 * _WIDEST, min(2 * _WIDEST, end))) for end in (found.low, found.high))
    value = ratio(a.value, b.value)
    return Estimate(value, min(low, value), max(high, value))


def _logarithm(it: Estimate) -> Estimate:
    return Estimate(*(math.log(max(number, NOTHING)) for number in (it.value, it.low, it.high)))


#: What an interval says of a limit.
Outcome = Literal["passed", "failed", "cannot be told"]


def outcome(it: Estimate, limit: float, direction: Literal["min", "max"]) -> Outcome:
    """``passed`` where the whole interval keeps the limit, ``failed`` where the whole of it misses it."""
    if direction == "max":
        it, limit = Estimate(-it.value, -it.high, -it.low), -limit
    if it.low >= limit - ROUNDING:
        return "passed"
    return "failed" if it.high < limit - ROUNDING else "cannot be told"


def pictures_needed(it: Estimate, limit: float, n: int, *, share: bool = False) -> int | None:
    """How many pictures would tell, if the number stayed what it is; ``None``: it is at the limit, none would.

    Args:
        n: pictures that the interval stands on. It shrinks with their square root.
        share: it is a share with :func:`wilson`'s interval, of which the number is known exactly.
    """
    gap = abs(it.value - limit)
    if gap <= ROUNDING:
        return None
    if share:
        return math.ceil(Z * Z * limit * (1 - limit) / (gap * gap)) + 1
    half = it.value - it.low if it.value > limit else it.high - it.value
    return math.ceil(n * (half / gap) ** 2) + 1
