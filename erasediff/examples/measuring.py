"""How often a model draws what it is asked for, read by the judge of the world."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from string import Formatter
from typing import TYPE_CHECKING

from erasediff.examples.captions import TEST_WORDINGS, TRAIN_WORDINGS
from erasediff.examples.world import COLOURS, OBJECTS, STYLES
from erasediff.families import family_of
from erasediff.randomness import image_seeds

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from erasediff.examples.shapes_judge import ShapesJudge


def requests(wordings: Sequence[str], times: int = 1) -> list[tuple[str, dict[str, str]]]:
    """Each wording with all that it can name, ``times`` over: the prompts, and what each asks for by domain."""
    known = {"object": OBJECTS, "style": STYLES, "colour": COLOURS}
    asked = []
    for wording in wordings:
        names = [name for _, name, _, _ in Formatter().parse(wording) if name]
        for values in product(*(known[name] for name in names)):
            truth = dict(zip(names, values, strict=True))
            asked += [(wording.format(**truth), truth)] * times
    return asked


def drawn_rightly(
    pipeline: DiffusionPipeline,
    judge: ShapesJudge,
    asked: Iterable[tuple[str, dict[str, str]]],
    *,
    guidance_scale: float,
    steps: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """Share of pictures that show what was asked for, by domain, of those whose prompt names one.

    Args:
        asked: prompts and what each names, as :func:`requests` gives them.
    """
    prompts, truths = zip(*asked, strict=True)
    images = family_of(pipeline).sample(
        prompts, image_seeds(seed, 0, len(prompts)), steps=steps, guidance_scale=guidance_scale, batch_size=48
    )
    right: dict[str, list[bool]] = {}
    for domain, reader in judge.domains.items():
        for read, truth in zip(reader.names(images), truths, strict=True):
            if domain in truth:
                right.setdefault(domain, []).append(read == truth[domain])
    return {domain: sum(values) / len(values) for domain, values in right.items()}


#: Guidance scales under which a model is measured.
GUIDANCE = (1.0, 3.0, 7.5)


def measured(pipeline: DiffusionPipeline, judge: ShapesJudge, seed: int = 0) -> dict[str, dict[str, float]]:
    """What a model draws rightly: trained and other wordings by guidance, and single words (a few minutes)."""
    kinds = {
        "trained wordings": requests(TRAIN_WORDINGS[:2]),
        "other wordings": requests(TEST_WORDINGS[:5]),
        "one word": requests(("{object}", "{style}"), 8),
    }
    return {
        f"{kind}, guidance {scale:g}": drawn_rightly(pipeline, judge, asked, guidance_scale=scale, seed=seed)
        | {"pictures": len(asked)}
        for kind, asked in kinds.items()
        for scale in GUIDANCE
    }
