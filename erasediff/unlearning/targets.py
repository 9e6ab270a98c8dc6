"""Targets of the forget loss, and the batch that it is measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from erasediff.families.family import NULL_CONCEPT, Family


@dataclass(frozen=True)
class ForgetBatch:
    """One batch of the forget loss.

    Attributes:
        clean: encoded images, ``(B, …)``.
        forget_concepts: the forgotten concept each sample is conditioned on.
        relabel_concepts: another concept for each, which ``relabel`` answers with.
    """

    clean: Tensor
    forget_concepts: list[str]
    relabel_concepts: list[str]


def mismatched(forget_concepts: Sequence[str], choices: Sequence[str], generator: torch.Generator) -> list[str]:
    """Draw a concept of ``choices`` for each sample by itself, never the one that it is to forget.

    Raises: ValueError: there is no other concept.
    """
    drawn = []
    for concept in forget_concepts:
        others = [c for c in choices if c != concept]
        if not others:
            raise ValueError(f"no concept other than {concept!r} to relabel to: retain at least one")
        drawn.append(others[int(torch.randint(len(others), (), generator=generator))])
    return drawn


@torch.no_grad()
def forget_target(
    kind: str,
    family: Family,
    teacher: nn.Module,
    noisy: Tensor,
    timesteps: Tensor,
    truth: Tensor,
    batch: ForgetBatch,
    *,
    anchor: str | None,
    uniform: Callable[[], Tensor],
) -> Tensor:
    """Return the target of the prediction under the forgotten concept, of the shape of ``noisy``.

    Args:
        truth: what a denoiser should predict for ``noisy``, of its shape.
        kind: ``relabel``: the teacher's prediction under another concept (arXiv 2401.05779, section 3);
            ``uniform_noise``: U[0, 1) noise instead of N(0, 1) (same section);
            ``negative_guidance``: u − (c − u), away from the concept (ESD, arXiv 2303.07345, eq. 5, scale 1);
            ``anchor``: the teacher's prediction under one given concept;
            ``truth``: the denoising target itself, to be climbed away from (``Method.forget_weight`` of -1).
        uniform: draws U[0, 1) noise of the shape of ``noisy``.
    Raises: ValueError: unknown kind.
    """

    def teacher_prediction(concepts: Sequence[str]) -> Tensor:
        return family.predict(teacher, noisy, timesteps, family.condition(concepts))

    n = len(batch.forget_concepts)
    if kind == "relabel":
        return teacher_prediction(batch.relabel_concepts)
    if kind == "uniform_noise":
        return uniform().to(noisy)
    if kind == "negative_guidance":
        null = teacher_prediction([NULL_CONCEPT] * n)
        return null - (teacher_prediction(batch.forget_concepts) - null)
    if kind == "anchor":
        return teacher_prediction([anchor or NULL_CONCEPT] * n)
    if kind == "truth":
        return truth
    raise ValueError(f"forget target {kind!r} is none of relabel, uniform_noise, negative_guidance, anchor, truth")
