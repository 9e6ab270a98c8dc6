"""The same prompt with another concept in its place."""

from __future__ import annotations

import re

from erasediff.data.wordings import article


def reworded(prompt: str, concept: str, other: str) -> str | None:
    """Return a prompt with one concept in the place of another, or ``None`` where it does not name the first.

    Whole words count, in any case, a plural among them: "two stars" becomes "two circles", "starfish" stays.
    An article before the concept follows the new one: "a star" becomes "an arrow".

    Args:
        prompt: such as "a star in hatched style".
        concept: the name to be replaced, such as "star".
        other: what to put there, such as "circle".
    Returns: such as "a circle in hatched style".
    """
    if prompt == concept or not concept:
        return other if concept else None
    name = re.compile(rf"(?:\b(an?)(\s+))?{_bounded(concept)}", re.IGNORECASE)
    found, count = name.subn(lambda match: _article(match, other) + other, prompt)
    return found if count else None


def _bounded(concept: str) -> str:
    """Return a pattern of a name as a word of its own; an ending for the plural is left in place."""
    start = r"\b" if concept[0].isalnum() else ""
    return f"{start}{re.escape(concept)}" + (r"(?=(?:s|es)?\b)" if concept[-1].isalnum() else "")


def _article(match: re.Match[str], other: str) -> str:
    before, space = match.group(1), match.group(2)
    if before is None:
        return ""
    right = article(other)
    return (right.capitalize() if before[0].isupper() else right) + space
