"""One verdict of ours against the same verdict by a plain loop: DDIM with 100 steps, drawn anew for every metric.

The model that is judged draws a 0 for an 8, and the rest as the base does. Ours draws once with a few-step solver, lets
every metric read the same pictures, and stops at the first look at which the verdict is sure. Core seconds are
compared: they hardly depend on what else a machine does.

    python tests/benchmarks/evaluation.py [--base models/base] [--steps 12] [--sampler UniPCMultistepScheduler]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from erasediff.data.concept_images import ConceptImages
from erasediff.evaluation.gates import evaluation_of
from erasediff.evaluation.measure import Measuring
from erasediff.evaluation.numbers import numbers_of
from erasediff.evaluation.protocol import Plan, Protocol
from erasediff.evaluation.reading import Reader
from erasediff.evaluation.sequential import until_told
from erasediff.examples import open_example
from erasediff.families import family_of, open_pipeline
from erasediff.judges import cnn
from erasediff.metrics import table
from erasediff.records import Evaluation, Measured
from stages.params import load_params

FORGOTTEN = "8"
PARAMS = load_params()
#: What a plain loop draws pictures for, one after the other: the metrics, and the concepts that they look at.
ONE_AT_A_TIME = (
    (("unlearning_accuracy",), (FORGOTTEN,)),
    (("in_domain_retain_accuracy", "kept"), tuple("012345679")),
    (("fd_classifier",), tuple("012345679")),
    (("forget_degenerate", "retain_degenerate"), tuple("0123456789")),
)


class DrawsZeros:
    """A family that draws a 0 where it is asked for an 8."""

    def __init__(self, family):
        self.family = family

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], **how) -> torch.Tensor:
        return self.family.sample(["0" if prompt == FORGOTTEN else prompt for prompt in prompts], seeds, **how)


def prepared(base: Path | None):
    """``(family, judge, plan)`` of the digits; without a folder the model is trained as ``make demo`` does."""
    data = open_example("digits").images
    parts = [list(range(start, len(data.concepts), 2)) for start in range(2)]
    learned, held_out = (ConceptImages(data.images[rows], [data.concepts[i] for i in rows]) for rows in parts)
    if base is None:
        from erasediff.training.base import ARCHITECTURE, train_base
        from erasediff.training.denoising import RECIPE, Recipe

        pretrain = PARAMS.pretrain
        architecture, recipe = (pretrain.model_dump(include=some) for some in (ARCHITECTURE, RECIPE))
        pipeline = train_base(learned, (1, 8, 8), architecture=architecture, recipe=Recipe(**recipe), seed=0)
    else:
        pipeline = open_pipeline(base)
    how = PARAMS.classifier.model_dump(include={"width", "steps", "batch_size", "learning_rate"})
    judge = cnn.train(learned.images, learned.concepts, (1, 8, 8), seed=0, **how)
    retained = [i for i, concept in enumerate(held_out.concepts) if concept != FORGOTTEN]
    return family_of(pipeline), judge, Plan(held_out.images[retained], [FORGOTTEN], training=learned.images)


def plain(family, judge, plan: Plan, protocol: Protocol) -> Evaluation:
    """The verdict, every metric from pictures of its own."""
    numbers: dict[str, dict[str, float]] = {"base": {}, "erased": {}}
    readings: dict[str, dict[str, torch.Tensor]] = {"base": {}, "erased": {}}
    counts: dict[str, int] = {}
    for metrics, concepts in ONE_AT_A_TIME:
        started = time.process_time()
        for which, model in (("base", family), ("erased", DrawsZeros(family))):
            it = Measuring(model, Reader(judge, plan), protocol)
            rows = [i for i, name in enumerate(it.names) if name in concepts]
            it.names, it.asked = [it.names[i] for i in rows], [it.asked[i] for i in rows]
            it.draw_to(protocol.draws)
            found = only(metrics, it, protocol)
            numbers[which] |= found.flat
            readings[which] |= found.readings
            counts |= found.counts
        print(f"  plainly {', '.join(metrics)}: {time.process_time() - started:.1f} core s", flush=True)
    how = {"judge": judge.fingerprint}
    records = [Measured(numbers[which], which, how, counts) for which in ("base", "erased")]
    pair = ({n: v.numpy() for n, v in readings[w].items()} for w in ("base", "erased"))
    return evaluation_of(*records, {"fingerprint": judge.fingerprint}, PARAMS.verdict.model_dump(), tuple(pair))


def only(metrics: Sequence[str], it: Measuring, protocol: Protocol):
    """Numbers of some metrics alone."""
    every = dict(table.METRICS)
    try:
        for name in set(every) - set(metrics):
            table.METRICS[name] = replace(every[name], function="", kind="share")
        return numbers_of(it.draws, protocol.seed)
    finally:
        table.METRICS.update(every)


def ours(family, judge, plan: Plan, protocol: Protocol) -> tuple[Evaluation, int]:
    """The verdict, and the draws that it took."""
    reader = Reader(judge, plan)
    pair = Measuring(family, reader, protocol), Measuring(DrawsZeros(family), reader, protocol)
    evaluation, _, _ = until_told(*pair, {"fingerprint": judge.fingerprint}, PARAMS.verdict.model_dump())
    return evaluation, len(pair[0].draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of the digits' model; by default it is trained")
    parser.add_argument("--samples", type=int, default=60, help="pictures of each concept and draw")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sampler", default="UniPCMultistepScheduler")
    options = parser.parse_args()
    family, judge, plan = prepared(options.base)
    common = {"samples_per_concept": options.samples, "draws": 1, "guidance_scale": 1.0, "batch_size": 250, "seed": 0}
    slow = Protocol(**common, inference_steps=100, sampler="DDIMScheduler")
    fast = Protocol(**common, inference_steps=options.steps, sampler=options.sampler, max_draws=4, decide_at=0.9)
    started = time.process_time()
    mine, draws = ours(family, judge, plan, fast)
    seconds = time.process_time() - started
    print(
        f"ours: {mine.outcome}, {seconds:.1f} core s, {draws} draw(s) of {options.samples} pictures a concept",
        flush=True,
    )
    started = time.process_time()
    theirs = plain(family, judge, plan, slow)
    plainly = time.process_time() - started
    print(f"plain loop: {theirs.outcome}, {plainly:.1f} core s")
    for name in ("unlearning_accuracy", "in_domain_retain_accuracy", "fd_classifier"):
        print(f"  {name}: ours {mine.erased[name]:.3f}, plain loop {theirs.erased[name]:.3f}")
    same = "the same verdict" if mine.outcome == theirs.outcome else "ANOTHER VERDICT"
    print(f"ratio: {plainly / seconds:.1f} ({same})")


if __name__ == "__main__":
    main()
