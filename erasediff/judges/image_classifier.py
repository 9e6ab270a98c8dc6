"""A classifier of pictures that others have trained, such as one of ImageNet's classes, with a map of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from erasediff.artifacts import read_object, write_json
from erasediff.errors import ModelError, shown
from erasediff.judges.judge import REST
from erasediff.judges.pretrained import Normalisation, PretrainedJudge, facts_of, normalisation, part, reopened

#: What pictures in [0, 1] are brought to where a model does not say: as ImageNet's.
IMAGENET_NORMALISATION: Normalisation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageClassifierJudge(PretrainedJudge):
    """Probabilities of a classifier's labels, added up by concept; those of no concept are the rest.

    Args:
        labels: which of the model's labels belong to each concept.
    """

    kind = "image_classifier"

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        labels: Mapping[str, Sequence[str]],
        side: int,
        normalisation: Normalisation = IMAGENET_NORMALISATION,
    ):
        super().__init__(model, side, normalisation)
        known = {str(name): int(i) for i, name in model.config.id2label.items()}
        missing = sorted({name for names in labels.values() for name in names} - set(known))
        if missing:
            raise ModelError(
                f"the classifier has no label {shown(missing[0])}; it has {len(known)}: {shown(', '.join(known), 200)}"
            )
        self.knows = {concept: tuple(names) for concept, names in labels.items()}
        self.concepts = (*self.knows, REST)
        self.group = torch.full((len(known),), len(self.knows))
        for number, names in enumerate(self.knows.values()):
            for name in names:
                self.group[known[name]] = number

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities added up by concept; as features, the model's logits."""
        logits = self.model(pixel_values=pixels).logits
        scores = torch.zeros(len(logits), len(self.concepts), device=logits.device)
        return scores.index_add(1, self.group.to(logits.device), logits.softmax(1).float()), logits


def opened(
    model: str | Path,
    *,
    revision: str | None = None,
    concepts: Sequence[str] = (),
    labels: Mapping[str, Sequence[str]] | None = None,
) -> ImageClassifierJudge:
    """An image classifier of transformers as a judge.

    Args:
        model: a folder; with ``revision``, a commit, a repository of the hub.
        labels: which of its labels belong to a concept; by default each of ``concepts`` that is a label.

    Raises: ModelError: it cannot be opened, or has no such label.
    """
    network = part(model, transformers.AutoModelForImageClassification, revision)
    found = labels or {c: [c] for c in concepts if c in network.config.id2label.values()}
    if not found:
        raise ModelError(f"none of {shown(', '.join(concepts))} is a label of {shown(str(model))}: give labels")
    side = getattr(network.config, "image_size", 224)
    side = side if isinstance(side, int) else side[0]
    return ImageClassifierJudge(network, found, side, normalisation(model, revision, IMAGENET_NORMALISATION))


def save(judge: ImageClassifierJudge, folder: Path, **facts: object) -> None:
    """Write the model's own files, and what the judge knows (with ``facts``)."""
    model: Any = judge.model
    model.save_pretrained(folder)
    write_json(folder / "judge.json", {**facts_of(judge), "side": judge.image_shape[1], **facts})


def load(folder: Path) -> ImageClassifierJudge:
    """Read what :func:`save` wrote. Raises: IntegrityError: it is no such judge."""
    facts = read_object(folder / "judge.json")
    network = reopened(folder, transformers.AutoModelForImageClassification)
    return ImageClassifierJudge(network, facts["knows"], facts["side"], (facts["mean"], facts["std"]))
