"""Other settings of the sampler than those that the gates looked at."""

from __future__ import annotations

from erasediff.evaluation.attacks.target import Found, Target

#: Steps, and guidance scales; each beside the verdict's other setting.
STEPS, GUIDANCE = (2, 10), (4.0, 8.0)


def run(target: Target) -> dict[str, Found]:
    """Draw under each; guidance where the model has a null prompt."""
    found = {f"{steps} steps": target.changed(steps=steps).seen() for steps in STEPS}
    if target.family.has_null:
        found |= {f"guidance {scale:g}": target.changed(guidance_scale=scale).seen() for scale in GUIDANCE}
    return found
