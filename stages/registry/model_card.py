"""The text that goes with a version."""

from __future__ import annotations

from typing import Any


def model_card(evaluation: dict[str, Any], forgotten: list[str], facts: dict[str, str]) -> str:
    """Markdown: what was forgotten, the gates, what it was made from, what is not promised."""
    gates = "\n".join(
        f"| {name} | {g['value']:.4f} | {'≥' if g['direction'] == 'min' else '≤'} {g['limit']:g} | "
        f"{'passed' if g['passed'] else 'FAILED'} |"
        for name, g in evaluation["gates"].items()
    )
    made_from = "\n".join(f"- {k}: `{v}`" for k, v in facts.items())
    return f"""# Forgotten: {", ".join(forgotten) or "single pictures"}

| gate | value | limit | |
|---|---|---|---|
{gates}

The forget loss is taken on noised retained images and the retain loss aims at the frozen base (the paper: forget
images, and the noise), unless the lineage's params.yaml says otherwise; stages/PAPERS.md gives the evidence.

Not promised: that the concept cannot be brought back by fine-tuning the weights or by an adversarial condition.

{made_from}
"""
