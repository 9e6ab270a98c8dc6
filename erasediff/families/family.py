"""The family interface: all that the rest of the product knows about a diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeAlias

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, SchedulerMixin, UNet2DModel
from torch import Tensor, nn

from erasediff.errors import ModelError, ParamsError, shown
from erasediff.families.selections import CROSS_ATTENTION, Selection
from erasediff.ranges import Range

#: The prompt that stands for "no condition".
NULL_CONCEPT = ""
#: What a denoiser may predict; ``sample`` is x₀.
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

#: Tensors by name, inside one another where a denoiser takes them so.
Nested: TypeAlias = "Tensor | Mapping[str, Nested]"


class Condition(Protocol):
    """A request to a denoiser, one entry a sample. Only the family that made it looks inside."""

    def take(self, index: Tensor) -> Condition:
        """The samples of an index ``(B,)``, which may name one several times."""

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Condition:
        """The same on a device, and its floating-point tensors in a dtype where one is given."""


@dataclass(frozen=True)
class DenoiserArguments(Mapping[str, object]):
    """A condition as keyword arguments of the denoiser: ``denoiser(noisy, timesteps, **condition)``.

    Attributes:
        batched: batch-first tensors, in mappings where the denoiser takes them so (``added_cond_kwargs`` of SDXL).
    """

    batched: Mapping[str, Nested] = field(default_factory=dict)

    @classmethod
    def of_flat(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The reverse of :meth:`flat`."""
        batched: dict[str, Any] = {}
        for path, tensor in tensors.items():
            *outer, name = path.split(".")
            inner = batched
            for part in outer:
                inner = inner.setdefault(part, {})
            inner[name] = tensor
        return cls(batched)

    def flat(self) -> dict[str, Tensor]:
        """The tensors, those of a mapping by names such as ``added_cond_kwargs.time_ids``."""
        return dict(_flat(self.batched))

    def take(self, index: Tensor) -> DenoiserArguments:
        """The samples of an index ``(B,)``."""
        return DenoiserArguments(_each(self.batched, lambda tensor: tensor[index.to(tensor.device)]))

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> DenoiserArguments:
        """The same on a device, and its floating-point tensors in a dtype where one is given."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return DenoiserArguments(_each(self.batched, moved))

    def __getitem__(self, name: str) -> Nested:
        return self.batched[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.batched

    def __len__(self) -> int:
        return len(self.batched)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return mappings inside one another with their tensors changed."""
    if isinstance(value, Mapping):
        return {name: _each(inner, change) for name, inner in value.items()}
    return change(value)


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in _flat(value))
        else:
            yield name, value


class Family(Protocol):
    """One kind of diffusion model. Methods take prompts and tensors; labels, token ids and embeddings stay inside.

    For a model of named classes a prompt is the name of one.

    Attributes:
        pipeline: the diffusers pipeline that is wrapped.
        denoiser: the network that erasing trains.
        selections: parts of the denoiser that erasing may train, by name.
        encoder: the network of :meth:`encode`; ``None`` where that is the identity.
        concepts: names the model knows, or ``None`` where any prompt can be given.
        conditional: whether it can be asked for anything at all.
        has_null: whether the null prompt ``""`` can be given (needed for guidance).
        image_shape: ``(channels, height, width)`` of the images it takes and draws.
        num_timesteps: T; timesteps are in ``[0, T)``.
        default_steps: steps of the sampler where nobody says how many.
        default_guidance_scale: likewise; 1 is no guidance.
    """

    pipeline: DiffusionPipeline
    denoiser: nn.Module
    selections: Mapping[str, Selection]
    encoder: nn.Module | None
    concepts: tuple[str, ...] | None
    conditional: bool
    has_null: bool
    image_shape: tuple[int, int, int]
    default_steps: int
    default_guidance_scale: float

    @property
    def num_timesteps(self) -> int: ...

    def encode(self, images: Tensor) -> Tensor:
        """Pixels ``(B, C, H, W)`` in [-1, 1] to what is noised."""

    def condition(self, prompts: Sequence[str]) -> Condition:
        """Prompts, one a sample, to what the denoiser is asked for. Raises: UnknownConcept."""

    def timesteps(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` timesteps as they are drawn in training, on the CPU."""

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """``(noisy, target)``: x_t and what the denoiser should predict for it."""

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The denoiser's prediction, of the shape of ``noisy``."""

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        batch_size: int = 100,
        negative_prompt: str | None = None,
        sampler: str | None = None,
    ) -> Tensor:
        """One image a prompt, ``(B, C, H, W)`` float32 in [-1, 1] on the CPU, each from its own seed.

        Args:
            steps: ``None``: :attr:`default_steps`.
            guidance_scale: ``None``: :attr:`default_guidance_scale`.
            negative_prompt: what all are guided away from, instead of the null prompt.
            sampler: class of the scheduler, a key of :func:`erasediff.families.samplers.samplers_of`; ``None``: the
                model's own.
        Raises: ParamsError: no such sampler; a negative prompt where nothing is guided by one.
        """

    def with_denoiser(self, denoiser: nn.Module) -> Family:
        """The same model around another denoiser; nothing is copied."""


class NoiseSchedule:
    """Noising by a scheduler's betas, and the denoiser's call: shared by families of diffusers' UNets.

    Whatever scheduler a pipeline samples with, training noises with ``DDPMScheduler`` made from its config:
    other schedulers' ``add_noise`` differ, and some lack ``get_velocity``.

    Source: DDPM, arXiv 2006.11239, eq. 4.
    """

    scheduler: DDPMScheduler
    conditional = True
    encoder: nn.Module | None = None
    selections: Mapping[str, Selection] = CROSS_ATTENTION

    @property
    def num_timesteps(self) -> int:
        """T of the schedule."""
        return self.scheduler.config.num_train_timesteps

    def timesteps(self, n: int, generator: torch.Generator) -> Tensor:
        """Uniform int64 timesteps in ``[0, T)``, shape ``(n,)``."""
        return torch.randint(0, self.num_timesteps, (n,), generator=generator)

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """x_t = sqrt(ᾱ_t) x₀ + sqrt(1 − ᾱ_t) ε, and the target of the scheduler's ``prediction_type``."""
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return noisy, noise
        if kind == "v_prediction":
            return noisy, self.scheduler.get_velocity(clean, noise, timesteps)
        return noisy, clean

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The denoiser's output under a condition of :class:`DenoiserArguments`."""
        return ask(denoiser, noisy, timesteps, condition)


def ask(denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: Condition, **more: object) -> Tensor:
    """What a denoiser of any precision says, in the precision of ``noisy``; tensors go where it is."""
    assert isinstance(condition, DenoiserArguments)  # a family made it
    some = next(denoiser.parameters())
    asked = condition.to(some.device, some.dtype)
    output = denoiser(noisy.to(some.dtype), timestep=timesteps, **asked, **more).sample
    return output if some.dtype == torch.float32 else output.to(noisy.dtype)


def noise_schedule(scheduler: SchedulerMixin) -> DDPMScheduler:
    """The schedule that a model of this scheduler was trained with.

    Raises: ModelError: the scheduler is of another kind of diffusion (flow matching, EDM), or predicts otherwise.
    """
    name, kind = type(scheduler).__name__, scheduler.config.get("prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(f"a {name} has no alphas_cumprod to train this model with: use one such as DDIMScheduler")
    if scheduler.config.get("use_flow_sigmas"):
        raise ModelError(f"a {name} with use_flow_sigmas samples a flow, which this model was not trained on: unset it")
    if kind not in PREDICTION_TYPES:
        raise ModelError(f"{name}: prediction_type {shown(kind)} is none of {', '.join(PREDICTION_TYPES)}")
    return DDPMScheduler.from_config(scheduler.config)


def check_drawing(seeds: Sequence[int], steps: int | None, num_timesteps: int, guidance_scale: float | None) -> None:
    """Raises: ParamsError: what a drawing is asked for cannot be; ``None`` is the model's own."""
    if not Range(ge=1, le=num_timesteps, whole=True, optional=True).holds(steps):
        raise ParamsError(f"{shown(steps)} sampling steps: this model takes from 1 to {num_timesteps}")
    if not Range(optional=True).holds(guidance_scale):
        raise ParamsError(f"guidance_scale is {shown(guidance_scale)}: give a number, 1 for no guidance")
    for seed in seeds:
        if not Range(ge=0, whole=True).holds(seed) or seed >= 2**64:
            raise ParamsError(f"seed {seed}: a picture's seed is from 0 to {2**64 - 1}")


def check_pixel_unet(unet: UNet2DModel) -> None:
    """Raises: ModelError: a UNet does not denoise grey or RGB pictures, or is asked for something that has no name."""
    taken, given, kind = unet.config.in_channels, unet.config.out_channels, unet.config.class_embed_type
    if taken not in (1, 3):
        raise ModelError(f"the UNet takes {taken} channels: without a VAE it is 1 (grey) or 3 (RGB)")
    if taken != given:
        raise ModelError(f"the UNet takes {taken} channels and gives {given}: a learned variance is not handled")
    if unet.config.sample_size is None:
        raise ModelError("the UNet's config.json has no sample_size: write how many pixels a side its pictures have")
    if kind is not None:
        raise ModelError(f"the UNet's class_embed_type is {shown(kind)}: classes are taken by num_class_embeds alone")


def initial_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal noise ``(len(seeds), *shape)`` on the CPU, each image from its own seed.

    An image then does not depend on the batch it was drawn in, nor on the device.
    """
    return noise_of(shape, generators_of(seeds))


def generators_of(seeds: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator a picture, for its first noise and whatever its sampler draws after that."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def noise_of(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise ``(len(generators), *shape)`` on the CPU, each picture from its own generator."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def image_shape(unet: UNet2DModel) -> tuple[int, int, int]:
    """``(channels, height, width)`` of the images that a pixel UNet takes."""
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return unet.config.in_channels, height, width
