"""The one loop: two gradients a step, a rule that joins them, an update."""

from __future__ import annotations

import copy
import math
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from erasediff.data.concept_images import ConceptImages
from erasediff.errors import NonFiniteLoss, UnknownConcept
from erasediff.families.family import Family
from erasediff.training.sharding import in_plane, is_sharded, local, part_like, shard, whole
from erasediff.training.state import Checkpoint, OnStep, TrainState, check_finite, summed, warmup_cosine
from erasediff.unlearning.importance import Importance, add_gradient, flat_zeros, timestep_density
from erasediff.unlearning.losses import Losses
from erasediff.unlearning.multipliers import MULTIPLIERS
from erasediff.unlearning.settings import Settings

#: Selections of parameters by name: those whose name contains one of the first parts and none of the second.
SELECTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "full": (("",), ()),
    "attention": (("attn", "attentions"), ()),
    "cross_attention": (("attn2",), ()),
    "self_attention": (("attn1",), ()),
    "no_cross_attention": (("",), ("attn2",)),
    "no_time_embedding": (("",), ("time_emb", "time_proj")),
}


def trainable_parameters(denoiser: nn.Module, selection: str) -> dict[str, Tensor]:
    """The parameters that erasing changes: a name of ``SELECTIONS``, or those whose name contains ``selection``.

    Raises: UnknownConcept: the selection is empty.
    """
    wanted, unwanted = SELECTIONS.get(selection, ((selection,), ()))
    chosen = {
        n: p
        for n, p in denoiser.named_parameters()
        if any(part in n for part in wanted) and not any(part in n for part in unwanted)
    }
    if not chosen:
        some = ", ".join(sorted({n.split(".")[0] for n, _ in denoiser.named_parameters()}))
        raise UnknownConcept(
            f"trainable: {selection!r} selects no parameter; it takes {', '.join(SELECTIONS)}, "
            f"or a part of parameter names, whose top-level parts are: {some}"
        )
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(name in chosen)
    return chosen


def contiguous_input(norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A hook: PyTorch 2.13 crashes on a CPU in the backward pass of a group norm whose channels-last input needs no
    gradient, as that of the first trainable layer does not."""
    return tuple(x.contiguous() if torch.is_grad_enabled() and not x.requires_grad else x for x in inputs)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def update_direction(
    retain_grad: Tensor, gap_grad: Tensor, settings: Settings, plane: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """δ = ∇L_r + λ∇g, in the place of ``retain_grad``; its length; what the trace records of the two gradients.

    Args:
        plane: where the gradients are one process's parts of them, :func:`in_plane` of the two.
    """
    retain, gap = plane or (retain_grad, gap_grad)
    norms = {"retain_grad_norm": float(retain.norm()), "forget_grad_norm": float(gap.norm())}
    if settings.unit_gradients:
        for vectors in [(retain_grad, gap_grad), *([plane] if plane else [])]:
            for vector, norm in zip(vectors, norms.values(), strict=True):
                vector /= norm or 1.0
    multiplier = MULTIPLIERS[settings.multiplier](retain, gap, eta=settings.eta)
    lengths = 1.0 if settings.unit_gradients else math.prod(norms.values())
    measured = {
        **norms,
        "gradient_cosine": float(torch.dot(retain, gap)) / max(lengths, 1e-30),
        "multiplier": float(multiplier),
    }
    direction = retain_grad.add_(gap_grad, alpha=measured["multiplier"])
    length = (retain + measured["multiplier"] * gap).norm() if plane else direction.norm()
    return direction, length, measured


@contextmanager
def teaching(denoiser: nn.Module, device: torch.device) -> Iterator[None]:
    """Frozen, in eval mode and on ``device`` for a block; then as it was: it is the caller's."""
    some = next(denoiser.parameters())
    was, training = some.device, denoiser.training
    trainable = [p for p in denoiser.parameters() if p.requires_grad]
    try:
        denoiser.to(device).eval().requires_grad_(False)
        yield
    finally:
        denoiser.to(was).train(training)
        for parameter in trainable:
            parameter.requires_grad_(True)


def run_loop(
    family: Family,
    forget_set: ConceptImages,
    retain_set: ConceptImages,
    settings: Settings,
    *,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> nn.Module:
    r"""Erase: minimise L_r subject to the forget loss shrinking at every step.

    Two backward passes a step and no third: ∇g = ∇L_f, since the value-function term is constant in θ.

    Returns: a new denoiser in eval mode; ``family.denoiser`` is unchanged.
    Raises: NonFiniteLoss: the checkpoint then holds the last good state. UnknownConcept: an empty selection.
    Source: arXiv 2401.05779, Algorithm 1. Deviation: see PAPERS.md for the defaults that differ.
    """
    accelerator = accelerator or Accelerator()
    with teaching(family.denoiser, accelerator.device):
        return _run(family, forget_set, retain_set, settings, seed, accelerator, checkpoint, on_step)


def _run(
    family: Family,
    forget_set: ConceptImages,
    retain_set: ConceptImages,
    settings: Settings,
    seed: int,
    accelerator: Accelerator,
    checkpoint: Checkpoint | None,
    on_step: OnStep | None,
) -> nn.Module:
    device = accelerator.device
    # Eval mode: dropout and label dropping would make the student differ from its own teacher.
    denoiser = copy.deepcopy(family.denoiser).to(device).eval()
    if settings.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if settings.shard and accelerator.num_processes > 1:
        shard(denoiser, accelerator)
    trainable = trainable_parameters(denoiser, settings.trainable)
    norms = [m for m in denoiser.modules() if isinstance(m, nn.GroupNorm) and m.weight.requires_grad]
    hooks = [norm.register_forward_pre_hook(contiguous_input) for norm in norms]
    optimizer = torch.optim.Adam(trainable.values(), lr=settings.learning_rate, fused=True)
    state = TrainState(trainable, optimizer, settings.ema_decay)
    losses = Losses(family, denoiser, forget_set, retain_set, settings, seed, accelerator)
    # Of the base: before a checkpoint is restored.
    joined = JoinedGradients(losses, trainable)
    if checkpoint is not None and (saved := checkpoint.load()) is not None:
        state.restore(saved)
        joined.restore(saved)

    def keep() -> None:
        if checkpoint is None:
            return
        tensors = state.tensors() | joined.tensors()
        if accelerator.is_main_process:
            checkpoint.save(tensors)

    reached = False
    while state.step < settings.outer_steps and not reached:
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * warmup_cosine(state.step, 0, settings.outer_steps)
        try:
            row = joined.put(state.step)
        except NonFiniteLoss:
            keep()
            raise
        row["constraint_gap"] = float("nan")
        if settings.gap_every and state.step % settings.gap_every == 0:
            row["constraint_gap"] = losses.constraint_gap(state.step, trainable)
            reached = settings.gap_tolerance is not None and row["constraint_gap"] <= settings.gap_tolerance
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.after_update()
        if on_step is not None and accelerator.is_main_process:
            images = settings.forget_batch_size + settings.retain_batch_size
            row["images_per_second"] = images / (time.perf_counter() - started)
            row["peak_memory_bytes"] = float(peak_memory_bytes(device))
            on_step(state.step, row)
        due = state.step % checkpoint.every == 0 and state.step < settings.outer_steps if checkpoint else False
        if due and not reached:
            keep()
    state.use_average()
    for hook in hooks:
        hook.remove()
    if joined.sharded:
        erased = {name: whole(value) for name, value in denoiser.state_dict().items()}
        denoiser = copy.deepcopy(family.denoiser)
        denoiser.load_state_dict(erased)
    return denoiser.requires_grad_(True).eval()


class JoinedGradients:
    """What one update does to the gradients: those of both losses, masked, joined, and cut to a length."""

    def __init__(self, losses: Losses, trainable: dict[str, Tensor]):
        self.losses, self.settings, self.accelerator = losses, losses.settings, losses.accelerator
        self.parameters = list(trainable.values())
        self.sharded = is_sharded(self.parameters[0])
        self.importance = Importance(losses, self.parameters)
        self.base = self._flat() if self.importance.fisher is not None else None
        #: The retain gradient that the next updates use again (``Settings.retain_every``).
        self.kept: Tensor | None = None
        if self.settings.timestep_sampling == "importance":
            losses.timestep_density = timestep_density(losses, self.accelerator)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside the state of the training."""
        return {} if self.kept is None else {"retain_gradient": self.kept}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to what :meth:`tensors` gave, wherever it was kept."""
        if (kept := state.get("retain_gradient")) is not None:
            self.kept = kept.to(self.losses.device)

    def _flat(self) -> Tensor:
        return torch.cat([p.detach().float().flatten() for p in self.parameters])

    def put(self, step: int) -> dict[str, float]:
        """Put the update's direction into the parameters' gradients; what was measured. Raises: NonFiniteLoss."""
        values, grads = self._of_losses(step)
        if self.base is not None and self.importance.fisher is not None:
            grads["retain"] += self.settings.fisher_penalty * self.importance.fisher * (self._flat() - self.base)
        pair = grads["retain"], grads["forget"]
        plane = in_plane(*pair, self.accelerator) if self.sharded else None
        direction, length, measured = update_direction(*pair, self.settings, plane)
        check_finite(step, gradient_norm=length)
        scale = self.settings.max_grad_norm / (length + 1e-6)
        direction *= scale if self.settings.unit_update else scale.clamp(max=1.0)
        parts = direction.split([local(p).numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part_like(parameter, part.view_as(local(parameter)).to(parameter.dtype))
        return {f"{name}_loss": value for name, value in values.items()} | measured

    def _of_losses(self, step: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Values, and float32 gradients of the whole global batch; NaN and zero for a loss that has no weight."""
        weights = self.settings.weights(step)
        sums = {name: torch.zeros((), device=self.losses.device) for name in weights}
        grads: dict[str, Tensor] = {}
        for losses_of in self.losses.of_step(step):
            for part in range(self.settings.accumulate):
                with self.accelerator.autocast():
                    found = losses_of(step, part)
                for left, (name, loss) in zip(range(len(found) - 1, -1, -1), found.items(), strict=True):
                    sums[name] += loss.detach()
                    if name not in grads:
                        grads[name] = flat_zeros(self.parameters)
                    add_gradient(grads[name], weights[name] * loss, self.parameters, again=left > 0)
        values = {"retain": float("nan"), "forget": float("nan")}
        for name, total in sums.items():
            value = self.accelerator.reduce(total, "sum")
            check_finite(step, **{f"{name}_loss": value})
            values[name] = value.item()
            if not self.sharded:
                grads[name] = summed(grads[name], self.accelerator)
            if name in self.importance.masks:
                grads[name] *= self.importance.masks[name]
        if self.kept is not None and "retain" not in grads:
            grads["retain"] = self.kept.clone()
        elif self.settings.retain_every > 1 and "retain" in grads:
            self.kept = grads["retain"].clone()
        return values, {name: grads[name] if name in grads else flat_zeros(self.parameters) for name in values}
