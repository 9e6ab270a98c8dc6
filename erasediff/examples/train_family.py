"""Make small working models of other families, for tests and trials: ``python -m erasediff.examples.train_family``.

Each takes a few minutes of one core. One that is there already is left; a training that was stopped goes on.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from accelerate import Accelerator
from diffusers import AutoencoderDC, DiffusionPipeline
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import Tensor, nn

from erasediff.artifacts import new_folder, read_json, write_bytes, write_json
from erasediff.data.images import as_shape
from erasediff.examples import open_example
from erasediff.examples.captions import captions, spoken
from erasediff.examples.family_models import COLOURS, MODELS, OBJECTS, STYLES, FamilyModel, build
from erasediff.examples.measuring import drawn_rightly
from erasediff.examples.shapes import MADE
from erasediff.examples.shapes_judge import DOMAINS, ShapesJudge
from erasediff.examples.train_shapes import SEED, StateFile
from erasediff.examples.world import Drawn, draw_world
from erasediff.families import family_of
from erasediff.families.text_to_image import TextToImage
from erasediff.randomness import generator
from erasediff.training.denoising import train_denoiser
from erasediff.training.encoding import prepared
from erasediff.training.state import OnStep, warmup_cosine

if TYPE_CHECKING:
    pass

#: Pixels a side of what an autoencoder is trained on: the least that the pipeline of SANA draws.
AUTOENCODER_SIDE = 32
#: Updates between two states that a training can go on from.
CHECKPOINT_EVERY = 200
#: How often the text encoders are asked at once, and how they learn.
TEXT_BATCH_SIZE, LEARNING_RATE = 8, 3e-3
#: Where the models are made by default.
FOLDER = Path(".work/examples")


def train_text_encoders(pipeline: DiffusionPipeline, steps: int, *, seed: int, on_step: OnStep | None = None) -> None:
    """Train them to tell which object, style and colour a prompt names, as the pipeline encodes it for its denoiser."""
    family = family_of(pipeline)
    assert isinstance(family, TextToImage)
    encoder: Any = getattr(pipeline, "text_encoder_2", None) or cast(Any, pipeline).text_encoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = nn.ModuleDict({name: nn.Linear(encoder.config.hidden_size, len(DOMAINS[name]) + 1) for name in DOMAINS})
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * warmup_cosine(step, 20, steps)
        random = np.random.default_rng((seed, step, 2))
        drawn = _truths(TEXT_BATCH_SIZE, random)
        said = spoken(drawn, random)
        hidden = _pooled(family.encoded([text for text, _ in said]))
        loss = torch.zeros(())
        for name, truth in (("object", drawn.objects), ("style", drawn.styles), ("colour", drawn.colours)):
            named = np.array([f"{{{name}}}" in wording for _, wording in said])
            target = torch.from_numpy(np.where(named, truth, len(DOMAINS[name])))
            loss = loss + F.cross_entropy(heads[name](hidden), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step + 1, {"text_loss": loss.item()})


def _truths(n: int, random: np.random.Generator) -> Drawn:
    """What ``n`` pictures show, without the pictures."""
    known = ((OBJECTS, "object"), (STYLES, "style"), (COLOURS, "colour"))
    return Drawn(np.zeros(n), *(random.choice([DOMAINS[d].index(name) for name in names], n) for names, d in known))


def _pooled(condition: Any) -> Tensor:
    """The mean over the tokens of a prompt that are not masked."""
    states = condition["encoder_hidden_states"]
    mask = (
        condition["encoder_attention_mask"] if "encoder_attention_mask" in condition else torch.ones(states.shape[:2])
    )
    weights = mask.to(states)[..., None]
    return (states * weights).sum(1) / weights.sum(1)


def train_autoencoder(vae: AutoencoderDC, steps: int, *, seed: int, on_step: OnStep | None = None) -> None:
    """Train on drawn pictures to give them back."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * warmup_cosine(step, 50, steps)
        images = _pictures(16, seed + 1 + step)
        code = vae.encode(images).latent
        noise = torch.randn(code.shape, generator=generator(seed, "autoencoder", step))
        back = vae.decode(code + 0.05 * code.detach().std() * noise).sample
        error = F.mse_loss(back, images)
        (error + 0.1 * F.l1_loss(back, images)).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step + 1, {"error": error.item()})


@torch.no_grad()
def standardise(vae: AutoencoderDC, seed: int) -> None:
    """Note the factor that gives its latents spread 1."""
    vae.register_to_config(scaling_factor=1 / vae.encode(_pictures(500, seed)).latent.std().item())


def _pictures(n: int, seed: int) -> Tensor:
    drawn = draw_world(n, seed, objects=OBJECTS, styles=STYLES, colours=COLOURS)
    return as_shape(drawn.images, (3, AUTOENCODER_SIDE, AUTOENCODER_SIDE))


def make(name: str, folder: Path, work: Path, *, seed: int = SEED, on_step: OnStep | None = None) -> None:
    """Train the model of a family, a key of :data:`erasediff.examples.family_models.MODELS`, into ``folder``.

    Args:
        work: keeps what the training needs to go on.
    """
    model, shapes = MODELS[name], open_example("shapes")
    pipeline = build(name, shapes.pipeline, seed)
    _make_encoders(pipeline, model, work / "encoders.safetensors", seed, on_step)
    drawn = draw_world(model.pictures, seed + 10**6, objects=OBJECTS, styles=STYLES, colours=COLOURS)
    said = captions(drawn, np.random.default_rng(seed))
    if model.of_classes:
        said = [DOMAINS["object"][o] for o in drawn.objects]
    family = family_of(pipeline)
    train_denoiser(
        prepared(family, said, torch.device("cpu")),
        torch.cat([family.encode(part) for part in as_shape(drawn.images, family.image_shape).split(100)]),
        said,
        model.recipe,
        seed=seed,
        accelerator=Accelerator(cpu=True),
        checkpoint=StateFile(work / "checkpoint.safetensors", every=CHECKPOINT_EVERY),
        on_step=on_step,
    )
    asked = asked_for(model)
    right = drawn_rightly(pipeline, shapes.judge, asked, guidance_scale=model.guidance_scale, steps=12, seed=seed)
    with new_folder(folder) as place:
        pipeline.save_pretrained(place)
        versions = {package.__name__: package.__version__ for package in (diffusers, torch, transformers)}
        made = {"family": name, "seed": seed, "recipe": asdict(model.recipe)}
        write_json(place / MADE, {**made, "versions": versions, "drawn_rightly": {**right, "pictures": len(asked)}})


def asked_for(model: FamilyModel, times: int = 4) -> list[tuple[str, dict[str, str]]]:
    """Prompts that a model is measured by, and what each asks for by domain."""
    if model.of_classes:
        return [(name, {"object": name}) for name in OBJECTS] * 2 * times
    pairs = [{"object": name, "style": style} for name in OBJECTS for style in STYLES]
    return [("a {object} in {style} style".format(**pair), pair) for pair in pairs] * times


def read_prompts(
    pipeline: DiffusionPipeline, judge: ShapesJudge, objects: list[str], times: int, *, guidance_scale: float
) -> dict[str, float]:
    """By object: the share of pictures that show it, drawn from its name alone."""
    return {
        name: drawn_rightly(
            pipeline, judge, [(name, {"object": name})] * times, guidance_scale=guidance_scale, steps=12
        )["object"]
        for name in objects
    }


def _make_encoders(
    pipeline: DiffusionPipeline, model: FamilyModel, file: Path, seed: int, on_step: OnStep | None
) -> None:
    """Train the encoders that are the model's own, or take them from ``file``."""
    if not (model.text_steps or model.autoencoder_steps):
        return
    parts = nn.ModuleDict(
        {n: p for n, p in pipeline.components.items() if isinstance(p, nn.Module) and n not in ("unet", "transformer")}
    )
    vae = cast(Any, pipeline).vae
    if file.exists():
        parts.load_state_dict(load_file(file))
    else:
        if model.autoencoder_steps:
            train_autoencoder(vae, model.autoencoder_steps, seed=seed, on_step=on_step)
        train_text_encoders(pipeline, model.text_steps, seed=seed, on_step=on_step)
        write_bytes(file, serialised({name: tensor.clone() for name, tensor in parts.state_dict().items()}))
    if model.autoencoder_steps:
        standardise(vae, seed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m erasediff.examples.train_family", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the models (default: %(default)s)")
    arguments = parser.parse_args()

    def told(step: int, row: dict[str, float]) -> None:
        if step % 50 == 0:
            print(step, {name: round(value, 4) for name, value in row.items()}, flush=True)

    if unknown := sorted(set(arguments.families) - set(MODELS)):
        parser.error(f"there is no family {unknown[0]!r}; there are: {', '.join(MODELS)}")
    for name in arguments.families or MODELS:
        folder = arguments.output / name
        if not folder.exists():
            make(name, folder, arguments.output / f"{name}.training", on_step=told)
        print(f"{name}: {read_json(folder / MADE)['drawn_rightly']} in {folder}", flush=True)


if __name__ == "__main__":
    main()
