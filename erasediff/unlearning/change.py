"""How far an erasing moved what a model predicts: the one sign of forgetting that needs no judge and no drawing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from erasediff import randomness
from erasediff.data.concept_images import ConceptImages, Undrawn
from erasediff.families.family import Family
from erasediff.training.encoding import encoders_of, placed
from erasediff.unlearning.network import teaching
from erasediff.unlearning.settings import Settings
from erasediff.unlearning.targets import Relabelling
from erasediff.unlearning.words import takes_words

#: Noised pictures that it is measured on, at most.
SAMPLES = 16
#: A concept whose predictions went less of the way is hardly forgotten. The mean of many other concepts lies half of
#: the way to each. On the shapes example one update at 5e-4 goes 0.2 of it and forgets nothing; 20 go 0.8, and forget.
HARDLY = 0.35
#: Targets that lead to what another prompt says.
LEADING = ("relabel", "anchor", "negative_guidance")


class Change(NamedTuple):
    """How far predictions moved, in parts of the way to another concept.

    Attributes:
        concept: under the prompts to forget, along that way: 0 nowhere, 1 as far as the other concept lies.
        kept: under the prompts to keep, in any direction: 0 nowhere.
    """

    concept: float
    kept: float


@torch.no_grad()
def change_of(
    family: Family,
    erased: nn.Module,
    forget_set: ConceptImages,
    retain_set: ConceptImages,
    settings: Settings,
    *,
    seed: int,
    accelerator: Accelerator,
) -> Change | None:
    r"""Compare an erased denoiser with the base's, on the same noised pictures.

    .. math:: \frac{\langle\epsilon_u(x_t, c_f) - \epsilon_0(x_t, c_f),\ w\rangle}{\lVert w\rVert^2}, \qquad
              w = \epsilon_0(x_t, c_a) - \epsilon_0(x_t, c_f)

    with c_f the prompts to forget, and c_a the same with another concept in its place; of prompts to keep, the length
    of what changed over that of w.

    Returns: ``None`` where a model cannot be asked for a concept, or predicts the same for all; or where the forget
        target leads to no other concept.
    """
    if not family.conditional or settings.forget_target not in LEADING:
        return None
    n = min(SAMPLES, settings.forget_batch_size)
    pairs = Relabelling(forget_set, retain_set, settings, by_kind=takes_words(family)).pairs()
    asked, answers = zip(*_spread(pairs, n), strict=True)
    kept = _spread(sorted(set(retain_set.prompts)), n)
    generator = randomness.generator(seed, "change", 0)
    batch = max(1, settings.forget_batch_size // settings.accumulate)
    moved = {"concept": 0.0, "kept": 0.0, "way": 0.0}
    with teaching(family.denoiser, accelerator), teaching(erased, accelerator):
        with placed(encoders_of(family), accelerator.device):
            conditions = [family.condition(list(prompts)) for prompts in (asked, answers, kept)]
            noisy, timesteps = noised_pictures(family, (retain_set, forget_set), n, generator, accelerator)
        for rows in torch.arange(n).split(batch):
            x, t = noisy[rows], timesteps[rows]

            def says(network: nn.Module, which: int, x: Tensor = x, t: Tensor = t, rows: Tensor = rows) -> Tensor:
                condition = conditions[which].take(rows).to(x.device, torch.float32)
                with accelerator.autocast():
                    return family.predict(network, x, t, condition).float()

            base = says(family.denoiser, 0)
            way = says(family.denoiser, 1) - base
            moved["way"] += float(way.square().sum())
            moved["concept"] += float(((says(erased, 0) - base) * way).sum())
            moved["kept"] += float((says(erased, 2) - says(family.denoiser, 2)).square().sum())
    if not moved["way"] > 0:
        return None
    return Change(moved["concept"] / moved["way"], (moved["kept"] / moved["way"]) ** 0.5)


def _spread(values: Sequence, n: int) -> list:  # type: ignore[type-arg]  # of any kind
    """Return ``n`` of some values, spread over all there are."""
    return [values[i * len(values) // n] for i in range(n)]


def noised_pictures(
    family: Family, sets: Sequence[ConceptImages], n: int, generator: torch.Generator, accelerator: Accelerator
) -> tuple[Tensor, Tensor]:
    """Return ``n`` noised pictures and their timesteps: of the first set that has pictures, else of the middle of all.

    The family's encoder is where it computes.
    """
    drawn = [data for data in sets if len(data) and not isinstance(data.images, Undrawn)]
    images = torch.zeros(n, *family.image_shape)
    if drawn:
        images = drawn[0].images[torch.randint(len(drawn[0]), (n,), generator=generator)]
    clean = family.encode(images).to(accelerator.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    timesteps = family.timesteps(n, generator).to(clean.device)
    return family.noised(clean, noise, timesteps)[0], timesteps


def doubt(change: Change | None, concepts: Sequence[str], *, trained: bool = True) -> str:
    """Return what to tell where a concept's predictions hardly moved, or those of what is kept more; else nothing.

    Args:
        trained: there were updates, so that more of them, or longer ones, may help.
    """
    names, verb = ", ".join(concepts), "is" if len(concepts) == 1 else "are"
    if change is not None and change.concept < HARDLY:
        advice = "raise outer_steps or learning_rate" if trained else "give an anchor, or take a method that trains"
        return (
            f"{names} {verb} hardly forgotten: the predictions went {change.concept:.2f} of the way to another "
            f"concept: {advice}, and look at pictures"
        )
    if change is not None and change.kept > change.concept:
        advice = "raise outer_steps or lower learning_rate" if trained else "take a method that trains"
        return (
            f"what is to be kept changed more than {names}: by {change.kept:.2f} and {change.concept:.2f} of the way "
            f"to another concept: {advice}, and look at pictures"
        )
    return ""
