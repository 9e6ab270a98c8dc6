"""A LoRA of somebody's, under whatever keys, fused into a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erasediff.artifacts import verify_folder
from erasediff.command import is_out_of_memory
from erasediff.errors import IntegrityError, ModelError, shown
from erasediff.families.opening import open_pipeline
from erasediff.records import LORA_BASE

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

#: What diffusers calls the file, where a folder holds several.
USUAL = "pytorch_lora_weights.safetensors"


def lora_file(model: str | Path) -> Path | None:
    """The file of a LoRA: itself, or the one of a folder that is no pipeline; ``None``: it is no LoRA.

    Raises: ModelError: a folder holds several.
    """
    path = Path(model)
    if path.is_file():
        return path if path.suffix == ".safetensors" and _is_lora(path) else None
    if not path.is_dir() or (path / "model_index.json").exists():
        return None
    found = sorted(file for file in path.glob("*.safetensors") if _is_lora(file))
    usual = [file for file in found if file.name == USUAL]
    if len(found) > 1 and not usual:
        raise ModelError(f"{path} holds several LoRAs, {shown(', '.join(f.name for f in found), 200)}: name one")
    return next(iter([*usual, *found]), None)


def _is_lora(file: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as content:
            return any("lora" in name for name in content.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False


def base_file(folder: Path) -> Path | None:
    """What names the base of a LoRA's folder, :class:`erasediff.records.Origin`; ``None``: it is no such folder."""
    file = folder / LORA_BASE
    return file if file.exists() and not (folder / "model_index.json").exists() else None


def open_beside(folder: Path, base: Path) -> DiffusionPipeline:
    """A pipeline of a diffusers folder; of a folder with a LoRA alone, that of its base with the LoRA fused.

    Raises: as :func:`open_pipeline`; ModelError: the LoRA does not fit.
    """
    return open_pipeline(folder) if base_file(folder) is None else fused_lora(open_pipeline(base), folder)


def fused_lora(pipeline: DiffusionPipeline, folder: Path) -> DiffusionPipeline:
    """The pipeline itself with the LoRA of a folder, whose files are checked. Raises: IntegrityError, ModelError."""
    verify_folder(folder)
    if (file := lora_file(folder)) is None:
        raise IntegrityError(f"{folder} names the base of a LoRA, and holds none: fetch or make it again")
    return with_lora(pipeline, file)


@contextmanager
def _untold() -> Iterator[None]:
    """Keep diffusers from warning of a LoRA without keys for text encoders, as most are; whether any fits is asked."""

    def is_told(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No LoRA keys associated to")

    logger = logging.getLogger("diffusers.loaders.lora_base")
    logger.addFilter(is_told)
    try:
        yield
    finally:
        logger.removeFilter(is_told)


def with_lora(pipeline: DiffusionPipeline, file: Path) -> DiffusionPipeline:
    """The pipeline itself with a LoRA fused into its weights: keys of diffusers, peft or kohya.

    Raises: ModelError: diffusers cannot read it, or none of its keys fits the pipeline.
    """
    loader: Any = pipeline
    try:
        with _untold():
            loader.load_lora_weights(str(file.parent), weight_name=file.name, local_files_only=True)
    except AttributeError:
        raise ModelError(f"a {type(pipeline).__name__} takes no LoRA: give the whole model") from None
    except (
        Exception
    ) as error:  # diffusers and peft build what the keys say: whatever they say, code may stumble over it
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"{file} is no LoRA for a {type(pipeline).__name__} ({shown(str(error), 200)}): give the base that it was "
            "made for"
        ) from None
    if not any(getattr(part, "peft_config", None) for part in pipeline.components.values()):
        raise ModelError(f"no key of {file} fits the base: give the base that the LoRA was made for")
    loader.fuse_lora()
    loader.unload_lora_weights()
    return pipeline
