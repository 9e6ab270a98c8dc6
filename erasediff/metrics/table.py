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

#: Endings of numbers that go with another one.
SPREAD = ("_sd", "_low", "_high")


@dataclass(frozen=True)
class GateRule:
    """How a metric becomes a gate.

    Attributes:
        name: of the gate in ``metrics/evaluation.json``.
        limit: key of its limit in ``verdict`` of params.yaml.
        direction: ``min``: the value must be at least the limit; ``max``: at most.
        value: made by :func:`share`, :func:`drop` or :func:`ratio`.
        sentence: for people, with ``{value}``, ``{limit}``, ``{base}`` and ``{erased}`` (the metric's numbers),
            ``{forgotten}`` and ``{points}`` (the limit in percentage points). Empty: the metric's words and the gate.
        label: what the value is of the metric, before it in a table.
        same_protocol: means nothing where judge, held-out pictures or protocol differ between base and erased.
    """

    name: str
    limit: str
    direction: Literal["min", "max"]
    value: GateValue
    sentence: str = ""
    label: str = ""
    same_protocol: bool = False

    def text(self, gate: Gate) -> str:
        """``drop 0.0033 ≤ 0.02 passed``."""
        return f"{self.label} {gate.text}".strip()


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


def share(metric: str) -> GateValue:
    """The erased model's number itself."""
    return lambda base, erased: erased.get(metric)


def drop(metric: str) -> GateValue:
    """How much less the erased model has than the base."""
    return lambda base, erased: base[metric] - erased[metric] if metric in base and metric in erased else None


def ratio(metric: str) -> GateValue:
    """How many times the base's number the erased model has; infinite where the base has none."""

    def value(base: Numbers, erased: Numbers) -> float | None:
        if metric not in base or metric not in erased:
            return None
        return erased[metric] / base[metric] if base[metric] > 0 else float("inf")

    return value


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
        "unlearning_accuracy",
        "min_unlearning_accuracy",
        "min",
        share("unlearning_accuracy"),
        "{value:.1%} of the pictures drawn for {forgotten} are not recognised as such (at least {limit:.0%})",
    ),
)
EARLIER_UNLEARNING_ACCURACY = Metric(
    "earlier_unlearning_accuracy",
    "the same of concepts that the base had forgotten before",
    "higher",
    "recognition.earlier_unlearning_accuracy",
    gate=GateRule(
        "earlier_unlearning_accuracy",
        "min_unlearning_accuracy",
        "min",
        share("earlier_unlearning_accuracy"),
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
        "base_accuracy",
        "min_base_accuracy",
        "min",
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
        "in_domain_retain_accuracy_drop",
        "max_retain_accuracy_drop",
        "max",
        drop("in_domain_retain_accuracy"),
        "{erased:.1%} of the pictures drawn for retained concepts are recognised, of the base's {base:.1%} "
        "(at most {points:g} percentage points less)",
        label="drop",
    ),
)
DISTANCE_RATIO = GateRule(
    "fd_classifier_ratio",
    "max_distance_ratio",
    "max",
    ratio("fd_classifier"),
    "retained pictures are {value:.2f} times as far from real ones as the base's (at most {limit:g})",
    label="ratio",
    same_protocol=True,
)
DISTANCE = Metric(
    "fd_classifier",
    "Fréchet distance of the judge's features, retained concepts, to held-out real pictures",
    "lower",
    "distance.fd_classifier",
    gate=DISTANCE_RATIO,
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
    if name.endswith(SPREAD):
        return None
    found = METRICS.get(name) or METRICS.get(name.partition(".")[0])
    return found if found and found.per_concept == (found.name != name) else None


def gate_rules() -> dict[str, tuple[Metric, GateRule]]:
    """Each gate's metric and rule, by the gate's name."""
    return {metric.gate.name: (metric, metric.gate) for metric in METRICS.values() if metric.gate}


def compared(base: Numbers, erased: Numbers) -> dict[str, Metric]:
    """The numbers that are shown side by side, with their metrics: those that both models have, in the base's order."""
    found = {name: metric_of(name) for name in base if name in erased}
    return {name: metric for name, metric in found.items() if metric is not None and metric.compared}
