"""What the loop can be told, whatever the method. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args, get_type_hints

from erasediff.errors import ParamsError, did_you_mean, shown
from erasediff.ranges import require_in_range
from erasediff.records import EffectiveSettings, Value

Multiplier: TypeAlias = Literal["paper", "cosine", "fixed", "norm_ratio"]
ForgetTarget: TypeAlias = Literal["relabel", "uniform_noise", "negative_guidance", "anchor", "truth"]
ForgetSource: TypeAlias = Literal["forget", "retain", "mixed", "noise"]
RetainTarget: TypeAlias = Literal["noise", "teacher"]
Mask: TypeAlias = Literal["none", "saliency", "fisher_ratio"]
Adapter: TypeAlias = Literal["none", "lora"]

#: An ``anchor`` that is chosen: the retained concept whose predictions lie nearest.
NEAREST = "nearest"

CHOICES: dict[str, tuple[str, ...]] = {
    "multiplier": get_args(Multiplier),
    "forget_target": get_args(ForgetTarget),
    "forget_source": get_args(ForgetSource),
    "retain_target": get_args(RetainTarget),
    "mask": get_args(Mask),
    "adapter": get_args(Adapter),
}


@dataclass(frozen=True)
class Settings:
    """Settings of the loop; every number's source is in docs/PAPERS.md, its range in :data:`erasediff.ranges.RANGES`.

    Attributes:
        multiplier: rule that joins the two gradients.
        eta: rate of decrease that the rules ``paper`` and ``cosine`` ask of the forget loss.
        fixed_multiplier: weight of the forget gradient under the rule ``fixed``.
        norm_ratio: length of the forget part, as a share of the retain gradient's, under the rule ``norm_ratio``.
        forget_target: what the forget loss aims at, a kind of :func:`erasediff.unlearning.targets.forget_target`.
        forget_source: images that x_t of the forget loss is made from: ``forget``, ``retain``, ``mixed`` (half of
            each), or ``noise`` (images of U[-1, 1) noise).
        retain_target: what the retain loss aims at: ``noise``, or ``teacher``, the frozen base.
        latent_anchoring: weight of a second retain loss, which needs no words: the teacher's predictions under random
            embeddings, of the length of those to forget (SPM); 0 none.
        project_update: keys and values of the attention to the prompt change only across the embeddings of what is kept
            and of what was forgotten before, so that a later request undoes neither (CUIG).
        anchor: concept of the forget target ``anchor``, or a mapping with one for each that is forgotten; ``nearest``:
            the retained one whose predictions lie nearest.
        outer_steps: number of updates.
        inner_steps: Adam steps of one measurement of the constraint gap.
        gap_every: measure the constraint gap every so many updates; 0 never.
        gap_tolerance: stop once the gap measured is at most this; ``None`` never.
        forget_batch_size, retain_batch_size: of all processes together.
        accumulate: compute each batch in so many parts.
        gradient_checkpointing: keep less between forward and backward pass, and compute it again: memory for time.
        offload: keep four copies of the trained weights on the device instead of seven, for four transfers of one an
            update: the teacher answers for the whole run before the first; base, average and forget gradient lie in
            the host's memory, those of a CPU in files.
        shard: every process keeps a part of weights, optimizer and average (FSDP) instead of a copy of all.
        shared_batch: the retain loss's noised images serve the forget loss too; the teacher answers once for both.
        learning_rate: of Adam; it falls to zero along a cosine.
        ema_decay: of the average of the weights, which is the result; 0 keeps none.
        condition_dropout: share of retained samples whose concept becomes the null concept.
        max_grad_norm: longer updates are cut to this 2-norm.
        mask: weights that may change. ``saliency``: those that matter most for the forget set (SalUn);
            ``fisher_ratio``: for the forget loss, those that matter as much for it as for the retain set (SFR-on).
        mask_fraction: share of the weights that ``saliency`` leaves trainable.
        fisher_samples: images that Fisher information is estimated from, of each set.
        trainable: a name of the family's ``selections`` (``full``, ``xattn``, ``xattn_kv``, ``noxattn``, ``selfattn``,
            ``notime``), or a part of parameter names.
        adapter: ``lora``: what is trained is a pair of small matrices beside every linear and convolution layer that
            ``trainable`` selects; the result is a LoRA, and the base with it fused.
        rank: of each pair.
        lora_alpha: a layer's output changes by ``lora_alpha / rank`` times the product of its pair; ``None``: ``rank``.
    """

    multiplier: Multiplier = "paper"
    eta: float = 1.0
    fixed_multiplier: float = 1.0
    norm_ratio: float = 0.1
    forget_target: ForgetTarget = "relabel"
    forget_source: ForgetSource = "retain"
    retain_target: RetainTarget = "teacher"
    latent_anchoring: float = 0.0
    project_update: bool = False
    anchor: str | Mapping[str, str] | None = None
    outer_steps: int = 140
    inner_steps: int = 2
    gap_every: int = 0
    gap_tolerance: float | None = None
    forget_batch_size: int = 64
    retain_batch_size: int = 64
    accumulate: int = 1
    gradient_checkpointing: bool = False
    offload: bool = False
    shard: bool = False
    shared_batch: bool = False
    learning_rate: float = 5e-4
    ema_decay: float = 0.95
    condition_dropout: float = 0.1
    max_grad_norm: float = 1.0
    mask: Mask = "none"
    mask_fraction: float = 0.5
    fisher_samples: int = 256
    trainable: str = "full"
    adapter: Adapter = "none"
    rank: int = 8
    lora_alpha: float | None = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r} is none of {', '.join(choices)}")
        for name, default in SWITCHES_AND_NAMES.items():
            if not isinstance(getattr(self, name), type(default)):
                told = "true or false" if isinstance(default, bool) else "a text"
                raise ValueError(f"{name} {shown(getattr(self, name))} is not {told}")
        anchors = self.anchor.values() if isinstance(self.anchor, Mapping) else [self.anchor]
        if self.anchor is not None and not all(isinstance(name, str) and name.strip() for name in anchors):
            raise ValueError(f"anchor {shown(repr(self.anchor))} names nothing: give one concept, or leave it out")
        require_in_range(vars(self))
        if self.forget_target == "anchor" and self.anchor is None:
            raise ValueError("anchor names the concept of forget_target anchor: give one")
        if self.accumulate > (smaller := min(self.forget_batch_size, self.retain_batch_size)):
            raise ValueError(f"a batch of {smaller} cannot be computed in {self.accumulate} parts: lower accumulate")
        if self.shared_batch:
            for name, value in {**SHARED, "forget_batch_size": self.retain_batch_size}.items():
                if getattr(self, name) != value:
                    raise ValueError(f"shared_batch goes with {name} {value} alone, not {getattr(self, name)}")
        for name in ("shard", "offload"):
            if getattr(self, name) and (self.gap_every or self.mask != "none"):
                raise ValueError(f"{name} goes with no mask and no gap_every")
        if self.offload and (self.shard or self.project_update or self.adapter != "none"):
            raise ValueError("offload goes with no shard, no project_update, and no adapter, which is small by itself")
        if self.project_update and (self.shard or self.adapter != "none"):
            raise ValueError("project_update is about the base's whole weights: it goes with no shard and no adapter")
        if self.adapter != "none" and (self.shard or self.mask != "none"):
            raise ValueError(
                f"adapter {self.adapter} goes with no mask and no shard: both are about the base's weights"
            )


#: Settings that are true or false, or a text that is none of a few; numbers have their ranges.
SWITCHES_AND_NAMES: dict[str, bool | str] = {
    "gradient_checkpointing": False,
    "offload": False,
    "shard": False,
    "shared_batch": False,
    "project_update": False,
    "trainable": "full",
}

#: What ``shared_batch`` goes with: where the retain loss's target is the forget loss's as well.
SHARED: dict[str, str] = {"forget_source": "retain", "forget_target": "relabel", "retain_target": "teacher"}

DEFAULTS: dict[str, Value] = dict(vars(Settings()))


def read_setting(text: str) -> tuple[str, Value]:
    """What ``NAME=VALUE`` says, its value of the setting's type.

    Raises: ParamsError: it is no such text, there is no such setting, or its value is of another type.
    """
    name, equals, value = text.partition("=")
    if not equals or name not in DEFAULTS:
        hint = did_you_mean(name, DEFAULTS) if equals else ": write NAME=VALUE"
        raise ParamsError(f"no setting {shown(name)!r}{hint}")
    hint = get_type_hints(Settings)[name]
    kinds = getattr(hint, "__args__", (hint,))
    try:
        read = json.loads(value)
    except ValueError:
        read = value
    if float in kinds and type(read) is int:
        read = float(read)
    if type(read) in kinds or read in kinds:  # the latter: one of a Literal's texts
        return name, read
    if str in kinds:
        return name, value
    told = " or ".join(kind.__name__ if isinstance(kind, type) else str(kind) for kind in kinds)
    raise ParamsError(f"{name} {shown(value)!r} is no {told}")


#: One replacement: of several, a model that is guided draws something in between (docs/experiments.md).
NEAREST_ANCHOR: dict[str, Value] = {"forget_target": "anchor", "anchor": NEAREST}
#: Models of words are guided: what the null prompt loses, guidance multiplies (docs/experiments.md).
GUIDED: dict[str, Value] = {"condition_dropout": 0.0, **NEAREST_ANCHOR}
#: What ``erase`` takes where nobody says, of a model that takes words, by the number of its denoiser's weights. A small
#: one as docs/experiments.md found on the example; a large one as UnlearnCanvas (arXiv 2402.11846) runs EraseDiff on
#: Stable Diffusion 1.5, and a LoRA as is usual there.
LARGE = 100_000_000
BY_WORDS: dict[tuple[str, str], dict[str, Value]] = {
    ("small", "none"): {
        "outer_steps": 160,
        "forget_batch_size": 32,
        "retain_batch_size": 32,
        "learning_rate": 1e-3,
        "trainable": "attn",
        **GUIDED,
    },
    ("small", "lora"): {
        "outer_steps": 160,
        "forget_batch_size": 32,
        "retain_batch_size": 32,
        "learning_rate": 1e-2,
        "trainable": "attn",
        "rank": 4,
        **GUIDED,
    },
    ("large", "none"): {
        "outer_steps": 500,
        "forget_batch_size": 4,
        "retain_batch_size": 4,
        "learning_rate": 5e-5,
        "trainable": "xattn",
        **GUIDED,
    },
    ("large", "lora"): {
        "outer_steps": 500,
        "forget_batch_size": 4,
        "retain_batch_size": 4,
        "learning_rate": 1e-4,
        **GUIDED,
    },
}

#: Settings that share a number among several rules, and the rules that read each.
READ_BY_RULE: dict[str, tuple[Multiplier, ...]] = {
    "eta": ("paper", "cosine"),
    "fixed_multiplier": ("fixed",),
    "norm_ratio": ("norm_ratio",),
}

#: EraseDiff's own setting (arXiv 2401.05779), but for numbers: the only definition.
PAPER_SETTING: dict[str, Value] = {
    "multiplier": "paper",
    "forget_target": "relabel",
    "forget_source": "forget",
    "retain_target": "noise",
    "shared_batch": False,
    "mask": "none",
    "trainable": "full",
}


def deviations_from_paper(ran: EffectiveSettings) -> list[str]:
    """Return what of a run is not as in EraseDiff's paper, a line each: ``forget_source: retain (paper: forget)``."""
    found: dict[str, tuple[Value, Value]] = {"method": (ran.method, "erasediff")}
    found |= {name: (ran.settings[name], paper) for name, paper in PAPER_SETTING.items() if name in ran.settings}
    return [f"{name}: {value} (paper: {paper})" for name, (value, paper) in found.items() if value != paper]
