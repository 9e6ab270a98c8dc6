"""What the tables hold, in the words and tables of their pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erasediff.data.selection import Sets
from erasediff.data.table import Curated, counts
from erasediff.errors import shown
from erasediff.pages import Section, Table


def left_out_words(left_out: Mapping[str, int]) -> str:
    """Such as ``left out: 3 duplicates, 2 .txt``: at most ten kinds by name."""
    if not left_out:
        return "nothing left out"
    named, more = list(left_out.items())[:10], list(left_out.values())[10:]
    text = ", ".join(f"{n} {kind}" for kind, n in named)
    return f"left out: {text}" + (f", {sum(more)} of {len(more)} other kinds" if more else "")


def curated_overview(
    curated: Curated, source: str, left_out: Mapping[str, int], classes: Sequence[str]
) -> list[Section]:
    """Where the pictures come from, how many there are of each concept, what was left out.

    Args:
        source: the kind of source and its path.
        left_out: numbers by reason, of files and of pictures.
        classes: in the order in which a model that does not name its classes is taken to have them.
    """
    table = curated.table
    good = table[table["readable"]]
    test, concepts = counts(good[good["split"] == "test"]), counts(good)
    first = good.iloc[0]
    facts = [
        ("source", source),
        ("pictures", f"{len(good):,} of {len(concepts):,} concepts"),
        ("size", f"{first['width']} × {first['height']} pixels, {'grey' if first['mode'] == 'L' else 'RGB'}"),
        ("held out for testing", f"{sum(test.values()):,} pictures, chosen by their content"),
        ("classes in order", shown(", ".join(classes), 200)),
        ("left out", left_out_words(left_out).removeprefix("left out: ").removesuffix(" left out")),
    ]
    rows = [(name, f"{n - test.get(name, 0):,}", f"{test.get(name, 0):,}") for name, n in concepts.items()]
    return [
        Section("The table", table=Table(facts)),
        Section("Pictures by concept", table=Table(rows, ("concept", "for training", "for testing"), numbers=True)),
    ]


def words_overview(curated: Curated, source: str) -> list[Section]:
    """How many prompts there are of each concept, and where they come from."""
    words = curated.table
    test, concepts = counts(words[words["split"] == "test"]), counts(words)
    facts = [
        ("source", source),
        ("prompts", f"{len(words):,} of {len(concepts):,} concepts"),
        ("written by people", f"{(words['origin'] == 'real').sum():,}"),
        ("made of templates", f"{(words['origin'] == 'generated').sum():,}"),
        ("never trained on", f"{sum(test.values()):,} prompts, which the test alone asks by"),
        ("left out", left_out_words(curated.left_out).removeprefix("left out: ").removesuffix(" left out")),
    ]
    rows = [(name, f"{n - test.get(name, 0):,}", f"{test.get(name, 0):,}") for name, n in concepts.items()]
    return [
        Section("The table", "There are no pictures: the base model draws them.", Table(facts)),
        Section("Prompts by concept", table=Table(rows, ("concept", "for training", "for testing"), numbers=True)),
    ]


def sets_overview(sets: Sets, source: str, earlier: Sequence[str], discarded: Mapping[str, int]) -> list[Section]:
    """How many pictures are to be forgotten and to be retained, and where they come from.

    Args:
        source: where the pictures come from.
        earlier: what the base had forgotten before.
        discarded: drawn pictures that did not show their concept, by concept.
    """
    forget, retain = counts(sets.forget), counts(sets.retain)
    facts = [
        ("source", source),
        ("to forget", f"{len(sets.forget):,} pictures of {', '.join(forget)}"),
        ("to retain", f"{len(sets.retain):,} pictures of {len(retain):,} concepts"),
        ("forgotten before", ", ".join(earlier) or "nothing"),
    ]
    if discarded:
        words = ", ".join(f"{n:,} of {concept}" for concept, n in sorted(discarded.items()))
        facts.append(("drawn and not used", f"{words}: the judge did not recognise the concept"))
    names = sorted({*forget, *retain})
    rows = [(name or "everyday", f"{forget.get(name, 0):,}", f"{retain.get(name, 0):,}") for name in names]
    return [
        Section("The sets", table=Table(facts)),
        Section("Pictures by concept", table=Table(rows, ("concept", "to forget", "to retain"), numbers=True)),
    ]
