"""The evaluation proves itself on planted models before its verdict counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from erasediff.metrics.rules import Numbers
from erasediff.metrics.table import DISTANCE, GATES, RETAIN_ACCURACY, UNLEARNING_ACCURACY
from erasediff.records import FAILED, Gate, Json, SelfCheck, outcome_of

#: Share of a planted model's pictures that have to be called what they are.
NAMED = 0.9

#: What is said of an evaluation in which no planted model was measured.
UNCHECKED = (
    "The evaluation did not prove itself: no planted model was measured (self_checks), so it is not known whether it "
    "would catch a bad one"
)


@dataclass(frozen=True)
class Planted:
    """A planted model, and what has to be said of it.

    Attributes:
        drawn: by which name its numbers are there.
        fails: gates that have to fail.
        named: the share of its pictures for forgotten concepts that has to be noticed.
    """

    drawn: str
    fails: tuple[str, ...] = ()
    named: str = ""


#: By name. A base without a concept to forget has neither the first nor the last two.
PLANTED = {
    "a copy of the base": Planted("base", fails=(UNLEARNING_ACCURACY.name,)),
    "random weights": Planted("random_weights", fails=(f"{RETAIN_ACCURACY.name}_drop",)),
    "one concept for everything": Planted(
        "one_concept", fails=(f"{RETAIN_ACCURACY.name}_drop", f"{DISTANCE.name}_ratio")
    ),
    "noise for what is to be forgotten": Planted("noise", named="forget_noise"),
    "blank pictures for what is to be forgotten": Planted("blank", named="forget_blank"),
}

#: :func:`erasediff.evaluation.gates.gates`.
Gates = Callable[..., dict[str, Gate]]


def self_checks(planted: Mapping[str, Json], limits: Mapping[str, float | None], gates: Gates) -> dict[str, SelfCheck]:
    """Whether the evaluation saw through each planted model that was measured.

    Args:
        planted: by name, ``numbers`` and ``counts``; empty: none was asked for.
        limits: the section ``verdict`` of params.yaml.
    """
    found = {}
    for name, model in PLANTED.items():
        if model.drawn in planted and _applies(model, planted["base"]["numbers"]):
            judged = gates(
                planted["base"]["numbers"],
                planted[model.drawn]["numbers"],
                limits,
                counts=planted[model.drawn]["counts"],
            )
            found[name] = _named(model, planted, judged) if model.named else _failing(model, judged)
    return found


def _applies(model: Planted, base: Numbers) -> bool:
    return UNLEARNING_ACCURACY.name in base or not (model.named or UNLEARNING_ACCURACY.name in model.fails)


def _failing(model: Planted, judged: Mapping[str, Gate]) -> SelfCheck:
    failed = [name for name, gate in judged.items() if not (gate.passed or gate.undecided)]
    fails = [name for name in model.fails if name in judged] or list(model.fails)
    return SelfCheck(
        f"{FAILED} by {_titles(fails)}",
        f"{outcome_of(judged.values())} by {_titles(failed)}" if failed else outcome_of(judged.values()),
        set(fails) <= set(failed),
    )


def _titles(names: Sequence[str]) -> str:
    return " and ".join(GATES[name].title for name in names)


def _named(model: Planted, planted: Mapping[str, Json], judged: Mapping[str, Gate]) -> SelfCheck:
    share = planted[model.drawn]["numbers"].get(model.named, 0.0)
    return SelfCheck(
        f"noticed in {NAMED:.0%} of the pictures",
        f"noticed in {share:.0%}, and {outcome_of(judged.values())} by the gates",
        share >= NAMED,
    )
