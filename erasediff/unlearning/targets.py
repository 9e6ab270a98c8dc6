"""Targets of the forget loss, the batch that it is measured on, and the wrong answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erasediff.data.concept_images import ConceptImages
from erasediff.data.wordings import alike
from erasediff.families.family import NULL_CONCEPT
from erasediff.unlearning.settings import Settings
from erasediff.unlearning.wording import reworded


@dataclass(frozen=True)
class ForgetBatch:
    """One batch of the forget loss.

    Attributes:
        clean: encoded images, ``(B, …)``.
        asked: the prompt each sample is conditioned on, which asks for what is forgotten.
        answers: the prompt that ``relabel`` answers each with; none for other targets on forget images.
    """

    clean: Tensor
    asked: list[str]
    answers: list[str]


def mismatched(
    forget_concepts: Sequence[str], choices: Sequence[str], generator: torch.Generator, *, by_kind: bool = False
) -> list[str]:
    """Draw a concept of ``choices`` for each sample by itself, never the one that it is to forget.

    Args: by_kind: a style is drawn for a style, a thing for a thing, where there is one.
    Raises: ValueError: there is no other concept.
    """
    drawn = []
    for concept in forget_concepts:
        others = _standing_in(concept, [c for c in choices if c != concept], by_kind)
        if not others:
            raise ValueError(f"no concept other than {concept!r} to relabel to: retain at least one")
        drawn.append(others[int(torch.randint(len(others), (), generator=generator))])
    return drawn


def _standing_in(concept: str, others: Sequence[str], by_kind: bool) -> list[str]:
    return alike(concept, others) if by_kind else list(others)


class Relabelling:
    """Which prompt answers another: the same one with another concept in its place, so that the rest is kept.

    A prompt that does not name its concept is answered with a retained prompt. For a retained image of no concept,
    ``""``, which is kept in general, the other concept is drawn from those that have a name.

    Args: by_kind: a style answers a style, a thing a thing: of a model that is asked in words. Classes of a data set
        answer each other whatever their names.
    """

    def __init__(self, forget_set: ConceptImages, retain_set: ConceptImages, settings: Settings, *, by_kind: bool):
        self.forget_set, self.retain_set, self.settings = forget_set, retain_set, settings
        self.by_kind = by_kind
        #: Each (concept, prompt) to forget once, in an order that the order of pictures does not change.
        self.forgotten = sorted(set(zip(forget_set.concepts, forget_set.prompts, strict=True)))
        self.retained: dict[str, list[str]] = {}
        for concept, prompt in sorted(set(zip(retain_set.concepts, retain_set.prompts, strict=True))):
            self.retained.setdefault(concept, []).append(prompt)

    def of_forgotten(self, index: Sequence[int], generator: torch.Generator) -> list[str]:
        """Return the answers to the prompts of forget images: of each, with one of the retained concepts.

        Raises: ValueError: there is no other concept.
        """
        concepts = [self.forget_set.concepts[i] for i in index]
        others = mismatched(
            concepts, [c for c in self.retained if c] or list(self.retained), generator, by_kind=self.by_kind
        )
        answers = []
        for i, concept, other in zip(index, concepts, others, strict=True):
            answer = other and reworded(self.forget_set.prompts[i], concept, other)
            if not answer:
                prompts = self.retained[other]
                answer = prompts[int(torch.randint(len(prompts), (), generator=generator))]
            answers.append(answer)
        return answers

    def of_retained(self, index: Sequence[int], generator: torch.Generator) -> tuple[list[str], list[str]]:
        """Return a prompt to forget for each retained image, and its answer: with the concept that the image shows.

        To be relabelled, every second prompt is the image's own, with the concept to forget in the place of its own: so
        all else that is asked for is there.
        """
        picked = torch.randint(len(self.forgotten), (len(index),), generator=generator).tolist()
        relabels = self.settings.forget_target == "relabel"
        pairs = []
        for place, (i, (concept, prompt)) in enumerate(zip(index, (self.forgotten[n] for n in picked), strict=True)):
            shown, own = self.retain_set.concepts[i], self.retain_set.prompts[i]
            named = [other for other in self.retained if other not in ("", concept)]
            choices = _standing_in(concept, named, self.by_kind)
            if choices and shown not in ("", concept, *choices):
                shown = ""
            like = reworded(own, shown, concept) if shown and place % 2 and relabels else None
            if not shown and choices:
                shown = choices[int(torch.randint(len(choices), (), generator=generator))]
            answer = (shown and reworded(prompt, concept, shown)) or own
            pairs.append((like, own) if like else (prompt, answer))
        return [asked for asked, _ in pairs], [answer for _, answer in pairs]

    def anchored(self, asked: Sequence[str]) -> list[str]:
        """Return prompts with the anchor in the place of their concept."""
        anchor, concepts = self.settings.anchor, {prompt: concept for concept, prompt in self.forgotten}
        assert anchor is not None  # settings refuse the target anchor without one
        each = [anchor[concepts[p]] if isinstance(anchor, Mapping) else anchor for p in asked]
        return [reworded(p, concepts[p], its) or its for p, its in zip(asked, each, strict=True)]

    def pairs(self) -> list[tuple[str, str]]:
        """Return every prompt to forget with every answer: the anchor's, or one for each retained concept."""
        if self.settings.forget_target == "anchor":
            asked = [prompt for _, prompt in self.forgotten]
            return list(zip(asked, self.anchored(asked), strict=True))
        others = [c for c in self.retained if c] or list(self.retained)
        return [
            (prompt, (other and reworded(prompt, concept, other)) or self.retained[other][0])
            for concept, prompt in self.forgotten
            for other in _standing_in(concept, others, self.by_kind)
        ]

    def prompts(self) -> list[str]:
        """Return every prompt that a model may be asked by; the null prompt where the forget target needs it."""
        found = {*self.forget_set.prompts, *self.retain_set.prompts}
        kind = self.settings.forget_target
        if kind == "negative_guidance":
            found.add(NULL_CONCEPT)
        if kind == "anchor":
            found |= set(self.anchored([prompt for _, prompt in self.forgotten]))
        if kind == "relabel":
            for concept, prompt in self.forgotten:
                found |= {reworded(prompt, concept, shown) or prompt for shown in self.retained if shown}
            for concept in dict.fromkeys(concept for concept, _ in self.forgotten):
                found |= {
                    reworded(own, shown, concept) or own
                    for shown in self.retained
                    if shown
                    for own in self.retained[shown]
                }
        return sorted(found)


@torch.no_grad()
def forget_target(
    kind: str,
    teacher_prediction: Callable[[Sequence[str]], Tensor],
    truth: Tensor,
    batch: ForgetBatch,
    *,
    anchored: Sequence[str],
    uniform: Callable[[], Tensor],
) -> Tensor:
    """Return the target of the prediction under the prompts asked, ``(B, …)``.

    Args:
        teacher_prediction: the teacher's prediction under one prompt a sample.
        truth: what a denoiser should predict, ``(B, …)``.
        kind: ``relabel``: the teacher's prediction under another concept (arXiv 2401.05779, section 3);
            ``uniform_noise``: what would be the truth had U[0, 1) noise been added instead of N(0, 1) (same section);
            ``negative_guidance``: u − (c − u), away from the concept (ESD, arXiv 2303.07345, eq. 5, scale 1);
            ``anchor``: the teacher's prediction under one given concept;
            ``truth``: the denoising target itself, to be climbed away from (``Method.forget_weight`` of -1).
        anchored: for ``anchor``, the prompt of each sample with the anchor in the place of its concept.
        uniform: gives the truth of U[0, 1) noise, of the shape of ``truth``.
    Raises: ValueError: unknown kind.
    """
    if kind == "relabel":
        return teacher_prediction(batch.answers)
    if kind == "uniform_noise":
        return uniform().to(truth)
    if kind == "negative_guidance":
        null = teacher_prediction([NULL_CONCEPT] * len(batch.asked))
        return null - (teacher_prediction(batch.asked) - null)
    if kind == "anchor":
        return teacher_prediction(anchored)
    if kind == "truth":
        return truth
    raise ValueError(f"forget target {kind!r} is none of relabel, uniform_noise, negative_guidance, anchor, truth")
