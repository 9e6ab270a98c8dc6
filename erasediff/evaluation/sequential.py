"""Both models drawn side by side, look by look, until the verdict is sure."""

from __future__ import annotations

from collections.abc import Mapping

from erasediff.evaluation.gates import evaluation_of
from erasediff.evaluation.measure import Measurement, Measuring
from erasediff.records import UNDECIDED, Evaluation, Json


def until_told(
    base: Measuring, erased: Measuring, judge: Json, limits: Mapping[str, float], hashes: tuple[str, str] = ("", "")
) -> tuple[Evaluation, Measurement, Measurement]:
    """Draw both models at each look of their protocol, and stop at the first at which no gate is open any more.

    A gate that fails for sure ends it as well: the verdict is sure then. As each look's intervals are wider, all looks
    together err as seldom as one would: see :mod:`erasediff.metrics.looks`.

    Args:
        base, erased: under one protocol and one reader; ``max_draws`` of it is the most that is drawn.
        judge: what recognised the concepts.
        limits: of the gates.
        hashes: of both models.
    """
    if base.protocol != erased.protocol:
        raise ValueError("base and erased are measured side by side under one protocol, not two")
    for look in base.protocol.looks:
        found = []
        for measuring in (base, erased):
            measuring.draw_to(look)
            found.append(measuring.finished())
        records = [m.noted(name) for m, name in zip(found, hashes, strict=True)]
        readings = [{name: values.numpy() for name, values in m.numbers.readings.items()} for m in found]
        evaluation = evaluation_of(records[0], records[1], judge, limits, (readings[0], readings[1]))
        if evaluation.outcome != UNDECIDED:
            break
    return evaluation, found[0], found[1]
