"""The plan of a comparison: variants × concepts × seeds, with one search of settings for each variant."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erasediff.comparison.table import Cell, best
from erasediff.errors import ParamsError

#: Prefix of the experiments' names.
PREFIX = "compare"
#: Params by their dotted names, with values as in YAML.
Settings = Mapping[str, object]


@dataclass(frozen=True)
class Search:
    """Values tried for every variant, on concepts and seeds of their own; ``common``: further params of its cells."""

    concepts: list[str]
    seeds: list[int]
    over: dict[str, list[object]]
    common: dict[str, object] = field(default_factory=dict)

    def choices(self) -> list[dict[str, object]]:
        """Return every combination of the values."""
        return [dict(zip(self.over, values, strict=True)) for values in itertools.product(*self.over.values())]


@dataclass(frozen=True)
class Comparison:
    """A comparison as somebody wrote it down.

    Attributes:
        common: params of every cell.
        gold: the variant that the others are measured against; it is not searched.
    """

    title: str
    concepts: list[str]
    seeds: list[int]
    variants: dict[str, dict[str, object]]
    common: dict[str, object] = field(default_factory=dict)
    gold: str | None = None
    search: Search | None = None


def comparison_of(file: Path, content: Mapping[str, Any]) -> Comparison:
    """Make a comparison of a file's content; ``set`` there is ``common`` here, its title is the file's name.

    Raises: ParamsError: an unknown or a missing key, or a gold standard that is no variant.
    """
    given = dict(content)
    try:
        tried = dict(given.pop("search", None) or {})
        search = Search(common=tried.pop("set", {}), **tried) if tried else None
        plan = Comparison(title=file.stem, common=given.pop("set", {}), search=search, **given)
    except (TypeError, ValueError) as error:
        raise ParamsError(f"{file} is no comparison: {str(error).replace('__init__()', '')}") from None
    if plan.gold is not None and plan.gold not in plan.variants:
        raise ParamsError(f"{file}: gold {plan.gold!r} is none of the variants: {', '.join(plan.variants)}")
    return plan


@dataclass(frozen=True)
class Experiment:
    """The settings of one cell, and the name that follows from them: the same cell in two comparisons is one.

    Attributes:
        shared: no cell, but what the cells of a seed share.
    """

    variant: str
    concept: str
    seed: int
    settings: tuple[tuple[str, object], ...]
    shared: bool = False

    @property
    def name(self) -> str:
        """The experiment's name in DVC."""
        digest = hashlib.sha256(json.dumps(self.overrides, sort_keys=True).encode()).hexdigest()[:12]
        # A cell without settings of its own would else have the name of what it shares with others.
        return f"{PREFIX}-{'base-' if self.shared else ''}{digest}"

    @property
    def overrides(self) -> dict[str, object]:
        """Params by their dotted names."""
        return {**dict(self.settings), "forget_set.concepts": [self.concept], "seed": self.seed}

    def cell(self, found: Mapping[str, Mapping[str, Any]]) -> Cell:
        """Return the cell with its metrics, where it was run.

        Args:
            found: by the experiment's name, its ``evaluation`` and ``erase``.
        """
        metrics = found.get(self.name, {})
        content = {"evaluation": metrics.get("evaluation"), "erase": metrics.get("erase")}
        return Cell.from_json({"variant": self.variant, "concept": self.concept, "seed": self.seed, **content})


def experiments(plan: Comparison, variant: str, *, choice: Settings, search: bool) -> list[Experiment]:
    """Return the cells of a variant with a choice of searched values, of the search or of the comparison itself."""
    where = plan.search if search and plan.search else plan
    more = where.common if isinstance(where, Search) else {}
    settings = tuple({**plan.common, **more, **plan.variants[variant], **choice}.items())
    return [Experiment(variant, c, s, settings) for s in where.seeds for c in where.concepts]


def compared(plan: Comparison, chosen: Mapping[str, Settings]) -> list[Experiment]:
    """Return all cells of the comparison itself, seed by seed: one interrupted has every variant at the first seeds."""
    cells = [e for v in plan.variants for e in experiments(plan, v, choice=chosen.get(v, {}), search=False)]
    return sorted(cells, key=lambda e: plan.seeds.index(e.seed))


def base_of(experiment: Experiment, concept: str) -> Experiment:
    """Return the experiment that makes what all cells of a seed share, under whatever concept."""
    shared = {k: v for k, v in experiment.settings if not k.startswith(("erase.", "evaluate.", "verdict."))}
    return Experiment("base", concept, experiment.seed, tuple(shared.items()), shared=True)


def searched(plan: Comparison, measured: Callable[[Sequence[Experiment]], list[Cell]]) -> dict[str, dict[str, object]]:
    """Return the best choice for each variant but the gold standard. One that sets a searched value itself keeps it.

    Args:
        measured: runs experiments; returns their cells in the same order.
    """
    if plan.search is None:
        return {}
    tried: dict[str, list[dict[str, object]]] = {}
    for variant, own in plan.variants.items():
        if variant != plan.gold:
            left = {k: v for k, v in plan.search.over.items() if k not in own}
            tried[variant] = Search(plan.search.concepts, plan.search.seeds, left).choices()
    wanted = {
        (variant, text(choice)): experiments(plan, variant, choice=choice, search=True)
        for variant, choices in tried.items()
        for choice in choices
    }
    cells = iter(measured([e for group in wanted.values() for e in group]))
    results = {key: [next(cells) for _ in group] for key, group in wanted.items()}
    chosen = {}
    for variant, choices in tried.items():
        winner = best({text(choice): results[variant, text(choice)] for choice in choices})
        chosen[variant] = next(choice for choice in choices if text(choice) == winner)
    return chosen


def text(choice: Settings) -> str:
    """Return a choice of params in words."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in choice.items()
    )


def content(
    plan: Comparison, cells: Sequence[Cell], chosen: Mapping[str, str], *, file: str, commit: str
) -> dict[str, Any]:
    """Return what a comparison's page is made from, as JSON takes it.

    Args:
        chosen: by variant, the searched values in words.
        file: where the plan was read from.
        commit: what was run.
    """
    how = {"file": file, "commit": commit, "concepts": ", ".join(plan.concepts)}
    how |= {"seeds": ", ".join(map(str, plan.seeds)), **{k: str(v) for k, v in plan.common.items()}}
    if plan.search:
        how["search"] = (
            f"concepts {', '.join(plan.search.concepts)}, seeds {', '.join(map(str, plan.search.seeds))}; "
            + ("; ".join(f"{k} of {', '.join(map(str, v))}" for k, v in plan.search.over.items()))
        )
    about = {"title": plan.title, "how": how, "gold": plan.gold, "chosen": dict(chosen)}
    return {**about, "cells": [cell.to_json() for cell in cells]}
