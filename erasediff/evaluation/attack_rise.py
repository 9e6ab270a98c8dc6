"""What attacks find on the erased model, beside what they find on one that never saw the concept."""

from __future__ import annotations

from collections.abc import Mapping

from erasediff.errors import ParamsError
from erasediff.metrics.intervals import Estimate, difference
from erasediff.metrics.table import ATTACK_RISE
from erasediff.records import Json

#: What an attack finds on a model that never saw the concept, where none was attacked: of the others, nothing.
NEVER_SEEN = {"membership": 0.5}


def attack_rise(erased: Mapping[str, Json], retrained: Mapping[str, Json]) -> tuple[dict[str, float], dict[str, int]]:
    """How much more the attack that finds most finds on the erased model than on the reference; the fewest pictures.

    Value and ends are the highest of any attack: all of them keep a limit that these keep, and one of them fails it for
    sure where these do.

    Args:
        erased, retrained: what was found, by attack and variant. Where the retrained model was not attacked so, the
            reference is :data:`NEVER_SEEN`.

    Returns: nothing, where no attack ran.
    """
    rises, pictures = [], []
    for attack, variants in erased.items():
        for variant, found in variants.items():
            exact = dict.fromkeys(("value", "low", "high"), NEVER_SEEN.get(attack, 0.0))
            reference = retrained.get(attack, {}).get(variant, exact)
            rise = difference(_estimate(found), _estimate(reference))
            rises.append((rise.value, rise.low, rise.high))
            pictures.append(int(min(found["pictures"], reference.get("pictures", found["pictures"]))))
    if not rises:
        return {}, {}
    ends, name = zip(*rises, strict=True), ATTACK_RISE.name
    numbers = {f"{name}{end}": max(each) for end, each in zip(("", "_low", "_high"), ends, strict=True)}
    return numbers, {name: min(pictures)}


def _estimate(found: Mapping[str, float]) -> Estimate:
    return Estimate(found["value"], found["low"], found["high"])


def require_attacked(numbers: Mapping[str, float], limits: Mapping[str, float | None]) -> None:
    """Raises: ParamsError: there is a limit for attacks, and none ran on this model."""
    rule = ATTACK_RISE.gate
    if rule and ATTACK_RISE.name not in numbers and (limit := limits.get(rule.limit)) is not None:
        raise ParamsError(
            f"verdict.{rule.limit} is {limit}, but no attack ran on this model: name one that applies in "
            "evaluate.attacks, or set it to null"
        )
