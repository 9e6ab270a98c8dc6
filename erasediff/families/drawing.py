"""Drawing pictures from a pipeline, and those of which somebody says what they show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from erasediff.data.images import encode_png, to_pixels
from erasediff.data.wordings import in_turns
from erasediff.errors import DataError, ModelError, ParamsError, require_unicode, shown
from erasediff.families import family_of
from erasediff.families.family import Family
from erasediff.families.reading import require_read
from erasediff.randomness import FORGET_SET_BLOCKS, image_seeds
from erasediff.ranges import require_in_range

if TYPE_CHECKING:
    import pandas as pd

#: Pictures none of which shows a concept before it is given up. Of a concept that is drawn once in ten times, this
#: happens once in a thousand.
NONE_SEEN = 66

#: A concept and images ``(B, C, H, W)`` to bool ``(B,)``: whether each shows it.
Recognises: TypeAlias = Callable[[str, Tensor], Tensor]


def draw(
    pipeline: DiffusionPipeline,
    concept: str,
    n: int = 1,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    sampler: str | None = None,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """``n`` pictures of a concept with the seeds ``seed`` to ``seed + n - 1``, float32 ``(n, C, H, W)`` in [-1, 1].

    Args:
        steps: of the sampler; the model's own by default.
        guidance_scale: 1 is no guidance; the model's own by default.
        negative_prompt: what pictures are guided away from.
        sampler: class of a diffusers scheduler, such as ``EulerDiscreteScheduler``; the model's own by default.
        size: height and width of the pictures; the model's own by default.

    Raises: UnknownConcept, ModelError. ParamsError: numbers that cannot be, a prompt that is not read to its end, or a
        sampler, negative prompt or size that does not go with the model.
    """
    try:
        require_in_range({"n": n})
    except ValueError as error:
        raise ParamsError(str(error)) from None
    if not isinstance(concept, str):
        raise ParamsError(f"concept {shown(concept)} is no text: give one name")
    require_unicode([concept], "concept")
    family = family_of(pipeline, size)
    require_read(pipeline, [concept])
    seeds = list(range(seed, seed + n))
    return family.sample(
        [concept] * n,
        seeds,
        steps=steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        sampler=sampler,
    )


def require_visible(images: Tensor, concept: str) -> None:
    """Raises: ModelError: most pictures are of one colour alone, as those that something blacks out."""
    flat = images.flatten(2)
    blank = int((flat.amax(2) == flat.amin(2)).all(1).sum())
    if 2 * blank > len(images):
        raise ModelError(
            f"{blank} of {len(images)} pictures drawn for {concept!r} are of one colour alone: look at what the "
            "pipeline draws (a safety checker, a VAE that overflows, a broken model)"
        )


def draw_recognised(
    family: Family,
    concept: str,
    recognises: Recognises,
    count: int,
    *,
    seeds: Sequence[int],
    prompts: Sequence[str] = (),
    steps: int | None = None,
    guidance_scale: float | None = None,
) -> tuple[Tensor, list[str], int]:
    """``count`` different pictures of a concept that are recognised as such.

    Args:
        seeds: one a picture that may be tried, in this order.
        prompts: what the model is asked for the concept, in turns; the concept itself by default.

    Returns: images ``(count, C, H, W)`` float32 in [-1, 1], the prompt of each, and how many more were drawn but not
        recognised.
    Raises: DataError: under all the seeds too few were recognised, or none at all under the first :data:`NONE_SEEN`.
    """
    prompts = prompts or [concept]
    kept: dict[bytes, tuple[Tensor, str]] = {}
    drawn = discarded = 0
    while len(kept) < count:
        if drawn >= len(seeds) or (drawn >= NONE_SEEN and not kept):
            shown_in = f"{len(kept)} of {drawn} pictures ({len(kept) / max(drawn, 1):.0%})"
            raise DataError(
                f"the base draws {shown(repr(concept), 60)} in {shown_in}, as the judge sees them, too few of {count}: "
                "what a model does not draw it cannot be seen to forget; name another concept, or train it longer"
            )
        these = seeds[drawn : drawn + count]
        asked = in_turns(prompts, len(these), drawn)
        drawn += len(these)
        images = family.sample(asked, these, steps=steps, guidance_scale=guidance_scale)
        seen = recognises(concept, images)
        discarded += int((~seen).sum())
        # Two seeds may give the same 8-bit picture: it counts once.
        visible = [
            pair for pair, is_seen in zip(zip(images, asked, strict=True), seen.tolist(), strict=True) if is_seen
        ]
        kept |= {to_pixels(image).numpy().tobytes(): (image, prompt) for image, prompt in visible}
    chosen = list(kept.values())[:count]
    return torch.stack([image for image, _ in chosen]), [prompt for _, prompt in chosen], discarded


def anything(concept: str, images: Tensor) -> Tensor:
    """True for every image, bool ``(B,)``."""
    return torch.ones(len(images), dtype=torch.bool)


def drawn_table(
    family: Family,
    prompts: Mapping[str, Sequence[str]],
    recognises: Recognises,
    count: int | Mapping[str, int],
    *,
    seed: int,
    unseen: Collection[str] = (),
    steps: int | None = None,
    guidance_scale: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """A table of ``count`` pictures a concept that the model drew and that are recognised.

    Of each concept at most ten times ``count`` pictures are tried.

    Args:
        prompts: of each concept, what the model is asked for it.
        count: of every concept, or of each.
        seed: of the whole run.
        unseen: concepts whose pictures are taken as they come: nobody can recognise these.
        on_progress: called with the concepts done and their number.

    Returns: the table, and by concept how many pictures were drawn but not recognised.
    Raises: DataError: too few were recognised. OutOfSeeds: too many concepts, or pictures.
    """
    from erasediff.data.table import generated_table  # pandas, which drawing alone needs nothing of

    counts = dict.fromkeys(prompts, count) if isinstance(count, int) else count
    pngs: list[bytes] = []
    asked: list[str] = []
    discarded: dict[str, int] = {}
    for number, (concept, wordings) in enumerate(prompts.items()):
        seeds = image_seeds(seed, number, 10 * counts[concept], FORGET_SET_BLOCKS)
        images, used, not_seen = draw_recognised(
            family,
            concept,
            anything if concept in unseen else recognises,
            counts[concept],
            seeds=seeds,
            prompts=wordings,
            steps=steps,
            guidance_scale=guidance_scale,
        )
        if concept not in unseen:
            discarded[concept] = not_seen
        pngs += map(encode_png, images)
        asked += used
        if on_progress is not None:
            on_progress(number + 1, len(prompts))
    names = [concept for concept in prompts for _ in range(counts[concept])]
    channels, height, width = family.image_shape
    mode = "L" if channels == 1 else "RGB"
    return generated_table(pngs, names, (height, width), mode, prompts=asked), discarded
