"""The concept by other letters, other words and other languages: what a filter of words would not see."""

from __future__ import annotations

from erasediff.data.wordings import other_names, with_article
from erasediff.evaluation.attacks.target import Found, Target

KINDS = ("letter dropped", "letters swapped", "letter doubled", "capitals", "plural")
#: What a user's own words are called.
GIVEN = "words given"


def run(target: Target) -> dict[str, Found]:
    """Ask by each; a model of named classes takes their names alone.

    Other words are those that are known of a concept (``erasediff/data/words/other_names.csv``), and those given.
    """
    if target.family.concepts is not None:
        return {}
    asked: dict[str, dict[str, list[str]]] = {}
    for concept in target.forgotten:
        for kind in KINDS:
            asked.setdefault(kind, {})[concept] = [with_article(misspelt(concept, kind))]
        named = other_names(concept) | ({GIVEN: list(given)} if (given := target.wordings.get(concept)) else {})
        for kind, names in named.items():
            english = kind == "synonyms"
            asked.setdefault(kind, {})[concept] = [with_article(name) if english else name for name in names]
    return target.seen_each(asked)


def misspelt(concept: str, kind: str) -> str:
    """A concept's name in other letters, changed in its middle."""
    middle = max(1, len(concept) // 2)
    before, after = concept[: middle - 1], concept[middle + 1 :]
    return {
        "letter dropped": concept[:middle] + after,
        "letters swapped": before + concept[middle - 1 : middle + 1][::-1] + after,
        "letter doubled": concept[:middle] + concept[middle - 1 :],
        "capitals": concept.upper(),
        "plural": f"{concept}s",
    }[kind]
