"""SFR-on (NeurIPS 2024): ascent on the forget set in turns with denoising of the retain set."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from erasediff.unlearning.methods.method import Method

if TYPE_CHECKING:
    from torch import Tensor


class SfrOn(Method):
    """Ascent on the forget set, adaptively weighted and masked, at even steps; denoising of the retain set at odd ones.

    Attributes:
        forget_exponent: p of the weight ∝ ℓ^-p of each sample of the forget loss.
    """

    name = "sfr_on"
    forget_weight = -1.0
    forget_exponent: ClassVar[float] = 0.5
    recorded = (*Method.recorded, "forget_exponent")
    fixes = {
        "multiplier": "fixed",
        "fixed_multiplier": 10.0,
        "forget_target": "truth",
        "forget_source": "forget",
        "retain_target": "noise",
        "mask": "fisher_ratio",
    }

    def weights(self, step: int) -> dict[str, float]:
        return {"forget": self.forget_weight} if step % 2 == 0 else {"retain": self.retain_weight}

    def sample_weights(self, errors: Tensor) -> Tensor:
        return errors.clamp(min=1e-12) ** -self.forget_exponent
