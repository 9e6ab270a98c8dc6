"""How a model is measured, and what it is asked for and held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from torch import Tensor

from erasediff.data.inputs import Given
from erasediff.metrics.intervals import CONFIDENCE
from erasediff.metrics.looks import confidence_of, looks_at
from erasediff.records import Value, told_size


@dataclass(frozen=True)
class Protocol:
    """How a model is measured: the section ``evaluate`` of params.yaml, and the seed. It is noted with the numbers.

    Attributes:
        samples_per_concept: pictures of a draw.
        draws: how often all of them are drawn, from other noise.
        batch_size: pictures drawn at once.
        sampler: class of a scheduler of diffusers; ``None``: the model's own.
        max_draws: draw on, up to so often, while it cannot be told whether :attr:`decide_at` is kept, and stop before
            ``draws`` where it is missed for sure; ``None``: exactly ``draws``.
        decide_at: the limit of unlearning accuracy that this is about.
        size: height and width of the pictures; ``None``: the model's own.
    """

    samples_per_concept: int
    draws: int
    inference_steps: int | None
    guidance_scale: float | None
    batch_size: int
    seed: int
    sampler: str | None = None
    max_draws: int | None = None
    decide_at: float | None = None
    size: tuple[int, int] | None = None

    def noted(self) -> dict[str, Value]:
        """What is noted with the numbers: all that changes one, of the later entries those that are given."""
        later = ("sampler", "max_draws", "decide_at")
        entries = {name: value for name, value in asdict(self).items() if name not in ("batch_size", "size")}
        entries |= told_size(self.size)
        noted = {name: value for name, value in entries.items() if name not in later or value is not None}
        return noted if self.max_draws is None else noted | {"confidence": self.confidence}

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of draws after which it is asked whether more are needed; the last is the most there will be."""
        return looks_at(self.draws, self.max_draws)

    @property
    def confidence(self) -> float:
        """Of each interval, at each look: all looks together err as often as one of :data:`CONFIDENCE`."""
        return CONFIDENCE if self.max_draws is None else confidence_of(len(self.looks))


#: Names of a protocol's entries but the seed: entries of ``evaluate`` in params.yaml.
PROTOCOL = {entry.name for entry in fields(Protocol)} - {"seed"}


@dataclass(frozen=True)
class Plan:
    """What a model is asked for, and what its pictures are held against.

    Attributes:
        held_out: real test pictures of the retained concepts, float32 ``(N, C, H, W)`` in [-1, 1].
        forgotten: concepts to forget; may be empty, then only utility is measured.
        earlier: concepts that the base had forgotten already: neither to forget nor retained.
        prompts: what the model is asked for a concept, in turns; its name where there are none.
        given: of a prompt, the seed and the guidance of its rows: the first picture that it asks for has those of the
            first row, and so on; a prompt without, and a picture beyond the rows, has the protocol's.
        training: pictures that the model may have copied, likewise; ``None``: nothing is said of copies.
        self_checks: planted models are measured too, made of this one.
        domains: of each concept, such as ``object`` or ``style``; empty: all are of one.
    """

    held_out: Tensor
    forgotten: Sequence[str]
    earlier: Sequence[str] = ()
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    given: Mapping[str, Sequence[Given]] = field(default_factory=dict)
    training: Tensor | None = None
    self_checks: bool = False
    domains: Mapping[str, str] = field(default_factory=dict)
