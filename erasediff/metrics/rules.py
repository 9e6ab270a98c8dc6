"""How a metric is described, and how it becomes a gate. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from erasediff.metrics.intervals import Estimate, beside, difference, times
from erasediff.records import untold

if TYPE_CHECKING:
    from torch import Tensor

    from erasediff.metrics.draw import Draw
    from erasediff.records import Gate

#: Flat numbers of one model, by the names of metrics; ``NAME_sd`` is the spread over draws, ``NAME_low`` and
#: ``NAME_high`` are the ends of the interval. Of a concept: ``NAME.CONCEPT``, ``NAME_low.CONCEPT``, …
Numbers = Mapping[str, float]
#: What a gate holds against its limit, of the base's and the erased model's numbers, and of the correlation of both by
#: name; ``None``: it does not apply.
GateValue = Callable[[Numbers, Numbers, Numbers], Estimate | None]


@dataclass(frozen=True)
class GateRule:
    """How a metric becomes a gate.

    Attributes:
        limit: key of its limit in ``verdict`` of params.yaml.
        value: ``share``: the erased model's number itself; ``drop``: how much less it is than the base's; ``rise``: how
            much more; ``ratio``: how many times the base's it is; or a function of both models' numbers.
        of: metrics that a function takes its numbers from; fewest pictures of these are those of the gate.
        sentence: for people, with ``{value}``, ``{limit}``, ``{base}`` and ``{erased}`` (the metric's numbers),
            ``{forgotten}`` and ``{points}`` (the limit in percentage points). Empty: the metric's words and the gate.
        remedy: what to try where it fails.
        optional: where no limit is given there is no gate.
        same_protocol: of a function: it means nothing where base and erased were measured in different ways.
    """

    limit: str
    value: Literal["share", "drop", "rise", "ratio"] | GateValue = "share"
    sentence: str = ""
    remedy: str = ""
    of: tuple[str, ...] = ()
    optional: bool = False
    same_protocol: bool = False

    @property
    def label(self) -> str:
        """``drop``, ``rise`` or ``ratio``; empty where the value is the metric's own."""
        return "" if callable(self.value) or self.value == "share" else self.value

    def interval(self, low: float, high: float) -> str:
        """The interval of its value for people: of a share in per cent, of a change in percentage points."""
        if self.label == "ratio":
            return f"allowing for chance, {low:.2f} to {high:.2f} times"
        if self.label:
            return f"allowing for chance, a {self.label} of {100 * low:.1f} to {100 * high:.1f} points"
        return f"allowing for chance, {low:.1%} to {high:.1%}"


@dataclass(frozen=True)
class Metric:
    """One number about a model.

    Attributes:
        words: its meaning, for people.
        title: what a table for people calls it; empty: the name.
        better: which way is better; a gate without it is refused.
        function: ``MODULE.FUNCTION`` of this room, called with a :class:`~erasediff.metrics.draw.Draw`; ``None`` where
            it is undefined; else as ``kind`` says, or that for each concept. Empty: it is derived from other numbers.
        kind: what the function returns. ``share``: a bool a picture; ``mean``: a number a picture; ``set``: one number
            of the pictures drawn for retained concepts together.
        ends: of a ``set``: between which numbers it lies; ``None``: it is a distance, ``>= 0``.
        resamples: of a ``set``: bootstrap resamples of its interval.
        least: pictures without which nothing is told of it: no number is given, and no gate decides.
        digits: after the decimal point, in tables.
        per_concept: the function gives a number for each concept, noted as ``NAME.CONCEPT`` and without spread.
        compared: base and erased stand side by side in tables.
        gate: none: it is shown and judged by nobody.
    """

    name: str
    words: str
    better: Literal["higher", "lower"]
    function: str = ""
    kind: Literal["share", "mean", "set"] = "share"
    ends: tuple[float, float] | None = None
    resamples: int = 50
    least: int = 30
    title: str = ""
    digits: int = 3
    per_concept: bool = False
    compared: bool = True
    gate: GateRule | None = None

    @property
    def heading(self) -> str:
        """For people, with an arrow to the better side: ``distance to held-out pictures ↓``."""
        return f"{self.title or self.name.replace('_', ' ')} {'↑' if self.better == 'higher' else '↓'}"

    def of(self, draw: Draw) -> dict[str, Tensor | float]:
        """What the function says of a draw, by the names that its numbers have; empty where it is undefined."""
        module, _, name = self.function.rpartition(".")
        found = getattr(import_module(f"erasediff.metrics.{module}"), name)(draw)
        if found is None:
            return {}
        return {f"{self.name}.{concept}": v for concept, v in found.items()} if self.per_concept else {self.name: found}

    def of_resamples(self, draw: Draw, chosen: Tensor) -> Tensor:
        """What the function of a ``set`` says of resamples of a draw, ``(R,)``: all at once, where it has a way.

        Args:
            chosen: rows of each, ``(R, N)``.
        """
        import torch

        module, _, name = self.function.rpartition(".")
        at_once = getattr(import_module(f"erasediff.metrics.{module}"), f"{name}_of_resamples", None)
        if at_once is not None:
            found: Tensor = at_once(draw, chosen)
            return found
        return torch.tensor([float(self.of(draw.taken(rows))[self.name]) for rows in chosen], dtype=torch.float64)

    def untold(self, pictures: int | None) -> str:
        """Why no number is given where it stands on so few pictures; empty where it is, or nobody counted them."""
        return untold(pictures, self.least) if pictures is not None and pictures < self.least else ""

    def cell(self, numbers: Numbers, name: str) -> str:
        """A number as text, with its interval where that is known, else its spread: ``0.973 (0.948 to 0.986)``."""
        value, low, high, spread = (numbers.get(beside(name, end)) for end in ("", "low", "high", "sd"))
        if low is not None and high is not None:
            return f"{self.text(value)} ({self.text(low)} to {self.text(high)})"
        return self.text(value) + ("" if spread is None else f" ± {self.text(spread)}")

    def text(self, value: float | None) -> str:
        """A number with the metric's digits; what rounds to nothing has no sign."""
        if value is None:
            return ""
        return f"{round(value, self.digits) + 0.0:.{self.digits}f}"


@dataclass(frozen=True)
class GatedMetric:
    """A metric with its gate.

    Attributes:
        name: of the gate in ``metrics/evaluation.json``: the metric's, with ``_drop``, ``_rise`` or ``_ratio`` behind.
    """

    metric: Metric
    rule: GateRule

    def __post_init__(self) -> None:
        if self.metric.better not in ("higher", "lower"):
            raise ValueError(f"{self.metric.name}: better is {self.metric.better!r}: a gate needs 'higher' or 'lower'")
        if self.rule.label == "drop" and self.metric.better == "lower":
            raise ValueError(f"{self.metric.name}: a drop is judged where higher is better; use ratio or rise")
        if self.rule.label == "rise" and self.metric.better == "higher":
            raise ValueError(f"{self.metric.name}: a rise is judged where lower is better; use drop")

    @property
    def name(self) -> str:
        return "_".join(filter(None, (self.metric.name, self.rule.label)))

    @property
    def title(self) -> str:
        """For people: ``drop of retained concepts recognised``."""
        return " of ".join(filter(None, (self.rule.label, self.metric.title or self.metric.name)))

    @property
    def direction(self) -> Literal["min", "max"]:
        """``min``: the value must be at least the limit; ``max``: at most."""
        return "max" if self.rule.label == "drop" or self.metric.better == "lower" else "min"

    @property
    def same_protocol(self) -> bool:
        """True if the value means nothing where judge, pictures or protocol differ between base and erased."""
        return self.rule.label == "ratio" or self.rule.same_protocol

    @property
    def needs_base(self) -> bool:
        """True if the value is made of the base's number too."""
        return callable(self.rule.value) or bool(self.rule.label)

    @property
    def own_share(self) -> bool:
        """True if the value is a share of one model, whose interval is Wilson's."""
        return self.rule.value == "share" and self.metric.kind == "share"

    def estimate(self, base: Numbers, erased: Numbers, pairing: Numbers | None = None) -> Estimate | None:
        """The number that is held against the limit, with its interval; ``None``: the gate does not apply, as a number
        is not there.

        Args:
            pairing: correlation of both models' numbers, by name, over the same prompts and seeds; none where they had
                others.
        """
        name, pairing = self.metric.name, pairing or {}
        if callable(self.rule.value):
            return self.rule.value(base, erased, pairing)
        if name not in erased or (self.rule.label and name not in base):
            return None
        after = Estimate.of(erased, name)
        if not self.rule.label:
            return after
        before = Estimate.of(base, name)
        if self.rule.value == "ratio":
            return times(after, before, pairing.get(name, 0.0))
        return difference(*((before, after) if self.rule.value == "drop" else (after, before)), pairing.get(name, 0.0))

    def value(self, base: Numbers, erased: Numbers) -> float | None:
        """The number of :meth:`estimate` alone."""
        found = self.estimate(base, erased)
        return None if found is None else found.value

    def text(self, gate: Gate) -> str:
        """``drop 0.0033 ≤ 0.02 passed``."""
        return f"{self.rule.label} {gate.text}".strip()
