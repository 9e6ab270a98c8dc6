"""A pipeline from a diffusers folder, which may hold anything: opened whole, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DiffusionPipeline, SchedulerMixin, UNet2DModel
from diffusers.utils import logging
from torch import nn

from erasediff.artifacts import read_object, verify_folder
from erasediff.command import is_out_of_memory
from erasediff.errors import EraseDiffError, ModelError, shown
from erasediff.families.family import check_pixel_unet, noise_schedule
from erasediff.families.weights import load_network, read_config

INDEX = "model_index.json"
#: Kinds of a ``UNet2DModel`` on pixels. A folder without an index is one.
OF_PIXELS = ("ClassConditionalPipeline", "UNet2DModel", "DDPMPipeline", "DDIMPipeline")
MAX_TRAIN_TIMESTEPS = 100_000
#: Classes of transformers that have another name today; folders from before name the old one, and diffusers knows both.
RENAMED = {"CLIPFeatureExtractor": "CLIPImageProcessor"}


def open_pipeline(folder: Path | str, concepts: list[str] | None = None) -> DiffusionPipeline:
    """Load a diffusers folder, verified against its manifest where it has one. No code of the folder is run.

    Args:
        folder: with ``model_index.json``; or with ``unet/`` and ``scheduler/`` of a ``UNet2DModel``.
        concepts: names of the class embeddings, for a folder that does not name them itself.

    Returns: the diffusers pipeline, in eval mode, on the CPU.
    Raises: ModelError: the folder is no model, or its classes have no names. IntegrityError: a file was altered.
    """
    folder = Path(folder)
    if folder.is_dir() and not (folder / INDEX).exists() and not (folder / "unet").exists():
        raise ModelError(f"{folder} is no diffusers folder: it has neither {INDEX} nor unet/")
    verify_folder(folder)
    try:
        index = read_object(folder / INDEX) if (folder / INDEX).exists() else {"_class_name": "UNet2DModel"}
        if index.get("_class_name") in OF_PIXELS:
            return _open_unet(folder, index, concepts)
        return _open_parts(folder, index)
    except EraseDiffError:
        raise
    except Exception as error:  # diffusers builds what the files say: whatever they say, its code may stumble over it
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{folder} cannot be loaded as a diffusers folder: {shown(str(error), 300)}") from None


def _open_unet(folder: Path, index: dict[str, Any], concepts: list[str] | None) -> DiffusionPipeline:
    from erasediff.families.class_conditional import ClassConditionalPipeline

    if index["_class_name"] == "ClassConditionalPipeline":
        concepts = json.loads(index["concepts"]) if isinstance(index.get("concepts"), str) else index.get("concepts")
    noise_schedule(check_scheduler(folder / "scheduler"))
    unet: Any = load_network(UNet2DModel, folder / "unet")
    check_pixel_unet(unet)
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
    if unet.config.num_class_embeds is None:
        return DDPMPipeline(unet, scheduler)
    if concepts is None:
        raise ModelError(f"{folder} does not name its classes: give the concepts in the order of its class embeddings")
    return ClassConditionalPipeline(unet, scheduler, concepts)


def _open_parts(folder: Path, index: dict[str, Any]) -> DiffusionPipeline:
    """Networks are loaded here, one by one; tokenizers, processors and the scheduler by diffusers."""
    # What was left out, such as the T5 of SD 3, is said to be so: diffusers would miss it.
    networks: dict[str, Any] = {name: None for name, entry in index.items() if entry == [None, None]}
    for name, entry in components_of(folder):
        kind = component_class(folder, name, entry)
        if issubclass(kind, SchedulerMixin):
            check_scheduler(folder / name)
        elif issubclass(kind, nn.Module):
            networks[name] = load_network(kind, folder / name)
    pipeline_class = index.get("_class_name")
    if not (isinstance(pipeline_class, str) and hasattr(diffusers, pipeline_class)):
        raise ModelError(f"{folder / INDEX}: diffusers has no pipeline class {shown(pipeline_class)}")
    with no_bar():
        pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **networks)
    # What a class takes but does not note, such as DiT's names of classes, would be lost when it is saved again.
    settings = {name: value for name, value in index.items() if not (name.startswith("_") or isinstance(value, list))}
    pipeline.register_to_config(**{n: v for n, v in settings.items() if n not in pipeline.config})
    return pipeline


def components_of(folder: Path) -> list[tuple[str, list[Any]]]:
    """The parts that a folder's index names, each as ``[library, class]``."""
    index = read_object(folder / INDEX)
    return [(n, entry) for n, entry in index.items() if isinstance(entry, list) and entry != [None, None]]


@contextmanager
def no_bar() -> Iterator[None]:
    """Keep diffusers from showing a bar of the parts that it loads; the networks are loaded already."""
    shown_before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown_before:
            logging.enable_progress_bar()


def component_class(folder: Path, name: str, entry: list[Any]) -> Any:
    """The class that an index names as ``[library, class]``: of diffusers, its pipelines, or transformers."""
    library, class_name = [*entry, None, None][:2]
    module: Any
    if library in ("diffusers", "transformers"):
        module = import_module(library)
    else:
        module = getattr(diffusers.pipelines, library, None) if isinstance(library, str) else None
    found = getattr(module, RENAMED.get(class_name, class_name), None) if isinstance(class_name, str) else None
    if not isinstance(found, type):
        raise ModelError(f"{folder / INDEX}: {shown(name)} is {shown(entry)}: no class of diffusers or transformers")
    return found


def check_scheduler(folder: Path) -> SchedulerMixin:
    """The scheduler of a folder. Raises: ModelError: it is none of diffusers, or its betas are no noise schedule."""
    path = folder / "scheduler_config.json"
    config = read_config(path)
    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 1 <= steps <= MAX_TRAIN_TIMESTEPS:
        raise ModelError(f"{path}: num_train_timesteps is {shown(steps)}: it is from 1 to {MAX_TRAIN_TIMESTEPS:,}")
    name = config.get("_class_name", "DDIMScheduler")
    scheduler_class: Any = getattr(diffusers, name, None) if isinstance(name, str) else None
    known = isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)
    if not known:
        raise ModelError(f"{path}: diffusers has no scheduler {shown(name)}")
    scheduler = scheduler_class.from_config(config)
    values = getattr(scheduler, "betas", None)
    if values is not None and not bool((torch.isfinite(values) & (values >= 0) & (values <= 1)).all()):
        raise ModelError(f"{path}: its betas are not all from 0 to 1: it gives no noise schedule")
    return scheduler
