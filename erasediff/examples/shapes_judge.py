"""The judge of the world of shapes: it learned from drawn pictures, whose truth is known."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import Tensor, nn

from erasediff.artifacts import write_bytes
from erasediff.data.concept_images import Images
from erasediff.data.images import as_shape
from erasediff.errors import ModelError, UnknownConcept
from erasediff.examples.world import COLOURS, OBJECTS, SIDE, STYLES, Drawn, draw_world
from erasediff.training.state import OnStep, warmup_cosine

#: What a picture of none of them is read as.
NOTHING = "nothing"
#: The three things that every picture of the world has.
DOMAINS = {"object": OBJECTS, "style": STYLES, "colour": COLOURS}
#: Its weights, beside those of the model.
FILE = "judge.safetensors"
_SHAPE = (3, SIDE, SIDE)


class ShapesReader(nn.Module):
    """A small CNN over images ``(B, 3, 24, 24)`` in [-1, 1] with a head for each of :data:`DOMAINS`."""

    def __init__(self) -> None:
        super().__init__()

        def block(i: int, o: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.GroupNorm(8, o), nn.SiLU()]

        layers = [*block(3, 16, 1), *block(16, 32, 2), *block(32, 48, 1), *block(48, 48, 2)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(432, 64), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(64, len(known) + 1) for name, known in DOMAINS.items()})

    def features(self, images: Tensor) -> Tensor:
        """Features before the last layers, ``(B, 64)``."""
        return self.body(as_shape(images, _SHAPE))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits by domain; the last is that of :data:`NOTHING`."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}


class DomainJudge:
    """A judge of one domain of the world: objects, styles or colours, and nothing."""

    image_shape = _SHAPE

    def __init__(self, reader: ShapesReader, domain: str):
        self.reader, self.domain = reader, domain
        self.concepts: tuple[str, ...] = (*DOMAINS[domain], NOTHING)

    @property
    def fingerprint(self) -> str:
        """Kind, domain, SHA-256 of the weights, what images are made to, version of PyTorch."""
        digest = hashlib.sha256(_weights(self.reader)).hexdigest()
        return f"shapes {self.domain} {digest}; antialiased bilinear to 3x24x24; torch {torch.__version__}"

    @torch.no_grad()
    def read(self, images: Images, batch_size: int = 500) -> tuple[Tensor, Tensor]:
        """``(probabilities, features)`` of images, on the CPU."""
        device = next(self.reader.parameters()).device
        probabilities, features = [], []
        for start in range(0, len(images), batch_size):
            index = torch.arange(start, min(start + batch_size, len(images)))
            found = self.reader.features(images[index].to(device))
            features.append(found.cpu())
            probabilities.append(self.reader.heads[self.domain](found).softmax(1).cpu())
        return torch.cat(probabilities), torch.cat(features)

    def recognises(self, concept: str, images: Images) -> Tensor:
        """True where an image shows ``concept``, bool ``(N,)``. Raises: UnknownConcept: it was not trained on it."""
        if concept not in self.concepts:
            raise UnknownConcept(f"the judge does not know {concept!r}; it knows: {', '.join(self.concepts)}")
        scores = self.read(images)[0]
        if not scores.isfinite().all():
            raise ModelError("the judge gives scores that are no finite numbers: train it anew, or use another judge")
        return scores.argmax(1) == self.concepts.index(concept)

    def names(self, images: Images) -> list[str]:
        """What each image shows."""
        return [self.concepts[i] for i in self.read(images)[0].argmax(1).tolist()]

    def to(self, device: torch.device) -> Self:
        """The judge itself, computing there from now on; so do those of the other domains."""
        self.reader.to(device)
        return self


class ShapesJudge:
    """The exact judge of the world: :attr:`object`, :attr:`style` and :attr:`colour` are judges of one domain each."""

    def __init__(self, reader: ShapesReader):
        self.reader = reader.eval()
        self.object = DomainJudge(reader, "object")
        self.style = DomainJudge(reader, "style")
        self.colour = DomainJudge(reader, "colour")

    @property
    def domains(self) -> dict[str, DomainJudge]:
        """The judges by domain."""
        return {name: getattr(self, name) for name in DOMAINS}

    def domain_of(self, concept: str) -> DomainJudge:
        """The judge of the domain that a concept belongs to. Raises: UnknownConcept."""
        for domain, known in DOMAINS.items():
            if concept in known:
                return self.domains[domain]
        everything = ", ".join(name for names in DOMAINS.values() for name in names)
        raise UnknownConcept(f"the world has no {concept!r}; it has: {everything}")

    def recognises(self, concept: str, images: Images) -> Tensor:
        """True where an image shows an object, style or colour, bool ``(N,)``. Raises: UnknownConcept."""
        return self.domain_of(concept).recognises(concept, images)

    def accuracy(self, drawn: Drawn) -> dict[str, float]:
        """Share of pictures read rightly, by domain."""
        truth = {"object": drawn.objects, "style": drawn.styles, "colour": drawn.colours}
        return {
            name: float((judge.read(drawn.images)[0].argmax(1).numpy() == truth[name]).mean())
            for name, judge in self.domains.items()
        }


def train_judge(
    *, steps: int = 2000, batch_size: int = 64, seed: int = 0, on_step: OnStep | None = None
) -> ShapesJudge:
    """Train a judge on drawn pictures, and on pictures of nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = ShapesReader().train()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * warmup_cosine(step, 50, steps)
        drawn = draw_world(batch_size, seed + 2 * 10**6 + step)
        empty = draw_nothing(batch_size // 4, seed + step)
        images = _roughened(torch.cat([drawn.images, empty]), torch.Generator().manual_seed(seed + step))
        logits = reader(images)
        loss = torch.zeros(())
        for name, truth in (("object", drawn.objects), ("style", drawn.styles), ("colour", drawn.colours)):
            nothing = torch.full((len(empty),), len(DOMAINS[name]))
            loss = loss + F.cross_entropy(logits[name], torch.cat([torch.from_numpy(truth), nothing]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step + 1, {"loss": loss.item()})
    return ShapesJudge(reader)


def _roughened(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images with a little noise and blur, as a model leaves them."""
    n = len(images)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = 0.4 * torch.rand(n, 1, 1, 1, generator=generator).square()
    noise = torch.randn(images.shape, generator=generator) * 0.12 * torch.rand(n, 1, 1, 1, generator=generator)
    return (images + share * (soft - images) + noise).clamp(-1, 1)


def draw_nothing(n: int, seed: int) -> Tensor:
    """``n`` pictures without any object: blank, noise, scribble, stripes, or the pieces of one, shuffled.

    Returns: float32 ``(n, 3, 24, 24)`` in [-1, 1].
    """
    random = np.random.default_rng((seed, 1))
    makers = (_blank, _noise, _scribble, _scribble, _waves, _pieces)
    pictures = [makers[random.integers(len(makers))](random) for _ in range(n)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().clamp(0, 1) * 2 - 1


def _colour(random: np.random.Generator) -> np.ndarray:
    """Any colour; often that of the world's paper, night or paint."""
    if random.random() < 0.5:
        return draw_world(1, int(random.integers(10**9))).pixels[0, 0, 0] / 255
    return random.uniform(0, 1, 3)


def _blank(random: np.random.Generator) -> np.ndarray:
    slope = np.linspace(0, 1, SIDE)[:, None, None] * random.uniform(-0.4, 0.4) * random.integers(2)
    return np.broadcast_to(_colour(random) + slope, (SIDE, SIDE, 3)).copy()


def _noise(random: np.random.Generator) -> np.ndarray:
    side = int(random.choice([SIDE, SIDE, 12, 6]))
    channels = random.choice([1, 3])
    grain = random.normal(0.5, random.uniform(0.1, 0.6), (side, side, channels))
    return np.broadcast_to(np.kron(grain, np.ones((SIDE // side, SIDE // side, 1))), (SIDE, SIDE, 3)).copy()


def _scribble(random: np.random.Generator) -> np.ndarray:
    picture, ink = _blank(random), _colour(random)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    for _ in range(random.integers(1, 4)):
        at, way = random.uniform(2, SIDE - 2, 2), random.normal(size=2)
        for _ in range(random.integers(6, 40)):
            way = 0.8 * way + random.normal(0, 0.7, 2)
            at = np.clip(at + way, 0, SIDE - 1)
            cover = np.clip(1.6 - np.hypot(y - at[0], x - at[1]), 0, 1)[..., None]
            picture = picture * (1 - cover) + ink * cover
    return picture


def _waves(random: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    angle, period = random.uniform(0, np.pi), random.uniform(2.5, 12)
    cover = 0.5 + 0.5 * np.sin(2 * np.pi * ((x * np.cos(angle) + y * np.sin(angle)) / period + random.random()))
    cover = np.clip((cover - 0.5) * random.uniform(1, 4) + 0.5, 0, 1)[..., None]
    return _colour(random) * cover + _colour(random) * (1 - cover)


def _pieces(random: np.random.Generator) -> np.ndarray:
    """A picture of the world cut into 16 pieces and put together in another order."""
    whole = draw_world(1, int(random.integers(10**9))).pixels[0] / 255
    side = SIDE // 4
    pieces = whole.reshape(4, side, 4, side, 3).swapaxes(1, 2).reshape(16, side, side, 3)[random.permutation(16)]
    return pieces.reshape(4, 4, side, side, 3).swapaxes(1, 2).reshape(SIDE, SIDE, 3)


def _weights(reader: ShapesReader) -> bytes:
    return serialised({name: tensor.cpu().half().contiguous() for name, tensor in reader.state_dict().items()})


def save_judge(judge: ShapesJudge, folder: Path) -> None:
    """Write the weights into a folder, in float16."""
    write_bytes(folder / FILE, _weights(judge.reader))


def open_shapes_judge(folder: Path) -> ShapesJudge:
    """Read what :func:`save_judge` wrote."""
    reader = ShapesReader()
    reader.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / FILE).items()})
    return ShapesJudge(reader)
