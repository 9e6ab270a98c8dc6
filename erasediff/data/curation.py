"""Curating: from a source to a table, with what is checked, counted and told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from erasediff.data import expectations
from erasediff.data.names import class_order
from erasediff.data.overview import curated_overview, words_overview
from erasediff.data.prompts import prompt_files, read_prompts, template_prompts, words_table
from erasediff.data.sources import Source
from erasediff.data.table import curate_table
from erasediff.data.wordings import Kind, warn_of_misspelt
from erasediff.pages import Section

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation


@dataclass(frozen=True)
class Curation:
    """A table before it is checked.

    Attributes:
        checked: the table with the columns that the checks need.
        overview: what its page says first.
        facts: for the summary, beside the counts.
        left_out: numbers of files, pictures or prompts by reason.
    """

    table: pd.DataFrame
    checked: pd.DataFrame
    checks: list[Expectation]
    overview: Sequence[Section]
    facts: Mapping[str, object]
    left_out: Mapping[str, int]


def curated_pictures(
    source: Source,
    *,
    told: str,
    min_per_concept: int,
    image_size: int | None,
    mode: str | None,
    test_fraction: float,
    max_per_concept: int | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Curation:
    """Pictures of a source. Arguments beside the first three are those of :func:`erasediff.data.table.curate_table`.

    Args:
        told: the source, for people.

    Raises: DataError: no picture can be read.
    """
    curated = curate_table(
        source,
        image_size=image_size,
        mode=mode,
        test_fraction=test_fraction,
        max_per_concept=max_per_concept,
        on_progress=on_progress,
    )
    table, left_out = curated.table, {**source.left_out, **curated.left_out}
    good = table[table["readable"]].iloc[0]
    facts = {
        "classes": list(source.classes) or class_order(table["concept"]),
        "image_size": int(good["width"]),
        "mode": good["mode"],
    }
    return Curation(
        table,
        expectations.with_checks(curated),
        expectations.curated_expectations(facts["image_size"], facts["mode"], min_per_concept),
        curated_overview(curated, told, left_out, facts["classes"]),
        facts,
        left_out,
    )


def curated_words(path: Path, concepts: Mapping[str, Kind], test_fraction: float) -> Curation:
    """Prompts of templates, and of the CSV files at a path. A concept that looks misspelt is warned of.

    Args:
        concepts: to make prompts of, with their kinds.

    Raises: DataError: a file cannot be used, or there is no prompt at all.
    """
    files = prompt_files(path)
    prompts = [*template_prompts(concepts), *(p for file in files for p in read_prompts(file, concepts))]
    curated = words_table(prompts, test_fraction)
    classes = class_order(curated.table["concept"])
    warn_of_misspelt(classes)
    told = " and ".join([*(["templates of curate.concepts"] if concepts else []), *map(str, files)])
    return Curation(
        curated.table,
        expectations.with_word_checks(curated.table),
        expectations.words_expectations(),
        words_overview(curated, told),
        {"classes": classes},
        curated.left_out,
    )
