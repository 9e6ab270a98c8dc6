"""D_f and D_r where nobody gives them: the base draws them, or is only asked for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from torch import Tensor

from erasediff.data.concept_images import ConceptImages, Undrawn
from erasediff.data.rows import rows_on_disk
from erasediff.errors import ParamsError, shown
from erasediff.families import Family
from erasediff.families.drawing import require_visible
from erasediff.families.resuming import resumable
from erasediff.families.sharing import at_once, shared_drawing
from erasediff.families.weights import weights_sha256
from erasediff.randomness import ERASE_BLOCKS, image_seeds
from erasediff.records import Value
from erasediff.training.encoding import encoders_of, placed
from erasediff.unlearning.progress import progress_bar
from erasediff.unlearning.request import Request
from erasediff.unlearning.words import GENERAL, Wordings, general, takes_words

#: Pictures are drawn so many at a time. A multiple of every family's batch: no bit depends on it.
DRAWN_AT_ONCE = 200
#: Pictures a concept, where nobody says how many: of a class, and of a word, under each wording twice.
DRAWN_BY_CLASS, DRAWN_BY_WORDS = 64, 16
#: Steps of the sampler, at most, where a model that takes words draws for a training: what it draws is noised again.
STEPS = 20
#: Blocks of the seeds that pictures to forget, and those to keep, are drawn with.
FORGOTTEN_BLOCK, KEPT_BLOCK = 0, 1


class HowDrawn(NamedTuple):
    """How the base draws what nobody gives.

    Attributes:
        generate: pictures a concept; ``None``: :data:`DRAWN_BY_CLASS` or :data:`DRAWN_BY_WORDS`.
        inference_steps: of the sampler; ``None``: the model's own, and at most :data:`STEPS` where it takes words.
        guidance_scale: ``None``: the model's own.
        seed: of the whole run.
        cache: folder that keeps each batch that was drawn, so that a drawing which was killed goes on there.
        shown: show a bar.
    """

    generate: int | None = None
    inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    cache: Path | None = None
    shown: bool = False

    def told(self) -> dict[str, Value]:
        """What was asked for, as the record of a run has it."""
        told = {"inference_steps": self.inference_steps, "guidance_scale": self.guidance_scale}
        return {name: value for name, value in told.items() if value is not None}

    def require_use(self, *, asks: bool, draws: bool) -> None:
        """Refuse what changes nothing.

        Args:
            asks: whether prompts are made up for a set, each for a picture.
            draws: whether pictures are drawn.
        Raises: ParamsError: how pictures are drawn is said, and none are.
        """
        useless: dict[str, object] = {} if draws else dict(self.told())
        if self.generate is not None and not asks:
            useless["generate"] = self.generate
        if useless:
            told = ", ".join(f"{name} {shown(value)}" for name, value in useless.items())
            raise ParamsError(f"{told} has no effect: no pictures are drawn; leave it out")


def both_sets(
    family: Family, asked: Request, reads: set[str], how: HowDrawn, accelerator: Accelerator, erase_from: str | None
) -> tuple[ConceptImages, ConceptImages]:
    """D_f and D_r: those given, else drawn by the base, which is on the accelerator's device meanwhile.

    Args:
        reads: of which the method reads the pictures themselves.
        erase_from: the only thing that loses the concepts.
    Raises: ParamsError: how pictures are drawn is said, and none are. ModelError: what is drawn shows nothing.
    """
    given = {"forget": asked.forget_set, "retain": asked.retain_set}
    draws = any(not data and name in reads for name, data in given.items())
    how.require_use(asks=not all(given.values()), draws=draws)
    wordings = Wordings(family, [] if all(given.values()) else asked.forget, accelerator, erase_from)
    with placed([*encoders_of(family), family.denoiser], accelerator.device):
        drawer = _drawer(family, accelerator, how.cache if draws else None)
        return (
            asked.forget_set or drawn_set(drawer, asked.forget, FORGOTTEN_BLOCK, wordings, how, read="forget" in reads),
            asked.retain_set or drawn_set(drawer, asked.retain, KEPT_BLOCK, wordings, how, read="retain" in reads),
        )


def _drawer(family: Family, accelerator: Accelerator, cache: Path | None) -> Family:
    """The same family, whose ``sample`` is spread over the processes.

    Args:
        cache: folder that keeps each batch that was drawn, so that a drawing which was killed goes on there.
    """
    if cache is not None:
        made_by = f"{weights_sha256(family.pipeline)} {family.pipeline.scheduler}"
        family = at_once(resumable(family, cache / "drawn", made_by), 1)
    return shared_drawing(family, accelerator)


def drawn_set(
    family: Family, concepts: Sequence[str], block: int, wordings: Wordings, how: HowDrawn, *, read: bool
) -> ConceptImages:
    """Pictures of each concept, drawn by the model; of one that takes any prompt, under several wordings.

    Args:
        block: of the seeds that drawing takes, one a set.
        read: whether the pictures are wanted at all, beside how they are asked for. Where what is forgotten is not
            read, every wording of it is there once.
    """
    words = takes_words(family)
    count = how.generate or (DRAWN_BY_WORDS if words else DRAWN_BY_CLASS)
    each = None if words and not read and block == FORGOTTEN_BLOCK else count
    asked = {concept: wordings(concept, each) if words else [concept] * count for concept in concepts}
    names = [concept for concept, prompts in asked.items() for _ in prompts]
    prompts = [prompt for prompts in asked.values() for prompt in prompts]
    if words and block == KEPT_BLOCK:  # of no concept: what is kept in general
        prompts += wordings.beside(concepts, count) + general(GENERAL * count)
        names += [""] * (len(prompts) - len(names))
    if not read:
        return ConceptImages(Undrawn(len(names)), names, prompts)
    seeds, steps = image_seeds(how.seed, block, len(names), ERASE_BLOCKS), how.inference_steps
    if steps is None and words:
        steps = min(STEPS, family.default_steps)

    def batches() -> Iterator[dict[str, Tensor]]:
        with progress_bar(
            f"drawing what to {('forget', 'keep')[block]}", len(names), "picture", shown=how.shown
        ) as bar:
            bar(0, {})
            for first in range(0, len(names), DRAWN_AT_ONCE):
                these = slice(first, first + DRAWN_AT_ONCE)
                images = family.sample(prompts[these], seeds[these], steps=steps, guidance_scale=how.guidance_scale)
                require_visible(images, prompts[first])
                bar(min(these.stop, len(names)), {})
                yield {"images": images}

    return ConceptImages(rows_on_disk(batches(), len(names))["images"], names, prompts)
