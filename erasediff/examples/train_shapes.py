"""Make the embedded text-to-image model of the shapes and its judge again.

``torchrun --nproc-per-node 2 -m erasediff.examples.train_shapes --work FOLDER`` takes about half an hour on two cores.
A training that was stopped goes on from its checkpoint in ``--work``.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import diffusers
import torch
import transformers
from accelerate import Accelerator
from diffusers import AutoencoderKL, ModelMixin, StableDiffusionPipeline
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedModel

from erasediff.artifacts import new_folder, read_json, sha256_file, write_bytes, write_json
from erasediff.examples.measuring import measured
from erasediff.examples.shapes import FOLDER, MADE
from erasediff.examples.shapes_judge import (
    FILE as JUDGE_FILE,
)
from erasediff.examples.shapes_judge import (
    NOTHING,
    ShapesJudge,
    draw_nothing,
    open_shapes_judge,
    save_judge,
    train_judge,
)
from erasediff.examples.shapes_networks import build_autoencoder, build_shapes_pipeline, give_every_letter_a_token
from erasediff.examples.shapes_training import ShapesRecipe, train_autoencoder, train_shapes, train_text_encoder
from erasediff.examples.world import draw_world
from erasediff.git import git
from erasediff.training.state import OnStep

SEED = 0
#: What the weights depend on, beside the versions of the libraries.
SOURCES = ("captions", "shapes_judge", "shapes_networks", "shapes_training", "train_shapes", "world")


class StateFile:
    """The last state of a training, in one file."""

    def __init__(self, path: Path, every: int = 100):
        self.path, self.every = path, every

    def load(self) -> dict[str, Tensor] | None:
        return load_file(self.path) if self.path.exists() else None

    def save(self, state: dict[str, Tensor]) -> None:
        write_bytes(self.path, serialised({name: tensor.contiguous() for name, tensor in state.items()}))


def write_example(folder: Path, pipeline: StableDiffusionPipeline, judge: ShapesJudge, recipe: ShapesRecipe) -> None:
    """Write the example: model and judge in float16, how they were made, and what they reach as written."""
    with new_folder(folder) as place:
        write_pipeline(place, pipeline)
        save_judge(judge, place)
        write_json(place / MADE, _made(place, recipe))


def write_pipeline(place: Path, pipeline: StableDiffusionPipeline) -> None:
    """Write the model in float16; no file names a folder of the machine that it was made on."""
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.half()
    pipeline.save_pretrained(place)
    for config in place.rglob("*.json"):
        content = read_json(config)
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            write_json(config, content)
    _open_in_float32(place / "text_encoder" / "config.json")


def _open_in_float32(config: Path) -> None:
    """transformers opens a model in the dtype that its config names, diffusers in float32: mixed, neither draws."""
    write_json(config, read_json(config) | {"dtype": "float32"})


def _made(place: Path, recipe: ShapesRecipe) -> dict[str, object]:
    pipeline = StableDiffusionPipeline.from_pretrained(place, torch_dtype=torch.float32)
    judge = open_shapes_judge(place)
    empty = draw_nothing(2000, 7)
    nothing = {name: judges.names(empty).count(NOTHING) / len(empty) for name, judges in judge.domains.items()}
    sources = [Path(__file__).with_name(f"{name}.py") for name in SOURCES]
    return {
        "script": "python -m erasediff.examples.train_shapes",
        "commit": _commit(),
        "sources": {path.name: sha256_file(path) for path in sources},
        "seed": SEED,
        "recipe": asdict(recipe),
        "versions": {package.__name__: package.__version__ for package in (diffusers, torch, transformers)},
        "parameters": sum(
            p.numel() for m in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in m.parameters()
        ),
        "judge": {"held_out": 10000, **judge.accuracy(draw_world(10000, SEED + 10**8)), "nothing": nothing},
        "drawn_rightly": measured(pipeline, judge),
    }


def _commit() -> str:
    """The commit that holds the sources; where they are changed or committed nowhere, that this is so."""
    here = Path(__file__).parent
    head, changes = git("rev-parse", "HEAD", at=here), git("status", "--porcelain", "--", ".", at=here)
    if head.returncode or changes.returncode:
        return "none: not made in a checkout"
    return head.stdout.strip() + (" with uncommitted changes" if changes.stdout.strip() else "")


def make_parts(work: Path, recipe: ShapesRecipe, accelerator: Accelerator, told: OnStep) -> StableDiffusionPipeline:
    """Train the pipeline; parts that are ready in ``work`` are taken from there."""
    vae = build_autoencoder(SEED)
    if (work / "vae").exists():
        vae = AutoencoderKL.from_pretrained(work / "vae")
    else:
        train_autoencoder(vae, recipe, seed=SEED, on_step=told)
        _keep(vae, work / "vae", accelerator)
    pipeline = build_shapes_pipeline(vae, SEED)
    if (work / "text_encoder").exists():
        pipeline.text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder")
    else:
        train_text_encoder(pipeline, recipe, seed=SEED, accelerator=accelerator, on_step=told)
        _keep(pipeline.text_encoder, work / "text_encoder", accelerator)
    checkpoint = StateFile(work / "checkpoint.safetensors")
    train_shapes(pipeline, recipe, seed=SEED, accelerator=accelerator, checkpoint=checkpoint, on_step=told)
    give_every_letter_a_token(pipeline, SEED)
    return pipeline


def make_judge(work: Path, recipe: ShapesRecipe, told: OnStep) -> ShapesJudge:
    """Train the judge, or take it from ``work``."""
    if not (work / JUDGE_FILE).exists():
        save_judge(train_judge(steps=recipe.judge_steps, seed=SEED, on_step=told), work)
    return open_shapes_judge(work)


def _keep(model: ModelMixin | PreTrainedModel, folder: Path, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        with new_folder(folder) as place:
            model.save_pretrained(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER, help="the example's folder (default: in the package)")
    parser.add_argument("--work", type=Path, required=True, help="where the training keeps what it needs to go on")
    arguments = parser.parse_args()
    recipe, accelerator = ShapesRecipe(), Accelerator(cpu=True)

    def told(step: int, row: dict[str, float]) -> None:
        if step % 20 == 0 and accelerator.is_main_process:
            print(step, {name: round(value, 4) for name, value in row.items()}, flush=True)

    pipeline = make_parts(arguments.work, recipe, accelerator, told)
    if accelerator.is_main_process:
        judge = make_judge(arguments.work, recipe, told)
        write_example(arguments.output, pipeline, judge, recipe)


if __name__ == "__main__":
    main()
