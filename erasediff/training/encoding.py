"""What text encoders and the image encoder say, computed once for a training and read from disk.

So the encoders need not stay on the device, and memory grows neither with the number of pictures nor of prompts.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from erasediff.data.concept_images import Images, Undrawn
from erasediff.data.rows import rows_on_disk
from erasediff.families.family import NULL_CONCEPT, Condition, DenoiserArguments, Family
from erasediff.families.reading import read_by
from erasediff.families.weights import bytes_of

#: Pictures, and prompts, that are encoded at once.
IMAGES_AT_ONCE, PROMPTS_AT_ONCE = 16, 32


class EncodedPrompts:
    """The conditions of prompts, each encoded once; kept on disk, given on a device.

    Args:
        prompts: all that will be asked for.
        dtype: of what is given; ``None`` leaves it as the text encoder made it.
        folder: keeps them for the next training, under a name made of all prompts and of the text encoders' weights. By
            default they last as long as this object; so do those that no network encodes.
    Raises: UnknownConcept: the model does not know one.
    """

    def __init__(
        self,
        family: Family,
        prompts: Iterable[str],
        device: torch.device,
        dtype: torch.dtype | None = None,
        folder: Path | None = None,
    ):
        names = list(dict.fromkeys(prompts))
        self.index = {name: i for i, name in enumerate(names)}
        self.device, self.dtype = device, dtype
        encoders = [network for network in encoders_of(family) if network is not family.encoder]

        def batches() -> Iterator[dict[str, Tensor]]:
            for i in range(0, len(names), PROMPTS_AT_ONCE):
                condition = family.condition(names[i : i + PROMPTS_AT_ONCE])
                assert isinstance(condition, DenoiserArguments)  # the only kind there is
                yield condition.flat()

        where = () if folder is None or not encoders else (folder, _name_of_prompts(family, encoders, names))
        self.condition = DenoiserArguments.of_flat(rows_on_disk(batches(), len(names), *where))

    def __call__(self, prompts: Sequence[str]) -> Condition:
        """Return the condition of prompts, one a sample."""
        index = torch.tensor([self.index[prompt] for prompt in prompts], dtype=torch.long)
        return self.condition.take(index).to(self.device, self.dtype)


class _Prepared:
    """What :func:`prepared` gives."""

    def __init__(self, family: Family, condition: EncodedPrompts):
        self.family, self.condition = family, condition

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def encode(self, images: Tensor) -> Tensor:
        return images


def prepared(family: Family, prompts: Iterable[str], device: torch.device, folder: Path | None = None) -> Family:
    """Return the same family, whose pictures are what :func:`encoded` gave already, and whose prompts are encoded.

    Args:
        prompts: all that will be asked for beside the null prompt.
        folder: as :class:`EncodedPrompts` takes it.
    """
    asked = [*prompts, *([NULL_CONCEPT] if family.has_null else [])]
    return cast(Family, _Prepared(family, EncodedPrompts(family, asked, device, folder=folder)))


def encoded(family: Family, images: Images, folder: Path | None = None) -> Images:
    """Return what is noised in the place of pictures: their latents, or themselves where no network encodes them.

    Args:
        folder: keeps latents for the next training, under a name made of all pictures and of the encoder's weights. By
            default they last as long as what is returned.
    """
    if family.encoder is None or isinstance(images, Undrawn):
        return images
    latents = ({"latents": family.encode(batch).float()} for batch in _batches(images))
    where = () if folder is None else (folder, _name_of_latents(family, images))
    return rows_on_disk(latents, len(images), *where)["latents"]


def _batches(images: Images) -> Iterator[Tensor]:
    for rows in torch.arange(len(images)).split(IMAGES_AT_ONCE):
        yield images[rows]


def _name_of_latents(family: Family, images: Images) -> str:
    """Return a digest of the encoder and of all pictures in their order."""
    encoder: Any = family.encoder
    digest = _digest([encoder], type(family).__name__)
    for batch in _batches(images):
        digest.update(bytes_of(batch))
    return digest.hexdigest()


def _name_of_prompts(family: Family, encoders: list[nn.Module], prompts: list[str]) -> str:
    """Return a digest of the text encoders, of the prompts as they are tokenised, and of what else conditions say."""
    pipeline: Any = family.pipeline
    settings = {key: value for key, value in dict(pipeline.config).items() if not key.startswith("_")}
    templates = [getattr(part, "chat_template", None) for part in pipeline.components.values()]
    read = [(prompt, read_by(pipeline, prompt)) for prompt in prompts]
    said = (type(family).__name__, settings, templates, family.image_shape, family.default_guidance_scale, read)
    return _digest(encoders, said).hexdigest()


def _digest(networks: Sequence[nn.Module], said: object) -> Any:
    """Return a digest of networks, of the packages that compute them, and of what can be written as JSON."""
    configs = [{k: v for k, v in _config(each).items() if not k.startswith("_")} for each in networks]
    packages = sorted({"torch", *(type(each).__module__.partition(".")[0] for each in networks)})
    versions = {name: getattr(sys.modules.get(name), "__version__", "") for name in packages}
    digest = hashlib.sha256(json.dumps([versions, configs, said], default=str, sort_keys=True).encode())
    for network in networks:
        for name, weight in network.state_dict().items():
            digest.update(name.encode())
            digest.update(bytes_of(weight))
    return digest


def _config(network: Any) -> dict[str, Any]:
    """The configuration of a network of diffusers or transformers."""
    config = network.config
    return dict(config.to_dict() if hasattr(config, "to_dict") else config)


def encoders_of(family: Family) -> list[nn.Module]:
    """Return the networks of the pipeline beside the denoiser: text encoders and VAE."""
    parts = family.pipeline.components.values()
    return [part for part in parts if isinstance(part, nn.Module) and part is not family.denoiser]


@contextmanager
def placed(networks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Keep networks on a device for a block, then put each back where it was."""
    where = [next((p.device for p in network.parameters()), device) for network in networks]
    try:
        for network in networks:
            network.to(device)
        yield
    finally:
        for network, was in zip(networks, where, strict=True):
            network.to(was)
