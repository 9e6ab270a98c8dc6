"""Judges that others have trained: CLIP by words alone, and image classifiers with a label map (transformers)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save as serialised
from torch import Tensor, nn

from erasediff.artifacts import read_object, write_json
from erasediff.data.concept_images import Images
from erasediff.data.images import as_shape
from erasediff.errors import IntegrityError, ModelError, UnknownConcept, shown

#: Mean and spread that pictures in [0, 1] are brought to where a model has no ``preprocessor_config.json``: CLIP's.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
#: Of a judge's folder: what it knows, beside the model's own files.
FACTS = "judge.json"


class PretrainedJudge:
    """What the judges here share: pictures to what the network takes, scores and features in batches.

    Attributes:
        concepts: what it tells apart.
        image_shape: ``(3, height, width)`` that the network takes; other images are resized and converted.
    """

    kind: str
    concepts: tuple[str, ...]

    def __init__(self, model: nn.Module, side: int, mean: Sequence[float], std: Sequence[float]):
        self.model, self.image_shape = model.eval().requires_grad_(False), (3, side, side)
        self.mean, self.std = tuple(mean), tuple(std)

    def pixels(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] to what the network takes."""
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((as_shape(images, self.image_shape) + 1) / 2 - mean) / std

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """``(scores, features)`` of a batch; scores add up to 1 a picture."""
        raise NotImplementedError

    @torch.no_grad()
    def read(self, images: Images, batch_size: int = 64) -> tuple[Tensor, Tensor]:
        """``(scores, features)`` of images, on the CPU."""
        device = next(self.model.parameters()).device
        parts = []
        for start in range(0, len(images), batch_size):
            index = torch.arange(start, min(start + batch_size, len(images)))
            parts.append([part.float().cpu() for part in self.outputs(self.pixels(images[index].to(device)))])
        scores, features = zip(*parts, strict=True)
        return torch.cat(scores), torch.cat(features)

    def recognises(self, concept: str, images: Images) -> Tensor:
        """True where an image shows ``concept``, bool ``(N,)``. Raises: UnknownConcept: it cannot tell."""
        if concept not in self.concepts:
            raise UnknownConcept(
                f"the {self.kind} judge does not know {shown(concept)}; it knows: {', '.join(self.concepts)}"
            )
        return self.read(images)[0].argmax(1) == self.concepts.index(concept)

    @property
    def fingerprint(self) -> str:
        """Kind, concepts, SHA-256 of the weights, what images are made to, versions."""
        weights = hashlib.sha256(serialised({n: p.cpu().contiguous() for n, p in self.model.named_parameters()}))
        concepts = hashlib.sha256(repr(self.concepts).encode()).hexdigest()[:12]
        side = self.image_shape[1]
        return (
            f"{self.kind} {weights.hexdigest()}; concepts {concepts}; antialiased bilinear to 3x{side}x{side}; "
            f"transformers {transformers.__version__}; torch {torch.__version__}"
        )

    def to(self, device: torch.device) -> Self:
        """The judge itself, computing there from now on."""
        self.model.to(device)
        return self


class ClipJudge(PretrainedJudge):
    """Zero-shot: the concept whose words lie nearest to the picture, by a CLIP model.

    Args:
        template: what a concept is said in, with a place for ``{concept}``.
        others: words for what is none of the concepts; where they are nearest, the picture shows none.

    Source: CLIP, arXiv 2103.00020, section 3.1.2.
    """

    kind = "clip"

    def __init__(
        self,
        model: transformers.CLIPModel,
        tokenizer: Any,
        concepts: Sequence[str],
        template: str = "a photo of {concept}",
        others: Sequence[str] = (),
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ):
        super().__init__(model, model.config.vision_config.image_size, mean, std)
        if "{concept}" not in template:
            raise ValueError(f"template {shown(template)} has no place for a concept: write {{concept}} into it")
        self.tokenizer, self.template = tokenizer, template
        self.asked, self.others = tuple(concepts), tuple(others)
        self.concepts = (*self.asked, *self.others)
        self.texts = self._texts()

    @torch.no_grad()
    def _texts(self) -> Tensor:
        words = [self.template.format(concept=concept) for concept in self.concepts]
        device = next(self.model.parameters()).device
        tokens = self.tokenizer(words, padding=True, truncation=True, return_tensors="pt").to(device)
        return F.normalize(_embedding(self.model.get_text_features(**tokens)), dim=1)

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax over the cosines times the model's temperature, and the pictures' embeddings of length 1."""
        features = F.normalize(_embedding(self.model.get_image_features(pixel_values=pixels)), dim=1)
        scale = self.model.logit_scale.exp()
        return (scale * features @ self.texts.to(features.device).T).softmax(1), features


def _embedding(output: Any) -> Tensor:
    """transformers 5 gives a record, earlier ones the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


class ImageClassifierJudge(PretrainedJudge):
    """A classifier of pictures that others have trained, such as one of ImageNet's classes.

    Args:
        labels: which of the model's labels belong to each concept; probabilities are added up. A label of no
            concept belongs to ``other``.
    """

    kind = "image_classifier"

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        labels: Mapping[str, Sequence[str]],
        side: int,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        other: str = "something else",
    ):
        super().__init__(model, side, mean, std)
        known = {str(name): int(i) for i, name in model.config.id2label.items()}
        missing = sorted({name for names in labels.values() for name in names} - set(known))
        if missing:
            raise ModelError(
                f"the classifier has no label {shown(missing[0])}; it has {len(known)}: {shown(', '.join(known), 200)}"
            )
        self.labels, self.other = {concept: tuple(names) for concept, names in labels.items()}, other
        self.concepts = (*labels, other)
        self.group = torch.full((len(known),), len(labels))
        for number, names in enumerate(self.labels.values()):
            for name in names:
                self.group[known[name]] = number

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities added up by concept; as features, the model's logits."""
        logits = self.model(pixel_values=pixels).logits
        scores = torch.zeros(len(logits), len(self.concepts), device=logits.device)
        return scores.index_add(1, self.group.to(logits.device), logits.softmax(1).float()), logits


def open_clip(
    model: str | Path, concepts: Sequence[str], *, template: str = "a photo of {concept}", others: Sequence[str] = ()
) -> ClipJudge:
    """A CLIP model from a folder or hub id as a judge of any concepts. Raises: ModelError: it cannot be opened."""
    network, tokenizer = _opened(model, transformers.CLIPModel), _opened(model, transformers.AutoTokenizer)
    return ClipJudge(network, tokenizer, concepts, template, others, *_normalisation(model, CLIP_MEAN, CLIP_STD))


def open_classifier(model: str | Path, labels: Mapping[str, Sequence[str]]) -> ImageClassifierJudge:
    """An image classifier from a folder or hub id. Raises: ModelError: it cannot be opened, or a label is missing."""
    network = _opened(model, transformers.AutoModelForImageClassification)
    side = getattr(network.config, "image_size", 224)
    side = side if isinstance(side, int) else side[0]
    mean, std = _normalisation(model, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return ImageClassifierJudge(network, labels, side, mean, std)


def _opened(model: str | Path, kind: Any) -> Any:
    try:
        return kind.from_pretrained(str(model))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"no judge can be made of {shown(str(model))} ({reason}): give a folder or a hub id") from None


def _normalisation(
    model: str | Path, mean: Sequence[float], std: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """What the model's own preprocessor does, where it says so."""
    path = Path(model) / "preprocessor_config.json"
    if not path.exists():
        return mean, std
    config = read_object(path)
    return config.get("image_mean", mean), config.get("image_std", std)


def save(judge: ClipJudge | ImageClassifierJudge, folder: Path) -> None:
    """Write the model's own files and what the judge knows."""
    judge.model.save_pretrained(folder)  # type: ignore[operator]  # a transformers model
    facts: dict[str, object] = {"kind": judge.kind, "mean": judge.mean, "std": judge.std}
    if isinstance(judge, ClipJudge):
        judge.tokenizer.save_pretrained(folder)
        facts |= {"concepts": judge.asked, "others": judge.others, "template": judge.template}
    else:
        facts |= {"labels": judge.labels, "other": judge.other, "side": judge.image_shape[1]}
    write_json(folder / FACTS, facts)


def load(folder: Path) -> ClipJudge | ImageClassifierJudge:
    """Read what :func:`save` wrote. Raises: IntegrityError: it is no such judge."""
    facts = read_object(folder / FACTS)
    mean, std = facts.get("mean", CLIP_MEAN), facts.get("std", CLIP_STD)
    if facts.get("kind") == ClipJudge.kind:
        network, tokenizer = _opened(folder, transformers.CLIPModel), _opened(folder, transformers.AutoTokenizer)
        return ClipJudge(network, tokenizer, facts["concepts"], facts["template"], facts["others"], mean, std)
    if facts.get("kind") == ImageClassifierJudge.kind:
        network = _opened(folder, transformers.AutoModelForImageClassification)
        return ImageClassifierJudge(network, facts["labels"], facts["side"], mean, std, facts["other"])
    raise IntegrityError(f"{folder / FACTS} is of kind {shown(facts.get('kind'))}: it is no judge of transformers")
