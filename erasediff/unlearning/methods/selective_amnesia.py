"""Selective Amnesia (arXiv 2305.10120): noise under the forgotten concept, held by the Fisher information."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from erasediff.unlearning.methods.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from erasediff.unlearning.importance import Correction, Importance


class SelectiveAmnesia(Method):
    """Denoising of noise images under the forgotten concept, beside replay and a penalty for leaving the base.

    Attributes:
        fisher_penalty: weight of ½ Σ F (θ - θ₀)², with F the diagonal Fisher information of both sets.
    """

    name = "selective_amnesia"
    needs_fisher = True
    fisher_penalty: ClassVar[float] = 10.0
    recorded = (*Method.recorded, "fisher_penalty")
    fixes = {
        "multiplier": "fixed",
        "fixed_multiplier": 1.0,
        "forget_target": "truth",
        "forget_source": "noise",
        "retain_target": "noise",
    }

    def corrections(self, importance: Importance) -> list[Correction]:
        """Return the mask, then the gradient of the penalty (eq. 8), which no mask touches."""
        n, m = len(importance.losses.forget_set), len(importance.losses.retain_set)
        forget, retain = importance.fisher
        fisher = (n * forget + m * retain) / (n + m)
        current = importance.current_weights
        base = current()

        def hold(gradients: dict[str, Tensor]) -> None:
            gradients["retain"] += self.fisher_penalty * fisher * (current() - base)

        return [*super().corrections(importance), hold]
