"""What is drawn for a table of words, and what is kept beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from accelerate import Accelerator

from erasediff.families import Family
from erasediff.families.family import NULL_CONCEPT
from erasediff.unlearning.settings import NEAREST
from erasediff.unlearning.words import GENERAL, Wordings, general, kept_by_default

#: Pictures of a concept that are drawn at least, though a method reads none: they show that the model draws it, and
#: attackers have some.
EXAMPLES = 16


def counts_to_draw(
    prompts: Mapping[str, Sequence[str]], count: int, forgotten: Collection[str], reads: Collection[str]
) -> dict[str, int]:
    """How many pictures are to be drawn of each concept: ``count``, or what suffices where a method reads none.

    Args:
        prompts: of each concept, every one of which is to be there.
        forgotten: the concepts to forget.
        reads: of which sets pictures are read, ``forget`` and ``retain``.
    """

    def of(concept: str) -> int:
        read = ("forget" if concept in forgotten else "retain") in reads
        enough = count if read else min(count, max(EXAMPLES, len(prompts[concept])))
        return GENERAL * enough if concept == NULL_CONCEPT else enough

    return {concept: of(concept) for concept in prompts}


def kept_beside(
    family: Family,
    concepts: Sequence[str],
    preserve: str | Sequence[str],
    count: int,
    accelerator: Accelerator,
    without: Collection[str],
) -> dict[str, list[str]]:
    """What is kept beside the concepts of a table, and how the model is asked for it, as ``erase`` does.

    Args:
        concepts: to forget.
        preserve: words to keep; ``nearest``: those that the model's own text encoder finds nearest.
        count: prompts of each word.
        without: words that are in the table, or were forgotten before.
    Returns: the prompts of each word, and under ``""`` those of everyday pictures.
    """
    words = kept_by_default(family, concepts, accelerator) if preserve == NEAREST else list(preserve)
    gone, wordings = {name.casefold() for name in without}, Wordings(family, concepts, accelerator)
    found = {word: wordings(word, count) for word in words if word.casefold() not in gone}
    return {**found, NULL_CONCEPT: general(GENERAL * count)}
