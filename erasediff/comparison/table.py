"""Methods side by side: the table, and who dominates whom."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from erasediff.errors import IntegrityError
from erasediff.metrics.intervals import ratio
from erasediff.metrics.rules import GatedMetric
from erasediff.metrics.table import (
    BASE_ACCURACY,
    CROSS_DOMAIN,
    DISTANCE,
    GATES,
    RETAIN_ACCURACY,
    UNLEARNING_ACCURACY,
    untold_of,
)
from erasediff.records import Evaluation, Json

#: What the table shows of every cell: the gates' values, but for what is of the base alone.
COLUMNS = [gated for gated in GATES.values() if gated.metric is not BASE_ACCURACY]
#: The numbers that the plot and "dominated by" look at.
FORGETTING, FARTHER = UNLEARNING_ACCURACY.name, f"{DISTANCE.name}_ratio"
WEAKEST_SIDE = "weakest_side"
#: The metrics that the weakest side is made of.
COMPARED_BY = (UNLEARNING_ACCURACY.name, RETAIN_ACCURACY.name, CROSS_DOMAIN.name, DISTANCE.name)


def head_of(gated: GatedMetric) -> str:
    """A column's head, with an arrow to the better side."""
    words = ", ".join(filter(None, (gated.metric.title or gated.metric.name.replace("_", " "), gated.rule.label)))
    return f"{words} {'↑' if gated.direction == 'min' else '↓'}"


@dataclass(frozen=True)
class Cell:
    """One model measured: a variant, a concept, a seed.

    Attributes:
        evaluation: ``None`` where it failed.
        erase: numbers of ``metrics/erase.json``; ``None`` where it failed.
    """

    variant: str
    concept: str
    seed: int
    evaluation: Evaluation | None
    erase: Json | None

    @classmethod
    def from_json(cls, content: Json) -> Cell:
        """From what :meth:`to_json` gives, or from the files of an experiment. Raises: IntegrityError."""
        where = f"the evaluation of {content['variant']}, {content['concept']}, seed {content['seed']}"
        found = content["evaluation"]
        return cls(**{**content, "evaluation": found and Evaluation.from_json(found, where)})

    def to_json(self) -> Json:
        """With the evaluation as its own file has it."""
        return {**vars(self), "evaluation": self.evaluation and self.evaluation.to_json()}

    @property
    def numbers(self) -> dict[str, float] | None:
        """The compared numbers of this cell: what the gates judge, the distance itself, and the weakest side."""
        if self.evaluation is None:
            return None
        base, erased, weakest = self.evaluation.base, self.evaluation.erased, weakest_side(self.evaluation)
        judged = {gated.name: gated.value(base, erased) for gated in COLUMNS}
        return {
            **{name: value for name, value in judged.items() if value is not None},
            DISTANCE.name: erased[DISTANCE.name],
            WEAKEST_SIDE: weakest,
            "gates_passed": float(self.evaluation.passed),
        }


def weakest_side(evaluation: Evaluation) -> float:
    """One number for forgetting *and* utility, in [0, 1]: the least of unlearning accuracy, share of the base's retain
    accuracy that is kept, and the base's distance to held-out pictures over the erased model's.

    Raises: IntegrityError: one of them stands on too few pictures to be given.
    """
    if few := untold_of({n: evaluation.counts[n] for n in COMPARED_BY if n in evaluation.counts}):
        raise IntegrityError(
            f"models cannot be compared: {', '.join(f'{name} {why}' for name, why in few.items())}; raise "
            "evaluate.samples_per_concept or evaluate.draws"
        )
    base, erased = evaluation.base, evaluation.erased
    names = [metric.name for metric in (RETAIN_ACCURACY, CROSS_DOMAIN) if metric.name in erased]
    kept = min(ratio(erased[name], base[name]) for name in names)
    near = ratio(base[DISTANCE.name], erased[DISTANCE.name])
    return min(1.0, erased[UNLEARNING_ACCURACY.name], kept, near)


def best(found: Mapping[str, Sequence[Cell]]) -> str:
    """The choice whose cells have the best mean weakest side; a failed cell counts 0."""
    scores = {
        choice: statistics.fmean(weakest_side(c.evaluation) if c.evaluation else 0.0 for c in cells)
        for choice, cells in found.items()
    }
    return max(scores, key=lambda choice: scores[choice])


def require_one_judge(cells: Iterable[Cell]) -> None:
    """Raises: IntegrityError: cells of one seed were measured by different judges, so their numbers do not compare."""
    judges: dict[int, dict[str, str]] = {}
    for cell in cells:
        if cell.evaluation is not None and (judge := cell.evaluation.protocol.get("judge")):
            judges.setdefault(cell.seed, {})[str(judge)] = cell.variant
    for seed, found in judges.items():
        if len(found) > 1:
            variants = ", ".join(found.values())
            raise IntegrityError(f"cells of seed {seed} were measured by different judges ({variants}): run them anew")


def summary(cells: Iterable[Cell]) -> dict[str, dict[str, float]]:
    """By variant: mean and standard deviation (``_sd``) of each number over its cells, updates, passes, cells, failed.

    A variant of which every cell failed has the counts alone.
    """
    by_variant: dict[str, list[Cell]] = {}
    for cell in cells:
        by_variant.setdefault(cell.variant, []).append(cell)
    result: dict[str, dict[str, float]] = {}
    for variant, own in by_variant.items():
        rows = [numbers for cell in own if (numbers := cell.numbers) is not None]
        line: dict[str, float] = {"cells": len(own), "failed": len(own) - len(rows)}
        for name in rows[0] if rows else ():
            values = [row[name] for row in rows]
            line[name] = statistics.fmean(values)
            line[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else 0.0
        for name in ("updates", "passes", "gradient_cosine_mean"):
            known = [cell.erase[name] for cell in own if cell.erase and name in cell.erase]
            if known:
                line[name] = statistics.fmean(known)
        result[variant] = line
    return result


def dominated_by(table: Mapping[str, Mapping[str, float]], gold: str | None) -> dict[str, list[str]]:
    """For each variant those, the gold standard apart, that forget as much at as small a distance, and one of both
    better: by the means."""
    axes = {v: (row[FORGETTING], -row[FARTHER]) for v, row in table.items() if FARTHER in row}
    return {
        variant: [
            other
            for other, theirs in axes.items()
            if other not in (variant, gold)
            and theirs != mine
            and all(t >= m for t, m in zip(theirs, mine, strict=True))
        ]
        for variant, mine in axes.items()
    }


def heads(table: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The numbers that some variant of a table has, with their columns' heads."""
    found = {gated.name: head_of(gated) for gated in COLUMNS} | {WEAKEST_SIDE: "weakest side ↑"}
    return {name: head for name, head in found.items() if any(name in row for row in table.values())}


def table_rows(
    table: Mapping[str, Mapping[str, float]], chosen: Mapping[str, str], gold: str | None
) -> list[dict[str, str]]:
    """The table as text, best weakest side first."""
    worse = dominated_by(table, gold)
    rows = []
    for variant, row in sorted(table.items(), key=lambda item: -item[1].get(WEAKEST_SIDE, -1.0)):
        line = {"variant": variant + (" (gold standard)" if variant == gold else "")}
        for name, head in heads(table).items():
            line[head] = f"{_number(row[name])} ± {row[f'{name}_sd']:.3f}" if name in row else "failed"
        line["gates passed"] = (
            f"{row.get('gates_passed', 0.0) * (row['cells'] - row['failed']):.0f} of {row['cells']:.0f}"
        )
        line["updates"] = f"{row['updates']:.0f}" if "updates" in row else ""
        line["images through the network"] = f"{row['passes']:,.0f}" if "passes" in row else ""
        line["cosine of the gradients"] = f"{row['gradient_cosine_mean']:.2f}" if "gradient_cosine_mean" in row else ""
        line["searched"] = chosen.get(variant, "")
        line["dominated by"] = ", ".join(worse.get(variant, [])) if variant != gold else ""
        rows.append(line)
    return rows


def _number(value: float) -> str:
    """Three digits, and no minus before what they show as nothing."""
    return f"{round(value, 3) + 0.0:.3f}"


def against_gold(cells: Sequence[Cell], gold: str) -> list[dict[str, str]]:
    """Each variant beside the gold standard at the same concept and seed, as text: mean differences and ratios."""
    reference = {(c.concept, c.seed): n for c in cells if c.variant == gold and (n := c.numbers)}
    pairs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {}
    for cell in cells:
        other = reference.get((cell.concept, cell.seed))
        if cell.variant != gold and other and (mine := cell.numbers):
            pairs.setdefault(cell.variant, []).append((mine, other))
    return [
        {
            "variant": variant,
            "unlearning accuracy, less theirs": f"{statistics.fmean(a[u] - b[u] for a, b in found):+.3f}",
            "distance, ratio to theirs": f"{statistics.fmean(ratio(a[d], b[d]) for a, b in found):.3f}",
            "pairs": str(len(found)),
        }
        for variant, found in pairs.items()
        for u, d in [(FORGETTING, DISTANCE.name)]
    ]
