"""One network of a diffusers folder, whatever the folder holds: whole, finite, as large as its file, or refused."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import nn

from erasediff.artifacts import read_object
from erasediff.errors import ModelError, shown

#: Names of weights files, as diffusers and as transformers write them.
STEMS = ("diffusion_pytorch_model", "model")
#: Files that unpickle, and so may run code.
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
#: No picture has more pixels a side: a config that says more is broken, or meant to fill the memory.
MAX_SIDE = 8192
MAX_CONFIG_BYTES = 10**6
HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}


class Stored(NamedTuple):
    """What weights files say of themselves in their headers.

    Attributes:
        shapes: of each tensor, by name.
        dtype: of all of them, where it is a half precision; else ``None``.
        variant: of the files' names, such as ``fp16``.
    """

    shapes: dict[str, tuple[int, ...]]
    dtype: torch.dtype | None
    variant: str | None


def load_network(network_class: Any, folder: Path) -> nn.Module:
    """A network of a diffusers or transformers class, in eval mode, in the precision it is stored in.

    Before anything is allocated, the config's size is held against the weights files' headers.

    Raises: ModelError: no safetensors, a layer without weights, weights that are NaN or infinite, a config that is
        none, or wants more than the files hold.
    """
    config = read_config(folder / "config.json")
    stored = _stored(folder)
    _check_counts(config, len(stored.shapes), folder)
    wanted, held = wanted_weights(network_class, config), sum(map(math.prod, stored.shapes.values()))
    if wanted > 2 * held:  # tied weights are held once
        raise ModelError(f"{folder / 'config.json'} describes {wanted:,} weights, the files hold {held:,}: they differ")
    precision = "torch_dtype" if hasattr(network_class, "load_config") else "dtype"  # diffusers, transformers
    network, info = network_class.from_pretrained(
        folder,
        use_safetensors=True,
        variant=stored.variant,
        local_files_only=True,
        output_loading_info=True,
        **{precision: stored.dtype or torch.float32},
    )
    absent = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if absent:
        raise ModelError(f"{folder} has no weights for {len(absent)} of its tensors, {shown(absent[0])} first")
    if broken := first_broken(network):
        raise ModelError(f"{folder}: {shown(broken)} holds values that are NaN or infinite: the file is broken")
    return network.eval()


def read_config(path: Path) -> dict[str, Any]:
    """A component's config. Raises: IntegrityError: no JSON object. ModelError: none, too long, or its sizes are."""
    if not path.is_file():
        raise ModelError(f"{path} is missing: the folder is no whole diffusers model")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(f"{path} has {path.stat().st_size:,} bytes: a config has fewer than {MAX_CONFIG_BYTES:,}")
    config = read_object(path)
    for key in ("sample_size", "image_size"):
        size = config.get(key)
        sides = size if isinstance(size, list) and len(size) == 2 else [size]
        if size is not None and not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
            raise ModelError(f"{path}: {key} is {shown(size)}: give a whole number from 1 to {MAX_SIDE}, or two")
    return config


def _stored(folder: Path) -> Stored:
    found = [p for p in folder.glob("*.safetensors") if p.name.split(".")[0].split("-0")[0] in STEMS]
    variants = sorted({_variant(p) for p in found})
    if not found:
        if any(p.suffix in PICKLES for p in folder.glob("*")):
            raise ModelError(
                f"{folder} has its weights as pickles, which can run code: open it in diffusers where you trust it, "
                "and write it by save_pretrained(FOLDER, safe_serialization=True)"
            )
        raise ModelError(f"{folder} has no weights: {STEMS[0]}.safetensors is missing")
    variant = "" if "" in variants else variants[0]
    for path in folder.glob("*.safetensors.index*.json"):
        named = read_object(path).get("weight_map")
        parts = set(map(str, named.values())) if isinstance(named, dict) else {""}
        if stray := sorted(parts - {p.name for p in found}):
            raise ModelError(f"{path} names {shown(repr(stray[0]))}, which is no weights file of the folder")
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: set[str] = set()
    for path in (p for p in found if _variant(p) == variant):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    part = file.get_slice(key)
                    shapes[key] = tuple(part.get_shape())
                    dtypes.add(part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} cannot be loaded, it is no whole safetensors file ({shown(str(error), 150)}): fetch it again "
                "(by git lfs pull, where git made it)"
            ) from None
    only = next(iter(dtypes)) if len(dtypes) == 1 else ""
    return Stored(shapes, HALVES.get(only), variant or None)


def _variant(path: Path) -> str:
    """``fp16`` of ``model.fp16.safetensors`` and of ``model.fp16-00001-of-00002.safetensors``; mostly empty."""
    middle = path.name.split(".")[1:-1]
    return middle[0].split("-0")[0] if middle else ""


def _check_counts(config: dict[str, Any], tensors: int, folder: Path) -> None:
    """Raises: ModelError: a config asks for more layers than there are tensors, which alone would take for ever."""
    for key, value in _entries(config):
        # block_out_channels and vocab_size_per_layer_input are widths, of which a layer may have thousands.
        is_width = any(part in key for part in ("channels", "size", "dim", "width"))
        counts_layers = not is_width and any(part in key for part in ("layer", "block", "depth"))
        too_many = type(value) is int and counts_layers and value > tensors
        if too_many or (isinstance(value, list) and len(value) > max(tensors, 1000)):
            raise ModelError(f"{folder / 'config.json'}: {shown(key)} is {shown(value)}, for {tensors} stored tensors")


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    yield key, value
    inner = value.items() if isinstance(value, dict) else ((key, v) for v in value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from _entries(part, name)


def wanted_weights(network_class: Any, config: dict[str, Any]) -> int:
    """Number of weights of the network that a config describes; nothing is allocated."""
    with torch.device("meta"):
        if hasattr(network_class, "load_config"):
            network = network_class.from_config(config)
        else:
            network = network_class(network_class.config_class.from_dict(config))
    return sum(p.numel() for p in network.parameters())


def first_broken(network: nn.Module) -> str:
    """Name of the first tensor without weights, or with one that is NaN or infinite; empty where there is none."""
    named = (*network.named_parameters(), *network.named_buffers())
    return next((name for name, values in named if values.is_meta or not _is_finite(values)), "")


def _is_finite(values: torch.Tensor) -> bool:
    return not values.is_floating_point() or bool(torch.isfinite(values).all())


def bytes_of(tensor: torch.Tensor) -> Any:
    """The bytes of a tensor of any dtype, shape and device, as NumPy's whole numbers."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def weights_sha256(pipeline: DiffusionPipeline) -> str:
    """SHA-256 of the weights of all parts, wherever they came from; a LoRA that is fused counts."""
    digest = hashlib.sha256()
    for part, network in sorted(pipeline.components.items()):
        if isinstance(network, nn.Module):
            for name, tensor in sorted(network.state_dict().items()):
                digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(bytes_of(tensor))
    return digest.hexdigest()


def dtypes_of(network: nn.Module) -> dict[str, torch.dtype]:
    """Return the dtype of every parameter and buffer by name."""
    return {name: tensor.dtype for name, tensor in (*network.named_parameters(), *network.named_buffers())}


@torch.no_grad()
def cast(network: nn.Module, dtypes: dict[str, torch.dtype]) -> None:
    """Bring parameters and buffers to their dtypes, in place."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.dtype != dtypes[name]:
            tensor.data = tensor.data.to(dtypes[name])


@contextmanager
def widened(pipeline: DiffusionPipeline) -> Iterator[None]:
    """Keep networks of half precision that are on a CPU in float32 for a block.

    A CPU computes in float32 many times as fast. Half precision fits into it without a loss.
    """
    networks = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    narrow = {n: dtypes_of(n) for n in networks if n.dtype in HALVES.values() and n.device.type == "cpu"}
    try:
        for network in narrow:
            network.float()
        yield
    finally:
        for network, dtypes in narrow.items():
            cast(network, dtypes)
