"""What judges that others have trained share (transformers): opening, what a picture is made to, batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from safetensors.torch import save as serialised
from torch import Tensor, nn

from erasediff.command import is_out_of_memory
from erasediff.data.concept_images import Images
from erasediff.data.images import as_shape
from erasediff.errors import IntegrityError, ModelError, shown
from erasediff.judges.judge import recognised

#: What is done to pixels in [0, 1]: less a mean, over a spread, by channel.
Normalisation = tuple[Sequence[float], Sequence[float]]


class PretrainedJudge:
    """A network of transformers that reads pictures; a kind adds what it makes of them.

    Attributes:
        concepts: what it tells apart.
        image_shape: ``(3, height, width)`` that the network takes; other images are resized and converted.
        knows: what beside the weights decides what it reads, as JSON takes it.
    """

    kind: str
    concepts: tuple[str, ...]
    knows: Mapping[str, Sequence[str]]

    def __init__(self, model: nn.Module, side: int, normalisation: Normalisation):
        self.model, self.image_shape = model.eval().requires_grad_(False), (3, side, side)
        self.mean, self.std = normalisation

    def pixels(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] to what the network takes."""
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((as_shape(images, self.image_shape) + 1) / 2 - mean) / std

    def outputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """``(scores, features)`` of a batch; scores add up to 1 a picture."""
        raise NotImplementedError

    @torch.no_grad()
    def read(self, images: Images, batch_size: int = 64) -> tuple[Tensor, Tensor]:
        """``(scores, features)`` of images, on the CPU. Raises: ModelError: the network gives no finite numbers."""
        device = next(self.model.parameters()).device
        parts = []
        for start in range(0, len(images), batch_size):
            index = torch.arange(start, min(start + batch_size, len(images)))
            parts.append([part.float().cpu() for part in self.outputs(self.pixels(images[index].to(device)))])
        scores, features = (torch.cat(each) for each in zip(*parts, strict=True))
        if not bool(scores.isfinite().all()):
            raise ModelError(f"the {self.kind} judge gives scores that are no finite numbers: it cannot judge")
        return scores, features

    def recognises(self, concept: str, images: Images) -> Tensor:
        """True where an image shows ``concept``, bool ``(N,)``. Raises: UnknownConcept: it cannot tell."""
        return recognised(self, concept, images)

    @property
    def fingerprint(self) -> str:
        """Kind, SHA-256 of the weights, what it knows, what images are made to, versions."""
        weights = hashlib.sha256(serialised({n: p.cpu().contiguous() for n, p in self.model.named_parameters()}))
        known = json.dumps([dict(self.knows), list(self.mean), list(self.std)])
        side = self.image_shape[1]
        return (
            f"{self.kind} {weights.hexdigest()}; {hashlib.sha256(known.encode()).hexdigest()[:12]}; "
            f"antialiased bilinear to 3x{side}x{side}; "
            f"transformers {transformers.__version__}; torch {torch.__version__}"
        )

    def to(self, device: torch.device) -> Self:
        """The judge itself, computing there from now on."""
        self.model.to(device)
        return self


def part(model: str | Path, kind: Any, revision: str | None = None) -> Any:
    """A part of transformers from a folder, or of a commit from the hub; no code of theirs is run.

    Args:
        model: a folder; with ``revision`` the name of a repository, ``ORGANISATION/NAME``.

    Raises: ModelError: it cannot be opened.
    """
    if revision is None and not Path(model).is_dir():
        raise ModelError(
            f"no judge can be made of {shown(str(model))}: it is no folder; of the hub's models name the commit too"
        )
    try:
        return kind.from_pretrained(str(model), revision=revision or "main", local_files_only=revision is None)
    except (
        Exception
    ) as error:  # transformers builds what the files say: whatever they say, its code may stumble over it
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"no judge can be made of {shown(str(model))} ({shown(str(error), 200)}): give a folder of transformers, "
            "or repository and commit of the hub"
        ) from None


def normalisation(model: str | Path, revision: str | None, otherwise: Normalisation) -> Normalisation:
    """What the model's own preprocessor does, where it says so."""
    from transformers.image_processing_base import ImageProcessingMixin

    where: dict[str, Any] = {"revision": revision or "main", "local_files_only": revision is None}
    try:
        config, _ = ImageProcessingMixin.get_image_processor_dict(str(model), **where)
    except OSError:
        return otherwise
    return config.get("image_mean", otherwise[0]), config.get("image_std", otherwise[1])


def facts_of(judge: PretrainedJudge) -> dict[str, object]:
    """What a judge's folder says beside the model's own files."""
    return {"kind": judge.kind, "knows": dict(judge.knows), "mean": list(judge.mean), "std": list(judge.std)}


def reopened(folder: Path, kind: Any) -> Any:
    """A part of transformers from a judge's folder. Raises: IntegrityError: it is not what was written there."""
    try:
        return part(folder, kind)
    except ModelError as error:
        raise IntegrityError(f"{error}; or run its stage again") from None
