"""Two-sided gates: has it forgotten, and is it still as good as the base? Their rules: erasediff/metrics/table.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from erasediff.errors import IntegrityError, ParamsError
from erasediff.metrics.table import GATES, RETAIN_ACCURACY, Numbers, metric_of
from erasediff.records import Evaluation, Gate, Json, Measured

#: Shares are means in float32: exactly 90 % may read 0.8999999985.
ROUNDING = 1e-6


def gates(
    base: Numbers, erased: Numbers, limits: Mapping[str, float], *, same_protocol: bool = True
) -> dict[str, Gate]:
    """The gates by name; one whose numbers are not there is left out, as forgetting where no concept was forgotten.

    Args:
        limits: the section ``verdict`` of params.yaml.
        same_protocol: both models were measured under one judge, on the same pictures and draws. If not, the gates
            that need it are left out.

    Raises: ParamsError: there is no limit for a gate.
    """
    found = {}
    for name, gated in GATES.items():
        value = gated.value(base, erased) if same_protocol or not gated.same_protocol else None
        if value is not None:
            if gated.rule.limit not in limits:
                raise ParamsError(f"the gate {name} has no limit: give verdict.{gated.rule.limit} in params.yaml")
            found[name] = _gate(value, limits[gated.rule.limit], gated.direction)
    return found


def _gate(value: float, limit: float, direction: Literal["min", "max"]) -> Gate:
    passed = value >= limit - ROUNDING if direction == "min" else value <= limit + ROUNDING
    return Gate(value, limit, direction, bool(passed))


def evaluation_of(base: Measured, erased: Measured, judge: Json, limits: Mapping[str, float]) -> Evaluation:
    """Both models side by side, what changed, and the gates: the content of ``metrics/evaluation.json``.

    Args:
        judge: what recognised the concepts, with its accuracy.
        limits: the section ``verdict`` of params.yaml.

    Raises: IntegrityError: the two were measured in different ways.
    """
    if base.protocol != erased.protocol:
        differing = sorted(n for n in base.protocol | erased.protocol if base.protocol.get(n) != erased.protocol.get(n))
        raise IntegrityError(f"base and erased were measured with different {', '.join(differing)}: run dvc repro")
    before, after = base.numbers, erased.numbers
    found = gates(before, after, limits)
    changed = [name for name in before if name in after and (m := metric_of(name)) and not m.per_concept]
    return Evaluation(
        base=before,
        erased=after,
        delta={name: after[name] - before[name] for name in changed},
        gates=found,
        passed=all(gate.passed for gate in found.values()),
        judge=judge,
        models={"base": base.model_sha256, "erased": erased.model_sha256},
        protocol=dict(base.protocol),
    )


def headline(evaluation: Evaluation) -> dict[str, float | bool]:
    """The few numbers that ``dvc exp show`` has columns of: what the gates judged, and whether all passed."""
    return {
        **{name: gate.value for name, gate in evaluation.gates.items()},
        RETAIN_ACCURACY.name: evaluation.erased[RETAIN_ACCURACY.name],
        "passed": evaluation.passed,
    }


def sentences(evaluation: Evaluation, forgotten: str) -> list[str]:
    """Each gate as a sentence for people.

    Args:
        forgotten: what the erased model was asked to forget, in words.
    """
    return [_sentence(name, gate, evaluation, forgotten) for name, gate in evaluation.gates.items()]


def _sentence(name: str, gate: Gate, evaluation: Evaluation, forgotten: str) -> str:
    if name not in GATES:  # of a version that another release evaluated
        return f"{name}: {gate.text}"
    gated = GATES[name]
    if not gated.rule.sentence:
        return f"{gated.metric.words}: {gated.text(gate)}"
    text = gated.rule.sentence.format(
        value=gate.value,
        limit=gate.limit,
        points=100 * gate.limit,
        base=evaluation.base.get(gated.metric.name),
        erased=evaluation.erased.get(gated.metric.name),
        forgotten=forgotten,
    )
    return f"{text}: {gate.outcome}"
