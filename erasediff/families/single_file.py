"""A pipeline from one ``.safetensors`` file in a model's original format, as ComfyUI and A1111 keep them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import diffusers
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import nn

from erasediff.artifacts import read_object
from erasediff.command import is_out_of_memory
from erasediff.errors import EraseDiffError, ModelError, shown
from erasediff.families.opening import INDEX, component_class, components_of, no_bar
from erasediff.families.weights import HALVES, PICKLES, first_broken, load_network, read_config, wanted_weights

#: Of a repository of the hub, what says how a model is built, and its tokenizers.
CONFIGS = ["*.json", "*.txt", "*.model"]
#: Parts that diffusers leaves out where it opens a single file.
NEVER_HELD = {"safety_checker", "image_encoder"}


def open_single_file(file: Path | str, config: Path | str | None = None) -> DiffusionPipeline:
    """Load a checkpoint that holds a whole pipeline.

    Args:
        config: diffusers folder of a model of this kind; its configurations and tokenizers are read, and the weights of
            what the file does not hold, such as the text encoders of FLUX. By default the file's own folder where it
            has a ``model_index.json``, else what diffusers knows of the hub, which gives no weights.

    Returns: the diffusers pipeline, in eval mode, on the CPU, in the precision it is stored in.
    Raises: ModelError: it is no such file, or its configuration is not there.
    """
    file = Path(file)
    if file.suffix in PICKLES:
        raise ModelError(f"{file} is a pickle, which can run code: convert it to safetensors where you trust it")
    shapes, half = _header(file)
    folder = Path(config) if config is not None else file.parent
    if config is not None and not (folder / INDEX).is_file():
        raise ModelError(f"config {shown(str(config))} has no {INDEX}: give a diffusers folder of the file's kind")
    try:
        if not (folder / INDEX).is_file():
            folder = _config_from_hub(file)
        more = _not_held(folder, file)
        _require_fitting(folder, file, shapes, set(more))
        pipeline_class: Any = getattr(diffusers, str(read_object(folder / INDEX).get("_class_name")), None)
        if not hasattr(pipeline_class, "from_single_file"):
            raise ModelError(f"{folder / INDEX}: diffusers opens no single file as {shown(pipeline_class)}")
        with no_bar():
            pipeline = pipeline_class.from_single_file(str(file), config=str(folder), torch_dtype=half, **more)
    except EraseDiffError:
        raise
    except Exception as error:  # diffusers builds what the file says: whatever it says, its code may stumble over it
        if is_out_of_memory(error):
            raise
        told = shown(str(error), 200)
        raise ModelError(f"{file} cannot be loaded with the configuration of {folder}: {told}") from None
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module) and (broken := first_broken(part)):
            raise ModelError(f"{file}: {name}: {shown(broken)} is absent, NaN or infinite: the file is broken")
    return pipeline  # type: ignore[no-any-return]


def _header(file: Path) -> tuple[dict[str, tuple[int, ...]], Any]:
    """Shapes of the tensors by name, and the precision of all of them, where it is a half one."""
    try:
        with safe_open(file, framework="pt") as opened:
            parts = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 - it is no mapping
            shapes = {key: tuple(part.get_shape()) for key, part in parts.items()}
            kinds = {part.get_dtype() for part in parts.values()} & {"F16", "BF16", "F32", "F64"}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is no whole safetensors file ({shown(str(error), 150)}): fetch it again") from None
    return shapes, HALVES.get(next(iter(kinds))) if len(kinds) == 1 else None


def _not_held(folder: Path, file: Path) -> dict[str, nn.Module]:
    """Encoders that the file does not hold, from the folder, where it has their weights."""
    from diffusers.loaders import single_file_utils as known

    checkpoint: Any = known.load_single_file_checkpoint(str(file))
    found = {}
    for name, entry in components_of(folder):
        kind = component_class(folder, name, entry)
        if name == "vae":
            held = any(key.startswith(tuple(known.LDM_VAE_KEYS)) for key in checkpoint)
        elif name.startswith("text_encoder"):
            held = known.is_clip_model_in_single_file(kind, checkpoint) or known.is_t5_in_single_file(checkpoint)
        else:
            continue
        if not held and any((folder / name).glob("*.safetensors")):
            found[name] = load_network(kind, folder / name)
    return found


def _require_fitting(folder: Path, file: Path, shapes: dict[str, tuple[int, ...]], others: set[str]) -> None:
    """Raises: ModelError: the configuration describes more than the file holds; nothing was allocated."""
    held, wanted = sum(map(math.prod, shapes.values())), 0
    for name, entry in components_of(folder):
        kind = component_class(folder, name, entry)
        if issubclass(kind, nn.Module) and name not in others | NEVER_HELD:
            wanted += wanted_weights(kind, read_config(folder / name / "config.json"))
    if wanted > 2 * held:  # tied weights are held once
        raise ModelError(
            f"{file} holds {held:,} weights, its configuration in {folder} describes {wanted:,}: it is that of another "
            "model, or the file holds one part of a model alone"
        )


def _config_from_hub(file: Path) -> Path:
    """The configuration that diffusers knows for files with these tensors. Raises: ModelError: it cannot be fetched."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint
    from huggingface_hub import snapshot_download

    repo = fetch_diffusers_config(load_single_file_checkpoint(str(file)))["pretrained_model_name_or_path"]
    try:
        return Path(snapshot_download(repo, allow_patterns=CONFIGS))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file} is a single file, whose configuration is that of hf://{repo}, which cannot be fetched "
            f"({shown(str(error), 120)}): give a diffusers folder of such a model as config, or put the file beside "
            f"its {INDEX}"
        ) from None
