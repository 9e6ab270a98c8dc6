"""CLIP as a judge: the concept whose words lie nearest to the picture. It needs no labels, and no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from erasediff.artifacts import read_object, write_json
from erasediff.judges.pretrained import Normalisation, PretrainedJudge, facts_of, normalisation, part, reopened

#: What pictures in [0, 1] are brought to where a model does not say: as CLIP's own.
CLIP_NORMALISATION: Normalisation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipJudge(PretrainedJudge):
    """Zero-shot: a concept's score is a softmax over the cosines of words and picture.

    Args:
        words: what each concept is said in, in one or more ways; their embeddings are averaged.

    Source: CLIP, arXiv 2103.00020, sections 3.1.2 and 3.1.4.
    """

    kind = "clip"

    def __init__(
        self,
        model: transformers.CLIPModel,
        tokenizer: Any,
        words: Mapping[str, Sequence[str]],
        normalisation: Normalisation = CLIP_NORMALISATION,
    ):
        super().__init__(model, model.config.vision_config.image_size, normalisation)
        self.tokenizer, self.knows = tokenizer, {concept: tuple(said) for concept, said in words.items()}
        self.concepts = tuple(self.knows)
        self.texts = torch.stack([self._text(list(said)) for said in self.knows.values()])

    @torch.no_grad()
    def _text(self, said: list[str]) -> Tensor:
        device = next(self.model.parameters()).device
        tokens = self.tokenizer(said, padding=True, truncation=True, return_tensors="pt").to(device)
        model: Any = self.model
        each = F.normalize(_embedding(model.get_text_features(**tokens)), dim=1)
        return F.normalize(each.mean(0), dim=0)

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax over the cosines times the model's temperature, and the pictures' embeddings of length 1."""
        model: Any = self.model
        features = F.normalize(_embedding(model.get_image_features(pixel_values=pixels)), dim=1)
        return (model.logit_scale.exp() * features @ self.texts.to(features.device).T).softmax(1), features

    def alignment(self, features: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine of each picture, by its features ``(N, D)``, and the prompt that it was drawn from, ``(N,)``."""
        words = {prompt: self._text([prompt]).to(features.device) for prompt in dict.fromkeys(prompts)}
        return (F.normalize(features, dim=1) * torch.stack([words[prompt] for prompt in prompts])).sum(1)


def _embedding(output: Any) -> Tensor:
    """transformers 5 gives a record, earlier ones the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


def opened(
    model: str | Path,
    *,
    revision: str | None = None,
    concepts: Sequence[str],
    labels: Mapping[str, Sequence[str]] | None = None,
) -> ClipJudge:
    """A CLIP model of transformers as a judge of any concepts.

    Args:
        model: a folder; with ``revision``, a commit, a repository of the hub.
        labels: what concepts are said in; those without are "a photo of" their name. ``something else`` may be one.

    Raises: ModelError: it cannot be opened.
    """
    words = {concept: [f"a photo of {concept}"] for concept in concepts} | dict(labels or {})
    network = part(model, transformers.CLIPModel, revision)
    tokenizer = part(model, transformers.AutoTokenizer, revision)
    return ClipJudge(network, tokenizer, words, normalisation(model, revision, CLIP_NORMALISATION))


def save(judge: ClipJudge, folder: Path, **facts: object) -> None:
    """Write the model's own files, and what the judge knows (with ``facts``)."""
    model: Any = judge.model
    model.save_pretrained(folder)
    judge.tokenizer.save_pretrained(folder)
    write_json(folder / "judge.json", {**facts_of(judge), **facts})


def load(folder: Path) -> ClipJudge:
    """Read what :func:`save` wrote. Raises: IntegrityError: it is no such judge."""
    facts = read_object(folder / "judge.json")
    network, tokenizer = reopened(folder, transformers.CLIPModel), reopened(folder, transformers.AutoTokenizer)
    return ClipJudge(network, tokenizer, facts["knows"], (facts["mean"], facts["std"]))
