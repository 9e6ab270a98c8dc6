"""The classifier that recognises a concept in a picture, and whose features measure distance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import Tensor, nn

from erasediff.artifacts import verify_folder, write_bytes, write_json
from erasediff.data.concept_images import Images
from erasediff.data.images import as_shape
from erasediff.errors import IntegrityError
from erasediff.judges.judge import recognised

if TYPE_CHECKING:
    from erasediff.training.state import OnStep


class ConceptClassifier(nn.Module):
    """A small CNN over images ``(B, C, H, W)`` in [-1, 1].

    Args:
        concepts: names in the order of the outputs.
        image_shape: ``(channels, height, width)`` of what it reads; other images are resized and converted.
        width: channels of its first layer; features have ``2 × width`` entries.
    """

    def __init__(self, concepts: Sequence[str], image_shape: tuple[int, int, int], width: int = 32):
        super().__init__()
        self.concepts, self.image_shape, self.width = tuple(concepts), image_shape, width
        channels, height, width_pixels = image_shape

        def block(i: int, o: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

        layers = [*block(channels, width, 1), *block(width, width, 1)]
        side = min(height, width_pixels)
        layers += block(width, 2 * width, 2)
        while (side := side // 2) > 8:
            layers += block(2 * width, 2 * width, 2)
        layers += block(2 * width, 2 * width, 1)
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3))
        self.to_features = nn.Sequential(nn.Linear(8 * width, 2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, len(concepts))

    def features(self, images: Tensor) -> Tensor:
        """Features before the last layer, ``(B, 2 × width)``."""
        return self.to_features(self.body(as_shape(images, self.image_shape)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, number of concepts)``."""
        return self.head(self.features(images))

    @torch.no_grad()
    def read(self, images: Images, batch_size: int = 500) -> tuple[Tensor, Tensor]:
        """``(probabilities, features)`` of images, on the CPU, in eval mode."""
        self.eval()
        device = self.head.weight.device
        probabilities, features = [], []
        for start in range(0, len(images), batch_size):
            index = torch.arange(start, min(start + batch_size, len(images)))
            f = self.features(images[index].to(device))
            features.append(f.cpu())
            probabilities.append(self.head(f).softmax(1).cpu())
        return torch.cat(probabilities), torch.cat(features)

    def recognises(self, concept: str, images: Images) -> Tensor:
        """True where an image shows ``concept``, bool ``(N,)``. Raises: UnknownConcept: it was not trained on it."""
        return recognised(self, concept, images)

    @property
    def fingerprint(self) -> str:
        """Kind, SHA-256 of ``model.safetensors``, what images are made to, version of PyTorch."""
        weights = hashlib.sha256(_weights(self)).hexdigest()
        shape = "x".join(map(str, self.image_shape))
        return f"cnn {weights}; luma, antialiased bilinear to {shape}; torch {torch.__version__}"


def train(
    images: Images,
    concepts: Sequence[str],
    image_shape: tuple[int, int, int],
    *,
    width: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: torch.device | str = "cpu",
    on_step: OnStep | None = None,
) -> ConceptClassifier:
    """Train on images shifted by up to an eighth of a side; a one-cycle learning rate; the last weights."""
    names = sorted(set(concepts))
    labels = torch.tensor([names.index(c) for c in concepts])
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ConceptClassifier(names, image_shape, width).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
        pad = max(1, min(image_shape[1:]) // 8)
        for step in range(1, steps + 1):
            index = torch.randint(len(labels), (batch_size,), generator=draw)
            dy, dx = torch.randint(2 * pad + 1, (2,), generator=draw).tolist()
            height, width_pixels = image_shape[1:]
            batch = F.pad(images[index], (pad,) * 4, value=-1.0)[:, :, dy : dy + height, dx : dx + width_pixels]
            loss = F.cross_entropy(model(batch.to(device)), labels[index].to(device), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if on_step is not None:
                on_step(step, {"loss": loss.item()})
    return model.eval()


def save(model: ConceptClassifier, folder: Path, **facts: float) -> None:
    """Write ``model.safetensors`` and ``config.json`` (with ``facts``, such as its test accuracy)."""
    config = {"kind": "cnn", "concepts": model.concepts, "image_shape": model.image_shape, "width": model.width}
    write_bytes(folder / "model.safetensors", _weights(model))
    write_json(folder / "config.json", {**config, **facts})


def load(folder: Path) -> ConceptClassifier:
    """Read what :func:`save` wrote. Raises: IntegrityError: missing, truncated or altered."""
    verify_folder(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = ConceptClassifier(config["concepts"], tuple(config["image_shape"]), config["width"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise IntegrityError(
            f"{folder} is no classifier ({' '.join(str(error).split())[:200]}): run its stage again"
        ) from None
    return model.eval()


def _weights(model: ConceptClassifier) -> bytes:
    return serialised({name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()})
