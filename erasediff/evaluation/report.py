"""The report: one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erasediff.evaluation.gates import sentences
from erasediff.evaluation.table import HEAD, table_rows
from erasediff.metrics.table import DISTANCE, RECOGNISED, metric_of
from erasediff.pages import Section, Table, Verdict, page
from erasediff.records import EffectiveSettings, Evaluation
from erasediff.unlearning.settings import deviations_from_paper


def report_html(evaluation: Evaluation, forgotten: str, how: Mapping[str, str], pictures: Mapping[str, bytes]) -> str:
    """Verdict first, pictures, table, how it was measured.

    Args:
        forgotten: what the erased model was asked to forget, in words.
        how: of :func:`how_measured`.
        pictures: PNG by what they show.
    """
    text = "Gates passed." if evaluation.passed else "Gates FAILED."
    return page(
        f"Forget: {forgotten}",
        [
            Section("The same seeds before and after", pictures=pictures),
            Section("Measured", table=Table(table_rows(evaluation), HEAD, numbers=True)),
            Section("What the metrics mean", table=Table(_meanings(evaluation))),
            Section("How it was measured", table=Table(list(how.items()))),
        ],
        Verdict(evaluation.passed, text, sentences(evaluation, forgotten)),
    )


def _meanings(evaluation: Evaluation) -> list[Sequence[str]]:
    """A row a metric of the table: its name, its words, which way is better."""
    found = [metric_of(name) for name, *_ in table_rows(evaluation)]
    metrics = {metric.name: metric for metric in found if metric is not None}
    return [(name, f"{metric.words}; {metric.better} is better") for name, metric in metrics.items()]


def how_measured(
    evaluation: Evaluation, evaluate: Mapping[str, float | None], erase: EffectiveSettings
) -> dict[str, str]:
    """How the numbers came about, in words by subject.

    Args:
        evaluate: that section of params.yaml.
        erase: what the erasing did.
    """
    judge, own = evaluation.judge, "the model's own"
    steps, scale = evaluate["inference_steps"], evaluate["guidance_scale"]
    how = {
        "samples": f"{evaluate['samples_per_concept']} a concept × {evaluate['draws']} noise draws, the same seeds for "
        "both models",
        "sampling": f"{steps or own} steps, guidance scale {own if scale is None else f'{scale:g}'}",
        "base model": f"{RECOGNISED.cell(evaluation.base, RECOGNISED.name)} of its pictures recognised, all concepts",
        "classifier": f"accuracy {judge['accuracy']:.4f} on {judge['test_samples']} held-out pictures",
        "distance": DISTANCE.words,
        "method": method_in_words(erase),
    }
    if differs := deviations_from_paper(erase):
        how["deviation from the paper"] = f"{'; '.join(differs)}; the evidence is in docs/PAPERS.md"
    return how


def method_in_words(erase: EffectiveSettings) -> str:
    """``erasediff, 140 updates, multiplier paper, eta 1``: of the settings those that the run really used."""
    words = [erase.method, f"{erase.updates} updates"]
    for name in ("multiplier", "eta", "fixed_multiplier", "norm_ratio"):
        if (value := erase.settings.get(name)) is not None:
            words.append(f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}")
    return ", ".join(words)
