"""How the embedded text-to-image model of the shapes is made.

``torchrun --nproc-per-node 2 -m erasediff.examples.train_shapes --work FOLDER`` takes about half an
hour on two cores. A training that was stopped goes on from its checkpoint in ``--work``.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from erasediff import randomness
from erasediff.artifacts import new_folder, read_json, sha256_file, write_bytes, write_json
from erasediff.examples.captions import CORPUS, captions, spoken
from erasediff.examples.measuring import measured
from erasediff.examples.shapes import FOLDER, MADE
from erasediff.examples.shapes_judge import (
    DOMAINS,
    NOTHING,
    ShapesJudge,
    draw_nothing,
    open_shapes_judge,
    save_judge,
    train_judge,
)
from erasediff.examples.world import SIDE, Drawn, draw_world
from erasediff.families import family_of
from erasediff.training.state import (
    Checkpoint,
    OnStep,
    TrainState,
    check_finite,
    process_share,
    shared_mse,
    summed,
    warmup_cosine,
)

SEED = 0
#: Tokens of a prompt, start and end included.
PROMPT_TOKENS = 32


@dataclass(frozen=True)
class ShapesRecipe:
    """How the model and its judge are trained.

    Attributes:
        autoencoder_steps: updates of the autoencoder, before the rest.
        text_steps: updates of the text encoder alone, after it.
        steps: updates of the denoiser, at last.
        pictures: how many are drawn and encoded once.
        condition_dropout: share of pictures whose caption is left out (arXiv 2207.12598).
    """

    autoencoder_steps: int = 1200
    autoencoder_batch_size: int = 16
    autoencoder_learning_rate: float = 3e-3
    text_steps: int = 800
    text_batch_size: int = 128
    text_learning_rate: float = 2e-3
    steps: int = 3000
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    warmup_steps: int = 60
    ema_decay: float = 0.99
    pictures: int = 8000
    condition_dropout: float = 0.1
    judge_steps: int = 2500


class FileCheckpoint:
    """The last state of a training, in one file."""

    def __init__(self, path: Path, every: int = 100):
        self.path, self.every = path, every

    def load(self) -> dict[str, Tensor] | None:
        return load_file(self.path) if self.path.exists() else None

    def save(self, state: dict[str, Tensor]) -> None:
        write_bytes(self.path, serialised({name: tensor.contiguous() for name, tensor in state.items()}))


def build_autoencoder(seed: int = SEED) -> AutoencoderKL:
    """24×24 pixels to 12×12 latents of four channels, with new weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
            up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
            block_out_channels=(16, 32),
            latent_channels=4,
            norm_num_groups=8,
            sample_size=SIDE,
            mid_block_add_attention=False,
        )


def build_shapes_pipeline(vae: AutoencoderKL, seed: int = SEED) -> StableDiffusionPipeline:
    """The true classes of Stable Diffusion around an autoencoder, small, with new weights."""
    tokenizer = CLIPTokenizer(model_max_length=PROMPT_TOKENS).train_new_from_iterator(CORPUS, vocab_size=900)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=96,
                intermediate_size=192,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=PROMPT_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=SIDE // 2,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(48, 64, 80),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=96,
            attention_head_dim=4,
            norm_num_groups=8,
        )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def train_autoencoder(
    vae: AutoencoderKL, recipe: ShapesRecipe, *, seed: int = SEED, on_step: OnStep | None = None
) -> None:
    """Train on drawn pictures to give them back; the latents have mean 0 and spread 1."""
    vae.train()
    steps, rate = recipe.autoencoder_steps, recipe.autoencoder_learning_rate
    optimizer = torch.optim.AdamW(vae.parameters(), lr=rate, weight_decay=0.0, fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * warmup_cosine(step, 50, steps)
        images = draw_world(recipe.autoencoder_batch_size, seed + 1 + step).images
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(seed + step))
        back = vae.decode(posterior.mean + posterior.std * noise).sample
        error = F.mse_loss(back, images)
        spread = posterior.kl().mean() / posterior.mean[0].numel()
        (error + 0.1 * F.l1_loss(back, images) + 1e-4 * spread).backward()
        norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step + 1, {"error": error.item(), "kl": spread.item(), "grad_norm": float(norm)})
    _standardise(vae.eval(), draw_world(2000, seed).images)


@torch.no_grad()
def _standardise(vae: AutoencoderKL, images: Tensor) -> None:
    """Give each channel of the latents mean 0 and spread 1, by the 1×1 convolutions on both sides of them."""
    latents = vae.encode(images).latent_dist.mean
    mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, back = vae.quant_conv, vae.post_quant_conv
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= spread[None, :, None, None]
    channels = len(mean)
    into.bias[:channels] = (into.bias[:channels] - mean) / spread
    into.weight[:channels] /= spread[:, None, None, None]
    into.bias[channels:] -= 2 * spread.log()  # the logarithms of the variances
    vae.register_to_config(scaling_factor=1.0)


def train_text_encoder(
    pipeline: StableDiffusionPipeline,
    recipe: ShapesRecipe,
    *,
    seed: int = SEED,
    accelerator: Accelerator,
    on_step: OnStep | None = None,
) -> None:
    """Train the text encoder to tell which object, style and colour a caption names, whatever else it says.

    Without that, a denoiser learns for long to draw well before it begins to listen.
    """
    encoder = pipeline.text_encoder.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = nn.ModuleDict({name: nn.Linear(encoder.config.hidden_size, len(DOMAINS[name]) + 1) for name in DOMAINS})
    parameters = dict(nn.ModuleDict({"encoder": encoder, "heads": heads}).named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=recipe.text_learning_rate, weight_decay=0.0, fused=True)
    n = recipe.text_batch_size
    share = process_share(n, accelerator)
    for step in range(recipe.text_steps):
        optimizer.param_groups[0]["lr"] = recipe.text_learning_rate * warmup_cosine(step, 50, recipe.text_steps)
        random = np.random.default_rng((seed, step, 1))
        truth = {name: random.integers(len(known), size=n) for name, known in DOMAINS.items()}
        said = spoken(Drawn(np.zeros(n), *truth.values()), random)
        hidden = _embeddings(pipeline, [text for text, _ in said][share])
        loss = torch.zeros(())
        for name, known in DOMAINS.items():
            named = np.array([f"{{{name}}}" in wording for _, wording in said])
            target = torch.from_numpy(np.where(named, truth[name], len(known)))[share]
            loss = loss + F.cross_entropy(heads[name](hidden.mean(1)), target, reduction="sum") / n
            loss = loss + F.cross_entropy(heads[name](hidden[:, -1]), target, reduction="sum") / n
        loss.backward()
        _sum_gradients(parameters, accelerator)
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step + 1, {"text_loss": summed(loss.detach(), accelerator).item()})
    encoder.eval()


def train_shapes(
    pipeline: StableDiffusionPipeline,
    recipe: ShapesRecipe,
    *,
    seed: int = SEED,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> None:
    """Train the denoiser in place; the text encoder stays as it is: trained along, it forgets what it can tell apart.

    The steps are those of :func:`erasediff.training.denoising.train_denoiser`, with new captions at each.
    """
    accelerator = accelerator or Accelerator(cpu=True)
    family = family_of(pipeline)
    drawn = draw_world(recipe.pictures, seed + 10**6)
    clean = torch.cat([family.encode(part) for part in drawn.images.split(500)])
    unet = pipeline.unet.train()
    parameters = dict(unet.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=0.0, fused=True)
    state = TrainState(parameters, optimizer, recipe.ema_decay)
    if checkpoint is not None and (saved := checkpoint.load()) is not None:
        state.restore(saved)
    n = recipe.batch_size
    share = process_share(n, accelerator)
    while state.step < recipe.steps:
        step = state.step
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * warmup_cosine(step, recipe.warmup_steps, recipe.steps)
        index = randomness.batch_indices(len(drawn), n, seed=seed, stream="shapes", step=step)
        generator = randomness.generator(seed, "shapes-noise", step)
        timesteps = family.timesteps(n, generator)[share]
        noise = torch.randn((n, *clean.shape[1:]), generator=generator)[share]
        words = captions(drawn.take(index.numpy()), np.random.default_rng((seed, step)))
        dropped = torch.rand(n, generator=generator) < recipe.condition_dropout
        words = ["" if drop else text for text, drop in zip(words, dropped.tolist(), strict=True)]
        noisy, target = family.noised(clean[index[share]], noise, timesteps)
        loss = shared_mse(family.predict(unet, noisy, timesteps, family.condition(words[share])), target, n)
        loss.backward()
        _sum_gradients(parameters, accelerator)
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        value = summed(loss.detach(), accelerator).item()
        check_finite(step, loss=value)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.after_update()
        if on_step is not None and accelerator.is_main_process:
            on_step(state.step, {"loss": value, "grad_norm": float(norm)})
        if checkpoint is not None and accelerator.is_main_process and state.step % checkpoint.every == 0:
            checkpoint.save(state.tensors())
    state.use_average()
    unet.eval()


def _embeddings(pipeline: StableDiffusionPipeline, words: list[str]) -> Tensor:
    """What ``encode_prompt`` gives, with a gradient."""
    tokens = pipeline.tokenizer(
        words, padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt"
    )
    return pipeline.text_encoder(tokens.input_ids).last_hidden_state


def _sum_gradients(parameters: dict[str, nn.Parameter], accelerator: Accelerator) -> None:
    """Sum over processes in one message: one a parameter takes longer than the update."""
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    whole = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "sum")
    for gradient, part in zip(gradients, whole.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def write_example(
    folder: Path, pipeline: StableDiffusionPipeline, judge: ShapesJudge, recipe: ShapesRecipe, processes: int
) -> None:
    """Write the example: model and judge in float16, how they were made, and what they reach as written."""
    with new_folder(folder) as place:
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.half()
        pipeline.save_pretrained(place)
        _open_in_float32(place / "text_encoder" / "config.json")
        save_judge(judge, place)
        write_json(place / MADE, _made(place, recipe, processes))


def _open_in_float32(config: Path) -> None:
    """transformers opens a model in the dtype that its config names, diffusers in float32: mixed, neither draws."""
    write_json(config, read_json(config) | {"dtype": "float32"})


def _made(place: Path, recipe: ShapesRecipe, processes: int) -> dict[str, object]:
    pipeline = StableDiffusionPipeline.from_pretrained(place, torch_dtype=torch.float32)
    judge = open_shapes_judge(place)
    empty = draw_nothing(2000, 7)
    nothing = {name: judges.names(empty).count(NOTHING) / len(empty) for name, judges in judge.domains.items()}
    sources = [
        Path(__file__),
        *(Path(__file__).with_name(f"{name}.py") for name in ("captions", "shapes_judge", "world")),
    ]
    return {
        "script": "python -m erasediff.examples.train_shapes",
        "sources": {path.name: sha256_file(path) for path in sources},
        "seed": SEED,
        "processes": processes,
        "recipe": asdict(recipe),
        "versions": {package.__name__: package.__version__ for package in (diffusers, torch, transformers)},
        "parameters": sum(
            p.numel() for m in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in m.parameters()
        ),
        "judge": {"held_out": 10000, **judge.accuracy(draw_world(10000, SEED + 10**8)), "nothing": nothing},
        "drawn_rightly": measured(pipeline, judge),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER, help="the example's folder (default: in the package)")
    parser.add_argument("--work", type=Path, required=True, help="where the training keeps what it needs to go on")
    for name in ("autoencoder_steps", "steps", "judge_steps"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(ShapesRecipe, name))
    arguments = parser.parse_args()
    recipe = ShapesRecipe(**{n: getattr(arguments, n) for n in ("autoencoder_steps", "steps", "judge_steps")})
    accelerator = Accelerator(cpu=True)

    def told(step: int, row: dict[str, float]) -> None:
        if step % 20 == 0 and accelerator.is_main_process:
            print(step, {name: round(value, 4) for name, value in row.items()}, flush=True)

    vae = build_autoencoder()
    if (arguments.work / "vae").exists():
        vae = AutoencoderKL.from_pretrained(arguments.work / "vae")
    else:
        train_autoencoder(vae, recipe, on_step=told)
        if accelerator.is_main_process:
            vae.save_pretrained(arguments.work / "vae")
    pipeline = build_shapes_pipeline(vae)
    if (arguments.work / "text_encoder").exists():
        pipeline.text_encoder = CLIPTextModel.from_pretrained(arguments.work / "text_encoder")
    else:
        train_text_encoder(pipeline, recipe, accelerator=accelerator, on_step=told)
        if accelerator.is_main_process:
            pipeline.text_encoder.save_pretrained(arguments.work / "text_encoder")
    checkpoint = FileCheckpoint(arguments.work / "checkpoint.safetensors")
    train_shapes(pipeline, recipe, accelerator=accelerator, checkpoint=checkpoint, on_step=told)
    if accelerator.is_main_process:
        judge = train_judge(steps=recipe.judge_steps, seed=SEED, on_step=told)
        write_example(arguments.output, pipeline, judge, recipe, accelerator.num_processes)


if __name__ == "__main__":
    main()
