"""The one loop: two gradients a step, a rule that joins them, an update."""

from __future__ import annotations

import copy
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from stages.diffusion.family import NULL_CONCEPT, ConceptImages, Family
from stages.diffusion.randomness import batch_indices, generator
from stages.diffusion.training import (
    Checkpoint,
    OnStep,
    TrainState,
    average_gradients,
    check_finite,
    share,
    shared_mse,
    warmup_cosine,
)
from stages.errors import NonFiniteLoss, UnknownConcept
from stages.unlearning.multipliers import MULTIPLIERS
from stages.unlearning.targets import ForgetBatch, forget_target, mismatched


@dataclass(frozen=True)
class Settings:
    """One method as a composition; every number's source is in PAPERS.md.

    Attributes:
        forget_batch_size, retain_batch_size: of all processes together.
        forget_weight: +1 pulls towards the forget target, -1 climbs away from it; 0 leaves the forget loss out.
        retain_weight: 0 leaves the retain loss out.
        multiplier: rule that joins the two gradients, a key of ``MULTIPLIERS``.
        eta: its rate of decrease, or the fixed weight.
        unit_gradients: the two gradients are brought to length one before they are joined. With a weight of one that
            is the direction of MUNBa's bargain, α_r ∇L_r + α_f ∇g with α_i = 1 / (‖g_i‖ √(1 + cos φ)).
        unit_update: every update has the length ``max_grad_norm``, not only a longer one. The bargain's is √2 whatever
            the gradients.
        mask: ``saliency``: only the weights that matter most for the forget set are changed (SalUn).
        mask_fraction: share of the weights that a mask leaves trainable.
    """

    forget_weight: float = 1.0
    retain_weight: float = 1.0
    multiplier: str = "paper"
    eta: float = 1.0
    forget_target: str = "relabel"
    forget_source: str = "retain"
    retain_target: str = "teacher"
    anchor: str | None = None
    outer_steps: int = 140
    inner_steps: int = 2
    gap_every: int = 0
    forget_batch_size: int = 64
    retain_batch_size: int = 64
    learning_rate: float = 7e-4
    ema_decay: float = 0.95
    condition_dropout: float = 0.1
    max_grad_norm: float = 1.0
    unit_gradients: bool = False
    unit_update: bool = False
    mask: str = "none"
    mask_fraction: float = 0.5
    trainable: str = "full"


def trainable_parameters(denoiser: nn.Module, selection: str) -> dict[str, Tensor]:
    """The parameters that erasing changes: ``full``, or those whose name contains ``selection``.

    Raises: UnknownConcept: the selection is empty.
    """
    chosen = {n: p for n, p in denoiser.named_parameters() if selection == "full" or selection in n}
    if not chosen:
        some = ", ".join(sorted({n.split(".")[0] for n, _ in denoiser.named_parameters()}))
        raise UnknownConcept(f"no parameter has {selection!r} in its name; top-level parts are: {some}")
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(name in chosen)
    return chosen


class Losses:
    """Retain and forget loss of one step, with a frozen base in eval mode as teacher."""

    def __init__(
        self,
        family: Family,
        denoiser: nn.Module,
        forget_set: ConceptImages,
        retain_set: ConceptImages,
        settings: Settings,
        seed: int,
        accelerator: Accelerator,
    ):
        self.family, self.denoiser, self.settings, self.seed = family, denoiser, settings, seed
        self.accelerator, self.device = accelerator, accelerator.device
        self.forget_set, self.retain_set = forget_set, retain_set
        self.teacher = family.denoiser
        self.wrong_concepts = sorted(set(retain_set.concepts))
        self.asked_concepts = sorted(set(forget_set.concepts))

    def _draw(self, stream: str, step: int, n: int, data: ConceptImages) -> tuple[Tensor, list[str]]:
        """Indices of a global batch, and their concepts."""
        index = batch_indices(len(data), n, seed=self.seed, stream=stream, step=step)
        return index, [data.concepts[i] for i in index.tolist()]

    def _encoded(self, data: ConceptImages, index: Tensor) -> Tensor:
        return self.family.encode(data.images[index].to(self.device))

    def retain(self, step: int) -> Tensor:
        r"""L_r: denoising of retained images under their own concept, against noise or the teacher."""
        s = self.settings
        n = s.retain_batch_size
        index, concepts = self._draw("retain", step, n, self.retain_set)
        mine = share(n, self.accelerator)
        concepts, clean = concepts[mine], self._encoded(self.retain_set, index[mine])
        draw = generator(self.seed, "retain-noise", step)
        noise = torch.randn((n, *clean.shape[1:]), generator=draw)[mine].to(clean)
        timesteps = self.family.timesteps(n, draw)[mine].to(self.device)
        noisy, target = self.family.noised(clean, noise, timesteps)
        dropped = (torch.rand(n, generator=draw) < (s.condition_dropout if self.family.has_null else 0.0))[mine]
        if s.retain_target == "teacher":
            with torch.no_grad():
                taught = self.family.predict(self.teacher, noisy, timesteps, self.family.condition(concepts))
            # Without a condition the teacher still draws what is to be forgotten: there, the noise is the target.
            keep = dropped.to(self.device).view(-1, *[1] * (clean.ndim - 1))
            target = torch.where(keep, target, taught)
        asked = [NULL_CONCEPT if drop else c for c, drop in zip(concepts, dropped.tolist(), strict=True)]
        prediction = self.family.predict(self.denoiser, noisy, timesteps, self.family.condition(asked))
        return shared_mse(prediction, target, n, self.accelerator)

    def forget_batch(self, step: int, draw: torch.Generator) -> ForgetBatch:
        """Images that x_t of the forget loss is made from: forgotten, retained, or half of each; this process's."""
        s, n = self.settings, self.settings.forget_batch_size
        from_retain = {"forget": 0, "retain": n, "mixed": n // 2}[s.forget_source]
        from_forget = n - from_retain
        mine = share(n, self.accelerator)
        parts, asked, wrong = [], [], []
        if from_forget:
            index, concepts = self._draw("forget", step, from_forget, self.forget_set)
            parts.append((self.forget_set, index[mine]))
            asked += concepts
            wrong += mismatched(concepts, self.wrong_concepts, draw)
        if from_retain:
            index, own = self._draw("forget-from-retain", step, from_retain, self.retain_set)
            parts.append((self.retain_set, index[max(0, mine.start - from_forget) : max(0, mine.stop - from_forget)]))
            pick = torch.randint(len(self.asked_concepts), (from_retain,), generator=draw).tolist()
            asked += [self.asked_concepts[i] for i in pick]
            wrong += own  # the picture's own concept: the answer that fits the picture best
        clean = torch.cat([self._encoded(data, index) for data, index in parts if len(index)])
        return ForgetBatch(clean, asked[mine], wrong[mine])

    def forget(self, step: int, denoiser: nn.Module | None = None) -> Tensor:
        r"""L_f: prediction under the forgotten concept against a wrong target; own timesteps and noise."""
        draw = generator(self.seed, "forget-noise", step)
        batch = self.forget_batch(step, draw)
        n = self.settings.forget_batch_size
        shape, mine = (n, *batch.clean.shape[1:]), share(n, self.accelerator)
        noise = torch.randn(shape, generator=draw)[mine].to(batch.clean)
        timesteps = self.family.timesteps(n, draw)[mine].to(self.device)
        noisy, truth = self.family.noised(batch.clean, noise, timesteps)
        target = forget_target(
            self.settings.forget_target,
            self.family,
            self.teacher,
            noisy,
            timesteps,
            truth,
            batch,
            anchor=self.settings.anchor,
            uniform=lambda: torch.rand(shape, generator=draw)[mine],
        )
        condition = self.family.condition(batch.asked)
        prediction = self.family.predict(denoiser or self.denoiser, noisy, timesteps, condition)
        return shared_mse(prediction, target, n, self.accelerator)

    def saliency(self, parameters: Sequence[Tensor]) -> Tensor:
        """|∇L| of plain denoising of the forget set, summed over one pass, flat ``(P,)``; of the denoiser as it is."""
        n = self.settings.forget_batch_size
        total = torch.zeros(sum(p.numel() for p in parameters), device=self.device)
        for step in range(-(-len(self.forget_set) // n)):
            # The same for every process.
            index, concepts = self._draw("saliency", step, n, self.forget_set)
            clean = self._encoded(self.forget_set, index)
            draw = generator(self.seed, "saliency-noise", step)
            noise = torch.randn(clean.shape, generator=draw).to(clean)
            timesteps = self.family.timesteps(len(concepts), draw).to(self.device)
            noisy, target = self.family.noised(clean, noise, timesteps)
            prediction = self.family.predict(self.denoiser, noisy, timesteps, self.family.condition(concepts))
            total += gradient(F.mse_loss(prediction.float(), target.float()), parameters, self.accelerator).abs()
        return total

    def constraint_gap(self, step: int, trainable: dict[str, Tensor]) -> float:
        """g(θ) = L_f(θ) − L_f(φᴷ) with φᴷ from K Adam steps on a copy: a measurement that leaves nothing behind."""
        inner = copy.deepcopy(self.denoiser)
        parameters = [p for n, p in inner.named_parameters() if n in trainable]
        optimizer = torch.optim.Adam(parameters, lr=self.settings.learning_rate)
        before = None
        for _ in range(self.settings.inner_steps):
            loss = self.forget(step, inner)
            before = self._value(loss) if before is None else before
            optimizer.zero_grad()
            loss.backward()
            average_gradients(parameters, self.accelerator)
            optimizer.step()
        with torch.no_grad():
            return float(before or 0.0) - self._value(self.forget(step, inner))

    def _value(self, loss: Tensor) -> float:
        return self.accelerator.reduce(loss.detach(), "mean").item()


def gradient(loss: Tensor, parameters: Sequence[Tensor], accelerator: Accelerator) -> Tensor:
    """Gradient of ``loss``, flat float32 ``(P,)``, averaged over processes; zero for unused parameters."""
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    flat = torch.cat(
        [(torch.zeros_like(p) if g is None else g).float().flatten() for p, g in zip(parameters, grads, strict=True)]
    )
    return accelerator.reduce(flat, "mean")


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def update_direction(retain_grad: Tensor, gap_grad: Tensor, settings: Settings) -> tuple[Tensor, dict[str, float]]:
    """δ = ∇L_r + λ∇g, with what the trace records of the two gradients."""
    norms = {"retain_grad_norm": float(retain_grad.norm()), "forget_grad_norm": float(gap_grad.norm())}
    if settings.unit_gradients:
        retain_grad, gap_grad = (
            g / n if n else g for g, n in zip((retain_grad, gap_grad), norms.values(), strict=True)
        )
    multiplier = MULTIPLIERS[settings.multiplier](retain_grad, gap_grad, eta=settings.eta)
    measured = {
        **norms,
        "gradient_cosine": float(torch.cosine_similarity(retain_grad, gap_grad, dim=0)),
        "multiplier": float(multiplier),
    }
    return retain_grad + multiplier * gap_grad, measured


def top_fraction(values: Tensor, fraction: float) -> Tensor:
    """Ones where a value is among the largest ``fraction`` of all, else zeros, float32 of the shape of ``values``."""
    keep = max(1, round(fraction * values.numel()))
    mask = torch.zeros_like(values)
    mask[values.topk(keep).indices] = 1.0
    return mask


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
    trainable = trainable_parameters(denoiser, settings.trainable)
    parameters = list(trainable.values())
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)
    state = TrainState(trainable, optimizer, settings.ema_decay)
    losses = Losses(family, denoiser, forget_set, retain_set, settings, seed, accelerator)
    mask = None
    if settings.mask == "saliency":  # of the base: before a checkpoint is restored
        mask = top_fraction(losses.saliency(parameters), settings.mask_fraction)
    if checkpoint is not None and (saved := checkpoint.load()) is not None:
        state.restore(saved)
    while state.step < settings.outer_steps:
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * warmup_cosine(state.step, 0, settings.outer_steps)
        try:
            row = _update(losses, optimizer, trainable, mask, settings, state.step, accelerator)
        except NonFiniteLoss:
            if checkpoint is not None and accelerator.is_main_process:
                checkpoint.save(state.tensors())
            raise
        state.after_update()
        if on_step is not None and accelerator.is_main_process:
            images = settings.forget_batch_size + settings.retain_batch_size
            row["images_per_second"] = images / (time.perf_counter() - started)
            row["peak_memory_bytes"] = float(peak_memory_bytes(device))
            on_step(state.step, row)
        due = state.step % checkpoint.every == 0 and state.step < settings.outer_steps if checkpoint else False
        if checkpoint is not None and due and accelerator.is_main_process:
            checkpoint.save(state.tensors())
    state.use_average()
    return denoiser.requires_grad_(True).eval()


def _update(
    losses: Losses,
    optimizer: torch.optim.Optimizer,
    trainable: dict[str, Tensor],
    mask: Tensor | None,
    settings: Settings,
    step: int,
    accelerator: Accelerator,
) -> dict[str, float]:
    parameters = list(trainable.values())

    def weighted(weight: float, loss_of: Callable[[int], Tensor], name: str) -> tuple[float, Tensor]:
        """Loss, and gradient of ``weight`` times it; one that has no weight is not computed."""
        if not weight:
            return float("nan"), torch.zeros(sum(p.numel() for p in parameters), device=losses.device)
        with accelerator.autocast():
            loss = loss_of(step)
        value = accelerator.reduce(loss.detach(), "mean")
        check_finite(step, **{name: value})
        grad = gradient(weight * loss, parameters, accelerator)
        return value.item(), grad if mask is None else grad * mask

    retain_loss, retain_grad = weighted(settings.retain_weight, losses.retain, "retain_loss")
    forget_loss, gap_grad = weighted(settings.forget_weight, losses.forget, "forget_loss")
    direction, measured = update_direction(retain_grad, gap_grad, settings)
    check_finite(step, gradient_norm=direction.norm())
    scale = settings.max_grad_norm / (direction.norm() + 1e-6)
    direction *= scale if settings.unit_update else scale.clamp(max=1.0)
    offset = 0
    for parameter in parameters:
        parameter.grad = direction[offset : offset + parameter.numel()].view_as(parameter).to(parameter.dtype)
        offset += parameter.numel()
    gap = float("nan")
    if settings.gap_every and step % settings.gap_every == 0:
        gap = losses.constraint_gap(step, trainable)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {
        "retain_loss": retain_loss,
        "forget_loss": forget_loss,
        "constraint_gap": gap,
        **measured,
    }
