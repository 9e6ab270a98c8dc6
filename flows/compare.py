"""Methods × concepts × seeds as DVC experiments, with one search for each; a table, a plot and a page."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erasediff.comparison.table import Cell, best

CELLS, PAGE, PLOT = Path("reports/comparison.json"), Path("reports/comparison.html"), Path("reports/pareto.png")
#: Held while a comparison runs: what it writes is one page.
LOCK = Path(".work/compare.lock")
#: Prefix of the experiments' names.
PREFIX = "compare"


@dataclass(frozen=True)
class Search:
    """Values tried for every variant, on concepts and seeds of their own; ``common``: further params of its cells."""

    concepts: list[str]
    seeds: list[int]
    over: dict[str, list[Any]]
    common: dict[str, Any] = field(default_factory=dict)

    def choices(self) -> list[dict[str, Any]]:
        """Every combination of the values."""
        return [dict(zip(self.over, values, strict=True)) for values in itertools.product(*self.over.values())]


@dataclass(frozen=True)
class Comparison:
    """A file of ``comparisons/``.

    Attributes:
        common: params of every cell, by their dotted names.
        gold: the variant that the others are measured against; it is not searched.
    """

    title: str
    concepts: list[str]
    seeds: list[int]
    variants: dict[str, dict[str, Any]]
    common: dict[str, Any] = field(default_factory=dict)
    gold: str | None = None
    search: Search | None = None

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """Raises: ParamsError: no such file, no YAML, an unknown or a missing key, or a setting that is none."""
        from erasediff.errors import ParamsError
        from stages.params import read_yaml

        raw = read_yaml(path)
        try:
            tried = raw.pop("search", None)
            search = Search(common=tried.pop("set", {}), **tried) if tried else None
            result = cls(title=path.stem, common=raw.pop("set", {}), search=search, **raw)
        except (TypeError, AttributeError) as error:
            raise ParamsError(f"{path} is no comparison: {str(error).replace('__init__()', '')}") from None
        if result.gold is not None and result.gold not in result.variants:
            raise ParamsError(f"{path}: gold {result.gold!r} is none of the variants: {', '.join(result.variants)}")
        return result


@dataclass(frozen=True)
class Experiment:
    """The settings of one cell, and the name that follows from them: the same cell in two comparisons is one.

    Attributes:
        shared: no cell, but what the cells of a seed share.
    """

    variant: str
    concept: str
    seed: int
    settings: tuple[tuple[str, Any], ...]
    shared: bool = False

    @property
    def name(self) -> str:
        digest = hashlib.sha256(json.dumps(self.overrides, sort_keys=True).encode()).hexdigest()[:12]
        # A cell without settings of its own would else have the name of what it shares with others.
        return f"{PREFIX}-{'base-' if self.shared else ''}{digest}"

    @property
    def overrides(self) -> dict[str, Any]:
        """Params by their dotted names."""
        return {**dict(self.settings), "forget_set.concepts": [self.concept], "seed": self.seed}

    def cell(self, found: Mapping[str, Mapping[str, Any]]) -> Cell:
        """With its metrics, where it was run."""
        metrics = found.get(self.name, {})
        content = {"evaluation": metrics.get("evaluation"), "erase": metrics.get("erase")}
        return Cell.from_json({"variant": self.variant, "concept": self.concept, "seed": self.seed, **content})


def experiments(plan: Comparison, variant: str, *, choice: Mapping[str, Any], search: bool) -> list[Experiment]:
    """The cells of a variant with a choice of searched values, of the search or of the comparison itself."""
    where: Any = plan.search if search else plan
    more = plan.search.common if search and plan.search else {}
    settings = tuple({**plan.common, **more, **plan.variants[variant], **choice}.items())
    return [Experiment(variant, c, s, settings) for s in where.seeds for c in where.concepts]


def compared(plan: Comparison, chosen: Mapping[str, Mapping[str, Any]]) -> list[Experiment]:
    """All cells of the comparison itself, seed by seed: one interrupted has every variant at the first seeds."""
    cells = [e for v in plan.variants for e in experiments(plan, v, choice=chosen.get(v, {}), search=False)]
    return sorted(cells, key=lambda e: plan.seeds.index(e.seed))


def base_of(experiment: Experiment, concept: str) -> Experiment:
    """The experiment that makes what all cells of a seed share, under whatever concept."""
    shared = {k: v for k, v in experiment.settings if not k.startswith(("erase.", "evaluate.", "verdict."))}
    return Experiment("base", concept, experiment.seed, tuple(shared.items()), shared=True)


def searched(plan: Comparison, measured: Callable[[Sequence[Experiment]], list[Cell]]) -> dict[str, dict[str, Any]]:
    """The best choice for each variant but the gold standard. One that sets a searched value itself keeps it."""
    if plan.search is None:
        return {}
    tried: dict[str, list[dict[str, Any]]] = {}
    for variant, own in plan.variants.items():
        if variant != plan.gold:
            left = Search(
                plan.search.concepts, plan.search.seeds, {k: v for k, v in plan.search.over.items() if k not in own}
            )
            tried[variant] = left.choices()
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


def text(choice: Mapping[str, Any]) -> str:
    """A choice of params in words."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in choice.items()
    )


def write_cells(plan: Comparison, cells: Sequence[Cell], chosen: dict[str, str], file: str) -> None:
    """``reports/comparison.json``, which the page is made from."""
    from erasediff.artifacts import write_json
    from flows.pipeline import head_commit

    how = {"file": file, "commit": head_commit(), "concepts": ", ".join(plan.concepts)}
    how |= {"seeds": ", ".join(map(str, plan.seeds)), **{k: str(v) for k, v in plan.common.items()}}
    if plan.search:
        how["search"] = (
            f"concepts {', '.join(plan.search.concepts)}, seeds {', '.join(map(str, plan.search.seeds))}; "
            + ("; ".join(f"{k} of {', '.join(map(str, v))}" for k, v in plan.search.over.items()))
        )
    content = {"title": plan.title, "how": how, "gold": plan.gold, "chosen": chosen}
    write_json(CELLS, {**content, "cells": [cell.to_json() for cell in cells]})


def main() -> None:
    """The command ``python -m flows.compare``."""
    parser = argparse.ArgumentParser(prog="python -m flows.compare", description=__doc__)
    parser.add_argument("file", nargs="?", default="comparisons/methods.yaml", help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at once (default: one a core)")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error(f"--jobs {arguments.jobs}: at least 1")
    from erasediff.command import fail, quiet_environment
    from erasediff.errors import EraseDiffError
    from flows import pipeline

    quiet_environment()
    try:
        plan = Comparison.read(Path(arguments.file))
        pipeline.temporary_server()
        with pipeline.only_run(LOCK):
            from flows.champion import finished  # now that Prefect's settings stand
            from flows.compare_tasks import compare_flow
            from flows.runner import task_runner

            flow = compare_flow.with_options(task_runner=task_runner(arguments.jobs))
            finished(flow(arguments.file, threads=pipeline.threads(arguments.jobs), return_state=True))
        print(f"{plan.title}: {PAGE}")
    except EraseDiffError as error:
        sys.exit(fail(error))


if __name__ == "__main__":
    main()
