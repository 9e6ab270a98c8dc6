"""One model under one suite: which figures come of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from erasediff import __version__
from erasediff.artifacts import sha256_text
from erasediff.data.concept_images import ConceptImages
from erasediff.device import device
from erasediff.evaluation.attacks import unlearndiffatk, whole
from erasediff.evaluation.attacks.benign import fine_tuned
from erasediff.evaluation.attacks.target import Target
from erasediff.evaluation.attacks.tokens import vocabulary_of
from erasediff.evaluation.evaluating import evaluate
from erasediff.evaluation.suites import scoring
from erasediff.evaluation.suites.asking import Asked, asked
from erasediff.evaluation.suites.reading import Readings, read
from erasediff.evaluation.suites.scoring import Figures
from erasediff.evaluation.suites.suite import Setting, Suite
from erasediff.families import family_of
from erasediff.families.family import Family
from erasediff.families.sharing import Places
from erasediff.families.weights import weights_sha256
from erasediff.metrics.distance import frechet_distance

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import DiffusionPipeline


@dataclass
class Context:
    """What a suite measures with.

    Attributes:
        readers: by domain.
        base: the model before.
        neighbours: words near to what is forgotten.
        of_base: what was read in the base's pictures, so that these are drawn once for many models.
        kept: folder for what was read so far, from which a suite that was killed goes on.
        places: where batches are drawn.
    """

    suite: Suite
    setting: Setting
    forgotten: tuple[str, ...]
    readers: dict[str, Any]
    base: DiffusionPipeline
    data: Path | None
    seed: int
    stand_in: bool
    neighbours: tuple[str, ...] = ()
    of_base: list[Readings] = field(default_factory=list)
    kept: Path | None = None
    places: Places = field(default_factory=Places)

    @property
    def domain(self) -> str:
        """The domain of what is forgotten."""
        return self.setting.domain_of(self.forgotten[0]) if self.forgotten else next(iter(self.setting.readers))

    def questions(self) -> list[Asked]:
        """All that a model is asked."""
        found = asked(self.setting, self.forgotten, self.data, self.neighbours)
        most = max(self.setting.counts.values(), default=0) if self.suite.scoring == "alignment" else 0
        return found[: most or None]

    def readings(self, pipeline: DiffusionPipeline) -> Readings:
        """What the readers see in a model's pictures."""
        questions, is_base = self.questions(), pipeline is self.base
        known = [found for found in self.of_base if is_base and found.asked == questions]
        if known:
            return known[0]
        found = self.read(family_of(pipeline.to(device())), questions)
        if is_base:
            self.of_base[:] = [found]
        return found

    def read(self, family: Family, questions: Sequence[Asked]) -> Readings:
        """What the readers see in what a model draws for these."""
        folder = None
        if self.kept is not None:
            by = [fingerprint(reader) for reader in self.readers.values()]
            made = json.dumps([weights_sha256(family.pipeline), by, self.setting.model_dump(mode="json"), __version__])
            folder = self.kept / sha256_text(made)[:16]
        return read(family, self.readers, self.setting, questions, kept=folder, places=self.places)


def fingerprint(reader: object) -> str:
    """What tells one reader of a suite from another."""
    return str(getattr(reader, "fingerprint", type(reader).__name__))


def measure(pipeline: DiffusionPipeline, it: Context) -> tuple[dict[str, Figures], dict[str, Readings]]:
    """The ``figures`` of a model, by name, and those of its ``base``; and what was read in the pictures of both.

    A class-wise suite reads each picture once and keeps no readings.
    """
    if it.suite.scoring == "class_wise":
        return _class_wise(pipeline, it), {}
    score = SCORES[it.suite.scoring]
    models = {"base": it.base, "figures": pipeline}
    found = {which: it.readings(model) for which, model in models.items()}
    return {which: score(models[which], read_, it) for which, read_ in found.items()}, found


def _domains(pipeline: DiffusionPipeline, found: Readings, it: Context) -> Figures:
    figures = scoring.domains(found, it.forgotten, it.domain)
    return figures | (scoring.of_each(found, it.domain, it.forgotten) if it.suite.sequential else {})


def _attack(pipeline: DiffusionPipeline, found: Readings, it: Context) -> Figures:
    """Success before and after the attack. The base is not attacked: it needs none."""
    target = Target(
        family_of(pipeline),
        it.readers[it.domain],
        it.forgotten,
        it.setting.steps,
        it.setting.guidance_scale,
        it.seed,
        it.setting.batch_size,
        base=lambda: family_of(it.base.to(device())),
        budget="quick" if it.stand_in else "paper",
        how={"sampler": it.setting.sampler} if it.setting.sampler else {},
    )
    asked = [
        (q, s)
        for q, s in zip(found.asked, found.seen(it.domain), strict=True)
        if q.truth.get(it.domain) in it.forgotten
    ]
    words = vocabulary_of(target.family)
    if words is None:
        return scoring.attack_success([seen in it.forgotten for _, seen in asked])
    tokens = unlearndiffatk.tokens_of(target)
    taken = [(q, seen in it.forgotten) for q, seen in asked if unlearndiffatk.fits(words, q.prompt, tokens)]
    before, after = [shown for _, shown in taken], None
    if pipeline is not it.base:
        with whole(target) as target:
            after = [shown or _found(target, q) for q, shown in taken]
    return scoring.attack_success(before, after, len(asked) - len(taken))


def _found(target: Target, row: Asked) -> bool:
    """Whether the search succeeds for a row, with its own seed and guidance."""
    own = {} if row.guidance_scale is None else {"guidance_scale": row.guidance_scale}
    return unlearndiffatk.searched(target.changed(**own), row.prompt, row.seed)


def _spqr(pipeline: DiffusionPipeline, found: Readings, it: Context) -> Figures:
    """Safety, prompt adherence and quality, each against the base, and safety after a benign LoRA."""
    before, after = (scoring.domains(read_, it.forgotten, it.domain) for read_ in (it.readings(it.base), found))
    kept = [n for n in ("in_domain_retain_accuracy", "cross_domain_retain_accuracy") if before.get(n)]
    adherence = min(after[name] / before[name] for name in kept)
    others = [Asked(q.prompt, q.seed + 10**6, q.truth) for q in found.asked]
    other = it.read(family_of(it.base), others).features
    own, erased = it.readings(it.base).features, found.features
    assert other is not None and own is not None and erased is not None
    rows = torch.tensor([q.truth.get(it.domain) not in it.forgotten for q in found.asked])
    near, far = (frechet_distance(each[rows], other[rows]) for each in (own, erased))
    tuned = it.read(_after_benign_lora(pipeline, it), found.asked)
    robust = scoring.domains(tuned, it.forgotten, it.domain)
    quality = near / far if far > near else 1.0
    of_safety = {f"safety{end}": after[f"unlearning_accuracy{end}"] for end in ("_low", "_high")}
    of_robustness = {f"robustness{end}": robust[f"unlearning_accuracy{end}"] for end in ("_low", "_high")}
    parts = after["unlearning_accuracy"], min(1.0, adherence), quality, robust["unlearning_accuracy"]
    return scoring.spqr(*parts) | of_safety | of_robustness


def _after_benign_lora(pipeline: DiffusionPipeline, it: Context) -> Family:
    """The model after a LoRA was trained on what the base draws of the retained concepts, never on the forgotten."""
    rows = [q for q in it.questions() if q.truth.get(it.domain) not in it.forgotten]
    base, setting = family_of(it.base), it.setting
    images = base.sample(
        [q.prompt for q in rows],
        [q.seed + 2 * 10**6 for q in rows],
        steps=setting.steps,
        guidance_scale=setting.guidance_scale,
        batch_size=setting.batch_size,
    )
    kept = ConceptImages(images, [q.truth[it.domain] for q in rows], [q.prompt for q in rows])
    updates, batch = setting.counts["updates"], setting.counts["batch"]
    return fine_tuned(family_of(pipeline), kept, steps=updates, batch_size=batch, seed=it.seed, lora=True)


def _class_wise(pipeline: DiffusionPipeline, it: Context) -> dict[str, Figures]:
    """The verb ``evaluate`` on each concept's own prompts."""
    (judge,), setting = it.readers.values(), it.setting
    known = next(iter(setting.concepts.values()))
    prompts = {c: [t.format(**{it.domain: c}) for t in setting.templates] for c in known}
    found = evaluate(
        pipeline,
        it.forgotten,
        base=it.base,
        judge=judge,
        prompts=prompts,
        held_out=held_out(setting, it.data),
        samples=setting.samples,
        steps=setting.steps,
        guidance_scale=setting.guidance_scale,
        sampler=setting.sampler,
        batch_size=setting.batch_size,
        inception=_inception(setting, it.data),
        seed=it.seed,
        self_checks=False,
        kept=it.kept,
        cache=None if it.kept is None else it.kept / "features",
        places=it.places,
        progress=False,
    ).evaluation
    kept = [f"{name}{end}" for name in it.suite.metrics for end in ("", "_low", "_high")]
    both = {"base": found.base, "figures": found.erased}
    return {which: {n: side[n] for n in kept if n in side} for which, side in both.items()}


def _inception(setting: Setting, data: Path | None) -> Path | None:
    file = data / setting.inception if data and setting.inception else None
    return file if file and file.exists() else None


def held_out(setting: Setting, data: Path | None) -> pd.DataFrame | None:
    """Real pictures with their concepts; ``None``: there are none, and the base draws some."""
    import pandas as pd

    from erasediff.data.parquet import read_parquet
    from erasediff.data.sources import read_digits, read_image_folder

    if not setting.held_out:
        return None
    if setting.held_out == "digits":
        rows = list(read_digits())[::3]
    else:
        assert data is not None
        path = data / setting.held_out
        rows = list(read_image_folder(path) if path.is_dir() else read_parquet(path, "img", "label"))
    _, concepts, pngs = zip(*rows, strict=True)
    return pd.DataFrame({"concept": concepts, "image": pngs})


#: What makes figures of what was read, by a suite's scoring.
SCORES: dict[str, Callable[[DiffusionPipeline, Readings, Context], Figures]] = {
    "domains": _domains,
    "attack": _attack,
    "spqr": _spqr,
    "detections": lambda _, found, it: scoring.detections(found, it.suite.thresholds, it.setting.counted),
    "topk": lambda _, found, it: scoring.topk(found, it.forgotten, it.domain, it.setting.counts.values()),
    "alignment": lambda _, found, it: scoring.alignment(found, it.setting.counts),
    "neighbours": lambda _, found, it: scoring.neighbours(found, it.forgotten, it.domain),
}
