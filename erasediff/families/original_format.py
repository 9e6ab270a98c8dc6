"""A pipeline as one ``.safetensors`` file in its model's original format, as ComfyUI and A1111 keep them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from erasediff.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

#: What is inside a residual block of a UNet, of a VAE, and inside a VAE's attention; what is not here keeps its name.
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
#: Likewise of a layer of an OpenCLIP text encoder; the projections of its attention lie in one tensor, in this order.
OPENCLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPENCLIP_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
#: A module's name in diffusers, its name in the file, and what is inside it, where that has other names too.
Place = tuple[str, str, Mapping[str, str]]


def is_single_file(path: Path | str) -> bool:
    """True if a place to write to is named as a file of this format."""
    return Path(path).suffix.lower() == ".safetensors"


def save_single_file(pipeline: DiffusionPipeline, file: Path, about: Mapping[str, str]) -> None:
    """Write a whole pipeline of Stable Diffusion 1.x, 2.x or SDXL; schedulers and tokenizers are no part of the format.

    Args:
        about: goes into the file's metadata, beside the ModelSpec's ``modelspec.prediction_type``.

    Raises: ModelError: the format has no place for a part of the pipeline.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in original_tensors(pipeline).items()}
    scheduler: Any = getattr(pipeline, "scheduler", None)
    kind = "v" if scheduler.config.prediction_type == "v_prediction" else scheduler.config.prediction_type
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
        made = Path(folder) / file.name
        save_file(tensors, made, {"modelspec.prediction_type": kind, "format": "pt", **about})
        made.chmod(0o644)  # safetensors lets nobody else read what it writes
        os.replace(made, file)


def original_tensors(pipeline: DiffusionPipeline) -> dict[str, Tensor]:
    """Return every weight of a pipeline by its name in the original format, of the shape that it has there.

    Raises: ModelError: the format has no place for a part of the pipeline.
    """
    parts: Any = pipeline
    unet, vae = getattr(parts, "unet", None), getattr(parts, "vae", None)
    if not isinstance(unet, UNet2DConditionModel) or not isinstance(vae, AutoencoderKL):
        raise ModelError(
            f"{type(pipeline).__name__} is not written as one file, which Stable Diffusion 1.x, 2.x and SDXL are: name "
            "a folder"
        )
    found = {f"model.diffusion_model.{name}": w for name, w in _named(unet, _unet_places(unet), "UNet").items()}
    found |= {
        f"first_stage_model.{name}": w[:, :, None, None] if ".attn_1." in name and w.ndim == 2 else w
        for name, w in _named(vae, _vae_places(vae), "VAE").items()
    }
    if getattr(parts, "text_encoder_2", None) is None:
        return found | _text("cond_stage_model", parts.text_encoder)
    if parts.text_encoder is None:
        raise ModelError("the pipeline has its second text encoder alone, as SDXL's refiner: name a folder")
    embedders = (parts.text_encoder, parts.text_encoder_2)
    for number, encoder in enumerate(embedders):
        found |= _text(f"conditioner.embedders.{number}", encoder)
    return found


def _named(network: torch.nn.Module, places: Iterable[Place], part: str) -> dict[str, Tensor]:
    known = {ours: (theirs, inside) for ours, theirs, inside in places}
    found = {}
    for name, tensor in network.state_dict().items():
        module, _, kind = name.rpartition(".")
        place = next((start for start in _starts(module) if start in known), None)
        if place is None:
            raise ModelError(f"the original format has no place for {name} of this {part}: name a folder")
        theirs, inside = known[place]
        rest = module[len(place) + 1 :]
        found[".".join(filter(None, (theirs, inside.get(rest, rest), kind)))] = tensor
    return found


def _starts(module: str) -> Iterator[str]:
    """The module, the one around it, and so on."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def _unet_places(unet: UNet2DConditionModel) -> Iterator[Place]:
    config: Any = unet.config
    layers, blocks = config.layers_per_block, len(config.block_out_channels)
    if not isinstance(layers, int):
        raise ModelError(f"the original format has no place for a UNet of {layers} layers per block: name a folder")
    yield from ((f"time_embedding.linear_{n}", f"time_embed.{2 * n - 2}", {}) for n in (1, 2))
    yield from ((f"add_embedding.linear_{n}", f"label_emb.0.{2 * n - 2}", {}) for n in (1, 2))
    yield from (("conv_in", "input_blocks.0.0", {}), ("conv_norm_out", "out.0", {}), ("conv_out", "out.2", {}))
    yield from ((f"mid_block.resnets.{n}", f"middle_block.{2 * n}", UNET_RESNET) for n in (0, 1))
    yield ("mid_block.attentions.0", "middle_block.1", {})
    for block in range(blocks):
        for layer in range(layers):
            place = f"input_blocks.{(layers + 1) * block + layer + 1}"
            yield (f"down_blocks.{block}.resnets.{layer}", f"{place}.0", UNET_RESNET)
            yield (f"down_blocks.{block}.attentions.{layer}", f"{place}.1", {})
        yield (f"down_blocks.{block}.downsamplers.0.conv", f"input_blocks.{(layers + 1) * (block + 1)}.0.op", {})
        for layer in range(layers + 1):
            place = f"output_blocks.{(layers + 1) * block + layer}"
            yield (f"up_blocks.{block}.resnets.{layer}", f"{place}.0", UNET_RESNET)
            yield (f"up_blocks.{block}.attentions.{layer}", f"{place}.1", {})
        last = 2 if "CrossAttn" in config.up_block_types[block] else 1
        yield (f"up_blocks.{block}.upsamplers.0", f"output_blocks.{(layers + 1) * block + layers}.{last}", {})


def _vae_places(vae: AutoencoderKL) -> Iterator[Place]:
    config: Any = vae.config
    blocks = len(config.block_out_channels)
    yield from (("quant_conv", "quant_conv", {}), ("post_quant_conv", "post_quant_conv", {}))
    for side, way, sampler in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        yield from ((f"{side}.{name}", f"{side}.{name}", {}) for name in ("conv_in", "conv_out"))
        yield (f"{side}.conv_norm_out", f"{side}.norm_out", {})
        yield from ((f"{side}.mid_block.resnets.{n}", f"{side}.mid.block_{n + 1}", VAE_RESNET) for n in (0, 1))
        yield (f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1", VAE_ATTENTION)
        for block in range(blocks):
            place = f"{side}.{way}.{block if way == 'down' else blocks - 1 - block}"
            for layer in range(config.layers_per_block + 1):
                yield (f"{side}.{way}_blocks.{block}.resnets.{layer}", f"{place}.block.{layer}", VAE_RESNET)
            yield (f"{side}.{way}_blocks.{block}.{sampler}rs.0", f"{place}.{sampler}", {})


def _text(place: str, encoder: Any) -> dict[str, Tensor]:
    """A text encoder's weights: as OpenCLIP names them of one that has its activation, else as transformers does."""
    weights = {
        name if name.startswith("text_projection.") else f"text_model.{name.removeprefix('text_model.')}": weight
        for name, weight in encoder.state_dict().items()
    }
    if encoder.config.hidden_act != "gelu":
        return {f"{place}.transformer.{name}": weight for name, weight in weights.items()}
    return {f"{place}.model.{name}": weight for name, weight in _openclip(weights).items()}


def _openclip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    outside = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
        "text_projection.weight": "text_projection",
    }
    found = {}
    for name, weight in weights.items():
        if name in outside:
            found[outside[name]] = weight.T if name == "text_projection.weight" else weight
            continue
        layer, _, inside = name.removeprefix("text_model.encoder.layers.").partition(".")
        module, _, kind = inside.rpartition(".")
        place = f"transformer.resblocks.{layer}"
        if module in OPENCLIP_LAYER:
            found[f"{place}.{OPENCLIP_LAYER[module]}.{kind}"] = weight
        elif module == OPENCLIP_ATTENTION[0]:
            start = name.removesuffix(inside)
            found[f"{place}.attn.in_proj_{kind}"] = torch.cat(
                [weights[f"{start}{each}.{kind}"] for each in OPENCLIP_ATTENTION]
            )
        elif module not in OPENCLIP_ATTENTION:
            raise ModelError(f"the original format has no place for {name} of this text encoder: name a folder")
    return found
