"""Draws to numbers: means over draws, each with its spread, its interval, and the pictures that it stands on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from erasediff.artifacts import write_bytes
from erasediff.errors import IntegrityError
from erasediff.metrics.draw import Draw
from erasediff.metrics.intervals import of_distance, of_mean, wilson
from erasediff.metrics.table import METRICS, Metric, beside, metric_of
from erasediff.randomness import generator

#: Bootstrap resamples of a number that is of many pictures together.
RESAMPLES = 200


@dataclass(frozen=True)
class Numbers:
    """What was measured of a model.

    Attributes:
        flat: numbers by name; beside each ``_low`` and ``_high``, and ``_sd`` where there were several draws.
        counts: pictures that each stands on.
        readings: of a number of pictures the value of each, of the others that of each resample. Two models that were
            asked with the same prompts and seeds are paired in these.
    """

    flat: dict[str, float]
    counts: dict[str, int]
    readings: dict[str, Tensor]


def write_readings(path: Path, numbers: Numbers) -> None:
    """Keep the readings, by metric, in a file of tensors."""
    from safetensors.torch import save

    write_bytes(path, save({name: values.contiguous() for name, values in numbers.readings.items()}))


def numbers_of(draws: Sequence[Draw], seed: int, resamples: int = RESAMPLES) -> Numbers:
    """Every metric of the table that is defined for the draws.

    Args:
        draws: of one model, from other noise each.
        seed: of the resamples. Draws of the same layout are resampled alike.

    Raises: ValueError: a number is there in some draws only. IntegrityError: one is not finite.
    """
    flat, counts, readings = over_draws([score(draw) for draw in draws]), {}, {}
    for metric in METRICS.values():
        for name in metric.of(draws[0]) if metric.function else ():
            found = _readings(metric, name, draws, seed, resamples)
            readings[name] = found
            counts[name] = sum(int(d.retained.sum()) for d in draws) if metric.kind == "set" else len(found)
            low, high = _interval(metric, flat[name], found)
            flat |= {beside(name, "low"): low, beside(name, "high"): high}
    return Numbers(flat, counts, readings)


def _readings(metric: Metric, name: str, draws: Sequence[Draw], seed: int, resamples: int) -> Tensor:
    if metric.kind != "set":
        return torch.cat([torch.as_tensor(metric.of(draw)[name]) for draw in draws])
    values = []
    for number in range(resamples):
        chance = generator(seed, "bootstrap", number)
        values.append(statistics.fmean(float(metric.of(draw.resampled(chance))[name]) for draw in draws))
    return torch.tensor(values, dtype=torch.float64)


def _interval(metric: Metric, value: float, readings: Tensor) -> tuple[float, float]:
    if metric.kind == "share":
        return wilson(int(readings.sum()), len(readings))
    if metric.kind == "set":
        return of_distance(value, readings.tolist())
    deviation = float(readings.std()) if len(readings) > 1 else math.inf
    low, high = of_mean(value, deviation, len(readings))
    return max(low, float(readings.min())), min(high, float(readings.max()))


def score(draw: Draw) -> dict[str, float]:
    """Every metric of the table that is defined for a draw, by name."""
    found = {name: value for metric in METRICS.values() if metric.function for name, value in metric.of(draw).items()}
    return {name: float(v.double().mean()) if isinstance(v, Tensor) else v for name, v in found.items()}


def over_draws(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number, and its standard deviation under ``_sd`` for all but those of single concepts.

    Of one draw no spread is known. Raises: ValueError: a number is there in some draws only. IntegrityError: one is not
    finite.
    """
    if differing := {name for row in rows for name in set(row) ^ set(rows[0])}:
        raise ValueError(
            f"{', '.join(sorted(differing))}: measured in some draws only; a metric is undefined in all or none"
        )
    result: dict[str, float] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if not all(map(math.isfinite, values)):
            raise IntegrityError(f"{name} is no finite number: the classifier cannot judge this model; train it anew")
        result[name] = statistics.fmean(values)
        metric = metric_of(name)
        if metric is not None and not metric.per_concept and len(rows) > 1:
            result[f"{name}_sd"] = statistics.stdev(values)
    return result
