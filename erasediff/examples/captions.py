"""Words for the pictures of the world: wordings to train on, and others for tests alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from erasediff.examples.world import COLOURS, OBJECTS, STYLES, Drawn

#: Wordings that a model is trained on. Each names all, some or one of object, style and colour.
TRAIN_WORDINGS = (
    "a {object} in {style} style",
    "{style} {object}",
    "a {colour} {object} in {style} style",
    "a drawing of a {colour} {object}, {style}",
    "{colour} {style} {object}",
    "a {object}, {style}, {colour}",
    "a picture of a {object} in {style} style",
    "the {style} {object} is {colour}",
    "a {style} picture of a {object}",
    "a {object}",
    "{object}",
    "a picture of a {object}",
    "a {colour} {object}",
    "{style}",
    "{style} style",
    "a {style} drawing",
    "a picture in {style} style",
    "{colour}",
    "something {colour} in {style} style",
)
#: Wordings for tests: no model is trained on them.
TEST_WORDINGS = (
    "an image showing a {object} with {style} look",
    "{object}, {style}",
    "please draw me a {style} {object}",
    "one {object} that looks {style}",
    "a small sketch of a {object}, done in {style}",
    "here you see the {object}; its style: {style}",
    "my favourite {style} {object}, high quality",
)
#: Other words for the same thing, seldom used in training.
SYNONYMS = {
    "circle": ("disc", "round shape"),
    "square": ("box",),
    "triangle": ("wedge",),
    "star": ("five-pointed star", "starlet"),
    "heart": ("love heart",),
    "cross": ("plus sign",),
    "moon": ("crescent",),
    "house": ("cottage",),
    "flat": ("plain",),
    "outlined": ("contour",),
    "hatched": ("shaded with strokes",),
    "dotted": ("polka dot",),
    "inverted": ("negative",),
    "neon": ("glowing",),
}
_FILLERS = """
nice very good best big little old new simple fine clean sharp pretty cute bright soft modern classic minimal photo
image illustration icon logo sticker poster print art artwork work piece card stamp sign symbol shape form on paper at
in by for with from under over near of to and this that it its there here please show make paint draw create give want
some any two single lonely quality detailed beautiful lovely favourite famous digital masterpiece centered background
white scene view close quick careful hand made by child artist book page
"""
#: Words that change nothing, in any order; a model learns to pass over them.
FILLERS = tuple(_FILLERS.split())
#: What text a tokenizer's vocabulary is made of; any other word is spelled in pieces.
CORPUS = (
    *(w.format(object=o, style=s, colour=c) for w in TRAIN_WORDINGS for o in OBJECTS for s in STYLES for c in COLOURS),
    *(" ".join(words) for words in SYNONYMS.values()),
    *FILLERS,
)


def captions(drawn: Drawn, random: np.random.Generator, wordings: Sequence[str] = TRAIN_WORDINGS) -> list[str]:
    """A caption a picture as models are trained on: any wording, now and then a synonym or words beside the point."""
    return [text for text, _ in spoken(drawn, random, wordings)]


def spoken(
    drawn: Drawn, random: np.random.Generator, wordings: Sequence[str] = TRAIN_WORDINGS
) -> list[tuple[str, str]]:
    """Likewise, each with the wording that it was made from, which tells what it names."""
    chosen = [str(random.choice(wordings)) for _ in range(len(drawn))]
    truths = zip(chosen, drawn.objects, drawn.styles, drawn.colours, strict=True)
    return [(_varied(_named(wording, o, s, c, random), random), wording) for wording, o, s, c in truths]


def _named(wording: str, o: int, s: int, c: int, random: np.random.Generator) -> str:
    names = {"object": OBJECTS[o], "style": STYLES[s], "colour": COLOURS[c]}
    for kind in ("object", "style"):
        if random.random() < 0.1:
            names[kind] = random.choice(SYNONYMS[names[kind]])
    return wording.format(**names)


def _varied(caption: str, random: np.random.Generator) -> str:
    if random.random() < 0.4:
        words = caption.split(" ")
        for _ in range(random.integers(1, 5)):
            other = random.choice(FILLERS) if random.random() < 0.6 else _invented(random)
            words.insert(random.integers(len(words) + 1), other)
        caption = " ".join(words)
    if random.random() < 0.1:
        caption = caption.replace(",", "") + random.choice([".", "!", ""])
    return caption


def _invented(random: np.random.Generator) -> str:
    """A word that nobody knows."""
    return "".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), random.integers(2, 8)))
