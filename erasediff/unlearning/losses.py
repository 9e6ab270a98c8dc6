"""Retain and forget loss of one step, as functions of (step, part of the batch)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from erasediff import randomness
from erasediff.data.concept_images import ConceptImages
from erasediff.families.family import NULL_CONCEPT, Condition, Family
from erasediff.families.surrogates import surrogates
from erasediff.training.encoding import EncodedPrompts, encoded
from erasediff.training.state import draw_noise, process_share, sample_errors, shared_mse, sum_gradients
from erasediff.unlearning.answers import Answers
from erasediff.unlearning.methods.method import TEACHER_PASSES
from erasediff.unlearning.settings import Settings
from erasediff.unlearning.targets import ForgetBatch, Relabelling, forget_target
from erasediff.unlearning.words import takes_words


class Task(NamedTuple):
    """What is asked of a denoiser.

    Attributes:
        noisy: ``(B, …)``, at ``timesteps`` ``(B,)``.
        target: what the prediction is held against, ``(B, …)``.
    """

    noisy: Tensor
    timesteps: Tensor
    condition: Condition
    target: Tensor


class Losses:
    """Losses of a denoiser beside its teacher. A sum over parts and processes is the mean over the global batch.

    Attributes:
        teacher: what targets are predicted with: the frozen base.
        answers: its predictions.
        sample_weights: gives the weight of each sample of the forget loss, by its error (``Method.sample_weights``).
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
        sample_weights: Callable[[Tensor], Tensor | None],
        *,
        cache: Path | None = None,
    ):
        self.family, self.denoiser, self.teacher = family, denoiser, family.denoiser
        self.settings, self.seed, self.sample_weights = settings, seed, sample_weights
        self.accelerator, self.device = accelerator, accelerator.device
        self.forget_set, self.retain_set = forget_set, retain_set
        self.latents = {id(data): encoded(family, data.images, cache) for data in (forget_set, retain_set)}
        self.relabelling = Relabelling(forget_set, retain_set, settings, by_kind=takes_words(family))
        prompts = self.relabelling.prompts() + ([NULL_CONCEPT] if family.has_null else [])
        half = accelerator.mixed_precision != "no"
        self.condition = EncodedPrompts(family, prompts, self.device, None if half else torch.float32, cache)
        self.answers = Answers(self.device)

    def share_of(self, n: int, part: int) -> slice:
        """Return a part of this process's share of a batch of ``n``."""
        return process_share(n, self.accelerator, part, self.settings.accumulate)

    def batch(self, stream: str, step: int, n: int, data: ConceptImages) -> tuple[Tensor, list[str]]:
        """Return the indices of a global batch, and their prompts."""
        index = randomness.batch_indices(len(data), n, seed=self.seed, stream=stream, step=step)
        return index, [data.prompts[i] for i in index.tolist()]

    def encoded(self, data: ConceptImages, index: Tensor) -> Tensor:
        """Return what is noised, on the device."""
        return self.latents[id(data)][index].to(self.device)

    def ask_ahead(self, steps: range, weights: Callable[[int], Mapping[str, float]]) -> None:
        """Ask the teacher all that these steps will ask it; it is not needed by them any more.

        Args:
            weights: gives the losses that a step computes, by name (``Method.weights``).
        """
        tasks = {"retain": self._retain_tasks, "forget": self._forget_tasks}
        for step in steps:
            for name in weights(step):
                for part in range(self.settings.accumulate):
                    with self.accelerator.autocast():
                        list(tasks[name](step, part))
            self.answers.keep()

    def _answer(self, loss: str, step: int, part: int, predict: Callable[[], Tensor]) -> Tensor:
        """Return what the teacher predicts; where both losses share a batch, it is asked for the first alone."""
        return self.answers.of(step, f"{'both' if self.settings.shared_batch else loss}.{part}", predict)

    def retain(self, step: int, part: int = 0) -> dict[str, Tensor]:
        r"""L_r: denoising of retained images under their own prompt, against noise or the teacher."""
        s = self.settings
        loss, *anchoring = (
            shared_mse(self._predicted(self.denoiser, task), task.target, s.retain_batch_size)
            for task in self._retain_tasks(step, part)
        )
        return {"retain": loss + s.latent_anchoring * anchoring[0] if anchoring else loss}

    def _retain_tasks(self, step: int, part: int) -> Iterator[Task]:
        """Yield what the retain loss asks of the student, and with ``latent_anchoring`` what the second loss asks."""
        family, s = self.family, self.settings
        n = s.retain_batch_size
        index, prompts = self.batch("retain", step, n, self.retain_set)
        share = self.share_of(n, part)
        prompts, clean = prompts[share], self.encoded(self.retain_set, index[share])
        generator = randomness.generator(self.seed, "retain-noise", step)
        noise, timesteps = draw_noise(family, clean, n, share, generator)
        noisy, target = family.noised(clean, noise, timesteps)
        dropout = s.condition_dropout if family.has_null else 0.0
        dropped = (torch.rand(n, generator=generator) < dropout)[share]
        if s.retain_target == "teacher":
            own = Task(noisy, timesteps, self.condition(prompts), target)
            answer = self._answer("retain", step, part, lambda: self._predicted(self.teacher, own))
            # Without a condition the teacher still draws what is to be forgotten: there, the noise is the target.
            is_null = dropped.to(self.device).view(-1, *[1] * (clean.ndim - 1))
            target = torch.where(is_null, target, answer)
        asked = [NULL_CONCEPT if drop else p for p, drop in zip(prompts, dropped.tolist(), strict=True)]
        task = Task(noisy, timesteps, self.condition(asked), target)
        yield task
        if s.latent_anchoring:
            yield self._latent_anchoring(step, part, share, task)

    def _latent_anchoring(self, step: int, part: int, share: slice, task: Task) -> Task:
        """Return a task under random embeddings instead, one for each noised picture; its target is the teacher's."""
        n = self.settings.retain_batch_size
        generator = randomness.generator(self.seed, "latent-anchoring", step)
        prompts = [prompt for _, prompt in self.relabelling.forgotten]
        picked = torch.randint(len(prompts), (n,), generator=generator).tolist()
        condition = surrogates(self.condition([prompts[i] for i in picked]), generator).take(torch.arange(n)[share])
        task = task._replace(condition=condition)
        answer = self.answers.of(step, f"anchoring.{part}", lambda: self._predicted(self.teacher, task))
        return task._replace(target=answer)

    def _predicted(self, denoiser: nn.Module, task: Task) -> Tensor:
        return self.family.predict(denoiser, task.noisy, task.timesteps, task.condition)

    def forget_batch(self, step: int, generator: torch.Generator, part: int = 0) -> ForgetBatch:
        """Return images that x_t of the forget loss is made from: forgotten, retained, half of each, or of noise."""
        s, n = self.settings, self.settings.forget_batch_size
        from_retain = {"forget": 0, "noise": 0, "retain": n, "mixed": n // 2}[s.forget_source]
        from_forget = n - from_retain
        share = self.share_of(n, part)
        clean_parts: list[Tensor] = []
        asked: list[str] = []
        answers: list[str] = []
        if from_forget:
            index, prompts = self.batch("forget", step, from_forget, self.forget_set)
            if len(index[share]):
                clean_parts.append(self.encoded(self.forget_set, index[share]))
            asked += prompts
            if s.forget_target == "relabel":
                answers += self.relabelling.of_forgotten(index.tolist(), generator)
        if from_retain:
            stream = "retain" if s.shared_batch else "forget-from-retain"
            index, _ = self.batch(stream, step, from_retain, self.retain_set)
            prompts, fitting = self.relabelling.of_retained(index.tolist(), generator)
            index = index[max(0, share.start - from_forget) : max(0, share.stop - from_forget)]
            if len(index):
                clean_parts.append(self.encoded(self.retain_set, index))
            asked += prompts
            answers += fitting
        clean = torch.cat(clean_parts)
        if s.forget_source == "noise":
            clean = (torch.rand((n, *clean.shape[1:]), generator=generator)[share] * 2 - 1).to(clean)
        return ForgetBatch(clean, asked[share], answers[share])

    def forget(self, step: int, part: int = 0, denoiser: nn.Module | None = None) -> dict[str, Tensor]:
        r"""L_f: prediction under the forgotten concept against another target; own timesteps and noise."""
        (task,) = self._forget_tasks(step, part)
        errors = sample_errors(self._predicted(denoiser or self.denoiser, task), task.target)
        weights = self.sample_weights(errors.detach())
        errors = errors if weights is None else errors * self._normalised(weights)
        return {"forget": errors.sum() / self.settings.forget_batch_size}

    def _forget_tasks(self, step: int, part: int) -> Iterator[Task]:
        family, s = self.family, self.settings
        generator = randomness.generator(self.seed, "forget-noise", step)
        batch = self.forget_batch(step, generator, part)
        if s.shared_batch:
            generator = randomness.generator(self.seed, "retain-noise", step)
        n = s.forget_batch_size
        shape, share = (n, *batch.clean.shape[1:]), self.share_of(n, part)
        noise, timesteps = draw_noise(family, batch.clean, n, share, generator)
        noisy, truth = family.noised(batch.clean, noise, timesteps)

        def uniform() -> Tensor:
            drawn = torch.rand(shape, generator=generator)[share].to(batch.clean)
            target = family.noised(batch.clean, drawn, timesteps)[1]
            # Of a model that predicts the picture itself, noise stands for the picture.
            return drawn if target is batch.clean else target

        def teacher_prediction(prompts: Sequence[str]) -> Tensor:
            return family.predict(self.teacher, noisy, timesteps, self.condition(prompts))

        def aim() -> Tensor:
            anchored = self.relabelling.anchored(batch.asked) if s.forget_target == "anchor" else []
            return forget_target(s.forget_target, teacher_prediction, truth, batch, anchored=anchored, uniform=uniform)

        target = self._answer("forget", step, part, aim) if s.forget_target in TEACHER_PASSES else aim()
        yield Task(noisy, timesteps, self.condition(batch.asked), target)

    def _normalised(self, weights: Tensor) -> Tensor:
        """Return weights with a mean of one over the same part of all processes' shares."""
        total, count = self.accelerator.reduce(torch.stack([weights.sum(), weights.new_tensor(len(weights))]), "sum")
        return weights * (count / total)

    def constraint_gap(self, step: int, trainable: dict[str, Tensor]) -> float:
        """g(θ) = L_f(θ) − L_f(φᴷ) with φᴷ from K Adam steps on a copy: a measurement that leaves nothing behind."""
        # Of a copy, the frozen weights are the student's own.
        frozen = {id(p): p for n, p in self.denoiser.named_parameters() if n not in trainable}
        inner = copy.deepcopy(self.denoiser, frozen)
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
