"""How the embedded text-to-image model is trained: autoencoder, text encoder, denoiser, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor, nn

from erasediff import randomness
from erasediff.examples.captions import captions, spoken
from erasediff.examples.shapes_judge import DOMAINS
from erasediff.examples.shapes_networks import embeddings
from erasediff.examples.world import Drawn, draw_world
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


@dataclass(frozen=True)
class ShapesRecipe:
    """How the model and its judge are trained.

    Attributes:
        autoencoder_steps: updates of the autoencoder, before the rest.
        text_steps: updates of the text encoder alone, after it.
        steps: updates of the denoiser, at last.
        restart: at this one its learning rate, which has fallen to 0, begins again (SGDR, arXiv 1608.03983).
        pictures: how many are drawn and encoded once.
        condition_dropout: share of pictures whose caption is left out (arXiv 2207.12598).
    """

    autoencoder_steps: int = 1200
    autoencoder_batch_size: int = 16
    autoencoder_learning_rate: float = 3e-3
    text_steps: int = 800
    text_batch_size: int = 128
    text_learning_rate: float = 2e-3
    steps: int = 7000
    restart: int = 3000
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    warmup_steps: int = 60
    ema_decay: float = 0.99
    pictures: int = 8000
    condition_dropout: float = 0.1
    judge_steps: int = 2500


def train_autoencoder(vae: AutoencoderKL, recipe: ShapesRecipe, *, seed: int, on_step: OnStep | None = None) -> None:
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
    seed: int,
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
        hidden = embeddings(pipeline, [text for text, _ in said][share])
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
    seed: int,
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
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * _rate(step, recipe)
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


def _rate(step: int, recipe: ShapesRecipe) -> float:
    """Factor of the learning rate, which falls twice."""
    if step < recipe.restart:
        return warmup_cosine(step, recipe.warmup_steps, recipe.restart)
    return warmup_cosine(step - recipe.restart, recipe.warmup_steps, recipe.steps - recipe.restart)


def _sum_gradients(parameters: dict[str, nn.Parameter], accelerator: Accelerator) -> None:
    """Sum over processes in one message: one a parameter takes longer than the update."""
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in parameters.values() if p.grad is not None]
    whole = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "sum")
    for gradient, part in zip(gradients, whole.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
