"""What a suite is: a YAML file of this folder, checked against this schema."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from erasediff.errors import DataError, ParamsError, did_you_mean, shown
from erasediff.metrics.table import UNLEARNING_ACCURACY

#: How pictures become figures: keys of ``MEASURES`` of measuring.py.
Scoring = Literal["class_wise", "attack", "domains", "detections", "topk", "alignment", "neighbours", "spqr"]
#: What opens a reader of pictures; the last five are of the embedded worlds.
ReaderKind = Literal[
    "image_classifier", "clip", "nudity", "judge", "shapes", "shapes_detector", "shapes_alignment", "digits"
]
#: How a figure of others was read: in the primary file (code, leaderboard), or in somebody's transcription.
READ = {"P": "read in the primary source", "S": "from a transcription: a lead"}


#: Of ``--quick``: pictures of a concept, rows of a file.
QUICK = 8


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reader(Strict):
    """What reads the pictures of a domain.

    Attributes:
        folder: of its weights, below ``--data``; ``--judge`` stands for it where a suite has one reader.
        labels: which of its labels, or words, are each concept.
        all_labels: every other label of a classifier is a concept by itself.
    """

    kind: ReaderKind
    folder: str = ""
    labels: dict[str, tuple[str, ...]] = {}
    all_labels: bool = False


class Setting(Strict):
    """What is drawn and how: once for real, once on the embedded world.

    Attributes:
        concepts: by domain: what templates have places for, such as ``{object}``, and what stays.
        forget: what is forgotten where nobody says; each is erased where methods are given.
        templates: prompts, with places for domains and for ``{forgotten}`` and ``{neighbour}``.
        groups: further templates, by what they are counted as (a category, a language).
        files: CSV files below ``--data``; seed, guidance and concept of a row are the file's.
        rows: at most so many of each file, from all over it; all by default.
        of_forgotten: the rows of files ask for what was forgotten, whatever they call it.
        seeds: of each prompt of a template, and of rows without one.
        steps, guidance_scale, sampler: the model's own, or the file's, where they are not given.
        samples: pictures of each concept (scoring ``class_wise``).
        counts: numbers that the scoring asks for, by name.
        counted: labels whose detections count.
        held_out: real pictures that distances are measured to, below ``--data``: a folder of folders, or a parquet
            file; ``digits``: the embedded ones.
        inception: file of Inception-v3 below ``--data``, for FID where it is there.
        methods: how each concept is erased where neither models nor methods are given.
        settings: of the erasing, by method.
    """

    concepts: dict[str, tuple[str, ...]] = {}
    forget: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = {}
    files: tuple[str, ...] = ()
    rows: int | None = Field(None, ge=1)
    of_forgotten: bool = False
    seeds: tuple[int, ...] = (0,)
    steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = None
    sampler: str | None = None
    samples: int = Field(50, ge=2)
    batch_size: int = Field(16, ge=1)
    readers: dict[str, Reader]
    counts: dict[str, int] = {}
    counted: tuple[str, ...] = ()
    held_out: str = ""
    inception: str = ""
    methods: tuple[str, ...] = ()
    settings: dict[str, dict[str, Any]] = {}

    def domain_of(self, concept: str) -> str:
        """The domain of a concept; the first reader's where none has it."""
        return next((d for d, known in self.concepts.items() if concept in known), next(iter(self.readers)))

    def quick(self) -> Setting:
        """Few pictures, one concept of each domain: its first."""
        firsts = {d: next((c for c in self.forget if c in known), None) for d, known in self.concepts.items()}
        return self.model_copy(
            update={
                "seeds": self.seeds[:1],
                "rows": min(self.rows or QUICK, QUICK),
                "samples": min(self.samples, UNLEARNING_ACCURACY.least),
                "counts": {name: min(count, QUICK) for name, count in self.counts.items()},
                "forget": tuple(c for c in firsts.values() if c) or self.forget[:1],
            }
        )


class Need(Strict):
    """Something that a run for real needs.

    Attributes:
        path: below ``--data``.
        option: an option that gives it instead.
        package: to be installed.
    """

    what: str
    how: str
    path: str = ""
    option: Literal["", "--judge"] = ""
    package: str = ""


class Metric(Strict):
    """A figure; ``percent``: tables show it times 100."""

    words: str
    better: Literal["higher", "lower", "neither"]
    percent: bool = True


class Published(Strict):
    """Figures of others, in the units of their source.

    Attributes:
        protocol: under which they came about; only figures of one protocol stand in one table.
        concept: of what, where it is of one.
    """

    method: str
    concept: str = ""
    figures: dict[str, float]
    protocol: str
    source: str
    read: Literal["P", "S"]


class Suite(Strict):
    """A published benchmark.

    Attributes:
        protocol: its name: figures of others with the same one stand beside ours.
        told: how it runs, and where we run it otherwise.
        sequential: requests come one after another; after each every earlier concept is asked for again.
        models: that it is defined for.
    """

    name: str
    title: str
    scoring: Scoring
    protocol: str
    told: str
    sources: tuple[str, ...]
    models: tuple[str, ...]
    sequential: bool = False
    thresholds: tuple[float, ...] = ()
    metrics: dict[str, Metric]
    needs: tuple[Need, ...]
    published: tuple[Published, ...] = ()
    real: Setting
    stand_in: Setting

    @model_validator(mode="after")
    def _goes_together(self) -> Suite:
        for it in self.published:
            if it.protocol == self.protocol and (unknown := [n for n in it.figures if metric_of(n, self) is None]):
                raise ValueError(
                    f"the figure {unknown[0]} of {it.method} has the suite's protocol, and is no metric of it"
                )
        for setting in (self.real, self.stand_in):
            known = {c for names in setting.concepts.values() for c in names}
            if setting.concepts and (unknown := [c for c in setting.forget if c not in known]):
                raise ValueError(f"{unknown[0]} is to be forgotten, and among no domain's concepts")
        return self


def metric_of(figure: str, suite: Suite) -> Metric | None:
    """The metric that a figure such as ``pictures_at_0.6.violence`` belongs to: the longest name that begins it."""
    names = [n for n in suite.metrics if figure == n or figure.startswith((f"{n}.", f"{n}_"))]
    return suite.metrics[max(names, key=len)] if names else None


def suites() -> list[str]:
    """The names of all suites."""
    return sorted(f.name.removesuffix(".yaml") for f in files(__package__).iterdir() if f.name.endswith(".yaml"))


def listed() -> str:
    """A line a suite: its name and its title."""
    return "\n".join(f"{name}: {load_suite(name).title}" for name in suites())


def load_suite(name: str) -> Suite:
    """Read and check a suite of the package. Raises: ParamsError: there is none of the name."""
    if name not in suites():
        raise ParamsError(
            f"no suite {shown(repr(name))}{did_you_mean(name, suites())}; there are: {', '.join(suites())}"
        )
    return parsed((files(__package__) / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml")


def parsed(text: str, where: str) -> Suite:
    """A suite from YAML. Raises: ParamsError: it does not fit the schema, with all that is wrong."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content: Any = YAML(typ="safe", pure=True).load(text)
        return Suite.model_validate(content)
    except (YAMLError, ValidationError) as error:
        raise ParamsError(f"{where}: {shown(' '.join(str(error).split()), 600)}") from None


def require(suite: Suite, data: Path | None, judge: str | None) -> None:
    """Raises: DataError: all that is missing for a run for real, and how to get it."""
    missing = []
    for need in suite.needs:
        given = (need.option == "--judge" and judge) or (need.path and data and (data / need.path).exists())
        if need.package and not (need.path or need.option):
            given = find_spec(need.package) is not None
        if not given:
            where = " or ".join(filter(None, (f"DIR/{need.path} of --data DIR" if need.path else "", need.option)))
            missing.append(f"{need.what} ({where or need.package}): {need.how}")
    if missing:
        lines = "\n".join(f"  - {line}" for line in missing)
        raise DataError(
            f"the suite {suite.name} needs {len(missing)} thing(s) that are not here; nothing was drawn. "
            f"--stand-in tries the same code on an embedded world\n{lines}"
        )
