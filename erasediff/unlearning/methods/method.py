"""What the loop asks of a method. Loads no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from erasediff.records import Value
from erasediff.unlearning.settings import DEFAULTS, READ_BY_RULE, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from erasediff.unlearning.importance import Correction, Importance
    from erasediff.unlearning.losses import Losses

#: (step, part of the batch) → one or both losses by name, from one forward pass.
LossFunction: TypeAlias = "Callable[[int, int], dict[str, Tensor]]"

#: A forward and a backward pass, in forward passes.
TRAINED = 3
#: Forward passes of the teacher that a forget target takes.
TEACHER_PASSES = {"relabel": 1, "anchor": 1, "negative_guidance": 2}
#: What a comparison gives every variant alike: never refused, though a method may not use it.
BUDGET = {"outer_steps", "forget_batch_size", "retain_batch_size"}


class Method:
    """One way to erase, with the settings of one run. A composed method is a subclass that sets attributes.

    Attributes:
        name: by which it is chosen.
        fixes: settings that the method determines.
        retain_weight, forget_weight: 1 descends a loss, -1 climbs it, 0 leaves it out.
        unit_lengths: both gradients are brought to length one before they are joined, and every update has the length
            ``max_grad_norm``.
        needs_fisher: the method needs the Fisher information of both sets, whatever the mask.
        by_words: what suits it on a model that takes words, where it differs from
            :data:`erasediff.unlearning.settings.BY_WORDS`; keyed as that is.
        recorded: attributes of the method itself that the record of a run names.
        settings: those of this run, the fixed ones included.
    """

    name: ClassVar[str]
    fixes: ClassVar[Mapping[str, Value]] = {}
    retain_weight: ClassVar[float] = 1.0
    forget_weight: ClassVar[float] = 1.0
    unit_lengths: ClassVar[bool] = False
    needs_fisher: ClassVar[bool] = False
    by_words: ClassVar[Mapping[tuple[str, str], Mapping[str, Value]]] = {}
    recorded: ClassVar[tuple[str, ...]] = ("retain_weight", "forget_weight")

    def __init__(self, settings: Settings):
        self.settings = settings

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Make the method with fields of :class:`Settings`.

        Raises: ValueError: an unknown setting; settings that do not go together; a setting that the method fixes at
            another value, or that changes nothing here, unless it stands at its default.
        """
        try:
            method = cls(Settings(**{**settings, **cls.fixes}))
        except TypeError as error:
            raise ValueError(str(error).replace("Settings.__init__()", "erase()")) from None
        for name in ("shard", "offload"):
            if getattr(method.settings, name) and cls.corrections is not Method.corrections:
                raise ValueError(f"{name} does not go with method {cls.name}, which corrects whole gradients")
        if method.settings.adapter != "none" and cls.corrections is not Method.corrections:
            raise ValueError(
                f"adapter {method.settings.adapter} does not go with method {cls.name}: its penalty is on whole weights"
            )
        ignored = method.ignored()
        for name, value in settings.items():
            default = DEFAULTS[name]
            if value in (default, cls.fixes.get(name, default)):
                continue
            if name in cls.fixes:
                raise ValueError(
                    f"{name} {value} does not go with method {cls.name}, which fixes it at {cls.fixes[name]!r}: "
                    f"leave it at its default, {default!r}"
                )
            if name in ignored and name not in BUDGET:
                reason = f"{name} {value} has no effect with {ignored[name]}"
                raise ValueError(f"{reason}: leave it at its default, {default!r}")
        return method

    def with_updates(self, updates: int) -> Self:
        """Return the method with another number of updates."""
        return type(self)(dataclasses.replace(self.settings, outer_steps=updates))

    def weights(self, step: int) -> dict[str, float]:
        """Return the weight of each loss that is computed at a step."""
        both = {"retain": self.retain_weight, "forget": self.forget_weight}
        return {name: weight for name, weight in both.items() if weight}

    def active_losses(self, losses: Losses, step: int) -> list[LossFunction]:
        """Return what computes the losses that have a weight at a step."""
        return [getattr(losses, name) for name in self.weights(step)]

    def sample_weights(self, errors: Tensor) -> Tensor | None:
        """Return the weight of each sample of the forget loss, before they are brought to a mean of one.

        Args:
            errors: each sample's mean squared error, ``(B,)``.
        """
        return None

    def corrections(self, importance: Importance) -> list[Correction]:
        """Return what changes the gradients at every update; made from the base, before the first."""
        return importance.masks(self.settings)

    def reads(self) -> set[str]:
        """Return of which sets the pictures themselves are read: ``forget``, ``retain``."""
        s = self.settings
        forgets = bool(self.forget_weight) or s.gap_every > 0
        measured = self.needs_fisher or s.mask == "fisher_ratio"
        forget = forgets and s.forget_source != "retain" or s.mask == "saliency" or measured
        retain = bool(self.retain_weight) or forgets and s.forget_source in ("retain", "mixed") or measured
        return {name for name, read in (("forget", forget), ("retain", retain)) if read}

    def passes_of_update(self, step: int) -> int:
        """Return the images through the network in one update, a backward pass counted as two forward ones.

        Without the measurement of the constraint gap.
        """
        s, weights, passes = self.settings, self.weights(step), 0
        trained = TRAINED + s.gradient_checkpointing
        if "retain" in weights:
            passes += s.retain_batch_size * (trained + (s.retain_target == "teacher"))
            passes += s.retain_batch_size * (trained + 1) if s.latent_anchoring else 0
        if "forget" in weights:
            teacher = 0 if s.shared_batch else TEACHER_PASSES.get(s.forget_target, 0)
            passes += s.forget_batch_size * (trained + teacher)
        return passes

    def passes_before(self, forget_images: int, retain_images: int) -> int:
        """Return the images through the network before the first update: for a mask, or the Fisher information."""
        s, total = self.settings, 0
        if s.mask == "saliency":
            total += TRAINED * s.forget_batch_size * -(-forget_images // s.forget_batch_size)
        if s.mask == "fisher_ratio" or self.needs_fisher:
            total += TRAINED * (min(forget_images, s.fisher_samples) + min(retain_images, s.fisher_samples))
        return total

    def ignored(self) -> dict[str, str]:
        """Return the settings that change nothing in this run, and why: ``{"eta": "multiplier fixed"}``."""
        s, method = self.settings, f"method {self.name}"
        chosen = f", which {method} fixes" if "multiplier" in self.fixes else ""
        retains, forgets = bool(self.retain_weight), bool(self.forget_weight)
        # Each group of settings: whether it is read, and what says so.
        rules = [
            (s.forget_target == "anchor", f"forget_target {s.forget_target}", ["anchor"]),
            (s.mask == "saliency", f"mask {s.mask}", ["mask_fraction"]),
            (s.mask == "fisher_ratio" or self.needs_fisher, f"{method} and mask {s.mask}", ["fisher_samples"]),
            (s.gap_every > 0, f"gap_every {s.gap_every}", ["inner_steps", "gap_tolerance"]),
            (s.adapter == "lora", f"adapter {s.adapter}", ["rank", "lora_alpha"]),
            *((s.multiplier in by, f"multiplier {s.multiplier}{chosen}", [name]) for name, by in READ_BY_RULE.items()),
            (retains, method, ["retain_batch_size", "retain_target", "condition_dropout", "latent_anchoring"]),
            (retains and forgets, method, ["shared_batch"]),
            (forgets, method, ["multiplier", *READ_BY_RULE]),
            (forgets or s.gap_every > 0, method, ["forget_target", "forget_source", "anchor"]),
            (forgets or s.gap_every > 0 or s.mask == "saliency", method, ["forget_batch_size"]),
        ]
        return {name: reason for read, reason, names in rules if not read for name in names}

    def effective(self) -> dict[str, Value]:
        """Return the settings that matter to this run, with the method's own numbers."""
        ignored = self.ignored()
        own: dict[str, Value] = {name: getattr(self, name) for name in self.recorded}
        return own | {name: _told(value) for name, value in vars(self.settings).items() if name not in ignored}


def _told(value: Value | Mapping[str, str]) -> Value:
    """A setting as the record has it: ``dotted: hatched, star: circle`` of a mapping."""
    return ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
