"""Two-sided gates: has it forgotten, and is it still as good as the base? Their rules: erasediff/metrics/table.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasediff.errors import IntegrityError, ParamsError
from erasediff.evaluation.attack_rise import attack_rise, require_attacked
from erasediff.evaluation.changes import FEATURES, changes
from erasediff.evaluation.neighbours import neighbour_accuracy
from erasediff.evaluation.self_checks import UNCHECKED, self_checks
from erasediff.metrics.intervals import (
    CONFIDENCE,
    Estimate,
    beside,
    correlation,
    difference,
    outcome,
    pictures_needed,
    z_of,
)
from erasediff.metrics.rules import GatedMetric, Numbers
from erasediff.metrics.table import (
    BASE_ACCURACY,
    CLOSENESS_RISE,
    FORGET_DEGENERATE,
    GATES,
    RETAIN_ACCURACY,
    RETAIN_DEGENERATE,
    WORST_DROP,
    WORST_UNLEARNING,
    gate_of,
    metric_of,
    untold_of,
)
from erasediff.records import Evaluation, Gate, Json, Measured

#: Gates that hardly any model misses.
RARELY_MISSED = (WORST_UNLEARNING, WORST_DROP, FORGET_DEGENERATE, RETAIN_DEGENERATE, CLOSENESS_RISE)


def gates(
    base: Numbers,
    erased: Numbers,
    limits: Mapping[str, float | None],
    *,
    same_protocol: bool = True,
    counts: Mapping[str, int] | None = None,
    pairing: Mapping[str, float] | None = None,
    of_base: Mapping[str, int] | None = None,
) -> dict[str, Gate]:
    """The gates by name; one whose numbers are not there is left out, as forgetting where no concept was forgotten.

    Args:
        limits: the section ``verdict`` of params.yaml; without one, an optional gate is left out.
        same_protocol: both models were measured under one judge, on the same pictures and draws. If not, the gates
            that need it are left out.
        counts: pictures that each number stands on.
        of_base: the same of the base, which may have been drawn less often.
        pairing: correlation of both models' numbers, where they had the same prompts and seeds.

    Raises: ParamsError: there is no limit for a gate.
    """
    found = {}
    for name, gated in GATES.items():
        if gated.same_protocol and not same_protocol:
            continue
        it, pictures = gated.estimate(base, erased, pairing), _pictures(gated, counts or {}, of_base or {})
        too_few = bool(gated.metric.untold(pictures))
        limit = limits.get(gated.rule.limit)
        if (it is not None or too_few) and limit is None and not gated.rule.optional:
            raise ParamsError(f"the gate {name} has no limit: give verdict.{gated.rule.limit} in params.yaml")
        if limit is not None and too_few and pictures is not None:
            found[name] = _too_few(gated, limit, pictures)
        elif limit is not None and it is not None:
            found[name] = _gate(gated, it, limit, pictures)
    return found


def _pictures(gated: GatedMetric, counts: Mapping[str, int], of_base: Mapping[str, int]) -> int | None:
    """Pictures that the value of a gate stands on; of one that is derived from several numbers, those of the least.

    The base's count where the gate needs its number, and that stands on too few pictures.
    """
    of = gated.rule.of or (gated.metric.name,)
    own, before = (
        min((n for name, n in each.items() if name.partition(".")[0] in of), default=None) for each in (counts, of_base)
    )
    return before if gated.needs_base and gated.metric.untold(before) else own


def _gate(gated: GatedMetric, it: Estimate, limit: float, pictures: int | None) -> Gate:
    told = outcome(it, limit, gated.direction)
    undecided = told == "cannot be told"
    needed = pictures_needed(it, limit, pictures, share=_of_share(gated)) if undecided and pictures else None
    low, high = (None, None) if it.is_exact else (it.low, it.high)
    return Gate(it.value, limit, gated.direction, told == "passed", low, high, pictures, undecided, needed)


def _too_few(gated: GatedMetric, limit: float, pictures: int) -> Gate:
    """Whatever was measured, so few pictures tell nothing: needed are those that tell, and that the best could pass."""
    best, needed = float(gated.direction == "min"), gated.metric.least
    if _of_share(gated):
        needed = max(needed, pictures_needed(Estimate(best, best, best), limit, pictures, share=True) or 0)
    return Gate(None, limit, gated.direction, False, None, None, pictures, True, needed)


def _of_share(gated: GatedMetric) -> bool:
    """True if the value is a share, of which it is known how many pictures tell it from a limit."""
    return gated.own_share or gated.metric is BASE_ACCURACY


def evaluation_of(
    base: Measured,
    erased: Measured,
    judge: Json,
    limits: Mapping[str, float | None],
    readings: tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[float]]] = ({}, {}),
) -> Evaluation:
    """Both models side by side, what changed, and the gates: the content of ``metrics/evaluation.json``.

    Args:
        judge: what recognised the concepts, with its accuracy.
        limits: the section ``verdict`` of params.yaml.
        readings: of the base and of the erased model, by metric: pairs of the same prompts and seeds.

    Raises: IntegrityError: the two were measured in different ways, or by another judge than the one given.
        ParamsError: there is a limit for attacks, of which none ran.
    """
    _require_same_way(base, erased, judge)
    sure = float(base.protocol.get("confidence") or CONFIDENCE)
    near = [neighbour_accuracy(it.numbers, it.counts, base.neighbours, sure) for it in (base, erased)]
    before, after = ({**it.numbers, **numbers} for it, (numbers, _) in zip((base, erased), near, strict=True))
    rise, of_rise = attack_rise(erased.attacks, base.retrained)
    require_attacked(rise, limits)
    moved, of_moved = changes(*readings, z_of(sure))
    after |= {} if untold_of(of_rise) else rise
    of_near = near[0][1] if untold_of(near[0][1]) else near[1][1]
    counts, pairing = erased.counts | of_near | of_moved | of_rise, pairing_of(*readings)
    found = gates(before, after, limits, counts=counts, pairing=pairing, of_base=base.counts)
    checks = self_checks(base.planted, limits, gates)
    return Evaluation(
        base=before,
        erased=after,
        delta=_delta(before, after, pairing) | moved,
        gates=found,
        passed=all(gate.passed for gate in found.values()) and all(check.held for check in checks.values()),
        judge=judge,
        models={"base": base.model_sha256, "erased": erased.model_sha256},
        protocol=dict(base.protocol),
        counts=counts,
        pairing=pairing,
        instead=erased.instead,
        self_checks=checks,
        attacks={
            "base": base.attacks,
            "erased": erased.attacks,
            **({"retrained": base.retrained} if base.retrained else {}),
        },
        neighbours=base.neighbours,
        skipped=erased.skipped | untold_of(base.counts) | untold_of(of_near | of_moved),
    )


def _require_same_way(base: Measured, erased: Measured, judge: Json) -> None:
    may_differ = {"drawn_pictures"} if base.protocol.get("max_draws") else set()
    both = (base.protocol.keys() | erased.protocol.keys()) - may_differ
    if differing := sorted(n for n in both if base.protocol.get(n) != erased.protocol.get(n)):
        raise IntegrityError(f"base and erased were measured with different {', '.join(differing)}: run dvc repro")
    asked, facts = base.protocol.get("judge"), judge.get("fingerprint")
    if asked and facts and asked != facts:
        raise IntegrityError(f"the models were measured by the judge {asked}, the facts are of {facts}: run dvc repro")


def read_readings(path: Path) -> dict[str, Any]:
    """Readings by metric, as arrays; none where the file is not there: nothing is paired then.

    Raises: IntegrityError: it is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path) if path.exists() else {}
    except (OSError, SafetensorError) as error:
        raise IntegrityError(
            f"{path} cannot be read ({str(error)[:100]}): run the stage that writes it again"
        ) from None


def pairing_of(base: Mapping[str, Sequence[float]], erased: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Correlation of both models' readings by metric, where they stand side by side.

    Where one of both drew on, the pictures of the other are its first: the means of both correlate the less.
    """
    found = {}
    for name in base:
        metric = metric_of(name)
        if name not in erased or name.startswith(FEATURES):
            continue
        few, many = sorted((len(base[name]), len(erased[name])))
        if few == many or (metric is not None and metric.kind != "set" and few > 1):
            both = correlation(base[name][:few], erased[name][:few])
            found[name] = both * math.sqrt(few / many) if many else 0.0
    if any(len(base[n]) != len(erased[n]) for n in found):  # resamples of other draws are no pairs
        found = {n: c for n, c in found.items() if (m := metric_of(n)) is None or m.kind != "set"}
    return found


def _delta(base: Numbers, erased: Numbers, pairing: Mapping[str, float]) -> dict[str, float]:
    """How much more each number of the erased model is, with the ends of the interval where these are known."""
    found = {}
    for name in base:
        metric = metric_of(name)
        if name in erased and metric and not metric.per_concept:
            it = difference(Estimate.of(erased, name), Estimate.of(base, name), pairing.get(name, 0.0))
            found[name] = it.value
            if beside(name, "low") in base and beside(name, "low") in erased:
                found |= {beside(name, "low"): it.low, beside(name, "high"): it.high}
    return found


def headline(evaluation: Evaluation) -> dict[str, float | bool]:
    """The few numbers that ``dvc exp show`` has columns of: what the gates judged, and whether all passed.

    Of the gates that hardly any model misses, those that this one did not pass.
    """
    rare = {gated.name for gated in map(gate_of, RARELY_MISSED) if gated}
    return {
        **{
            name: gate.value
            for name, gate in evaluation.gates.items()
            if gate.value is not None and (name not in rare or not gate.passed)
        },
        **{n: evaluation.erased[n] for n in (RETAIN_ACCURACY.name,) if n in evaluation.erased},
        "passed": evaluation.passed,
    }


def sentences(evaluation: Evaluation, forgotten: str) -> list[str]:
    """Each gate as a sentence for people; and that no planted model was measured, where that is so.

    Args:
        forgotten: what the erased model was asked to forget, in words.
    """
    told = [_sentence(name, gate, evaluation, forgotten) for name, gate in evaluation.gates.items()]
    return told if evaluation.self_checks else [*told, UNCHECKED]


def _sentence(name: str, gate: Gate, evaluation: Evaluation, forgotten: str) -> str:
    if name not in GATES:  # of a version that another release evaluated
        return f"{name}: {gate.text}"
    gated = GATES[name]
    if gate.value is None:
        return f"{gated.title[:1].upper()}{gated.title[1:]} ({gate.bound}): {gate.outcome}"
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
    if gate.low is not None and gate.high is not None:
        text += f"; {gated.rule.interval(gate.low, gate.high)}"
    return f"{text}: {gate.outcome}"
