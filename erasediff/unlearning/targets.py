"""What the forget loss pulls the model towards, and which images it is measured on."""

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
        asked: the forgotten concept each sample is conditioned on.
        wrong: another concept for each, which ``relabel`` answers with.
    """

    clean: Tensor
    asked: list[str]
    wrong: list[str]


def mismatched(asked: Sequence[str], choices: Sequence[str], draw: torch.Generator) -> list[str]:
    """A concept of ``choices`` for each sample, drawn anew a sample, never the one asked for.

    Raises: ValueError: there is no other concept.
    """
    wrong = []
    for concept in asked:
        others = [c for c in choices if c != concept]
        if not others:
            raise ValueError(f"no concept other than {concept!r} to relabel to: retain at least one")
        wrong.append(others[int(torch.randint(len(others), (), generator=draw))])
    return wrong


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
    """What the prediction under the forgotten concept should become, of the shape of ``noisy``.

    Args:
        truth: what a denoiser should predict for ``noisy``, of its shape.
        kind: ``relabel``: the teacher's prediction under the wrong concept (arXiv 2401.05779, section 3);
            ``uniform_noise``: U[0, 1) noise instead of N(0, 1) (same section);
            ``negative_guidance``: u − (c − u), away from the concept (ESD, arXiv 2303.07345, eq. 5, scale 1);
            ``anchor``: the teacher's prediction under one given concept;
            ``truth``: the denoising target itself, to be climbed away from (``Settings.forget_weight`` of -1).
        uniform: draws U[0, 1) noise of the shape of ``noisy``.
    Raises: ValueError: unknown kind.
    """

    def taught(concepts: Sequence[str]) -> Tensor:
        return family.predict(teacher, noisy, timesteps, family.condition(concepts))

    n = len(batch.asked)
    if kind == "relabel":
        return taught(batch.wrong)
    if kind == "uniform_noise":
        return uniform().to(noisy)
    if kind == "negative_guidance":
        null = taught([NULL_CONCEPT] * n)
        return null - (taught(batch.asked) - null)
    if kind == "anchor":
        return taught([anchor or NULL_CONCEPT] * n)
    if kind == "truth":
        return truth
    raise ValueError(f"forget target {kind!r} is none of relabel, uniform_noise, negative_guidance, anchor, truth")
