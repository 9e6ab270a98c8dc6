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
from erasediff.metrics.intervals import CONFIDENCE, beside, of_distance, of_mean, of_replicates, of_share, z_of
from erasediff.metrics.rules import Metric
from erasediff.metrics.table import METRICS, metric_of, untold_of
from erasediff.randomness import generator


@dataclass(frozen=True)
class Numbers:
    """What was measured of a model.

    Attributes:
        flat: numbers by name, of however few pictures; beside each ``_low`` and ``_high``, and ``_sd`` where there
            were several draws.
        counts: pictures that each stands on.
        readings: of a number of pictures the value of each, of the others that of each resample. Two models that were
            asked with the same prompts and seeds are paired in these.
    """

    flat: dict[str, float]
    counts: dict[str, int]
    readings: dict[str, Tensor]

    @property
    def told(self) -> dict[str, float]:
        """The numbers that stand on enough pictures, with what stands beside them: all that leaves an evaluation."""
        few = {name for name, count in self.counts.items() if (m := metric_of(name)) and m.untold(count)}
        few |= {beside(name, end) for name in few for end in ("low", "high", "sd")}
        return {name: value for name, value in self.flat.items() if name not in few}

    @property
    def untold(self) -> dict[str, str]:
        """Why each other metric is not given, by its name."""
        return untold_of(self.counts)


def write_readings(path: Path, numbers: Numbers) -> None:
    """Keep the readings, by metric, in a file of tensors."""
    from safetensors.torch import save

    write_bytes(path, save({name: values.contiguous() for name, values in numbers.readings.items()}))


def numbers_of(
    draws: Sequence[Draw], seed: int, resamples: int | None = None, confidence: float = CONFIDENCE
) -> Numbers:
    """Every metric of the table that is defined for the draws.

    Args:
        draws: of one model, from other noise each.
        seed: of the resamples. Draws of the same layout are resampled alike.
        resamples: at most so many of each metric.
        confidence: of each interval.

    Raises: ValueError: a number is there in some draws only. IntegrityError: one is not finite.
    """
    first = score(draws[0])
    flat = over_draws([first, *(score(draw) for draw in draws[1:])])
    sets = {m.name: min(m.resamples, resamples or m.resamples) for m in METRICS.values() if m.kind == "set"}
    readings = _resampled(draws, {name: n for name, n in sets.items() if name in first}, seed)
    counts = {}
    for metric in METRICS.values():
        if metric.kind == "set":
            found = {metric.name: readings[metric.name]} if metric.name in first else {}
        else:
            found = _of_pictures(metric, draws)
        for name, values in found.items():
            readings[name] = values
            counts[name] = sum(int(d.retained.sum()) for d in draws) if metric.kind == "set" else len(values)
            low, high = _interval(metric, flat[name], values, confidence)
            flat |= {beside(name, "low"): low, beside(name, "high"): high}
    return Numbers(flat, counts, readings)


def _of_pictures(metric: Metric, draws: Sequence[Draw]) -> dict[str, Tensor]:
    """A metric's value of each picture of all draws, by the names of its numbers."""
    if not metric.function:
        return {}
    found = [metric.of(draw) for draw in draws]
    return {name: torch.cat([torch.as_tensor(one[name]) for one in found]) for name in found[0]}


def _resampled(draws: Sequence[Draw], times: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """Each metric of many pictures together, of as many resamples as its name says.

    A resample takes pictures out of each draw, and as many draws as there are. A draw has no share of its own: its
    pictures have other seeds than those of every other one. Draws resampled too would count its chance twice.
    """
    chosen: list[list[Tensor]] = [[] for _ in draws]
    for number in range(max(times.values(), default=0)):
        chance = generator(seed, "bootstrap", number)
        for rows, draw in zip(chosen, draws, strict=True):
            rows.append(draw.chosen(chance))
    each = [(draw, torch.stack(rows)) for draw, rows in zip(draws, chosen, strict=True) if rows]
    return {
        name: torch.stack([METRICS[name].of_resamples(draw, rows[:n]) for draw, rows in each]).mean(0)
        for name, n in times.items()
    }


def _interval(metric: Metric, value: float, readings: Tensor, confidence: float) -> tuple[float, float]:
    if metric.kind == "share":
        return of_share(int(readings.sum()), len(readings), confidence)
    z = z_of(confidence)
    if metric.kind == "set":
        found = readings.tolist()
        return of_distance(value, found, z) if metric.ends is None else of_replicates(value, found, metric.ends, z)
    deviation = float(readings.std()) if len(readings) > 1 else math.inf
    low, high = of_mean(value, deviation, len(readings), z)
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
