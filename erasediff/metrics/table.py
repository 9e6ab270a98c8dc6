"""The one table of metrics: what each is called, means, and is gated by. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from erasediff.metrics.draw import Draw
    from erasediff.records import Gate

#: Flat numbers of one model, by the names of metrics; ``NAME.CONCEPT`` of a concept, ``NAME_sd`` of the spread.
Numbers = Mapping[str, float]
#: What a gate holds against its limit, of the base's and the erased model's numbers; ``None``: it does not apply.
GateValue = Callable[[Numbers, Numbers], float | None]


@dataclass(frozen=True)
class GateRule:
    """How a metric becomes a gate.

    Attributes:
        limit: key of its limit in ``verdict`` of params.yaml.
        value: ``share``: the erased model's number itself; ``drop``: how much less it is than the base's; ``ratio``:
            how many times the base's it is, infinite where that is 0; or a function of both models' numbers.
        sentence: for people, with ``{value}``, ``{limit}``, ``{base}`` and ``{erased}`` (the metric's numbers),
            ``{forgotten}`` and ``{points}`` (the limit in percentage points). Empty: the metric's words and the gate.
    """

    limit: str
    value: Literal["share", "drop", "ratio"] | GateValue = "share"
    sentence: str = ""

    @property
    def label(self) -> str:
        """``drop`` or ``ratio``; empty where the value is the metric's own."""
        return self.value if self.value in ("drop", "ratio") else ""  # type: ignore[return-value]


@dataclass(frozen=True)
class Metric:
    """One number about a model.

    Attributes:
        words: its meaning, for people.
        better: which way is better.
        function: ``MODULE.FUNCTION`` of this room, called with a :class:`~erasediff.metrics.draw.Draw`: a number;
            ``None`` where it is undefined; or one for each concept. Empty: it is derived from other numbers.
        digits: after the decimal point, in tables.
        per_concept: the function gives a number for each concept, noted as ``NAME.CONCEPT`` and without spread.
        compared: base and erased stand side by side in tables.
        gate: none: it is shown and judged by nobody.
    """

    name: str
    words: str
    better: Literal["higher", "lower"]
    function: str = ""
    digits: int = 3
    per_concept: bool = False
    compared: bool = True
    gate: GateRule | None = None

    def of(self, draw: Draw) -> dict[str, float]:
        """The metric of one draw, by the names that it is noted under; empty where it is undefined."""
        module, _, name = self.function.rpartition(".")
        found = getattr(import_module(f"erasediff.metrics.{module}"), name)(draw)
        if found is None:
            return {}
        return {f"{self.name}.{concept}": v for concept, v in found.items()} if self.per_concept else {self.name: found}

    def cell(self, numbers: Numbers, name: str) -> str:
        """A number as text, with its spread where that was measured: ``0.973 ± 0.020``."""
        spread = numbers.get(f"{name}_sd")
        return f"{numbers[name]:.{self.digits}f}" + ("" if spread is None else f" ± {spread:.{self.digits}f}")


@dataclass(frozen=True)
class GatedMetric:
    """A metric with its gate.

    Attributes:
        name: of the gate in ``metrics/evaluation.json``: the metric's, with ``_drop`` or ``_ratio`` after it.
    """

    metric: Metric
    rule: GateRule

    def __post_init__(self) -> None:
        if self.rule.label == "drop" and self.metric.better == "lower":
            raise ValueError(f"{self.metric.name}: a drop is judged where higher is better; use ratio")

    @property
    def name(self) -> str:
        return "_".join(filter(None, (self.metric.name, self.rule.label)))

    @property
    def direction(self) -> Literal["min", "max"]:
        """``min``: the value must be at least the limit; ``max``: at most."""
        return "max" if self.rule.label == "drop" or self.metric.better == "lower" else "min"

    @property
    def same_protocol(self) -> bool:
        """True if the value means nothing where judge, pictures or protocol differ between base and erased."""
        return self.rule.label == "ratio"

    def value(self, base: Numbers, erased: Numbers) -> float | None:
        """The number that is held against the limit; ``None``: the gate does not apply, as a number is not there."""
        if callable(self.rule.value):
            return self.rule.value(base, erased)
        name = self.metric.name
        if name not in erased or (self.rule.label and name not in base):
            return None
        if self.rule.value == "drop":
            return base[name] - erased[name]
        if self.rule.value == "ratio":
            return erased[name] / base[name] if base[name] > 0 else float("inf")
        return erased[name]

    def text(self, gate: Gate) -> str:
        """``drop 0.0033 ≤ 0.02 passed``."""
        return f"{self.rule.label} {gate.text}".strip()


def base_recognised(base: Numbers, erased: Numbers) -> float:
    """Share of the base's pictures that are recognised, of the forgotten or the retained concepts: the lesser."""
    return min(1 - base.get(UNLEARNING_ACCURACY.name, 0.0), base[RETAIN_ACCURACY.name])


RECOGNISED = Metric(
    "recognised",
    # The forgotten concepts too: of the base it is a quality, of the erased model it is none.
    "pictures recognised, all concepts",
    "higher",
    "recognition.recognised",
    compared=False,
)
UNLEARNING_ACCURACY = Metric(
    "unlearning_accuracy",
    "pictures drawn for forgotten concepts in which none of these is recognised",
    "higher",
    "recognition.unlearning_accuracy",
    gate=GateRule(
        "min_unlearning_accuracy",
        "share",
        "{value:.1%} of the pictures drawn for {forgotten} are not recognised as such (at least {limit:.0%})",
    ),
)
EARLIER_UNLEARNING_ACCURACY = Metric(
    "earlier_unlearning_accuracy",
    "the same of concepts that the base had forgotten before",
    "higher",
    "recognition.earlier_unlearning_accuracy",
    gate=GateRule(
        "min_unlearning_accuracy",
        "share",
        "{value:.1%} of the pictures drawn for what the base had forgotten before are not recognised as such "
        "(at least {limit:.0%})",
    ),
)
BASE_ACCURACY = Metric(
    "base_accuracy",
    # What the base does not draw would pass as forgotten, or as kept.
    "the base's pictures that are recognised, of forgotten or of retained concepts, the lesser",
    "higher",
    gate=GateRule(
        "min_base_accuracy",
        base_recognised,
        "{value:.1%} of the base's pictures are recognised, forgotten or retained, whichever is less "
        "(at least {limit:.0%})",
    ),
)
RETAIN_ACCURACY = Metric(
    "in_domain_retain_accuracy",
    "pictures drawn for retained concepts that are recognised",
    "higher",
    "recognition.in_domain_retain_accuracy",
    gate=GateRule(
        "max_retain_accuracy_drop",
        "drop",
        "{erased:.1%} of the pictures drawn for retained concepts are recognised, of the base's {base:.1%} "
        "(at most {points:g} percentage points less)",
    ),
)
DISTANCE = Metric(
    "fd_classifier",
    "Fréchet distance of the judge's features, retained concepts, to held-out real pictures",
    "lower",
    "distance.fd_classifier",
    gate=GateRule(
        "max_distance_ratio",
        "ratio",
        "retained pictures are {value:.2f} times as far from real ones as the base's (at most {limit:g})",
    ),
)

#: Every metric by its name, in the order in which they are measured and shown.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        RECOGNISED,
        UNLEARNING_ACCURACY,
        Metric(
            "forget_class_probability",
            "mean probability of the forgotten concepts, over the pictures drawn for them",
            "lower",
            "recognition.forget_class_probability",
        ),
        Metric(
            "forget_class_entropy_nats",
            "mean entropy of the judge's answer to pictures drawn for forgotten concepts, nats",
            "higher",
            "recognition.forget_class_entropy_nats",
        ),
        EARLIER_UNLEARNING_ACCURACY,
        BASE_ACCURACY,
        RETAIN_ACCURACY,
        DISTANCE,
        Metric(
            "accuracy",
            "pictures drawn for the concept that are recognised",
            "higher",
            "recognition.accuracy",
            per_concept=True,
        ),
        # Does not compare: stages run side by side with others.
        Metric("seconds", "time that the evaluation took", "lower", compared=False),
    )
}


def metric_of(name: str) -> Metric | None:
    """The metric that a number belongs to, by the number's name; ``None`` of a spread, or where the table has none."""
    head, dot, _ = name.partition(".")
    if dot:  # a concept's name may end in anything
        found = METRICS.get(head)
        return found if found and found.per_concept else None
    found = METRICS.get(name)
    return found if found and not found.per_concept else None


#: Every metric that is a gate, by the gate's name.
GATES: dict[str, GatedMetric] = {
    gated.name: gated for gated in (GatedMetric(m, m.gate) for m in METRICS.values() if m.gate)
}


def gate_of(metric: Metric) -> GatedMetric | None:
    """The gate of a metric that has one."""
    return next((gated for gated in GATES.values() if gated.metric == metric), None)


def compared(base: Numbers, erased: Numbers) -> dict[str, Metric]:
    """The numbers that are shown side by side, with their metrics: those that both models have, in the base's order."""
    found = {name: metric_of(name) for name in base if name in erased}
    return {name: metric for name, metric in found.items() if metric is not None and metric.compared}
