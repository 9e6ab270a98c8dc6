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


#: A number below this counts as this, where another is divided by it.
NOTHING = 1e-9


def ratio(number: float, reference: float) -> float:
    """How many times the reference a number ``>= 0`` is: always finite, and 1 of nothing to nothing."""
    return max(number, NOTHING) / max(reference, NOTHING)


@dataclass(frozen=True)
class GateRule:
    """How a metric becomes a gate.

    Attributes:
        limit: key of its limit in ``verdict`` of params.yaml.
        value: ``share``: the erased model's number itself; ``drop``: how much less it is than the base's; ``ratio``:
            how many times the base's it is; or a function of both models' numbers.
        sentence: for people, with ``{value}``, ``{limit}``, ``{base}`` and ``{erased}`` (the metric's numbers),
            ``{forgotten}`` and ``{points}`` (the limit in percentage points). Empty: the metric's words and the gate.
        remedy: what to try where it fails.
    """

    limit: str
    value: Literal["share", "drop", "ratio"] | GateValue = "share"
    sentence: str = ""
    remedy: str = ""

    @property
    def label(self) -> str:
        """``drop`` or ``ratio``; empty where the value is the metric's own."""
        return self.value if self.value in ("drop", "ratio") else ""  # type: ignore[return-value]


@dataclass(frozen=True)
class Metric:
    """One number about a model.

    Attributes:
        words: its meaning, for people.
        title: what a table for people calls it; empty: the name.
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
    title: str = ""
    digits: int = 3
    per_concept: bool = False
    compared: bool = True
    gate: GateRule | None = None

    @property
    def heading(self) -> str:
        """For people, with an arrow to the better side: ``distance to held-out pictures ↓``."""
        return f"{self.title or self.name.replace('_', ' ')} {'↑' if self.better == 'higher' else '↓'}"

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
            return ratio(erased[name], base[name])
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
        "It forgot too little: raise erase.outer_steps or erase.eta, or try another erase.method.",
    ),
    title="forgotten concepts not recognised",
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
        "What the base had forgotten came back: lower erase.learning_rate or erase.outer_steps.",
    ),
    title="concepts forgotten before, not recognised",
)
BASE_ACCURACY = Metric(
    "base_accuracy",
    # What the base does not draw would pass as forgotten, or as kept.
    "the base's pictures that are recognised, of forgotten or of retained concepts, the lesser",
    "higher",
    gate=GateRule(
        "min_base_accuracy",
        base_recognised,
        "The base model draws recognisable pictures, both of what was to be forgotten and of the rest ({value:.1%} or "
        "more; a comparison needs {limit:.0%})",
        "The base draws too badly to compare with: raise pretrain.steps, or look at evaluate.inference_steps and "
        "evaluate.guidance_scale.",
    ),
    title="base model's pictures recognised",
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
        "It lost too much: lower erase.learning_rate, erase.eta or erase.outer_steps.",
    ),
    title="retained concepts recognised",
)
DISTANCE = Metric(
    "fd_classifier",
    "Fréchet distance of the judge's features, retained concepts, to held-out pictures",
    "lower",
    "distance.fd_classifier",
    gate=GateRule(
        "max_distance_ratio",
        "ratio",
        "Retained pictures are {value:.2f} times as far from held-out ones as the base's (at most {limit:g})",
        "Retained pictures became worse: lower erase.learning_rate or erase.eta, or give more pictures to retain.",
    ),
    title="distance to held-out pictures",
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
            title="judge's belief in forgotten concepts",
        ),
        Metric(
            "forget_class_entropy_nats",
            "mean entropy of the judge's answer to pictures drawn for forgotten concepts, nats",
            "higher",
            "recognition.forget_class_entropy_nats",
            title="judge's doubt about their pictures",
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
            title="pictures recognised",
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
