"""What a method is made of, which methods there are, and what an update of each costs. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erasediff.records import EffectiveSettings, Value


@dataclass(frozen=True)
class Settings:
    """One method as a composition; every number's source is in PAPERS.md.

    Attributes:
        forget_weight: +1 pulls towards the forget target, -1 climbs away from it; 0 leaves the forget loss out.
        retain_weight: 0 leaves the retain loss out.
        alternate: the forget loss alone at even steps, the retain loss alone at odd ones.
        mixture: both losses from one batch of noised images of either set, weighted by importance (SISS).
        multiplier: rule that joins the two gradients, a key of ``MULTIPLIERS``.
        eta: its rate of decrease, or the fixed weight.
        unit_gradients: the two gradients are brought to length one before they are joined. With a weight of one that
            is the direction of MUNBa's bargain, α_r ∇L_r + α_f ∇g with α_i = 1 / (‖g_i‖ √(1 + cos φ)).
        unit_update: every update has the length ``max_grad_norm``, not only a longer one. The bargain's is √2 whatever
            the gradients.
        forget_exponent: p of the weight ∝ ℓ^-p, of mean 1, of each sample of the forget loss; 0 weighs all alike.
        forget_target: a kind of :func:`erasediff.unlearning.targets.forget_target`.
        forget_source: what x_t of the forget loss is made from: ``forget``, ``retain``, ``mixed``, or ``noise``:
            images of U[-1, 1) noise.
        retain_target: ``noise`` or ``teacher``.
        teacher: ``frozen``: the base; ``moving``: the model as it is.
        timestep_sampling: ``uniform``; ``antithetic``: t beside its mirror T - 1 - t, in both losses; ``importance``:
            those of the forget loss where the base and its target differ, in proportion to by how much.
        min_snr_gamma: γ of the retain loss's weight min(SNR, γ) / SNR; ``None`` weighs all timesteps alike.
        gap_every: measure the constraint gap every so many updates; 0 never.
        gap_tolerance: stop once the gap measured is at most this; ``None`` never.
        forget_batch_size, retain_batch_size: of all processes together.
        accumulate: compute each batch in so many parts.
        gradient_checkpointing: keep less between forward and backward pass, and compute it again: memory for time.
        shard: every process keeps a part of weights, optimizer and average (FSDP) instead of a copy of all.
        shared_batch: the retain loss's noised images serve the forget loss too, and the teacher answers once for both.
        repeat: make so many updates from each batch: a frozen teacher is asked once.
        retain_every: compute the retain gradient at every so many updates, and use it again in between.
        mask: which weights may change. ``saliency``: those that matter most for the forget set, whichever loss
            (SalUn); ``fisher_ratio``: for the forget loss only those that matter as much for it as for the retain set.
        mask_fraction: share of the weights that ``saliency`` leaves trainable.
        fisher_penalty: weight of ½ Σ F (θ - θ₀)² beside the retain loss, with F the diagonal Fisher information.
        fisher_samples: images it is estimated from, of each set.
        trainable: a name of :data:`erasediff.unlearning.loop.SELECTIONS`, or a part of parameter names.
    """

    forget_weight: float = 1.0
    retain_weight: float = 1.0
    alternate: bool = False
    mixture: bool = False
    multiplier: str = "paper"
    eta: float = 1.0
    unit_gradients: bool = False
    unit_update: bool = False
    forget_exponent: float = 0.0
    forget_target: str = "relabel"
    forget_source: str = "retain"
    retain_target: str = "teacher"
    teacher: str = "frozen"
    anchor: str | None = None
    timestep_sampling: str = "uniform"
    min_snr_gamma: float | None = None
    outer_steps: int = 140
    inner_steps: int = 2
    gap_every: int = 0
    gap_tolerance: float | None = None
    forget_batch_size: int = 64
    retain_batch_size: int = 64
    accumulate: int = 1
    gradient_checkpointing: bool = False
    shard: bool = False
    shared_batch: bool = False
    repeat: int = 1
    retain_every: int = 1
    learning_rate: float = 5e-4
    ema_decay: float = 0.95
    condition_dropout: float = 0.1
    max_grad_norm: float = 1.0
    mask: str = "none"
    mask_fraction: float = 0.5
    fisher_penalty: float = 0.0
    fisher_samples: int = 256
    trainable: str = "full"

    def __post_init__(self) -> None:
        if self.accumulate > (smaller := min(self.forget_batch_size, self.retain_batch_size)):
            raise ValueError(f"a batch of {smaller} cannot be computed in {self.accumulate} parts: lower accumulate")
        if self.shared_batch:
            for name, value in {**SHARED, "forget_batch_size": self.retain_batch_size}.items():
                if getattr(self, name) != value:
                    raise ValueError(f"shared_batch goes with {name} {value} alone, not {getattr(self, name)}")
        if self.shard and (self.gap_every or self.mask != "none" or self.fisher_penalty or self.retain_every > 1):
            raise ValueError("shard goes with no mask, no Fisher penalty, no gap_every and with retain_every 1")
        if self.retain_every > 1 and (self.alternate or self.mixture or not self.forget_weight):
            what = "it takes the two losses in turns" if self.alternate else "it has no forget loss"
            what = "both its losses come from one forward pass" if self.mixture else what
            raise ValueError(f"retain_every {self.retain_every} does not go with this method: {what}")

    def weights(self, step: int) -> dict[str, float]:
        """Weight of each loss that is computed at a step."""
        both = {"retain": self.retain_weight, "forget": self.forget_weight}
        if self.alternate:
            both.pop("retain" if step % 2 == 0 else "forget")
        if step % self.retain_every:
            both.pop("retain")
        return {name: weight for name, weight in both.items() if weight}


#: What ``shared_batch`` goes with: where the retain loss's target is the forget loss's as well.
SHARED: dict[str, Any] = {
    "forget_source": "retain",
    "forget_target": "relabel",
    "retain_target": "teacher",
    "teacher": "frozen",
    "timestep_sampling": "uniform",
    "retain_every": 1,
}

#: The settings in which the defaults differ from EraseDiff's paper, as the paper has them.
PAPER_SETTING = {"forget_source": "forget", "retain_target": "noise"}


def deviations_from_paper(ran: EffectiveSettings) -> list[str]:
    """Return what of a run is not as in EraseDiff's paper, a line each: ``forget_source: retain (paper: forget)``."""
    paper: dict[str, Value] = {"multiplier": "paper", "forget_target": "relabel", **PAPER_SETTING, "trainable": "full"}
    found: dict[str, tuple[Value, Value]] = {"method": (ran.method, "erasediff")}
    found |= {name: (ran.settings[name], value) for name, value in paper.items() if name in ran.settings}
    return [f"{name}: {value} (paper: {asked})" for name, (value, asked) in found.items() if value != asked]


#: A method is a composition of the one loop's settings. What a method fixes cannot be set beside it.
METHODS: dict[str, dict[str, Any]] = {
    "erasediff": {},
    # What the official code of EraseDiff does by default: fixed weighting.
    "graddiff": {"multiplier": "fixed", "eta": 0.1, **PAPER_SETTING},
    # Retain loss only: the control.
    "finetune": {"forget_weight": 0.0, "retain_target": "noise"},
    # Gradient ascent on the denoising loss of the forget set, nothing else.
    "neggrad": {
        "forget_weight": -1.0,
        "retain_weight": 0.0,
        "multiplier": "fixed",
        "eta": 1.0,
        "forget_target": "truth",
        "forget_source": "forget",
    },
    # Random relabelling of the forget set beside denoising of the retain set, on salient weights only.
    "salun": {
        "multiplier": "fixed",
        "mask": "saliency",
        "forget_target": "relabel",
        "forget_source": "forget",
        "retain_target": "noise",
    },
    # Nash bargaining: the bisector of the two gradients, of one length.
    "munba": {"unit_gradients": True, "multiplier": "fixed", "eta": 1.0, "unit_update": True},
    # Ascent on the forget set, adaptively weighted and masked, in turns with denoising of the retain set.
    "sfr_on": {
        "alternate": True,
        "forget_weight": -1.0,
        "multiplier": "fixed",
        "eta": 10.0,
        "forget_exponent": 0.5,
        "forget_target": "truth",
        "forget_source": "forget",
        "retain_target": "noise",
        "mask": "fisher_ratio",
    },
    # Away from the concept by the model's own guidance, without retained pictures.
    "esd": {
        "retain_weight": 0.0,
        "multiplier": "fixed",
        "eta": 1.0,
        "forget_target": "negative_guidance",
        "forget_source": "forget",
    },
    # Denoising of noise images under the forgotten concept, beside replay, held by the Fisher information.
    "selective_amnesia": {
        "multiplier": "fixed",
        "eta": 1.0,
        "forget_target": "truth",
        "forget_source": "noise",
        "retain_target": "noise",
        "fisher_penalty": 10.0,
    },
    # Data-point deletion from one mixture of both sets, weighted by importance.
    "siss": {
        "mixture": True,
        "forget_weight": -1.0,
        "multiplier": "norm_ratio",
        "eta": 0.1,
        "forget_target": "truth",
        "forget_source": "forget",
        "retain_target": "noise",
    },
    # From scratch on the retain set with the base's own recipe: the gold standard. Its loop is the base's.
    "retrain": {},
}


def settings_for(method: str, **settings: Any) -> Settings:
    """The loop's settings for a method. Raises: ValueError: unknown method or setting."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; there are: {', '.join(METHODS)}")
    try:
        return Settings(**{**settings, **METHODS[method]})
    except TypeError as error:
        raise ValueError(str(error).replace("Settings.__init__()", "erase()")) from None


#: Forward passes of the teacher that a forget target takes.
_TAUGHT = {"relabel": 1, "anchor": 1, "negative_guidance": 2}
#: A forward and a backward pass, in forward passes.
_TRAINED = 3


def passes_of_update(settings: Settings, step: int) -> int:
    """Images through the network in one update, a backward pass counted as two forward ones.

    Without the measurement of the constraint gap.
    """
    weights = settings.weights(step)
    if settings.mixture:
        return settings.forget_batch_size * (1 + (2 + settings.gradient_checkpointing) * len(weights))

    def asked(every: int) -> bool:
        """Whether the teacher is: not if the last step that computed the loss had the same batch."""
        return settings.teacher == "moving" or (step - every) // settings.repeat != step // settings.repeat

    trained = _TRAINED + settings.gradient_checkpointing
    retain = trained + asked(settings.retain_every) * (settings.retain_target == "teacher")
    forget = trained + asked(1) * _TAUGHT.get(settings.forget_target, 0) * (not settings.shared_batch)
    retain, forget = retain * settings.retain_batch_size, forget * settings.forget_batch_size
    return retain * ("retain" in weights) + forget * ("forget" in weights)


def passes_before(settings: Settings, forget_images: int, retain_images: int) -> int:
    """Images through the network before the first update: for a mask, the Fisher information, timesteps' weights."""
    total = 0
    if settings.mask == "saliency":
        n = settings.forget_batch_size
        total += _TRAINED * n * -(-forget_images // n)
    if settings.mask == "fisher_ratio" or settings.fisher_penalty:
        some = min(forget_images, settings.fisher_samples) + min(retain_images, settings.fisher_samples)
        total += _TRAINED * some
    if settings.timestep_sampling == "importance":
        total += IMPORTANCE_BATCHES * settings.forget_batch_size * (1 + _TAUGHT.get(settings.forget_target, 0))
    return total


#: Batches that the weights of ``timestep_sampling: importance`` are measured on.
IMPORTANCE_BATCHES = 4


def planned(
    method: str, forget_images: int, retain_images: int, budget: int | None, recipe: Mapping[str, Any], **settings: Any
) -> tuple[int, int]:
    """Updates that a method makes, and images through the network that they take (:func:`passes_of_update`).

    Args:
        budget: as many updates as this many images through the network allow, at least one; ``None``:
            ``outer_steps``. It does not bind ``retrain``.
        recipe: ``steps`` and ``batch_size`` of ``retrain``.
    """
    if method == "retrain":
        return recipe["steps"], recipe["steps"] * recipe["batch_size"] * _TRAINED
    chosen = settings_for(method, **settings)
    passes, updates = passes_before(chosen, forget_images, retain_images), 0
    while updates < chosen.outer_steps if budget is None else True:
        more = passes_of_update(chosen, updates)
        if budget is not None and updates and (passes + more > budget or not more):
            break
        passes, updates = passes + more, updates + 1
    return updates, passes
