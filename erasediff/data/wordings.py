"""Words of the package: templates that ask for a concept, a vocabulary of concepts, prompts of everyday pictures."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal, get_args

from erasediff.errors import did_you_mean, shown

Kind = Literal["object", "style", "person", "scene"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: A training asks by these wordings; those of ``test`` are never trained on.
Split = Literal["train", "test"]

#: A name that is so alike to a word of the vocabulary of so many letters is that word misspelt: "sqaure" is 0.83 alike
#: to "square". Of "hate" and "hat", or "sleep" and "sheep", both are words.
MISSPELT, LETTERS = 0.82, 4

#: First letters that are written as vowels and spoken otherwise, and the reverse.
_SPOKEN_CONSONANT = ("uni", "use", "eu", "one", "ufo", "u-")
_SPOKEN_VOWEL = ("hour", "heir", "honest", "x-ray")


def prompts_of(concept: str, kind: Kind = "object", split: Split = "train") -> list[str]:
    """What a model is asked for a concept, in several wordings; the first of ``train`` is the concept itself.

    Args:
        kind: what sort of thing it is; :func:`kind_of` knows it of the vocabulary.
        split: ``train``, or wordings that no training uses.
    """
    wordings = [w["template"] for w in _table("templates") if (w["kind"], w["split"]) == (kind, split)]
    return [wording.replace("{a}", with_article(concept)).replace("{}", concept) for wording in wordings]


def combined(object_: str, style: str) -> list[str]:
    """Return prompts for training that ask for an object in a style, in several wordings."""
    wordings = [w["template"] for w in _table("combined")]
    return [w.format(a=with_article(object_), object=object_, style=style) for w in wordings]


def kind_of(concept: str) -> Kind:
    """The kind of a concept of the vocabulary; ``object`` of any other."""
    return vocabulary().get(concept.lower(), "object")


def alike(concept: str, others: Sequence[str]) -> list[str]:
    """Those of some concepts that can stand in the place of one: styles for a style, else none of them.

    All of them, where none can.
    """
    styled = kind_of(concept) == "style"
    return [other for other in others if (kind_of(other) == "style") == styled] or list(others)


@cache
def vocabulary() -> Mapping[str, Kind]:
    """The kind of each of some 700 everyday concepts, by name: the neighbours of a concept are sought among them."""
    return MappingProxyType(
        {row["name"]: kind for row in _table("vocabulary") for kind in KINDS if row["kind"] == kind}
    )


def misspelt(name: str) -> str:
    """``the vocabulary has no 'hart'; did you mean heart?``; empty where a name is spelt right, or unlike all.

    Every word of the package's texts is spelt right, and so is its plural. Who misspells a word has its first letter
    right: "hair" is no "chair".
    """
    low = name.casefold()
    if all({word, word.removesuffix("s"), word.removesuffix("es")} & _spelt() for word in _words(low)):
        return ""
    near = [word for word in vocabulary() if word[0] == low[0] and len(word) >= LETTERS]
    hint = did_you_mean(low, near, alike=MISSPELT)
    return f"the vocabulary has no {shown(repr(name))}{hint}" if hint else ""


def warn_of_misspelt(names: Iterable[str]) -> None:
    """Warn of each name that looks misspelt. It is none to refuse: a model may know any word."""
    for told in filter(None, map(misspelt, names)):
        warnings.warn(told, stacklevel=2)


@cache
def _spelt() -> frozenset[str]:
    """Every word of the vocabulary, of its other names and of the prompts of everyday pictures."""
    texts = [*vocabulary(), *(row["name"] for row in _table("other_names")), *general_prompts()]
    return frozenset(word for text in texts for word in _words(text.casefold()))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def other_names(concept: str) -> dict[str, list[str]]:
    """Other names of a concept, by ``synonyms`` or the language; empty where none are known here."""
    found: dict[str, list[str]] = {}
    for row in _table("other_names"):
        if row["concept"].lower() == concept.lower():
            found.setdefault(row["kind"], []).append(row["name"])
    return found


def general_prompts() -> list[str]:
    """Some 250 prompts of everyday pictures, which no single concept is asked by."""
    return [row["prompt"] for row in _table("general")]


def in_turns(prompts: Sequence[str], count: int, start: int = 0) -> list[str]:
    """``count`` prompts, each in its turn, from that of number ``start`` on."""
    return [prompts[number % len(prompts)] for number in range(start, start + count)]


def plain_wording(prompt: str) -> str:
    """What two prompts share that differ in capitals, white space and the marks around them alone."""
    return " ".join(prompt.casefold().split()).strip(" .,;:!?\"'")


def with_article(name: str) -> str:
    """``a star``, ``an apple``; a proper name, a plural and what has an article stay as they are."""
    first, low = name.split(" ")[0], name.lower()
    plural = low.endswith("s") and not low.endswith(("ss", "us", "is"))
    if first.lower() in ("a", "an", "the", "my", "some") or name[:1].isupper() or plural:
        return name
    return f"{article(name)} {name}"


def article(name: str) -> str:
    """``an`` before a vowel as it is spoken, else ``a``."""
    low = name.lower()
    vowel = low.startswith(_SPOKEN_VOWEL) or (low[:1] in tuple("aeiou") and not low.startswith(_SPOKEN_CONSONANT))
    return "an" if vowel else "a"


@cache
def _table(name: str) -> list[dict[str, str]]:
    text = (files("erasediff.data") / "words" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
