"""How the numbers of an evaluation came about, in words."""

from __future__ import annotations

from collections.abc import Mapping

from erasediff.evaluation.attacks.table import ATTACK
from erasediff.evaluation.table import shown
from erasediff.metrics.table import CHANGE, DISTANCE, METRICS, RECOGNISED
from erasediff.records import JUDGE_BY_BASE, EffectiveSettings, Evaluation, Json, Value
from erasediff.unlearning.settings import deviations_from_paper


def how_measured(evaluation: Evaluation, erase: EffectiveSettings | None) -> dict[str, str]:
    """How the numbers came about, in words by subject.

    Args:
        erase: what the erasing did, where that is known.
    """
    judge, own, protocol = evaluation.judge, "the model's own", evaluation.protocol
    steps, scale = protocol.get("inference_steps"), protocol.get("guidance_scale")
    by_base = judge.get("pictures") == JUDGE_BY_BASE
    reference = "drawn by the base under other seeds" if by_base else "real"
    how = {
        "pictures": f"{protocol.get('samples_per_concept')} a concept × {protocol.get('draws')} draws of noise, "
        f"{_count(protocol.get('drawn_pictures'))} in all, the same seeds for both models",
        "sampling": f"{steps or own} steps, guidance scale {own if scale is None else f'{scale:g}'}",
        "judge": _judge_in_words(judge),
        "distance": f"{DISTANCE.words}: {_count(protocol.get('held_out_pictures'))}, {reference}",
        **({"method": method_in_words(erase)} if erase else {}),
    }
    if RECOGNISED.name in evaluation.base:
        how["base model"] = f"{RECOGNISED.cell(evaluation.base, RECOGNISED.name)} of its pictures recognised, all told"
    if evaluation.protocol.get("max_draws"):
        how["pictures"] = (
            f"{protocol.get('samples_per_concept')} a concept × as many draws as tell, at most "
            f"{protocol.get('max_draws')}; {_count(protocol.get('drawn_pictures'))} by the base, on the same seeds"
        )
    if CHANGE.name in evaluation.delta:
        how["change"] = f"{CHANGE.title}: {CHANGE.words}"
    told = {metric.name for metric in shown(evaluation).values()}  # in the tables, as attacks are in their section
    if missing := {n: why for n, why in evaluation.skipped.items() if n not in told and not n.startswith(ATTACK)}:
        how["not measured"] = "; ".join(_by_reason(missing))
    if erase and (differs := deviations_from_paper(erase)):
        how["deviation from the paper"] = f"{'; '.join(differs)}; the evidence is in docs/PAPERS.md"
    return how


def _by_reason(skipped: Mapping[str, str]) -> list[str]:
    """What is not there, each reason once: ``CLIP score, FID (why)``."""
    named: dict[str, list[str]] = {}
    for name, why in skipped.items():
        known = METRICS.get(name)
        named.setdefault(why, []).append(name if known is None else known.title or known.words)
    return [f"{', '.join(names)} ({why})" for why, names in named.items()]


def _judge_in_words(judge: Json) -> str:
    """How well the judge reads, and what it learned from."""
    kind = judge.get("kind", "cnn")
    others = "" if kind == "cnn" else f"{kind}, trained by others; "
    if judge["accuracy"] is None:
        return f"{others}its accuracy was not measured: there are no pictures with labels"
    by_base = judge.get("pictures") == JUDGE_BY_BASE
    learned = ", as it learned from: those that the base drew under other seeds" if by_base else ""
    return f"{others}accuracy {judge['accuracy']:.4f} on {judge['test_samples']} held-out pictures{learned}"


def _count(number: Value) -> str:
    return f"{number:,}" if isinstance(number, int) else "an unknown number"


def method_in_words(erase: EffectiveSettings) -> str:
    """``erasediff, 140 updates, multiplier paper, eta 1``: of the settings those that the run really used."""
    words = [erase.method, f"{erase.updates} updates"]
    for name in ("multiplier", "eta", "fixed_multiplier", "norm_ratio"):
        if (value := erase.settings.get(name)) is not None:
            words.append(f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}")
    return ", ".join(words)
