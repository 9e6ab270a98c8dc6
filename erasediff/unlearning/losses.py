"""Retain and forget loss of one step, as functions of (step, part of the batch)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from erasediff.data.concept_images import ConceptImages
from erasediff.families.family import NULL_CONCEPT, Family
from erasediff.randomness import batch_indices, generator
from erasediff.training.state import share, shared_mse, sum_gradients
from erasediff.unlearning.settings import Settings
from erasediff.unlearning.targets import ForgetBatch, forget_target, mismatched
from erasediff.unlearning.timesteps import draw_timesteps

#: One or both losses by name, from one forward pass.
Named = dict[str, Tensor]


class Losses:
    """Losses of a denoiser beside its teacher. A sum over parts and processes is the mean over the global batch.

    Attributes:
        teacher: what targets are predicted with: the base, or the denoiser itself (``Settings.teacher``).
        timestep_density: weights of timesteps for ``Settings.timestep_sampling: importance``; ``None``: all alike.
    """

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
        self.teacher = family.denoiser if settings.teacher == "frozen" else denoiser
        self.wrong_concepts = sorted(set(retain_set.concepts))
        self.asked_concepts = sorted(set(forget_set.concepts))
        self.timestep_density: Tensor | None = None
        self._targets: dict[tuple[str, int, int], Tensor] = {}

    def _taught(self, loss: str, step: int, part: int, target: Callable[[], Tensor]) -> Tensor:
        """What the teacher says of a batch; of the frozen one asked once, however often the batch is used."""
        s = self.settings
        if (s.repeat == 1 and not s.shared_batch) or s.teacher == "moving":
            return target()
        key = ("both" if s.shared_batch else loss, step, part)
        if key not in self._targets:
            self._targets = {k: v for k, v in self._targets.items() if k[1] == step}
            self._targets[key] = target()
        return self._targets[key]

    def of_step(self, step: int) -> list[Callable[[int, int], Named]]:
        """What computes the losses that have a weight at a step."""
        if self.settings.mixture:
            return [self.mixture]
        return [getattr(self, name) for name in self.settings.weights(step)]

    def share(self, n: int, part: int) -> slice:
        """A part of this process's share of a batch of ``n``."""
        return share(n, self.accelerator, part, self.settings.accumulate)

    def draw(self, stream: str, step: int, n: int, data: ConceptImages) -> tuple[Tensor, list[str]]:
        """Indices of a global batch, and their concepts."""
        index = batch_indices(len(data), n, seed=self.seed, stream=stream, step=step)
        return index, [data.concepts[i] for i in index.tolist()]

    def encoded(self, data: ConceptImages, index: Tensor) -> Tensor:
        """What is noised, on the device."""
        return self.family.encode(data.images[index].to(self.device))

    def _timesteps(self, n: int, draw: torch.Generator, density: Tensor | None = None) -> Tensor:
        mirrored = self.settings.timestep_sampling == "antithetic"
        return draw_timesteps(self.family, n, draw, mirrored=mirrored, density=density)

    def retain(self, step: int, part: int = 0) -> Named:
        r"""L_r: denoising of retained images under their own concept, against noise or the teacher."""
        s, step = self.settings, step // self.settings.repeat
        n = s.retain_batch_size
        index, concepts = self.draw("retain", step, n, self.retain_set)
        mine = self.share(n, part)
        concepts, clean = concepts[mine], self.encoded(self.retain_set, index[mine])
        draw = generator(self.seed, "retain-noise", step)
        noise = torch.randn((n, *clean.shape[1:]), generator=draw)[mine].to(clean)
        timesteps = self._timesteps(n, draw)[mine].to(self.device)
        noisy, target = self.family.noised(clean, noise, timesteps)
        dropped = (torch.rand(n, generator=draw) < (s.condition_dropout if self.family.has_null else 0.0))[mine]
        if s.retain_target == "teacher":
            with torch.no_grad():
                own = self.family.condition(concepts)
                taught = self._taught(
                    "retain", step, part, lambda: self.family.predict(self.teacher, noisy, timesteps, own)
                )
            # Without a condition the teacher still draws what is to be forgotten: there, the noise is the target.
            keep = dropped.to(self.device).view(-1, *[1] * (clean.ndim - 1))
            target = torch.where(keep, target, taught)
        asked = [NULL_CONCEPT if drop else c for c, drop in zip(concepts, dropped.tolist(), strict=True)]
        prediction = self.family.predict(self.denoiser, noisy, timesteps, self.family.condition(asked))
        weights = self.family.min_snr_weights(timesteps, s.min_snr_gamma) if s.min_snr_gamma else None
        return {"retain": shared_mse(prediction, target, n, weights)}

    def forget_batch(self, step: int, draw: torch.Generator, part: int = 0) -> ForgetBatch:
        """Images that x_t of the forget loss is made from: forgotten, retained, half of each, or of noise."""
        s, n = self.settings, self.settings.forget_batch_size
        from_retain = {"forget": 0, "noise": 0, "retain": n, "mixed": n // 2}[s.forget_source]
        from_forget = n - from_retain
        mine = self.share(n, part)
        parts, asked, wrong = [], [], []
        if from_forget:
            index, concepts = self.draw("forget", step, from_forget, self.forget_set)
            parts.append(self.encoded(self.forget_set, index[mine]) if len(index[mine]) else None)
            asked += concepts
            if s.forget_target == "relabel":
                wrong += mismatched(concepts, self.wrong_concepts, draw)
        if from_retain:
            stream = "retain" if s.shared_batch else "forget-from-retain"
            index, own = self.draw(stream, step, from_retain, self.retain_set)
            index = index[max(0, mine.start - from_forget) : max(0, mine.stop - from_forget)]
            parts.append(self.encoded(self.retain_set, index) if len(index) else None)
            pick = torch.randint(len(self.asked_concepts), (from_retain,), generator=draw).tolist()
            asked += [self.asked_concepts[i] for i in pick]
            wrong += own  # the picture's own concept: the answer that fits the picture best
        clean = torch.cat([p for p in parts if p is not None])
        if s.forget_source == "noise":
            clean = (torch.rand((n, *clean.shape[1:]), generator=draw)[mine] * 2 - 1).to(clean)
        return ForgetBatch(clean, asked[mine], wrong[mine])

    def forget(self, step: int, part: int = 0, denoiser: nn.Module | None = None) -> Named:
        r"""L_f: prediction under the forgotten concept against a wrong target; own timesteps and noise."""
        step //= self.settings.repeat
        draw = generator(self.seed, "forget-noise", step)
        batch = self.forget_batch(step, draw, part)
        if self.settings.shared_batch:
            draw = generator(self.seed, "retain-noise", step)
        n = self.settings.forget_batch_size
        shape, mine = (n, *batch.clean.shape[1:]), self.share(n, part)
        noise = torch.randn(shape, generator=draw)[mine].to(batch.clean)
        timesteps = self._timesteps(n, draw, self.timestep_density)[mine].to(self.device)
        noisy, truth = self.family.noised(batch.clean, noise, timesteps)
        uniform = lambda: torch.rand(shape, generator=draw)[mine]  # noqa: E731
        target = self._taught("forget", step, part, lambda: self.target_of(noisy, timesteps, truth, batch, uniform))
        condition = self.family.condition(batch.asked)
        prediction = self.family.predict(denoiser or self.denoiser, noisy, timesteps, condition)
        weights = None
        if self.settings.forget_exponent:
            errors = F.mse_loss(prediction.detach().float(), target.float(), reduction="none").flatten(1).mean(1)
            weights = self._of_mean_one(errors.clamp(min=1e-12) ** -self.settings.forget_exponent)
        return {"forget": shared_mse(prediction, target, n, weights)}

    def _of_mean_one(self, weights: Tensor) -> Tensor:
        """Over the same part of all processes' shares."""
        total, count = self.accelerator.reduce(torch.stack([weights.sum(), weights.new_tensor(len(weights))]), "sum")
        return weights * (count / total)

    def target_of(
        self, noisy: Tensor, timesteps: Tensor, truth: Tensor, batch: ForgetBatch, uniform: Callable[[], Tensor]
    ) -> Tensor:
        """What the prediction under the forgotten concept should become."""
        kind, anchor = self.settings.forget_target, self.settings.anchor
        return forget_target(
            kind, self.family, self.teacher, noisy, timesteps, truth, batch, anchor=anchor, uniform=uniform
        )

    def mixture(self, step: int, part: int = 0) -> Named:
        r"""Both denoising losses from one x_t of a retained or a forgotten image, each with the weight that makes its
        mean that over its own set's x_t: one forward pass. All under the forgotten concept.

        .. math:: w_x = \frac{1}{(1 + e^{d_x - d_a}) / 2}, \quad d_z = \frac{\|x_t - \gamma_t z\|^2}{2\sigma_t^2}

        Source: SISS, arXiv 2503.01034, with λ = ½.
        """
        n, step = self.settings.forget_batch_size, step // self.settings.repeat
        mine = self.share(n, part)
        draw = generator(self.seed, "forget-noise", step)
        index, asked = self.draw("forget", step, n, self.forget_set)
        forgotten = self.encoded(self.forget_set, index[mine])
        retained = self.encoded(self.retain_set, self.draw("retain", step, n, self.retain_set)[0][mine])
        noise = torch.randn((n, *forgotten.shape[1:]), generator=draw)[mine].to(forgotten)
        timesteps = self._timesteps(n, draw)[mine].to(self.device)
        keep = (torch.rand(n, generator=draw) < 0.5)[mine].to(self.device)
        clean = torch.where(keep.view(-1, *[1] * (noise.ndim - 1)), retained, forgotten)
        noisy, _ = self.family.noised(clean, noise, timesteps)
        prediction = self.family.predict(self.denoiser, noisy, timesteps, self.family.condition(asked[mine]))
        (to_retain, d_retain), (to_forget, d_forget) = (
            self._explained(noisy, z, timesteps) for z in (retained, forgotten)
        )
        w_retain, w_forget = mixture_weights(d_retain, d_forget)
        return {
            "retain": shared_mse(prediction, to_retain, n, w_retain),
            "forget": shared_mse(prediction, to_forget, n, w_forget),
        }

    def _explained(self, noisy: Tensor, clean: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The target of the noise that leads from ``clean`` to ``noisy``, and that noise's half squared norm."""
        scaled, _ = self.family.noised(clean, torch.zeros_like(clean), timesteps)
        sigma, _ = self.family.noised(torch.zeros_like(clean), torch.ones_like(clean), timesteps)
        noise = (noisy - scaled) / sigma
        return self.family.noised(clean, noise, timesteps)[1], noise.double().flatten(1).square().sum(1) / 2

    def constraint_gap(self, step: int, trainable: dict[str, Tensor]) -> float:
        """g(θ) = L_f(θ) − L_f(φᴷ) with φᴷ from K Adam steps on a copy: a measurement that leaves nothing behind."""
        inner = copy.deepcopy(self.denoiser)
        parameters = [p for n, p in inner.named_parameters() if n in trainable]
        optimizer = torch.optim.Adam(parameters, lr=self.settings.learning_rate)
        before = None
        for _ in range(self.settings.inner_steps):
            optimizer.zero_grad()
            value = self._forget_value(step, inner, backward=True)
            before = value if before is None else before
            sum_gradients(parameters, self.accelerator)
            optimizer.step()
        with torch.no_grad():
            return (before or 0.0) - self._forget_value(step, inner)

    def _forget_value(self, step: int, denoiser: nn.Module, backward: bool = False) -> float:
        total = torch.zeros((), device=self.device)
        for part in range(self.settings.accumulate):
            loss = self.forget(step, part, denoiser)["forget"]
            if backward:
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return self.accelerator.reduce(total, "sum").item()


def mixture_weights(d_retain: Tensor, d_forget: Tensor) -> tuple[Tensor, Tensor]:
    """Density of x_t given the retained image, and given the forgotten one, over that of their even mixture.

    Args:
        d_retain, d_forget: half squared norm of the noise that leads there from either, ``(B,)``.
    Returns: two tensors ``(B,)`` in [0, 2], which add up to 2.
    """
    retain = 2 * torch.sigmoid(d_forget - d_retain)
    return retain, 2 - retain
