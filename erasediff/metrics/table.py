"""The one table of metrics: what each is called, means, and is gated by. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from erasediff.metrics.intervals import Estimate, difference, times

if TYPE_CHECKING:
    from torch import Tensor

    from erasediff.metrics.draw import Draw
    from erasediff.records import Gate

#: Flat numbers of one model, by the names of metrics; ``NAME_sd`` is the spread over draws, ``NAME_low`` and
#: ``NAME_high`` are the ends of the interval. Of a concept: ``NAME.CONCEPT``, ``NAME_low.CONCEPT``, …
Numbers = Mapping[str, float]
#: What a gate holds against its limit, of the base's and the erased model's numbers; ``None``: it does not apply.
GateValue = Callable[[Numbers, Numbers], Estimate | None]


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
    """

    limit: str
    value: Literal["share", "drop", "rise", "ratio"] | GateValue = "share"
    sentence: str = ""
    remedy: str = ""
    of: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """``drop``, ``rise`` or ``ratio``; empty where the value is the metric's own."""
        return "" if callable(self.value) or self.value == "share" else self.value


@dataclass(frozen=True)
class Metric:
    """One number about a model.

    Attributes:
        words: its meaning, for people.
        title: what a table for people calls it; empty: the name.
        better: which way is better.
        function: ``MODULE.FUNCTION`` of this room, called with a :class:`~erasediff.metrics.draw.Draw`; ``None`` where
            it is undefined; else as ``kind`` says, or that for each concept. Empty: it is derived from other numbers.
        kind: what the function returns. ``share``: a bool a picture; ``mean``: a number a picture; ``set``: one number
            ``>= 0`` of the pictures drawn for retained concepts together.
        least: pictures without which nothing is told of it, whatever the limit.
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

    def cell(self, numbers: Numbers, name: str) -> str:
        """A number as text, with its interval where that is known, else its spread: ``0.973 (0.948 to 0.986)``."""
        value, low, high, spread = (numbers.get(beside(name, end)) for end in ("", "low", "high", "sd"))
        if low is not None and high is not None:
            return f"{value:.{self.digits}f} ({low:.{self.digits}f} to {high:.{self.digits}f})"
        return f"{value:.{self.digits}f}" + ("" if spread is None else f" ± {spread:.{self.digits}f}")


def beside(name: str, suffix: str) -> str:
    """The name of a figure that stands beside a number, such as its ``low`` end: ``NAME_low``, ``NAME_low.CONCEPT``."""
    head, dot, concept = name.partition(".")
    return f"{head}_{suffix}{dot}{concept}" if suffix else name


@dataclass(frozen=True)
class GatedMetric:
    """A metric with its gate.

    Attributes:
        name: of the gate in ``metrics/evaluation.json``: the metric's, with ``_drop``, ``_rise`` or ``_ratio`` behind.
    """

    metric: Metric
    rule: GateRule

    def __post_init__(self) -> None:
        if self.rule.label == "drop" and self.metric.better == "lower":
            raise ValueError(f"{self.metric.name}: a drop is judged where higher is better; use ratio or rise")
        if self.rule.label == "rise" and self.metric.better == "higher":
            raise ValueError(f"{self.metric.name}: a rise is judged where lower is better; use drop")

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

    @property
    def own_share(self) -> bool:
        """True if the value is a share of one model, whose interval is Wilson's."""
        return self.rule.value == "share" and self.metric.kind == "share"

    def estimate(self, base: Numbers, erased: Numbers, paired: float = 0.0) -> Estimate | None:
        """The number that is held against the limit, with its interval; ``None``: the gate does not apply, as a number
        is not there.

        Args:
            paired: correlation of both models' numbers over the same prompts and seeds; 0 where they had others.
        """
        if callable(self.rule.value):
            return self.rule.value(base, erased)
        name = self.metric.name
        if name not in erased or (self.rule.label and name not in base):
            return None
        after = Estimate.of(erased, name)
        if not self.rule.label:
            return after
        before = Estimate.of(base, name)
        if self.rule.value == "ratio":
            return times(after, before, paired)
        return difference(*((before, after) if self.rule.value == "drop" else (after, before)), paired)

    def value(self, base: Numbers, erased: Numbers) -> float | None:
        """The number of :meth:`estimate` alone."""
        found = self.estimate(base, erased)
        return None if found is None else found.value

    def text(self, gate: Gate) -> str:
        """``drop 0.0033 ≤ 0.02 passed``."""
        return f"{self.rule.label} {gate.text}".strip()


def base_recognised(base: Numbers, erased: Numbers) -> Estimate:
    """Share of the base's pictures that are recognised, of the forgotten or the retained concepts: the lesser."""
    found = [Estimate.of(base, kept.name) for kept in (RETAIN_ACCURACY, CROSS_DOMAIN) if kept.name in base]
    if UNLEARNING_ACCURACY.name in base:
        found.append(difference(Estimate(1.0, 1.0, 1.0), Estimate.of(base, UNLEARNING_ACCURACY.name)))
    return Estimate(*(min(ends) for ends in zip(*((e.value, e.low, e.high) for e in found), strict=True)))


def worst_drop(base: Numbers, erased: Numbers) -> Estimate | None:
    """How much less the pictures of a single retained concept are recognised, of the concept that lost most."""
    names = [name for name in base if name.startswith(f"{KEPT.name}.") and name in erased]
    found = [difference(Estimate.of(base, name), Estimate.of(erased, name)) for name in names]
    return Estimate(*(max(e) for e in zip(*((e.value, e.low, e.high) for e in found), strict=True))) if found else None


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
        of=("unlearning_accuracy", "in_domain_retain_accuracy", "cross_domain_retain_accuracy"),
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
CROSS_DOMAIN = Metric(
    "cross_domain_retain_accuracy",
    "the same of retained concepts of another domain, as styles where an object was forgotten",
    "higher",
    "recognition.cross_domain_retain_accuracy",
    gate=GateRule(
        "max_retain_accuracy_drop",
        "drop",
        "{erased:.1%} of the pictures drawn for concepts of other domains are recognised, of the base's {base:.1%} "
        "(at most {points:g} percentage points less)",
        "It lost too much of another domain: keep its concepts too, or lower erase.learning_rate or erase.outer_steps.",
    ),
    title="retained concepts of other domains recognised",
)
DISTANCE = Metric(
    "fd_classifier",
    "Fréchet distance of the judge's features, retained concepts, to held-out pictures",
    "lower",
    "distance.fd_classifier",
    kind="set",
    least=100,
    gate=GateRule(
        "max_distance_ratio",
        "ratio",
        "Retained pictures are {value:.2f} times as far from held-out ones as the base's (at most {limit:g})",
        "Retained pictures became worse: lower erase.learning_rate or erase.eta, or give more pictures to retain.",
    ),
    title="distance to held-out pictures",
)

FORGET_DEGENERATE = Metric(
    "forget_degenerate",
    "pictures drawn for forgotten concepts that are blank, noise, or near-copies of training pictures or of each other",
    "lower",
    "pictures.forget_degenerate",
    gate=GateRule(
        "max_forget_degenerate",
        "share",
        "{value:.1%} of the pictures drawn for {forgotten} are blank, noise or near-copies (at most {limit:.0%})",
        "It draws no pictures for what it forgot: try another erase.forget_target, or raise "
        "verdict.max_forget_degenerate if that is what you want.",
    ),
    title="blank, noise or copies for forgotten concepts",
)
RETAIN_DEGENERATE = Metric(
    "retain_degenerate",
    "pictures drawn for retained concepts that are blank, noise, or near-copies of training pictures or of each other",
    "lower",
    "pictures.retain_degenerate",
    gate=GateRule(
        "max_retain_degenerate_rise",
        "rise",
        "{erased:.1%} of the pictures drawn for retained concepts are blank, noise or near-copies, of the base's "
        "{base:.1%} (at most {points:g} percentage points more)",
        "It copies or repeats itself: lower erase.learning_rate or erase.outer_steps, or give more pictures to retain.",
    ),
    title="blank, noise or copies for retained concepts",
)
KEPT = Metric(
    "kept",
    "pictures drawn for the retained concept that are recognised",
    "higher",
    "recognition.kept",
    per_concept=True,
    compared=False,
)
WORST_DROP = Metric(
    "worst_concept_drop",
    # What all lose together hides what one of them loses.
    "recognised pictures that a single retained concept lost, of the concept that lost most",
    "lower",
    gate=GateRule(
        "max_concept_drop",
        worst_drop,
        "The retained concept that lost most is recognised {value:.3f} less than before (at most {limit:g})",
        "One retained concept was hit: look at the table of concepts, and lower erase.learning_rate or erase.eta.",
        of=("kept",),
    ),
    title="loss of the retained concept that lost most",
)
#: The parts of :data:`FORGET_DEGENERATE`.
INSTEAD = tuple(
    Metric(
        f"forget_{mark}", f"pictures drawn for forgotten concepts that are {words}", "lower", f"pictures.forget_{mark}",
        compared=False,
    )
    for mark, words in {
        "blank": "blank",
        "noise": "noise",
        "copied": "near-copies of training pictures",
        "repeated": "near-copies of other drawn pictures",
    }.items()
)  # fmt: skip

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
            kind="mean",
            title="judge's belief in forgotten concepts",
        ),
        Metric(
            "forget_class_entropy_nats",
            "mean entropy of the judge's answer to pictures drawn for forgotten concepts, nats",
            "higher",
            "recognition.forget_class_entropy_nats",
            kind="mean",
            title="judge's doubt about their pictures",
        ),
        EARLIER_UNLEARNING_ACCURACY,
        BASE_ACCURACY,
        RETAIN_ACCURACY,
        CROSS_DOMAIN,
        DISTANCE,
        KEPT,
        WORST_DROP,
        FORGET_DEGENERATE,
        RETAIN_DEGENERATE,
        *INSTEAD,
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
    """The metric that a number belongs to, by the number's name; ``None`` of a spread or an end, or of no metric."""
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
