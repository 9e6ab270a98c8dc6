"""The one loop: two gradients a step, a rule that joins them, an update."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from erasediff.data.concept_images import ConceptImages
from erasediff.errors import NonFiniteLoss, ParamsError
from erasediff.families.family import NULL_CONCEPT, Family
from erasediff.training.encoding import encoders_of, placed
from erasediff.training.offload import met, offloaded, put_aside
from erasediff.training.sharding import in_plane, is_sharded, local, part_like
from erasediff.training.state import Checkpoint, OnStep, TrainState, check_finite, summed, warmup_cosine
from erasediff.unlearning.adapters import Lora, lora_of, require_adaptable
from erasediff.unlearning.importance import Importance, add_gradient, flat_zeros
from erasediff.unlearning.losses import Losses
from erasediff.unlearning.methods import Method
from erasediff.unlearning.multipliers import multiplier_of
from erasediff.unlearning.network import cast, dtypes_of, finished, group_norms_mended, student, teaching
from erasediff.unlearning.projection import Projection


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def update_direction(
    retain_grad: Tensor, gap_grad: Tensor, method: Method, plane: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Join the two gradients, in place.

    Args:
        retain_grad, gap_grad: flat ``(P,)``; the first becomes the direction.
        plane: where the gradients are one process's parts of them, or one is off the device, :func:`in_plane` of both.
    Returns: δ = ∇L_r + λ∇g, in the place of ``retain_grad``; its length; what the trace records of the two gradients.
    """
    retain, gap = plane or (retain_grad, gap_grad)
    norms = {"retain_grad_norm": float(retain.norm()), "forget_grad_norm": float(gap.norm())}
    if method.unit_lengths:
        for vectors in [(retain_grad, gap_grad), *([plane] if plane else [])]:
            for vector, norm in zip(vectors, norms.values(), strict=True):
                vector /= norm or 1.0
    multiplier = multiplier_of(method.settings, retain, gap)
    lengths = 1.0 if method.unit_lengths else math.prod(norms.values())
    measured = {
        **norms,
        "gradient_cosine": float(torch.dot(retain, gap)) / max(lengths, 1e-30),
        "multiplier": float(multiplier),
    }
    for part, other in met(retain_grad, gap_grad):
        part.add_(other, alpha=measured["multiplier"])
    length = (retain + measured["multiplier"] * gap).norm() if plane else retain_grad.norm()
    return retain_grad, length, measured


class Result(NamedTuple):
    """The erased denoiser, and the number of updates that were made, those before a resumption included.

    Attributes:
        lora: what was trained, where it was an adapter; the denoiser is then the base's, with the adapter on.
    """

    denoiser: nn.Module
    updates: int
    lora: Lora | None = None


def run_loop(
    family: Family,
    forget_set: ConceptImages,
    retain_set: ConceptImages,
    method: Method,
    *,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
    cache: Path | None = None,
    before: Sequence[str] = (),
) -> Result:
    r"""Erase: minimise L_r subject to the forget loss shrinking at every step.

    Two backward passes a step and no third: ∇g = ∇L_f, since the value-function term is constant in θ.

    Args:
        cache: folder that keeps latents of pictures and embeddings of prompts for the next run; by default they last as
            long as this one.
        before: concepts that were forgotten earlier, which ``project_update`` protects beside those that are kept.
    Returns: a new denoiser, frozen and in eval mode, in the dtype of ``family.denoiser``, which is unchanged. With an
        adapter all its other weights are those of ``family.denoiser`` themselves.
    Raises: NonFiniteLoss: the checkpoint then holds the last good state. UnknownConcept: an empty selection.
        ParamsError: ``offload`` over several processes.
    Source: arXiv 2401.05779, Algorithm 1. Deviation: see docs/PAPERS.md for the defaults that differ.
    """
    accelerator = accelerator or Accelerator()
    if method.settings.adapter == "lora":
        require_adaptable(family)
    if method.settings.offload and accelerator.num_processes > 1:
        raise ParamsError("offload is for one process: of several, set shard")
    dtypes, encoders = dtypes_of(family.denoiser), encoders_of(family)
    with teaching(family.denoiser, accelerator):
        denoiser = student(family, method.settings, accelerator, seed)
        with placed(encoders, accelerator.device):
            losses = Losses(
                family,
                denoiser,
                forget_set,
                retain_set,
                method.settings,
                seed,
                accelerator,
                method.sample_weights,
                cache=cache,
            )
        with placed(encoders, torch.device("cpu")), group_norms_mended(denoiser):
            updates = _update(losses, method, checkpoint, on_step, before)
        lora = lora_of(family, denoiser, method.settings, dtypes) if method.settings.adapter == "lora" else None
        denoiser = finished(family.denoiser, denoiser, method.settings)
        if lora is None:
            cast(denoiser, dtypes)
        return Result(denoiser, updates, lora)


def _update(
    losses: Losses, method: Method, checkpoint: Checkpoint | None, on_step: OnStep | None, before: Sequence[str]
) -> int:
    """Train the student; return the number of updates that were made."""
    settings = losses.settings
    trainable = {name: p for name, p in losses.denoiser.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(trainable.values(), lr=settings.learning_rate, fused=True)
    state = TrainState(trainable, optimizer, settings.ema_decay, settings.offload)
    # It measures the base: before a checkpoint is restored.
    joined = JoinedGradients(losses, method, list(trainable.values()))
    updating: Callable[[], AbstractContextManager[None]] = nullcontext
    if settings.project_update:
        kept = sorted({*before, *losses.retain_set.concepts} - {NULL_CONCEPT})
        projection = Projection(losses.family, trainable, kept)
        joined.corrections = [*joined.corrections, projection.correct]
        updating = projection.updating
    if checkpoint is not None and (saved := checkpoint.load()) is not None:
        state.restore(saved)
    base: list[Tensor] = []
    if settings.offload:
        losses.ask_ahead(range(state.step, settings.outer_steps), method.weights)
        base = [p for name, p in losses.teacher.named_parameters() if name in trainable]
    with put_aside(base):
        _repeat(state, joined, updating, checkpoint, on_step)
    state.use_average()
    return state.step


def _repeat(
    state: TrainState,
    joined: JoinedGradients,
    updating: Callable[[], AbstractContextManager[None]],
    checkpoint: Checkpoint | None,
    on_step: OnStep | None,
) -> None:
    """Make one update after another, from the state's step on."""
    losses, settings, accelerator, optimizer = joined.losses, joined.settings, joined.accelerator, state.optimizer

    def keep() -> None:
        if checkpoint is None:
            return
        tensors = state.tensors()
        if accelerator.is_main_process:
            checkpoint.save(tensors)

    reached = False
    while state.step < settings.outer_steps and not reached:
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * warmup_cosine(state.step, 0, settings.outer_steps)
        try:
            row = joined.write_gradients(state.step)
        except NonFiniteLoss:
            keep()
            raise
        row["constraint_gap"] = float("nan")
        if settings.gap_every and state.step % settings.gap_every == 0:
            row["constraint_gap"] = losses.constraint_gap(state.step, state.parameters)
            reached = settings.gap_tolerance is not None and row["constraint_gap"] <= settings.gap_tolerance
        with updating():
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.after_update()
        if on_step is not None and accelerator.is_main_process:
            images = settings.forget_batch_size + settings.retain_batch_size
            row["images_per_second"] = images / (time.perf_counter() - started)
            row["peak_memory_bytes"] = float(peak_memory_bytes(accelerator.device))
            on_step(state.step, row)
        due = state.step % checkpoint.every == 0 and state.step < settings.outer_steps if checkpoint else False
        if due and not reached:
            keep()


class JoinedGradients:
    """The gradients of one update: those of both losses, corrected, joined, and cut to a length."""

    def __init__(self, losses: Losses, method: Method, parameters: list[Tensor]):
        self.losses, self.method, self.accelerator = losses, method, losses.accelerator
        self.settings, self.parameters = losses.settings, parameters
        self.sharded = is_sharded(parameters[0])
        self.corrections = self.method.corrections(Importance(losses, parameters))
        self.forget_gradient = offloaded(flat_zeros(parameters)) if self.settings.offload else None

    def write_gradients(self, step: int) -> dict[str, float]:
        """Write the update's direction into the parameters' gradients; return what was measured.

        Raises: NonFiniteLoss.
        """
        values, gradients = self.loss_gradients(step)
        for correct in self.corrections:
            correct(gradients)
        pair = gradients["retain"], gradients["forget"]
        plane = in_plane(*pair, self.accelerator) if self.sharded or self.settings.offload else None
        direction, length, measured = update_direction(*pair, self.method, plane)
        check_finite(step, gradient_norm=length)
        scale = self.settings.max_grad_norm / (length + 1e-6)
        direction *= scale if self.method.unit_lengths else scale.clamp(max=1.0)
        parts = direction.split([local(p).numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part_like(parameter, part.view_as(local(parameter)).to(parameter.dtype))
        return {f"{name}_loss": value for name, value in values.items()} | measured

    def loss_gradients(self, step: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return each loss's value and its float32 gradient over the whole global batch, ``(P,)``.

        Of a loss that has no weight at this step: NaN, and zeros.
        """
        weights = self.method.weights(step)
        sums = {name: torch.zeros((), device=self.losses.device) for name in weights}
        gradients: dict[str, Tensor] = {}
        for loss_function in self.method.active_losses(self.losses, step):
            for part in range(self.settings.accumulate):
                with self.accelerator.autocast():
                    found = loss_function(step, part)
                for left, (name, loss) in zip(range(len(found) - 1, -1, -1), found.items(), strict=True):
                    sums[name] += loss.detach()
                    if name not in gradients:
                        gradients[name] = self._zeros(name)
                    add_gradient(gradients[name], weights[name] * loss, self.parameters, again=left > 0)
        values = {"retain": float("nan"), "forget": float("nan")}
        for name, total in sums.items():
            value = self.accelerator.reduce(total, "sum")
            check_finite(step, **{f"{name}_loss": value})
            values[name] = value.item()
            if not self.sharded:
                gradients[name] = summed(gradients[name], self.accelerator)
        return values, {name: gradients[name] if name in gradients else self._zeros(name) for name in values}

    def _zeros(self, name: str) -> Tensor:
        """Return zeros that a gradient is added to, ``(P,)``; with ``offload`` the forget loss's, off the device."""
        if name == "forget" and self.forget_gradient is not None:
            return self.forget_gradient.zero_()
        return flat_zeros(self.parameters)
