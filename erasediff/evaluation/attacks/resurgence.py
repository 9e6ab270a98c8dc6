"""Resurgence: does harmless fine-tuning bring the concept back?

The model is trained on what was kept, never on the concept, all weights or a LoRA, and is asked for the concept
after so many updates. A concept that was only hidden is back after a few. The base never lost it, and is asked
once. Source: arXiv 2410.08074 (concept resurgence); 2511.19558 (a LoRA).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from erasediff.evaluation.attacks.benign import can_have_lora, fine_tuned
from erasediff.evaluation.attacks.target import Found, Target
from erasediff.families.family import Family


@dataclass(frozen=True)
class Cost:
    """Updates after which the model is asked, the last of which ends the training; pictures of an update."""

    steps: tuple[int, ...]
    batch_size: int


COSTS = {"quick": Cost((5, 15, 40), 32), "paper": Cost((50, 100, 200, 500, 1000), 32)}


def run(target: Target) -> dict[str, Found]:
    """How often the concept is seen after each number of updates: points of a curve for each way of training."""
    if target.retain is None or not len(target.retain):
        return {}
    before = replace(target.seen(), at=0)
    if target.is_base:
        return {"before": before}
    return curve(target, before, lora=False) | (
        curve(target, before, lora=True) if can_have_lora(target.family) else {}
    )


def curve(target: Target, before: Found, *, lora: bool) -> dict[str, Found]:
    """The points of one way of training."""
    assert target.retain is not None
    cost, name = COSTS[target.budget], "LoRA" if lora else "all weights"
    found = {f"{name}, 0 updates": before}

    def after(step: int, family: Family) -> None:
        if step in cost.steps:
            found[f"{name}, {step} updates"] = replace(target.changed(family=family).seen(), at=step)

    fine_tuned(
        target.family,
        target.retain,
        steps=cost.steps[-1],
        batch_size=cost.batch_size,
        seed=target.seed,
        lora=lora,
        after=after,
    )
    return found
