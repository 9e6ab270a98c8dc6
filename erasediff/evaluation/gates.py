"""Two-sided gates: has it forgotten, and is it still as good as the base?"""

from __future__ import annotations

from typing import Any

#: Shares are means in float32: exactly 90 % may read .8999999985.
ROUNDING = 1e-6


def gates(
    base: dict[str, float],
    erased: dict[str, float],
    *,
    min_unlearning_accuracy: float,
    min_base_accuracy: float,
    max_retain_accuracy_drop: float,
    max_distance_ratio: float,
) -> dict[str, dict[str, Any]]:
    """``{name: {value, limit, direction, passed}}``; forgetting is not judged where no concept was forgotten.

    What the base had forgotten before has to stay forgotten (``earlier_unlearning_accuracy``).

    ``base_accuracy`` is the share of the base's pictures that are recognised, of the forgotten concepts or of the
    retained ones, whichever is less: what the base does not draw would pass as forgotten, or as kept.
    """
    drop = base["in_domain_retain_accuracy"] - erased["in_domain_retain_accuracy"]
    ratio = erased["fd_classifier"] / base["fd_classifier"] if base["fd_classifier"] > 0 else float("inf")
    result = {
        "base_accuracy": _gate(
            min(1 - base.get("unlearning_accuracy", 0.0), base["in_domain_retain_accuracy"]), min_base_accuracy, "min"
        ),
        "in_domain_retain_accuracy_drop": _gate(drop, max_retain_accuracy_drop, "max"),
        "fd_classifier_ratio": _gate(ratio, max_distance_ratio, "max"),
    }
    forgetting = {
        name: _gate(erased[name], min_unlearning_accuracy, "min")
        for name in ("unlearning_accuracy", "earlier_unlearning_accuracy")
        if name in erased
    }
    return forgetting | result


def _gate(value: float, limit: float, direction: str) -> dict[str, Any]:
    passed = value >= limit - ROUNDING if direction == "min" else value <= limit + ROUNDING
    return {"value": value, "limit": limit, "direction": direction, "passed": bool(passed)}


def evaluation_of(
    base: dict[str, float], erased: dict[str, float], judge: dict[str, Any], **limits: float
) -> dict[str, Any]:
    """Both models side by side, what changed, and the gates: the content of ``metrics/evaluation.json``.

    Args:
        judge: what recognised the concepts, with its accuracy.
        limits: of :func:`gates`.
    """
    found = gates(base, erased, **limits)
    changed = [k for k in base if k in erased and not k.startswith("accuracy.") and not k.endswith("_sd")]
    return {
        "base": base,
        "erased": erased,
        "delta": {k: erased[k] - base[k] for k in changed},
        "gates": found,
        "passed": all(g["passed"] for g in found.values()),
        "classifier": judge,
    }
