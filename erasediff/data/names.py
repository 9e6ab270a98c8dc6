"""Names of concepts: what a label or a folder's name is written as, and the order of classes."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable

from erasediff.errors import DataError, shown

#: Characters of a name. A column with longer ones holds captions.
LONGEST = 200

#: Invisible characters that belong to words and emoji: they join letters, or keep them apart.
JOINERS = {"\u200c", "\u200d"}


def text_of(name: str) -> str:
    """A name as the file system gave it, as text that can be written: bytes that are no UTF-8 become U+FFFD."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "replace"))


def unseen(text: str) -> list[str]:
    """The characters of a text that cannot be seen: line breaks, control characters, halves of others."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [c for c in text if unicodedata.category(c) in kinds and c not in JOINERS]


def concept_name(label: str, where: str) -> str:
    """A label as a concept's name, without the white space around it.

    Args:
        where: what the label is read from, for the message.

    Raises: DataError: it is empty, longer than 200 characters, or has characters that cannot be seen.
    """
    name = unicodedata.normalize("NFC", label).strip()
    if hidden := unseen(name):
        raise DataError(
            f"{where}: the concept '{shown(name)}' has a character that cannot be seen (U+{ord(hidden[0]):04X}): "
            "rename it"
        )
    if not name:
        raise DataError(f"{where}: the label '{shown(label)}' is no concept: name it, or remove what has it")
    if len(name) > LONGEST:
        raise DataError(
            f"{where}: the concept '{shown(name, 60)}' has {len(name)} characters; {LONGEST} are the most: is "
            "it a caption?"
        )
    return name


def class_order(concepts: Iterable[str]) -> list[str]:
    """Names in the order of classes: whole numbers by their value, all other names by their letters."""
    names = set(concepts)
    numbers = all(name.isascii() and name.isdigit() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))
