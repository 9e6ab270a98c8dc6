"""LoRA: what is trained is a few small matrices beside the base's weights, which stay as they are.

The base with the adapter off is the teacher: there is no second network. Source: LoRA, arXiv 2106.09685.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from erasediff.errors import ModelError
from erasediff.families.family import Family
from erasediff.unlearning.settings import Settings

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

#: The file that ``load_lora_weights`` of a pipeline looks for, and the one of ComfyUI and A1111.
LORA_FILE, KOHYA_FILE = "pytorch_lora_weights.safetensors", "kohya_lora.safetensors"
#: Where they are within the folder of a pipeline that has them fused.
LORA_FOLDER = "lora"


@dataclass(frozen=True)
class Lora:
    """A trained adapter of one network; its scale is 1, whatever ``lora_alpha`` it was trained with.

    Attributes:
        part: name of the adapted network in its pipeline, such as ``unet``.
        weights: by names such as ``mid_block.….to_k.lora_A.weight`` ``(rank, in)`` and ``….lora_B.weight``
            ``(out, rank)``, in the dtype of the base.
        rank: of every pair.
    """

    part: str
    weights: Mapping[str, Tensor]
    rank: int


def part_of(family: Family) -> str:
    """Return the name of the denoiser in its pipeline."""
    return next(name for name, part in family.pipeline.components.items() if part is family.denoiser)


def require_adaptable(family: Family) -> None:
    """Raises: ModelError: peft is not installed, or the pipeline could not load a LoRA."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise ModelError("adapter lora needs peft: pip install 'erasediff-pipeline[text]'") from None
    if not hasattr(family.pipeline, "save_lora_weights"):
        raise ModelError(f"adapter lora: a {type(family.pipeline).__name__} does not load one: leave adapter at none")


def adapt(denoiser: nn.Module, parameters: list[str], rank: int, alpha: float, seed: int) -> None:
    """Put an untrained adapter, which changes nothing yet, beside every layer that holds one of the parameters.

    Args:
        parameters: names of parameters of linear and convolution layers; others cannot be adapted, and stay.
        rank, alpha: the layers' outputs change by alpha / rank · BA.
        seed: of the first weights.
    Raises: ModelError: none of the parameters belongs to such a layer.
    """
    from peft import LoraConfig

    layers = {name.rpartition(".")[0] for name in parameters if name.endswith(".weight")}
    chosen = [name for name in layers if isinstance(denoiser.get_submodule(name), nn.Linear | nn.Conv2d)]
    if not chosen:
        raise ModelError("adapter lora: none of the selected parameters belongs to a linear or convolution layer")
    network: Any = denoiser  # a diffusers model, which nn.Module does not say
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config: Any = LoraConfig  # it takes a float, and says int
        network.add_adapter(config(r=rank, lora_alpha=alpha, target_modules=sorted(chosen)))
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def lora_of(family: Family, denoiser: nn.Module, settings: Settings, dtypes: Mapping[str, torch.dtype]) -> Lora:
    """Return the adapter of an adapted denoiser, with its scale in ``lora_B``.

    Args:
        dtypes: of the base's weights; the adapter gets that of most.
    """
    from peft import get_peft_model_state_dict

    rank, dtype = settings.rank, Counter(dtypes.values()).most_common(1)[0][0]
    scale = {"lora_A": 1.0, "lora_B": (settings.lora_alpha or rank) / rank}
    found: dict[str, Tensor] = get_peft_model_state_dict(denoiser)
    weights = {name: (w * scale[name.split(".")[-2]]).to("cpu", dtype).contiguous() for name, w in found.items()}
    return Lora(part_of(family), weights, rank)


@torch.no_grad()
def fused(base: nn.Module, denoiser: nn.Module) -> nn.Module:
    """Return a new network of the base's kind, frozen, with the weights of an adapted one, adapter included."""
    from peft.tuners.lora import LoraLayer

    plain = copy.deepcopy(base)
    for name, layer in denoiser.named_modules():
        if isinstance(layer, LoraLayer):
            weight: Any = plain.get_submodule(name).weight
            adapted: Any = layer  # each kind of layer has it, which their base does not say
            weight.copy_(weight.float() + adapted.get_delta_weight("default").to(weight.device, torch.float32))
    return plain.requires_grad_(False).eval()


def write_lora(pipeline: DiffusionPipeline, lora: Lora, folder: Path, about: Mapping[str, str]) -> None:
    """Write :data:`LORA_FILE`, and :data:`KOHYA_FILE` of a UNet; transformers' LoRAs are read as diffusers writes them.

    Args:
        about: goes into the files' metadata.
    """
    from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
    from safetensors import safe_open
    from safetensors.torch import save_file

    writer: Any = pipeline
    layers = {f"{lora.part}_lora_layers": dict(lora.weights)}
    folder.mkdir(parents=True, exist_ok=True)
    writer.save_lora_weights(folder, **layers, safe_serialization=True)
    with safe_open(folder / LORA_FILE, "pt") as file:
        weights, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(weights, folder / LORA_FILE, {**(metadata or {}), **about})
    if lora.part == "unet":
        kohya = convert_state_dict_to_kohya({f"unet.{name}": weight for name, weight in lora.weights.items()})
        kept = {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(lora.rank),
            "ss_network_alpha": str(lora.rank),
        }
        save_file({name: w.contiguous() for name, w in kohya.items()}, folder / KOHYA_FILE, {**kept, **about})
