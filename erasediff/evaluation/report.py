"""The report: one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erasediff.errors import IntegrityError
from erasediff.evaluation.gates import sentences
from erasediff.evaluation.table import HEAD, concept_rows, table_rows
from erasediff.metrics.table import DISTANCE, GATES, RECOGNISED, compared
from erasediff.pages import Section, Table, Verdict, filled, page
from erasediff.records import JUDGE_BY_BASE, EffectiveSettings, Evaluation, ForgetSummary, Value
from erasediff.unlearning.settings import deviations_from_paper

#: What no gate measures, for report and model card.
LIMITS = (
    "That the concept cannot be brought back: fine-tuning the weights, or an adversarial condition, may do so.",
    "That a picture of the forget set left no trace at all: the gates measure what is drawn, not what is remembered.",
    "Anything about data, concepts, seeds and samplers other than those measured.",
    "That the base model's other faults are mended: only the concepts above were worked on.",
)
#: Where a forget set is from, in words.
ORIGINS = {"selected": "selected from the data", "generated": "drawn by the base"}
#: What the version's facts stand for, before there is one.
NO_VERSION = "none yet: the copy of this report that is attached to a registered version names it"


def report_html(
    evaluation: Evaluation,
    sets: ForgetSummary,
    erase: EffectiveSettings,
    pictures: Mapping[str, bytes],
    charts: Mapping[str, bytes],
) -> str:
    """Verdict first, which models, pictures, tables, how it was measured, and what is not shown.

    It is a function of what was measured: :func:`with_version` adds what is known once the model is registered.

    Args:
        sets: what was to be forgotten and kept.
        erase: what the erasing did.
        pictures: drawn by both models, PNG by what they show.
        charts: of the erasing, likewise.
    """
    forgotten = sets.erasures.what
    failed = [name for name, gate in evaluation.gates.items() if not gate.passed]
    text = (
        f"Gates FAILED: do not use this model as if {forgotten} were gone."
        if failed
        else f"Gates passed: by the limits below {forgotten} is forgotten, and the rest is kept."
    )
    remedies = dict.fromkeys(GATES[name].rule.remedy for name in failed if name in GATES and GATES[name].rule.remedy)
    marked = {*sets.erasures.concepts, *sets.erasures.earlier}
    return page(
        f"Erasure report: {forgotten}",
        [
            *([Section("What to try", items=list(remedies))] if remedies else []),
            _identity(evaluation, sets, {"version": NO_VERSION}),
            Section("The same seeds before and after", SAME_SEEDS, pictures=pictures),
            Section("What was measured", _spread(evaluation), Table(_overall(evaluation), HEAD, numbers=True)),
            Section(
                "Concept by concept",
                "Share of the pictures drawn for a concept that are recognised as it. It should fall to nearly 0 where "
                "the concept was to be forgotten, and stay as it is elsewhere.",
                Table(concept_rows(evaluation, marked), ("concept", "base", "erased"), numbers=True),
            ),
            Section("What the numbers mean", table=Table(_meanings(evaluation))),
            Section("How the erasing went", pictures=charts),
            Section("How it was measured", table=Table(list(how_measured(evaluation, erase).items()))),
            Section("What this does not show", items=LIMITS),
        ],
        Verdict(evaluation.passed, text, sentences(evaluation, forgotten)),
    )


SAME_SEEDS = (
    "Each row is a concept, each column a seed. The framed row should no longer show its concept; the other "
    "rows should look as before."
)


def with_version(html: str, evaluation: Evaluation, sets: ForgetSummary, version: Mapping[str, str]) -> str:
    """A report with the facts of the version that was made of its model.

    Args:
        html: of :func:`report_html`.
        version: such as name and number, date, commit, who asked, where it is kept.

    Raises: IntegrityError: it is the report of another release.
    """
    try:
        return filled(html, _identity(evaluation, sets, version))
    except ValueError as error:
        raise IntegrityError(f"the report cannot name its version: {error}; run dvc repro verdict") from None


def _identity(evaluation: Evaluation, sets: ForgetSummary, version: Mapping[str, str]) -> Section:
    erasures, of_judge = sets.erasures, evaluation.judge
    n, m = sum(sets.forget.values()), sum(sets.retain.values())
    facts = {
        **version,
        "to be forgotten": erasures.what,
        "forgotten before": ", ".join(erasures.earlier),
        "forget set": f"{n:,} pictures of {', '.join(sets.forget)}, {ORIGINS.get(sets.origin, sets.origin)}",
        "retain set": f"{m:,} pictures of {', '.join(sets.retain)}",
        "forget set, SHA-256": sets.sha256,
        "base model, SHA-256": evaluation.models.get("base", ""),
        "erased model, SHA-256": evaluation.models.get("erased", ""),
        "classifier, fingerprint": str(of_judge.get("fingerprint") or of_judge.get("sha256", "")),
        "seed": str(evaluation.protocol.get("seed", "")),
    }
    rows = [(name, fact) for name, fact in facts.items() if fact]
    return Section("Which model this is about", table=Table(rows), slot="version")


def _overall(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    return table_rows(evaluation, each_concept=False, words=True)


def _spread(evaluation: Evaluation) -> str:
    draws = evaluation.protocol.get("draws")
    spread = (
        f"Means over {draws} draws of noise; ± is the standard deviation over the draws. "
        if isinstance(draws, int) and draws > 1
        else "One draw of noise: how much the numbers vary from draw to draw was not measured. "
    )
    return spread + "↑: higher is better for the erased model; ↓: lower is better."


def _meanings(evaluation: Evaluation) -> list[Sequence[str]]:
    """A row a metric of the table: its heading, its meaning."""
    metrics = dict.fromkeys(compared(evaluation.base, evaluation.erased).values())
    return [(metric.title or metric.name, metric.words) for metric in metrics]


def how_measured(evaluation: Evaluation, erase: EffectiveSettings) -> dict[str, str]:
    """How the numbers came about, in words by subject.

    Args:
        erase: what the erasing did.
    """
    judge, own, protocol = evaluation.judge, "the model's own", evaluation.protocol
    steps, scale = protocol.get("inference_steps"), protocol.get("guidance_scale")
    by_base = judge.get("pictures") == JUDGE_BY_BASE
    learned = ", as it learned from: those that the base drew under other seeds" if by_base else ""
    reference = "drawn by the base under other seeds" if by_base else "real"
    how = {
        "pictures": f"{protocol.get('samples_per_concept')} a concept × {protocol.get('draws')} draws of noise, "
        f"{_count(protocol.get('drawn_pictures'))} in all, the same seeds for both models",
        "sampling": f"{steps or own} steps, guidance scale {own if scale is None else f'{scale:g}'}",
        "classifier": f"accuracy {judge['accuracy']:.4f} on {judge['test_samples']} held-out pictures{learned}",
        "distance": f"{DISTANCE.words}: {_count(protocol.get('held_out_pictures'))}, {reference}",
        "method": method_in_words(erase),
    }
    if RECOGNISED.name in evaluation.base:
        how["base model"] = f"{RECOGNISED.cell(evaluation.base, RECOGNISED.name)} of its pictures recognised, all told"
    if differs := deviations_from_paper(erase):
        how["deviation from the paper"] = f"{'; '.join(differs)}; the evidence is in docs/PAPERS.md"
    return how


def _count(number: Value) -> str:
    return f"{number:,}" if isinstance(number, int) else "an unknown number"


def method_in_words(erase: EffectiveSettings) -> str:
    """``erasediff, 140 updates, multiplier paper, eta 1``: of the settings those that the run really used."""
    words = [erase.method, f"{erase.updates} updates"]
    for name in ("multiplier", "eta", "fixed_multiplier", "norm_ratio"):
        if (value := erase.settings.get(name)) is not None:
            words.append(f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}")
    return ", ".join(words)
