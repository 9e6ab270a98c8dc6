"""Selecting what to forget from a table, without what was forgotten before."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from erasediff.data.inputs import has_pictures
from erasediff.data.table import counts
from erasediff.errors import NAME_IT, DataError, require_concepts

#: Characters of a sample id that are noted for good: enough to tell pictures apart.
ID_LENGTH = 16


def set_apart(
    table: pd.DataFrame, concepts: list[str], sample_ids: list[str], earlier: list[str]
) -> tuple[pd.DataFrame, pd.Series[bool]]:
    """The train split, or words, and which rows of it are to be forgotten: all others are to be retained.

    Args:
        earlier: what the base has forgotten before, which is retained no more.

    Raises: UnknownConcept; DataError: an unknown id, or nothing would be left of either.
    """
    table, chosen = without(table, select(table, concepts, sample_ids), earlier)
    return (table, chosen) if has_pictures(table) else without_shared_prompts(table, chosen)


def select(table: pd.DataFrame, concepts: list[str], sample_ids: list[str]) -> pd.Series[bool]:
    """Rows of the train split to forget. Raises: UnknownConcept; DataError: an unknown id, or nothing would be left."""
    require_concepts(concepts, set(table["concept"]), "" if has_pictures(table) else NAME_IT)
    chosen = table["concept"].isin(concepts) | table["sample_id"].isin(_whole_ids(set(table["sample_id"]), sample_ids))
    if chosen.all() or not chosen.any():
        what = "everything" if chosen.all() else "nothing"
        raise DataError(
            f"forget_set selects {what} ({int(chosen.sum())} of {len(table)} pictures): name fewer or others"
        )
    return chosen


def without(table: pd.DataFrame, chosen: pd.Series[bool], earlier: list[str]) -> tuple[pd.DataFrame, pd.Series[bool]]:
    """The table, and what is chosen of it, without what the base has forgotten: retaining it would teach it anew.

    Args:
        earlier: concepts and starts of sample ids. What is asked for again stays.

    Raises: DataError: nothing would be left to retain.
    """
    gone = table["concept"].isin(earlier) | table["sample_id"].str[:ID_LENGTH].isin(earlier)
    table, chosen = table[chosen | ~gone], chosen[chosen | ~gone]
    if chosen.all():
        raise DataError(
            f"nothing is left to retain: the base has forgotten {', '.join(earlier)} already; name fewer concepts"
        )
    return table, chosen


def without_shared_prompts(table: pd.DataFrame, chosen: pd.Series[bool]) -> tuple[pd.DataFrame, pd.Series[bool]]:
    """A table of words, and what is chosen of it, without the retained rows whose prompt is to be forgotten too.

    A prompt may be of several concepts: asked by it, the model would be taught both.

    Raises: DataError: nothing would be left to retain.
    """
    shared = ~chosen & table["prompt"].isin(table.loc[chosen, "prompt"])
    table, chosen = table[~shared], chosen[~shared]
    if chosen.all():
        raise DataError("nothing is left to retain: every prompt is of a concept to forget; add concepts to keep")
    return table, chosen


def _whole_ids(known: set[str], asked: list[str]) -> list[str]:
    """Ids by themselves or by a start of at least 8 characters. Raises: DataError: one names no picture, or several."""
    found = {start: [i for i in known if i.startswith(start.lower())] if len(start) >= 8 else [] for start in asked}
    missing = sorted(start for start, ids in found.items() if not ids)
    if missing:
        raise DataError(
            f"forget_set.sample_ids: {len(missing)} id(s) are not in the train split of data/curated, first: "
            f"{', '.join(missing[:5])} (a whole id, or at least its first 8 characters)"
        )
    several = sorted(start for start, ids in found.items() if len(ids) > 1)
    if several:
        raise DataError(
            f"forget_set.sample_ids: more than one picture starts with {', '.join(several[:5])}: write more"
        )
    return [ids[0] for ids in found.values()]


@dataclass(frozen=True)
class Sets:
    """D_f and D_r, as rows of the table."""

    forget: pd.DataFrame
    retain: pd.DataFrame

    def balanced(self, retain_per_concept: int | None) -> Sets:
        """With at most so many retained pictures a concept, in the order of their ids; ``None``: all of them."""
        if not retain_per_concept:
            return self
        first = self.retain.sort_values("sample_id").groupby("concept").head(retain_per_concept)
        return Sets(self.forget, first)

    def together(self) -> pd.DataFrame:
        """Both in one table, with the columns that :func:`erasediff.data.expectations.forget_expectations` reads."""
        both = pd.concat([self.forget.assign(set="forget"), self.retain.assign(set="retain")])
        # A null is no value to check: each column speaks of its own set alone.
        both["forget_concept"] = both["concept"].where(both["set"] == "forget")
        both["retain_concept"] = both["concept"].where(both["set"] == "retain")
        both["sets_of_picture"] = both.groupby("sample_id")["set"].transform("nunique")
        return both

    def facts(self, earlier: list[str], *, by_id: bool) -> dict[str, object]:
        """The summary: forgotten now, forgotten before, the number of pictures by concept.

        Args:
            earlier: what the base had forgotten: concepts and starts of sample ids.
            by_id: single pictures are forgotten, which are noted by the start of their ids.
        """
        concepts = sorted(set(self.forget["concept"]) - set(self.retain["concept"]))
        ids = sorted(i[:ID_LENGTH] for i in self.forget["sample_id"]) if by_id else []
        return {
            "concepts": concepts,
            "sample_ids": ids,
            "earlier": sorted({*earlier} - {*concepts, *ids}),
            "forget": counts(self.forget),
            "retain": counts(self.retain),
        }
