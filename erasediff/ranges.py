"""What the numbers of a training may be: in a call of the library, in ``params.yaml`` and on the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real

from erasediff.errors import shown


@dataclass(frozen=True)
class Range:
    """Finite numbers within bounds, where there are any.

    Attributes:
        ge, gt, le, lt: the number is at least, above, at most, below this.
        whole: it is a whole number.
        optional: or ``None``, which stands for no number.
    """

    ge: float = -math.inf
    gt: float = -math.inf
    le: float = math.inf
    lt: float = math.inf
    whole: bool = False
    optional: bool = False

    def holds(self, value: object) -> bool:
        """Return True if a value is such a number."""
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        try:
            number = float(value)
        except OverflowError:
            return False
        return math.isfinite(number) and self.ge <= number <= self.le and self.gt < number < self.lt

    def __str__(self) -> str:
        words = {"at least": self.ge, "above": self.gt, "at most": self.le, "below": self.lt}
        bounds = [f"{word} {bound}" for word, bound in words.items() if abs(bound) < math.inf]
        return " ".join([f"a {'whole' if self.whole else 'finite'} number", " and ".join(bounds)]).strip()


COUNT = Range(ge=1, lt=2**31, whole=True)
FROM_0 = Range(ge=0, lt=2**31, whole=True)
NOT_NEGATIVE = Range(ge=0)
POSITIVE = Range(gt=0)
SHARE_LEFT = Range(ge=0, lt=1)

#: By the name of the setting, wherever there is one of this name.
RANGES: dict[str, Range] = {
    "accumulate": COUNT,
    "batch_size": COUNT,
    "checkpoint_every": COUNT,
    "condition_dropout": SHARE_LEFT,
    "ema_decay": SHARE_LEFT,
    "eta": POSITIVE,
    "fisher_samples": COUNT,
    "fixed_multiplier": NOT_NEGATIVE,
    "forget_batch_size": COUNT,
    "gap_every": FROM_0,
    "gap_tolerance": Range(optional=True),
    "generate": replace(COUNT, optional=True),
    "inner_steps": COUNT,
    "latent_anchoring": NOT_NEGATIVE,
    "learning_rate": POSITIVE,
    "lora_alpha": Range(gt=0, optional=True),
    "mask_fraction": Range(gt=0, le=1),
    "max_grad_norm": POSITIVE,
    "n": COUNT,
    "norm_ratio": NOT_NEGATIVE,
    "outer_steps": COUNT,
    "passes": replace(COUNT, optional=True),
    "rank": COUNT,
    "retain_batch_size": COUNT,
    "seed": FROM_0,
    "steps": COUNT,
    "warmup_steps": FROM_0,
}


def require_in_range(settings: Mapping[str, object]) -> None:
    """Check those of some settings that are of :data:`RANGES`.

    Raises: ValueError: one is out of its range, or no number.
    """
    for name, value in settings.items():
        if name in RANGES and not RANGES[name].holds(value):
            raise ValueError(f"{name} {shown(value)}: give {RANGES[name]}")
