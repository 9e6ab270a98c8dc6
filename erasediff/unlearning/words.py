"""From a word to what is asked: wordings of a concept, its neighbours, which are to be kept, and its companions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from erasediff.data.wordings import (
    combined,
    general_prompts,
    in_turns,
    kind_of,
    misspelt,
    prompts_of,
    vocabulary,
    with_article,
)
from erasediff.errors import did_you_mean, shown
from erasediff.families.family import NULL_CONCEPT, DenoiserArguments, Family
from erasediff.families.reading import is_cut, read_by
from erasediff.unlearning.network import teaching
from erasediff.unlearning.wording import reworded

#: Neighbours of a concept that are kept by default; and how many concepts' pictures of nothing in particular beside.
NEIGHBOURS, GENERAL = 12, 2
#: Neighbours are sought among so many times as many nearest words. One whose prediction lies nearer to that of nothing
#: than this share of what the concept changes is a word that the model hardly knows: it answers it with anything.
LOOKED_AT, APART = 3, 0.2
#: One that goes more than this share of the way from nothing to the concept, and is less off that way, is drawn as the
#: concept: on the shapes example "fire hydrant" is half of "square", 0.25 off the way. A neighbour is 0.4 off.
WEAKLY = 0.3
#: Styles that an object is asked for in, and objects that a style is asked for with.
COMPANIONS = 8
#: Prompts that are predicted at once, each on so many noised blanks.
AT_ONCE, SAMPLES = 8, 2
#: Timesteps of which those samples take two.
DRAWS = 16
#: Of an owner that loses a concept, so many concepts' pictures of each kind are kept: itself, with other concepts, and
#: other owners with what it loses. With one of each, stars lost styles that they should keep.
BESIDE = 3
#: From one prompt with a companion to the next.
STEP = 7


def takes_words(family: Family) -> bool:
    """True if a model can be asked for anything in words, rather than for one of its classes."""
    return family.conditional and family.concepts is None


class Wordings:
    """How a model is asked for concepts: in wordings of a concept alone, and together with its companions.

    Companions of an object are the styles that the model knows best, of a style the objects.

    Args:
        concepts: what is forgotten; what else is asked for takes the companions of these.
        owner: the only thing that the concepts are forgotten of: they are asked for together with it alone.
    """

    def __init__(self, family: Family, concepts: Sequence[str], accelerator: Accelerator, owner: str | None = None):
        self.concepts, self.owner = list(concepts), owner
        self.companions: dict[bool, list[str]] = {}
        for concept in concepts if takes_words(family) else ():
            if (styled := kind_of(concept) == "style") not in self.companions:
                self.companions[styled] = companions_of(family, concept, accelerator, without=concepts)

    def __call__(self, concept: str, count: int | None = None) -> list[str]:
        """Return ``count`` prompts, every second of a concept with a companion; by default as many as there are."""
        if self.owner is not None and concept in self.concepts:
            prompts = of_owner(concept, self.owner)
            return prompts if count is None else in_turns(prompts, count)
        alone = prompts_of(concept, kind_of(concept))
        together = _together(concept, self.companions.get(kind_of(concept) == "style", []))
        if count is None:
            return alone + together
        half = count // 2 if together else 0
        # A step that no number of wordings divides: each companion in its turn, under another wording each time.
        return in_turns(alone, count - half) + [together[i * STEP % len(together)] for i in range(half)]

    def beside(self, kept: Sequence[str], count: int) -> list[str]:
        """Return what else is to be kept where an owner alone loses its concepts, :data:`BESIDE` × ``count`` of a kind.

        The owner itself, the owner with what is kept beside each concept, and each concept with its other companions.
        """
        if self.owner is None:
            return []
        with_kept = [prompt for other in kept for prompt in of_owner(other, self.owner)]
        groups = [prompts_of(self.owner, kind_of(self.owner)), with_kept]
        for concept in self.concepts:
            others = [c for c in self.companions.get(kind_of(concept) == "style", []) if c != self.owner]
            groups.append([p for other in others for p in of_owner(concept, other)])
        return [g[i * STEP % len(g)] for g in groups if g for i in range(BESIDE * count)]


def of_owner(concept: str, owner: str) -> list[str]:
    """Return prompts that ask for a concept of one thing: a style of an object, or something that it has."""
    styled, owned = kind_of(concept) == "style", kind_of(owner) == "style"
    if styled != owned:
        return combined(*((owner, concept) if styled else (concept, owner)))
    has = f"{with_article(owner)} with {with_article(concept)}"
    return [has, f"a picture of {has}", f"{owner} with {concept}", f"{with_article(concept)} of {with_article(owner)}"]


def _together(concept: str, companions: Sequence[str]) -> list[str]:
    """Return prompts that ask for a concept and a companion, all companions under one wording after another."""
    styled = kind_of(concept) == "style"
    each = [combined(*((other, concept) if styled else (concept, other))) for other in companions]
    return [prompt for wording in zip(*each, strict=True) for prompt in wording]


def general(count: int) -> list[str]:
    """Return ``count`` prompts of everyday pictures, spread over all there are."""
    known = general_prompts()
    return [known[i * len(known) // count] for i in range(count)]


def neighbours(
    family: Family, concepts: Sequence[str], candidates: Sequence[str] | None = None, count: int = NEIGHBOURS
) -> list[str]:
    """Return the words that the model's own text encoder finds nearest to any of some concepts.

    Words that name a concept, that a concept names, or that the model cannot tell from one, are none.

    Args:
        candidates: by default the vocabulary's words of the concepts' kinds.
    """
    if candidates is None:
        kinds = {kind_of(concept) for concept in concepts}
        candidates = [word for word, kind in vocabulary().items() if kind in kinds]
    apart = [w for w in candidates if not any(reworded(w, c, " ") or reworded(c, w, " ") for c in concepts)]
    alike = {read_by(family.pipeline, concept) for concept in concepts} - {()}
    apart = [word for word in apart if read_by(family.pipeline, word) not in alike]
    vectors = F.normalize(_sentences(family, [*concepts, *apart]), dim=1)
    near = (vectors[len(concepts) :] @ vectors[: len(concepts)].T).amax(1)
    return [apart[i] for i in near.topk(min(count, len(apart))).indices.tolist()]


@torch.no_grad()
def _sentences(family: Family, prompts: list[str]) -> torch.Tensor:
    """Return a vector a prompt, float32 ``(B, D)``: the mean of its tokens' embeddings, less that of all prompts."""
    means = []
    for first in range(0, len(prompts), 32):
        condition = family.condition(prompts[first : first + 32])
        assert isinstance(condition, DenoiserArguments)  # the only kind there is
        found = condition.batched["encoder_hidden_states"]
        assert isinstance(found, torch.Tensor)
        means.append(found.float().mean(1).cpu())
    together = torch.cat(means)
    return together - together.mean(0)


def kept_by_default(family: Family, concepts: Sequence[str], accelerator: Accelerator) -> list[str]:
    """Return the neighbours that the model knows, and takes for something else; if there is none, the nearest.

    What its text encoders do not read to the end is none: nobody asked for it, so it is no mistake of theirs.
    """
    near = neighbours(family, concepts, count=LOOKED_AT * NEIGHBOURS)
    near = [word for word in near if not is_cut(family.pipeline, word)]
    return (known_as_else(family, concepts, near, accelerator, tell=True) or near)[:NEIGHBOURS]


def known_as_else(
    family: Family, concepts: Sequence[str], words: Sequence[str], accelerator: Accelerator, *, tell: bool = False
) -> list[str]:
    """Return those of some words that the model knows, and takes for something else than any of some concepts.

    Another name of a concept, under which the model predicts much the same, or a part of it, is none of them.

    Args: tell: a concept that the model hardly knows is told by a warning.
    """
    plain = effects(family, [*concepts, *words], [NULL_CONCEPT] * (len(concepts) + len(words)), accelerator)
    for concept, effect in zip(concepts, plain, strict=False):
        if tell and effect < APART * plain[len(concepts) :].amax():
            told = f"the model hardly knows {shown(repr(concept))}: it predicts nearly the same as for an empty prompt"
            hint = "" if misspelt(concept) else did_you_mean(concept, vocabulary())  # it was told before
            warnings.warn(f"{told}{hint}", stacklevel=3)
    least = APART * plain[: len(concepts)].min()
    own = plain[len(concepts) :]
    apart = own >= least
    for concept, way in zip(concepts, plain, strict=False):
        between = effects(family, words, [concept] * len(words), accelerator)
        apart &= (between >= least) & ~_weakly(own, between, way)
    return [word for word, it_is in zip(words, apart, strict=True) if it_is]


def _weakly(own: Tensor, between: Tensor, way: Tensor) -> Tensor:
    """True for words that say a concept weakly, ``(B,)``.

    Args:
        own: how far the prediction under each lies from that for nothing, ``(B,)``.
        between: how far from that of the concept, ``(B,)``.
        way: how far the concept lies from nothing.
    """
    along = (own**2 + way**2 - between**2) / (2 * way)
    off = (own**2 - along**2).clamp(min=0).sqrt()
    return (along > WEAKLY * way) & (off < WEAKLY * way)


def companions_of(
    family: Family, concept: str, accelerator: Accelerator, count: int = COMPANIONS, without: Sequence[str] = ()
) -> list[str]:
    """Return the styles that change most what the model predicts for an object; of a style, the objects.

    Args:
        without: what is forgotten too: to ask for "a circle in dotted style" would keep dotted.
    """
    styled, gone = kind_of(concept) == "style", {name.casefold() for name in without}
    known = [word for word, kind in vocabulary().items() if kind == ("object" if styled else "style")]
    words = [word for word in known if word.casefold() not in gone]
    both = [_together(concept, [word])[0] for word in words]
    found = effects(family, both, [concept] * len(both), accelerator)
    return [words[i] for i in found.topk(min(count, len(words))).indices.tolist()]


@torch.no_grad()
def effects(family: Family, prompts: Sequence[str], others: Sequence[str], accelerator: Accelerator) -> Tensor:
    """Return how far a model's predictions under two prompts lie apart, for each pair: root mean square, ``(B,)``.

    Every pair is compared on the same noised blanks.
    """
    generator = torch.Generator().manual_seed(0)
    device = accelerator.device
    dtype = torch.float32 if accelerator.mixed_precision == "no" else None
    with teaching(family.denoiser, accelerator), accelerator.autocast():
        blank = family.encode(torch.zeros(SAMPLES, *family.image_shape)).to(device)
        noise = torch.randn(blank.shape, generator=generator).to(blank)
        # Where there is much noise and where there is half of it: early on it is decided what a picture shows.
        timesteps = family.timesteps(DRAWS, generator).sort().values[[-1, DRAWS // 2]].to(device)
        noisy = family.noised(blank, noise, timesteps)[0]

        def predicted(asked: Sequence[str]) -> Tensor:
            condition = family.condition([prompt for prompt in asked for _ in range(SAMPLES)]).to(device, dtype)
            rows = noisy.repeat(len(asked), *[1] * (noisy.ndim - 1)), timesteps.repeat(len(asked))
            return family.predict(family.denoiser, *rows, condition).float().cpu().unflatten(0, (-1, SAMPLES))

        known = {prompt: predicted([prompt])[0] for prompt in dict.fromkeys(others)}
        found = []
        for first in range(0, len(prompts), AT_ONCE):
            these = slice(first, first + AT_ONCE)
            reference = torch.stack([known[prompt] for prompt in others[these]])
            found.append((predicted(prompts[these]) - reference).square().flatten(1).mean(1).sqrt())
        return torch.cat(found)
