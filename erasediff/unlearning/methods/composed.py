"""Methods that are compositions of the loop's settings. Sources and deviations: docs/PAPERS.md."""

from __future__ import annotations

from erasediff.records import Value
from erasediff.unlearning.methods.method import Method
from erasediff.unlearning.settings import DEFAULTS, PAPER_SETTING

#: Methods that aim away from the base, or at the noise, harm the rest at EraseDiff's rate; searched over four
#: (docs/benchmarks.md, "Methods from a word alone").
SLOWER: dict[str, Value] = {"learning_rate": 2e-4}


class EraseDiff(Method):
    """EraseDiff (arXiv 2401.05779): retain loss, subject to the forget loss shrinking at every update."""

    name = "erasediff"


class GradDiff(Method):
    """What the official code of EraseDiff does by default: fixed weighting."""

    name = "graddiff"
    fixes = {
        "multiplier": "fixed",
        "fixed_multiplier": 0.1,
        "forget_source": PAPER_SETTING["forget_source"],
        "retain_target": PAPER_SETTING["retain_target"],
    }


class Finetune(Method):
    """Retain loss only: the control."""

    name = "finetune"
    forget_weight = 0.0
    fixes = {"retain_target": "noise"}


class NegGrad(Method):
    """Gradient ascent on the denoising loss of the forget set, nothing else (arXiv 1911.04933)."""

    name = "neggrad"
    retain_weight = 0.0
    forget_weight = -1.0
    fixes = {"multiplier": "fixed", "fixed_multiplier": 1.0, "forget_target": "truth", "forget_source": "forget"}


class SalUn(Method):
    """SalUn (arXiv 2310.12508): the forget set relabelled beside denoising of the retain set, on salient weights."""

    name = "salun"
    fixes = {
        "multiplier": "fixed",
        "fixed_multiplier": 1.0,
        "mask": "saliency",
        "forget_target": "relabel",
        "forget_source": "forget",
        "retain_target": "noise",
    }
    by_words = {("small", "none"): SLOWER}


class Munba(Method):
    r"""MUNBa (ICCV 2025), Nash bargaining: the bisector of the two gradients, of one length.

    The bargain of two players is α_r ∇L_r + α_f ∇g with α_i = 1 / (‖g_i‖ √(1 + cos φ)): the sum of the gradients at
    length one, times a number that makes its length √2 whatever they are.
    """

    name = "munba"
    unit_lengths = True
    recorded = (*Method.recorded, "unit_lengths")
    fixes = {"multiplier": "fixed", "fixed_multiplier": 1.0}


class Esd(Method):
    """ESD (arXiv 2303.07345): away from the concept by the model's own guidance, without retained pictures."""

    name = "esd"
    retain_weight = 0.0
    fixes = {
        "multiplier": "fixed",
        "fixed_multiplier": 1.0,
        "forget_target": "negative_guidance",
        "forget_source": "forget",
    }
    by_words = {("small", "none"): SLOWER}


class Retrain(Method):
    """From new weights on the retain set, with the base's own recipe: the gold standard. It does not use the loop."""

    name = "retrain"
    retain_weight = forget_weight = 0.0

    def reads(self) -> set[str]:
        return {"retain"}

    def ignored(self) -> dict[str, str]:
        return dict.fromkeys(DEFAULTS, f"method {self.name}, which has its own recipe")
