"""Parts of every training here: its resumable state, and one update over several processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor

from erasediff.errors import ModelError, NonFiniteLoss
from erasediff.families.family import Family
from erasediff.training.offload import offloaded
from erasediff.training.sharding import gathered, local, part_like, spread_like

#: Called after each step with its number (from 1) and what was measured.
OnStep = Callable[[int, dict[str, float]], None]


class Checkpoint(Protocol):
    """Where a training keeps its last state, outside anything that counts as a result."""

    every: int

    def load(self) -> dict[str, Tensor] | None:
        """The last state saved, or ``None``."""

    def save(self, state: dict[str, Tensor]) -> None:
        """Keep ``state`` instead of the one before, atomically."""


class TrainState:
    """Parameters, optimizer and moving average of one training, as one flat dict of tensors.

    Args:
        parameters: the tensors that are trained, by name.
        ema_decay: decay of the exponential moving average of the weights; 0 keeps none.
        offload: keep the average off the device.
    """

    def __init__(
        self, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer, ema_decay: float, offload: bool = False
    ):
        self.parameters = parameters
        self.optimizer = optimizer
        # Of a sharded parameter, the average of this process's part.
        self.parts = [local(p.detach()).requires_grad_() for p in parameters.values()]
        self.ema = EMAModel(self.parts, decay=ema_decay, use_ema_warmup=False, foreach=True) if ema_decay else None
        if offload and self.ema is not None:
            self.ema.shadow_params = [offloaded(part) for part in self.ema.shadow_params]
        self.step = 0

    def after_update(self) -> None:
        """Count an update and let the average follow."""
        self.step += 1
        if self.ema is not None:
            self.ema.step([p.to(mean.device) for p, mean in zip(self.parts, self.ema.shadow_params, strict=True)])

    def use_average(self) -> None:
        """Put the averaged weights into the model: the end of the training."""
        if self.ema is not None:
            self.ema.copy_to(self.parts)

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on, by name; whole tensors, so that every process has to ask."""
        state: dict[str, Tensor] = {"step": torch.tensor(self.step)}
        for name, parameter in self.parameters.items():
            state[f"parameter/{name}"] = gathered(parameter.detach())
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"optimizer/{key}/{name}"] = gathered(torch.as_tensor(value))
        if self.ema is not None:
            for (name, parameter), shadow in zip(self.parameters.items(), self.ema.shadow_params, strict=True):
                state[f"average/{name}"] = gathered(part_like(parameter, shadow))
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to what :meth:`tensors` gave. Raises: ModelError: it is of another model."""
        saved = {key.removeprefix("parameter/") for key in state if key.startswith("parameter/")}
        if saved != set(self.parameters):
            raise ModelError(
                f"the checkpoint holds {len(saved)} parameters, this training has {len(self.parameters)}: delete it"
            )
        self.step = int(state["step"])
        moments: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("optimizer/"):
                _, what, name = key.split("/")
                moments.setdefault(name, {})[what] = spread_like(self.parameters[name], value)
        groups = self.optimizer.state_dict()["param_groups"]
        indexed = {i: moments[name] for i, name in enumerate(self.parameters) if name in moments}
        # The optimizer itself knows where each of its tensors belongs: a fused one keeps its step on the device.
        self.optimizer.load_state_dict({"state": indexed, "param_groups": groups})
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(spread_like(parameter, state[f"parameter/{name}"]))
            if self.ema is not None:
                self.ema.optimization_step = self.step
                for (name, parameter), shadow in zip(self.parameters.items(), self.ema.shadow_params, strict=True):
                    shadow.copy_(local(spread_like(parameter, state[f"average/{name}"])))


def check_finite(step: int, **values: Tensor | float) -> None:
    """Raises: NonFiniteLoss: a value is NaN or infinite; the message says which, where, and what to do."""
    for name, value in values.items():
        if not torch.isfinite(torch.as_tensor(value)).all():
            raise NonFiniteLoss(
                f"{name} became {float(value)} at step {step}: lower the learning rate or the guidance; "
                "the state of the last good step is kept as the checkpoint"
            )


def process_share(n: int, accelerator: Accelerator, part: int = 0, parts: int = 1) -> slice:
    """Return this process's part of a global batch of ``n``; of that, one of ``parts`` where gradients accumulate.

    Every process draws the whole batch's random numbers and takes its part of them, so that neither the number of
    processes nor that of parts changes a result but by rounding.

    Raises: ValueError: fewer samples than parts.
    """
    i, of = accelerator.process_index * parts + part, accelerator.num_processes * parts
    if n < of:
        raise ValueError(f"a batch of {n} cannot be shared by {of} parts: raise the batch size")
    return slice(i * n // of, (i + 1) * n // of)


def draw_noise(family: Family, like: Tensor, n: int, share: slice, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the noise and the timesteps of a global batch, and return this process's share of both.

    Args:
        like: the share's encoded images, ``(B, …)``; noise has their shape, dtype and device.
        n: samples of the global batch.
    """
    noise = torch.randn((n, *like.shape[1:]), generator=generator)[share].to(like)
    return noise, family.timesteps(n, generator)[share].to(like.device)


def sample_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Return each sample's mean squared error in float32, ``(B,)``."""
    return F.mse_loss(prediction.float(), target.float(), reduction="none").flatten(1).mean(1)


def shared_mse(prediction: Tensor, target: Tensor, n: int, weights: Tensor | None = None) -> Tensor:
    """Mean squared error in float32, so that the sum over all parts of a batch of ``n`` is that of the batch.

    Args:
        weights: one a sample, ``(B,)``; all 1 by default.
    """
    errors = sample_errors(prediction, target)
    return (errors if weights is None else errors * weights).sum() / n


def summed(value: Tensor, accelerator: Accelerator) -> Tensor:
    """Sum over processes; of one, the tensor itself, where accelerate would copy it."""
    return accelerator.reduce(value, "sum") if accelerator.num_processes > 1 else value


def sum_gradients(parameters: Iterable[Tensor], accelerator: Accelerator) -> None:
    """Replace each gradient by its sum over processes."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = summed(parameter.grad, accelerator)


def warmup_cosine(step: int, warmup_steps: int, steps: int) -> float:
    """Factor of the learning rate: a linear rise, then half a cosine down to 0. A function of the step alone,
    so that a resumed training needs no scheduler state."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
