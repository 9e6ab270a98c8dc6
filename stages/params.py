"""``params.yaml``: read, checked as a whole, and handed to the doors section by section."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from erasediff.artifacts import write_bytes
from erasediff.data.names import unseen
from erasediff.data.wordings import Kind
from erasediff.errors import NAME_IT, ParamsError, did_you_mean, require_concepts, shown
from erasediff.evaluation.attacks import ATTACKS
from erasediff.ranges import RANGES
from erasediff.unlearning import METHODS, method_for
from stages.yaml_files import keeping_comments, read_yaml

PARAMS_FILE = Path("params.yaml")

Count = Annotated[int, Field(ge=1, lt=2**31)]
#: Of the schedule's 1,000 timesteps.
SamplingSteps = Annotated[int, Field(ge=1, le=1000)]
GuidanceScale = Annotated[float, Field(ge=0, le=1000)]
#: Of a level: eight groups are normalised together.
Channels = Annotated[int, Field(ge=8, le=8192, multiple_of=8)]
Precision = Literal["no", "bf16"]
if TYPE_CHECKING:
    Method: TypeAlias = str
    Attack: TypeAlias = str
else:
    Method = Literal[tuple(METHODS)]  # one list: that of the methods
    Attack = Literal[tuple(ATTACKS)]
#: Families of models that others trained: the files of ``erasediff/families/`` that have one.
FamilyName = Literal[
    "class_conditional",
    "dit",
    "flux",
    "flux2_klein",
    "pixart",
    "sana",
    "sana_sprint",
    "stable_diffusion",
    "stable_diffusion_3",
    "stable_diffusion_xl",
    "unconditional",
]
JudgeKind = Literal["cnn", "clip", "image_classifier", "nudity"]
#: A repository of the Hugging Face hub.
REPO = r"[\w.-]+(/[\w.-]+)?"


def _printable(text: str) -> str:
    if unseen(text):
        raise ValueError("a line of text without control characters is needed")
    return text


Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]


class Section(BaseModel):
    """A frozen section; an unknown key, a wrong type or a value out of range is an error.

    Numbers of a training have their ranges in :data:`erasediff.ranges.RANGES`, by their names; others beside them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*")
    @classmethod
    def _in_range(cls, value: Any, info: ValidationInfo) -> Any:
        bounds = RANGES.get(info.field_name or "")
        if bounds is not None and not bounds.holds(value):
            raise ValueError(f"give {bounds}")
        return value


class Curate(Section):
    source: Literal["digits", "image_folder", "parquet", "prompts"]
    path: Text
    concepts: dict[Text, Kind]
    image_size: Annotated[int, Field(ge=4, le=4096)] | None
    mode: Literal["L", "RGB"] | None
    image_column: Text
    label_column: Text
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    min_per_concept: Annotated[int, Field(ge=2, lt=2**31)]
    max_per_concept: Count | None


class Pretrain(Section):
    source: Literal["train", "folder", "hub", "registry"]
    path: Text
    repo: Text | None
    revision: Text | None
    family: FamilyName | None
    block_out_channels: Annotated[list[Channels], Field(min_length=1, max_length=8)]
    attention: Annotated[list[bool], Field(min_length=1, max_length=8)]
    layers_per_block: Annotated[int, Field(ge=1, le=16)]
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    prediction_type: Literal["epsilon", "sample", "v_prediction"]
    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    ema_decay: float
    condition_dropout: float
    max_grad_norm: float
    mixed_precision: Precision
    checkpoint_every: int

    @model_validator(mode="after")
    def _consistent(self) -> Pretrain:
        if len(self.attention) != len(self.block_out_channels):
            raise ValueError(
                f"attention has {len(self.attention)} entries, block_out_channels {len(self.block_out_channels)}: "
                "give one a level"
            )
        if self.source == "train" and self.family is not None:
            raise ValueError(f"family {self.family} is of a model that is taken, and source is train: leave it null")
        if self.source == "hub" and not (re.fullmatch(REPO, self.repo or "") and self.revision):
            raise ValueError("source hub needs repo (organisation/name) and revision (a commit)")
        if self.source == "registry" and not (self.repo and (self.revision or "").isdigit()):
            raise ValueError(
                f"source registry needs repo (the model's name) and revision (a version), not {shown(self.revision)}: "
                "an alias can move without DVC seeing it"
            )
        return self


class Classifier(Section):
    kind: JudgeKind
    path: Text
    repo: Text | None
    revision: Text | None
    labels: dict[Text, Annotated[list[Text], Field(min_length=1)]]
    pictures: Literal["data/curated", "models/base"]
    count: Annotated[int, Field(ge=8)]
    guidance_scale: GuidanceScale | None
    inference_steps: SamplingSteps | None
    width: Annotated[int, Field(ge=1, le=4096)]
    steps: int
    batch_size: int
    learning_rate: float
    min_accuracy: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Classifier:
        if self.kind == "cnn" and self.labels:
            raise ValueError("labels has no effect with kind cnn, which learns its concepts: leave it empty")
        if self.kind not in ("clip", "image_classifier") and self.repo:
            raise ValueError(f"repo has no effect with kind {self.kind}: leave it at null")
        if self.repo and not (re.fullmatch(REPO, self.repo) and self.revision):
            raise ValueError("repo (organisation/name) needs revision (a commit)")
        return self


#: In the place of an error: which of several types was tried.
UNION = re.compile(r"(list|dict|literal|function-\w+)\[.*\]|constrained-str")


class ForgetSet(Section):
    concepts: list[Text]
    preserve: Literal["nearest"] | list[Text] | None
    sample_ids: list[Text]
    origin: Literal["selected", "generated"]
    count: Count
    guidance_scale: GuidanceScale | None
    inference_steps: SamplingSteps | None
    retain_per_concept: Count | None

    @model_validator(mode="after")
    def _one_target(self) -> ForgetSet:
        if bool(self.concepts) == bool(self.sample_ids):
            raise ValueError("name what to forget by concepts or by sample_ids: exactly one of the two lists")
        if len(set(self.concepts)) != len(self.concepts):
            raise ValueError(f"concepts {shown(self.concepts)} names one twice")
        if isinstance(self.preserve, list) and (both := _both(self.concepts, self.preserve)):
            raise ValueError(
                f"{shown(', '.join(both))} is to be forgotten, and to be kept by preserve: take it out of one"
            )
        if self.sample_ids and self.origin == "generated":
            raise ValueError("sample_ids name curated pictures: use origin selected")
        return self


class Erase(Section):
    method: Method
    eta: float
    multiplier: Literal["paper", "cosine", "fixed"]
    fixed_multiplier: float
    forget_target: Literal["relabel", "uniform_noise", "negative_guidance", "anchor"]
    forget_source: Literal["forget", "retain", "mixed"]
    retain_target: Literal["noise", "teacher"]
    latent_anchoring: float
    project_update: bool
    anchor: Text | dict[Text, Text] | None
    outer_steps: int
    passes: int | None
    inner_steps: int
    gap_every: int
    gap_tolerance: float | None
    forget_batch_size: int
    retain_batch_size: int
    accumulate: int
    gradient_checkpointing: bool
    offload: bool
    shard: bool
    shared_batch: bool
    learning_rate: float
    ema_decay: float
    condition_dropout: float
    max_grad_norm: float
    mask: Literal["none", "saliency", "fisher_ratio"]
    mask_fraction: float
    fisher_samples: int
    trainable: Text
    adapter: Literal["none", "lora"]
    rank: int
    lora_alpha: float | None
    fused: bool
    mixed_precision: Precision
    checkpoint_every: int

    @model_validator(mode="after")
    def _goes_together(self) -> Erase:
        method_for(self.method, **self.settings())
        if self.fused and self.adapter == "none":
            raise ValueError("fused has no effect with adapter none, which trains the whole network: leave it at false")
        return self

    def settings(self) -> dict[str, Any]:
        """Return the settings of the loop: fields of :class:`erasediff.unlearning.Settings`."""
        return self.model_dump(exclude={"method", "passes", "fused", "mixed_precision", "checkpoint_every"})


class Evaluate(Section):
    samples_per_concept: Annotated[int, Field(ge=2, lt=2**31)]
    draws: Count
    max_draws: Annotated[int, Field(ge=1, le=100)] | None
    decide_at: Annotated[float, Field(ge=0, le=1)] | None
    sampler: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$", max_length=100)] | None
    inference_steps: SamplingSteps | None
    guidance_scale: GuidanceScale | None
    batch_size: int
    self_checks: bool
    attacks: list[Attack]
    attack_pictures: Annotated[int, Field(ge=1, lt=2**20)]
    attack_budget: Literal["quick", "paper"]
    retrained: Text
    wordings: dict[Text, Annotated[list[Text], Field(min_length=1)]]

    @model_validator(mode="after")
    def _draws_on(self) -> Evaluate:
        if (self.max_draws is None) != (self.decide_at is None):
            raise ValueError("max_draws and decide_at go together: give both, or null for both")
        if self.max_draws is not None and self.max_draws < self.draws:
            raise ValueError(f"max_draws {self.max_draws} is less than draws {self.draws}")
        return self


class Verdict(Section):
    min_unlearning_accuracy: Annotated[float, Field(ge=0, le=1)]
    min_base_accuracy: Annotated[float, Field(ge=0, le=1)]
    max_retain_accuracy_drop: Annotated[float, Field(ge=0, le=1)]
    max_concept_drop: Annotated[float, Field(ge=0, le=1)]
    max_distance_ratio: Annotated[float, Field(gt=0)]
    max_forget_degenerate: Annotated[float, Field(ge=0, le=1)]
    max_retain_degenerate_rise: Annotated[float, Field(ge=0, le=1)]
    max_retain_closeness_rise: Annotated[float, Field(ge=0, le=1)] | None = None
    max_distance_rise: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    max_attack_rise: Annotated[float, Field(ge=0, le=1)] | None = None


class Register(Section):
    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    request: Annotated[Text, Field(max_length=200)] | None = None


class Params(Section):
    """The whole file."""

    seed: int
    curate: Curate
    pretrain: Pretrain
    classifier: Classifier
    forget_set: ForgetSet
    erase: Erase
    evaluate: Evaluate
    verdict: Verdict
    register_: Annotated[Register, Field(alias="register")]

    @model_validator(mode="after")
    def _words_need_a_model(self) -> Params:
        needed = {
            "pretrain.source": (self.pretrain.source != "train", "folder, hub or registry"),
            "classifier.pictures": (self.classifier.pictures == "models/base", "models/base"),
            "forget_set.origin": (self.forget_set.origin == "generated", "generated"),
        }
        wrong = [f"{entry} to {value}" for entry, (holds, value) in needed.items() if not holds]
        if self.curate.source == "prompts" and wrong:
            raise ValueError(f"curate.source prompts gives no pictures, a model draws them: set {', '.join(wrong)}")
        decide_at, limit = self.evaluate.decide_at, self.verdict.min_unlearning_accuracy
        if decide_at is not None and decide_at != limit:
            raise ValueError(
                f"evaluate.decide_at {decide_at} is not verdict.min_unlearning_accuracy, {limit}: set it so"
            )
        if self.verdict.max_attack_rise is not None and not self.evaluate.attacks:
            raise ValueError("verdict.max_attack_rise is a limit for attacks: name some in evaluate.attacks")
        if self.curate.source != "prompts" and self.forget_set.preserve is not None:
            raise ValueError("forget_set.preserve names words beside a table of words: leave it at null with pictures")
        self._require_anchors()
        if self.curate.source != "prompts" and self.curate.concepts:
            raise ValueError("curate.concepts has no effect with pictures, which have their concepts: leave it empty")
        return self

    def _require_anchors(self) -> None:
        anchor, concepts = self.erase.anchor, self.forget_set.concepts
        if isinstance(anchor, dict) and {*anchor} != {*concepts}:
            raise ValueError(
                f"erase.anchor names {shown(', '.join(anchor))}: give one for each of forget_set.concepts, which are "
                f"{shown(', '.join(concepts))}, or one name"
            )
        names = [*anchor.values()] if isinstance(anchor, dict) else [anchor]
        if gone := [name for name in names if name in concepts]:
            raise ValueError(f"erase.anchor {shown(gone[0])} is to be forgotten itself: name another concept")

    def require_known_concepts(self) -> None:
        """Look for what is to be forgotten where params alone say what the data have: digits, and words without a file.

        Raises: UnknownConcept.
        """
        given = self.curate
        if given.source == "digits":
            require_concepts(self.forget_set.concepts, "0123456789")
        elif given.source == "prompts" and not any(Path(given.path).rglob("*.[cC][sS][vV]")):
            require_concepts(self.forget_set.concepts, given.concepts, NAME_IT)

    @property
    def reads(self) -> set[str]:
        """Of which sets the method reads the pictures: ``forget``, ``retain``. It goes by :data:`READS_BY` alone."""
        return method_for(self.erase.method, **self.erase.settings()).reads()


#: DVC params of a stage that takes ``reads``: another learning rate draws nothing again.
READS_BY = ("erase.method", "erase.forget_source", "erase.gap_every", "erase.mask")


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check the whole file.

    Raises: ParamsError: all errors of the file in one message, with did-you-mean for misspelt keys.
    """
    return _check(read_yaml(path), path)


def change_params(changes: Mapping[str, Any], path: Path = PARAMS_FILE) -> Params:
    """Change entries such as ``{"erase.eta": 0.5}``, the file's comments kept.

    Raises: ParamsError: what would come of it is not valid; the file stays as it was.
    """
    params, text = changed_params(changes, path)
    if changes:
        write_bytes(path, text.encode())
    return params


def changed_params(changes: Mapping[str, Any], path: Path = PARAMS_FILE) -> tuple[Params, str]:
    """What would come of changed entries, as a text too; the file stays as it is.

    Raises: ParamsError: it is not valid.
    """
    yaml = keeping_comments()
    raw = read_yaml(path, yaml)
    for name, value in changes.items():
        section, entry = raw, name
        while "." in entry:
            first, _, entry = entry.partition(".")
            if not isinstance(section.setdefault(first, {}), dict):
                raise ParamsError(f"{path}: {name}: {first} holds no entries, it is {shown(section[first])}")
            section = section[first]
        section[entry] = value
    text = io.StringIO()
    yaml.dump(raw, text)
    try:
        read = YAML(typ="safe", pure=True).load(text.getvalue())  # what will be read
    except YAMLError:  # such as of a list of mappings with an empty key
        told = ", ".join(f"{name} to {shown(value)}" for name, value in changes.items())
        raise ParamsError(f"{path}: YAML has no words for it: {shown(told, 300)}: give another value") from None
    return _check(read, path), text.getvalue()


#: Errors that are told at once.
MOST_ERRORS = 20


def _check(raw: Any, path: Path) -> Params:
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        found = error.errors()
        lines = [shown(_explain(item, raw), 400) for item in found[:MOST_ERRORS]]
        lines += [f"and {len(found) - MOST_ERRORS} more"] if len(found) > MOST_ERRORS else []
        raise ParamsError(f"{path}: {len(found)} error(s)\n" + "\n".join(f"  - {line}" for line in lines)) from None


def _both(names: list[str], others: list[str]) -> list[str]:
    """Names that are among others, however written."""
    return sorted({name.casefold() for name in names} & {name.casefold() for name in others})


def _explain(item: Any, raw: Any) -> str:
    where = ".".join(shown(part) for part in item["loc"] if not UNION.fullmatch(str(part))) or "all together"
    if item["type"] == "extra_forbidden":
        section: Any = Params
        for part in item["loc"][:-1]:
            section = {f.alias or n: f for n, f in section.model_fields.items()}[part].annotation
        known = [f.alias or n for n, f in section.model_fields.items()]
        return f"{where}: unknown key{did_you_mean(shown(item['loc'][-1]), known) or '; remove it'}"
    if item["type"] == "missing":
        return f"{where}: missing"
    message = item["msg"].removeprefix("Value error, ")
    value = item["input"]
    seen = "" if isinstance(value, dict) else f", not {shown(repr(value) if isinstance(value, str) else value)}"
    if item["type"] == "literal_error" and isinstance(value, str):
        seen += did_you_mean(shown(value), item["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
    return f"{where}: {message}{seen}"
