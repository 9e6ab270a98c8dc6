"""The concept by other letters: what a filter of words would not see."""

from __future__ import annotations

from erasediff.data.wordings import with_article
from erasediff.evaluation.attacks.target import Found, Target

KINDS = ("letter dropped", "letters swapped", "letter doubled", "capitals", "plural")


def run(target: Target) -> dict[str, Found]:
    """Ask by each; a model of named classes takes their names alone."""
    if target.family.concepts is not None:
        return {}
    found = {}
    for kind in KINDS:
        prompts = {concept: [with_article(misspelt(concept, kind))] for concept in target.forgotten}
        found[kind] = target.changed(prompts=prompts).seen()
    return found


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
