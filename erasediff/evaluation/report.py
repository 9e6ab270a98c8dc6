"""The report: one HTML file that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from erasediff.errors import IntegrityError
from erasediff.evaluation.attack_section import attack_sections
from erasediff.evaluation.gates import sentences
from erasediff.evaluation.manner import how_measured
from erasediff.evaluation.plane import plane_section
from erasediff.evaluation.self_checks import UNCHECKED
from erasediff.evaluation.table import CONCEPT_HEAD, HEAD, concept_rows, table_rows
from erasediff.metrics.intervals import CONFIDENCE
from erasediff.metrics.table import ATTACK_RISE, GATES, INSTEAD, UNLEARNING_ACCURACY, compared
from erasediff.pages import Section, Table, Verdict, filled, page
from erasediff.records import (
    FAILED,
    PASSED,
    UNDECIDED,
    EffectiveSettings,
    Evaluation,
    ForgetSummary,
)

#: What no gate measures, for report and model card.
LIMITS = (
    "That the concept cannot be brought back: the attacks are few, their searches short. Others may do it.",
    "That no training picture is copied: a copy that is cropped is not found; one mirrored or turned by quarters is.",
    "That a picture of the forget set left no trace at all: the gates measure what is drawn, not what is remembered.",
    "Anything about data, concepts, seeds and samplers other than those measured.",
    "That the base model's other faults are mended: only the concepts above were worked on.",
    "That people see what the judge sees: most numbers rest on one judge, which may read a picture otherwise.",
    "What single seeds hide: a rare picture of the concept may be missing among those that were drawn.",
)
#: Where a forget set is from, in words.
ORIGINS = {"selected": "selected from the data", "generated": "drawn by the base"}
#: What the version's facts stand for, before there is one.
NO_VERSION = "none yet: the copy of this report that is attached to a registered version names it"


def report_html(
    evaluation: Evaluation,
    sets: ForgetSummary,
    erase: EffectiveSettings | None,
    pictures: Mapping[str, bytes],
    charts: Mapping[str, bytes],
) -> str:
    """Verdict first, which models, pictures, tables, how it was measured, and what is not shown.

    It is a function of what was measured: :func:`with_version` adds what is known once the model is registered.

    Args:
        sets: what was to be forgotten and kept.
        erase: what the erasing did; ``None``: somebody else did it, and nothing is known of it.
        pictures: drawn by both models, PNG by what they show.
        charts: of the erasing, likewise.
    """
    forgotten = sets.erasures.what
    marked = {*sets.erasures.concepts, *sets.erasures.earlier}
    return page(
        f"Erasure report: {forgotten}",
        [
            *([Section("What to try", items=remedies)] if (remedies := _remedies(evaluation)) else []),
            _identity(evaluation, sets, {"version": NO_VERSION}),
            *_drawn_instead(evaluation),
            Section("The same seeds before and after", SAME_SEEDS, pictures=pictures),
            *([plane] if (plane := plane_section(evaluation)) is not None else []),
            Section("What was measured", _intervals(evaluation), Table(_overall(evaluation), HEAD, numbers=True)),
            Section(
                "Concept by concept",
                "Share of the pictures drawn for a concept that are recognised as it. It should fall to nearly 0 where "
                "the concept was to be forgotten, and stay as it is elsewhere. Those to be forgotten stand first, then "
                "the retained ones that look most like them, then the others, the most harmed first.",
                Table(concept_rows(evaluation, marked), CONCEPT_HEAD, numbers=True),
            ),
            Section("What the numbers mean", table=Table(_meanings(evaluation))),
            *attack_sections(evaluation.attacks, ATTACK_RISE.name in evaluation.gates, evaluation.skipped),
            _self_checks(evaluation),
            *([Section("How the erasing went", pictures=charts)] if charts else []),
            Section("How it was measured", table=Table(list(how_measured(evaluation, erase).items()))),
            Section("What this does not show", items=LIMITS),
        ],
        _verdict(evaluation, forgotten),
    )


def _verdict(evaluation: Evaluation, forgotten: str) -> Verdict:
    """In plain words, with the third outcome: it cannot be told."""
    text = {
        PASSED: f"Passed: within the limits below, {forgotten} is forgotten and the rest is kept.",
        FAILED: f"FAILED: do not use this model as if {forgotten} were gone.",
        UNDECIDED: f"It cannot be told whether {forgotten} is forgotten and the rest is kept: that is no pass.",
    }[evaluation.outcome]
    because = sentences(evaluation, forgotten)
    if UNLEARNING_ACCURACY.name in evaluation.gates and ATTACK_RISE.name not in evaluation.gates:
        tried = 'see "Does it come back?" below' if evaluation.attacks.get("erased") else "no attack was tried"
        because.append(f"No part of this verdict: whether somebody can bring it back; {tried}")
    because += [f"The evaluation did not prove itself: {evaluation.unproven}"] if evaluation.unproven else []
    return Verdict(None if evaluation.outcome == UNDECIDED else evaluation.passed, text, because)


def _remedies(evaluation: Evaluation) -> list[str]:
    """What to try, of the gates whose number misses its limit; and how many pictures to draw."""
    found: dict[str, None] = {}
    for name, gate in evaluation.gates.items():
        if gate.value is None:
            continue
        misses = gate.value < gate.limit if gate.direction == "min" else gate.value > gate.limit
        if name in GATES and not gate.passed and misses:
            found[GATES[name].rule.remedy] = None
    if (more := more_pictures(evaluation)) is not None:
        where = f"set evaluate.samples_per_concept to {more:,} or more (of erasediff evaluate: --samples {more})"
        found[f"Too few pictures: {where}, and run again."] = None
    if evaluation.unproven:
        found["The limits of verdict, the judge or the counts let a planted model pass: look at the self-checks."] = (
            None
        )
    return list(found)


def more_pictures(evaluation: Evaluation) -> int | None:
    """Pictures of each concept and draw that would tell what cannot be told; ``None``: all is told, or none would."""
    each = evaluation.protocol.get("samples_per_concept")
    wanted = [gate.needed / gate.pictures for gate in evaluation.gates.values() if gate.needed and gate.pictures]
    return math.ceil(each * max(wanted)) if wanted and isinstance(each, int) else None


def _drawn_instead(evaluation: Evaluation) -> list[Section]:
    """What the judge sees in the pictures drawn for forgotten concepts, and what is wrong with them."""
    rows = []
    for concept, seen in evaluation.instead.items():
        everything = sum(seen.values())
        likely = [f"{name} ({count / everything:.0%})" for name, count in list(seen.items())[:5]]
        rows.append((f"{concept}: read as", ", ".join(likely)))
    for metric in INSTEAD:
        if metric.name in evaluation.erased:
            rows.append((metric.words, metric.cell(evaluation.erased, metric.name)))
    text = (
        "What the erased model draws for what was to be forgotten. The judge has to name some concept, also of noise: "
        "the lower rows do not ask it."
    )
    return [Section("What is drawn instead", text, Table(rows))] if rows else []


def _self_checks(evaluation: Evaluation) -> Section:
    """Whether the evaluation saw through planted models, if any were measured."""
    if not evaluation.self_checks:
        return Section("Would a bad model be caught?", f"{UNCHECKED}.")
    rows = [(name, c.expected, c.found, "yes" if c.held else "FAILED") for name, c in evaluation.self_checks.items()]
    text = "Models that were planted to be caught, judged by the same judge, numbers and limits, on fewer pictures."
    table = Table(rows, ("planted model", "has to be", "was", "caught"))
    return Section("Would a bad model be caught?", text, table)


SAME_SEEDS = (
    "Each row is a concept, each column a seed. The framed row should no longer show its concept; the other "
    "rows should look as before. Those that look most like it stand next, then the others, the most harmed first."
)


def with_version(
    html: str,
    evaluation: Evaluation,
    sets: ForgetSummary,
    version: Mapping[str, str],
    earlier: Mapping[str, Evaluation] | None = None,
) -> str:
    """A report with the facts of the version that was made of its model.

    Args:
        html: of :func:`report_html`.
        version: such as name and number, date, commit, who asked, where it is kept.
        earlier: how earlier versions of the same model were evaluated, by what they are called.

    Raises: IntegrityError: it is the report of another release.
    """
    try:
        named = filled(html, _identity(evaluation, sets, version))
        plane = plane_section(evaluation, earlier) if earlier else None
        return named if plane is None else filled(named, plane)
    except ValueError as error:
        raise IntegrityError(f"the report cannot name its version: {error}; run dvc repro verdict") from None


def _identity(evaluation: Evaluation, sets: ForgetSummary, version: Mapping[str, str]) -> Section:
    erasures, of_judge = sets.erasures, evaluation.judge
    n, m = sum(sets.forget.values()), sum(sets.retain.values())
    of_sets = {
        "forget set": f"{n:,} pictures of {', '.join(sets.forget)}, {ORIGINS.get(sets.origin, sets.origin)}",
        "retain set": f"{m:,} pictures of {', '.join(filter(None, sets.retain))}",
        "forget set, SHA-256": sets.sha256,
    }
    facts = {
        **version,
        "to be forgotten": erasures.what,
        "forgotten before": ", ".join(erasures.earlier),
        **(of_sets if sets.forget else {}),
        "base model, SHA-256": evaluation.models.get("base", ""),
        "erased model, SHA-256": evaluation.models.get("erased", ""),
        "judge, fingerprint": str(of_judge.get("fingerprint") or of_judge.get("sha256", "")),
        "seed": str(evaluation.protocol.get("seed", "")),
    }
    rows = [(name, fact) for name, fact in facts.items() if fact]
    return Section("Which model this is about", table=Table(rows), slot="version")


def _overall(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    return table_rows(evaluation, each_concept=False, words=True)


def _intervals(evaluation: Evaluation) -> str:
    draws = evaluation.protocol.get("draws")
    spread = f"Means over {draws} draws of noise. " if isinstance(draws, int) and draws > 1 else "One draw of noise. "
    if any("±" in cell for row in _overall(evaluation) for cell in row):
        spread += "± is a standard deviation over the draws. "
    told = (
        f"In brackets: what it may be, allowing for chance ({CONFIDENCE:.0%} intervals). A gate passes where the whole "
        "interval keeps its limit, and fails where the whole of it misses it: each is wrong once in 40 times. "
        if any(name.endswith("_low") for name in evaluation.erased)
        else ""
    )
    return told + spread + "↑: higher is better for the erased model; ↓: lower is better."


def _meanings(evaluation: Evaluation) -> list[Sequence[str]]:
    """A row a metric of the table: its heading, its meaning."""
    metrics = dict.fromkeys(compared(evaluation.base, evaluation.erased).values())
    return [(metric.title or metric.name, metric.words) for metric in metrics]
