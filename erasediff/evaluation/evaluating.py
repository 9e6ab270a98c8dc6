"""The verb ``evaluate``: any model, made by whatever tool, held against its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from erasediff.artifacts import write_bytes, write_json
from erasediff.data.wordings import kind_of, prompts_of
from erasediff.device import device
from erasediff.errors import ParamsError, UnknownConcept, did_you_mean, shown
from erasediff.evaluation.gates import evaluation_of, sentences
from erasediff.evaluation.measure import Measurement, Protocol, measure_pipeline, require_retained
from erasediff.evaluation.pictures import grid_png, in_order
from erasediff.evaluation.report import report_html
from erasediff.evaluation.table import concepts_by_harm
from erasediff.families import family_of
from erasediff.families.family import Family
from erasediff.families.judge_pictures import judge_pictures
from erasediff.families.resuming import resumable
from erasediff.families.sharing import Places
from erasediff.families.weights import weights_sha256
from erasediff.judges import Judge, asked_concepts
from erasediff.records import JUDGE_BY_BASE, JUDGE_BY_LABELS, Erasures, Evaluation, ForgetSummary, Json
from erasediff.unlearning.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import DiffusionPipeline

#: The limits of the gates where nobody says: those of the section ``verdict`` of params.yaml.
LIMITS: dict[str, float | None] = {
    "min_unlearning_accuracy": 0.9,
    "min_base_accuracy": 0.5,
    "max_retain_accuracy_drop": 0.03,
    "max_concept_drop": 0.15,
    "max_distance_ratio": 1.25,
    "max_distance_rise": None,
    "max_forget_degenerate": 0.5,
    "max_retain_degenerate_rise": 0.05,
    "max_retain_closeness_rise": 0.25,
}
#: Pictures of each concept that the base draws, under other seeds, for distances to be measured to.
HELD_OUT = 16


@dataclass(frozen=True)
class Evaluated:
    """A model that was held against its base.

    Attributes:
        evaluation: numbers, gates, verdict.
        html: the report, a page that loads nothing.
    """

    evaluation: Evaluation
    html: str
    forgotten: tuple[str, ...]

    def __str__(self) -> str:
        """The verdict in plain words, a line a gate."""
        what = ", ".join(self.forgotten) or "nothing"
        lines = [f"{what} forgotten, the rest kept: {self.evaluation.outcome}"]
        lines += [f"- {line}" for line in sentences(self.evaluation, what)]
        unproven = self.evaluation.unproven
        return "\n".join([*lines, *([f"- the evaluation did not prove itself: {unproven}"] if unproven else [])])

    def save(self, folder: Path | str) -> None:
        """Write ``metrics.json`` and ``report.html``."""
        write_json(Path(folder) / "metrics.json", self.evaluation.to_json())
        write_bytes(Path(folder) / "report.html", self.html.encode())


def evaluate(
    pipeline: DiffusionPipeline,
    forgotten: str | Sequence[str],
    *,
    base: DiffusionPipeline,
    judge: Judge,
    prompts: Mapping[str, Sequence[str]] | None = None,
    held_out: pd.DataFrame | None = None,
    samples: int = 50,
    max_draws: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    sampler: str | None = None,
    size: tuple[int, int] | None = None,
    batch_size: int = 16,
    seed: int = 0,
    limits: Mapping[str, float] | None = None,
    judge_accuracy: float | None = None,
    inception: Path | str | None = None,
    self_checks: bool = True,
    kept: Path | None = None,
    cache: Path | None = None,
    places: Places | None = None,
    progress: bool = True,
) -> Evaluated:
    """Hold a model against its base: both draw the same prompts and seeds, and one judge reads the pictures.

    Args:
        pipeline: the model that should have forgotten; it may be made by any tool.
        forgotten: the concepts.
        base: the model before.
        judge: what recognises concepts. Of each that it knows pictures are drawn; those not forgotten should be kept.
        prompts: what the models are asked for each concept, in turns; by default wordings that no training here uses,
            and of a model of classes their names.
        held_out: real pictures that distances are measured to, a table with ``image`` and ``concept``; by default the
            base draws some under other seeds.
        samples: pictures of each concept by each model.
        max_draws: the model draws so many times these at most: on while its unlearning accuracy cannot be told from its
            limit, and no more where it is missed for sure; by default once. The base is drawn once.
        steps, guidance_scale, sampler: of drawing; the model's own by default.
        size: height and width of pictures that both draw; the model's own by default.
        limits: of gates, where they differ from :data:`LIMITS`.
        judge_accuracy: where it is known.
        inception: file of Inception-v3 as TorchScript, for FID.
        self_checks: planted models are measured too; no verdict counts before the evaluation saw through them.
        kept: folder for what was drawn so far, from which an evaluation that was killed goes on.
        cache: folder that keeps the judge's features of held-out pictures for the next call; by default both models of
            this one share them.
        places: where batches are drawn, such as on a Ray cluster; by default one after another, here.

    Raises: UnknownConcept: the judge does not know a forgotten concept. ParamsError: an unknown limit, too few
        pictures. DataError, ModelError, IntegrityError: pictures that cannot be drawn, read or measured.
    """
    names = [forgotten] if isinstance(forgotten, str) else list(dict.fromkeys(forgotten))
    _require(names, judge, limits or {}, samples, max_draws)
    require_retained(judge, prompts or {}, names)
    asked = asked_concepts(judge)
    domains = getattr(judge, "domains", {c: kind_of(c) for c in asked})
    prompts = dict(prompts or default_prompts(base, asked, domains))
    drawn, models = held_out is None, {"base": base, "erased": pipeline}
    hashes = {which: weights_sha256(model) for which, model in models.items()}

    places = places or Places()

    def drawing(which: str) -> Callable[[Family], Family]:
        made = f"{hashes[which]} {models[which].scheduler}"
        return lambda family: places.drawing(family, lambda own: own if kept is None else resumable(own, kept, made))

    if held_out is None:
        how: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed}
        others = {c: p for c, p in prompts.items() if c not in names}
        with progress_bar("pictures to compare with", HELD_OUT * len(others), "picture", shown=progress) as bar:
            told = lambda done, total: bar(done, {})  # noqa: E731
            family = drawing("base")(family_of(base.to(device()), size))
            held_out = judge_pictures(family, others, train=0, test=HELD_OUT, on_progress=told, **how)
    wanted = {**LIMITS, **(limits or {})}
    decide_at = None if max_draws is None else wanted["min_unlearning_accuracy"]
    protocol = Protocol(samples, 1, steps, guidance_scale, batch_size, seed, sampler, max_draws, decide_at, size)
    found = {}
    with TemporaryDirectory() as own:
        for which, model in models.items():
            with progress_bar(which, None, "picture", shown=progress) as bar:
                found[which] = measure_pipeline(
                    model,
                    judge,
                    held_out,
                    protocol,
                    forgotten=names,
                    earlier=[],
                    prompts=prompts,
                    self_checks=self_checks and which == "base",
                    domains=domains if len({*domains.values()}) > 1 else {},
                    inception=inception,
                    cache=cache or Path(own),
                    on_progress=lambda done, total, bar=bar: bar(done, {}, total),  # type: ignore[misc]
                    draw_on=which == "erased",  # the base, with which it is paired, is drawn as planned
                    drawing=drawing(which),
                    together=places.number,
                )
    facts: Json = {
        "kind": getattr(judge, "kind", "given"),
        "accuracy": judge_accuracy,
        "test_samples": 0,
        "fingerprint": judge.fingerprint,
        "pictures": JUDGE_BY_BASE if drawn else JUDGE_BY_LABELS,
    }
    return _verdict(found, hashes, facts, names, asked, wanted)


def default_prompts(
    base: DiffusionPipeline, concepts: Sequence[str], domains: Mapping[str, str]
) -> dict[str, list[str]]:
    """Wordings of each concept that no training here uses; of a model of classes, their names."""
    family = family_of(base)
    if family.concepts is not None or not family.conditional:
        return {c: [c] for c in concepts}
    kinds = {c: "style" if domains.get(c) == "style" else kind_of(c) for c in concepts}
    return {c: prompts_of(c, kinds[c], "test") for c in concepts}  # type: ignore[arg-type]


def _require(
    names: Sequence[str], judge: Judge, limits: Mapping[str, float], samples: int, max_draws: int | None
) -> None:
    if unknown := [name for name in names if name not in asked_concepts(judge)]:
        known = ", ".join(asked_concepts(judge))
        raise UnknownConcept(f"the judge does not know {shown(repr(unknown[0]))}; it knows: {shown(known, 300)}")
    if wrong := [name for name in limits if name not in LIMITS]:
        raise ParamsError(f"no gate has the limit {shown(wrong[0])}{did_you_mean(wrong[0], LIMITS)}")
    if samples < 2:
        raise ParamsError(f"samples is {samples}: at least 2 pictures of each concept are needed")
    if max_draws is not None and max_draws < 1:
        raise ParamsError(f"max_draws is {max_draws}: each concept is drawn at least once")


def _verdict(
    found: Mapping[str, Measurement],
    hashes: Mapping[str, str],
    judge: Json,
    names: Sequence[str],
    asked: Sequence[str],
    limits: Mapping[str, float | None],
) -> Evaluated:
    base, erased = (found[which].noted(hashes[which]) for which in ("base", "erased"))
    readings = [{n: values.numpy() for n, values in found[w].numbers.readings.items()} for w in ("base", "erased")]
    evaluation = evaluation_of(base, erased, judge, limits, (readings[0], readings[1]))
    sets = ForgetSummary(Erasures(tuple(names)), {}, {}, "", {}, "")
    order = list(concepts_by_harm(evaluation, names))
    grids = {which: grid_png(it.shown, asked, which, marked=names) for which, it in found.items()}
    pictures = {f"drawn by the {which} model": in_order(grid, order) for which, grid in grids.items()}
    return Evaluated(evaluation, report_html(evaluation, sets, None, pictures, {}), tuple(names))
