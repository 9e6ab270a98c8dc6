"""The report: one HTML file that loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from erasediff.evaluation.table import table_rows


def sentences(evaluation: dict[str, Any], what: str) -> list[str]:
    """Each gate in words."""
    text = {
        "unlearning_accuracy": "{value:.1%} of the pictures drawn for {what} are not recognised as such "
        "(at least {limit:.0%})",
        "earlier_unlearning_accuracy": "{value:.1%} of the pictures drawn for what the base had forgotten before are "
        "not recognised as such (at least {limit:.0%})",
        "base_accuracy": "{value:.1%} of the base's pictures are recognised, forgotten or retained, whichever is less "
        "(at least {limit:.0%})",
        "in_domain_retain_accuracy_drop": "{kept:.1%} of the pictures drawn for retained concepts are recognised, of "
        "the base's {before:.1%} (at most {allowed:g} percentage points less)",
        "fd_classifier_ratio": "retained pictures are {value:.2f} times as far from real ones as the base's "
        "(at most {limit:g})",
    }
    before, kept = (evaluation[model]["in_domain_retain_accuracy"] for model in ("base", "erased"))
    return [
        text[name].format(what=what, kept=kept, before=before, allowed=100 * gate["limit"], **gate)
        + (": passed" if gate["passed"] else ": FAILED")
        for name, gate in evaluation["gates"].items()
    ]


def report_html(
    evaluation: dict[str, Any], forgotten: Sequence[str], how: dict[str, str], pictures: dict[str, bytes]
) -> str:
    """Verdict first, pictures, table, how it was measured."""
    verdict = "passed" if evaluation["passed"] else "FAILED"
    what = ", ".join(forgotten) or "single pictures"
    images = "".join(
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
        for name, png in pictures.items()
    )
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table_rows(evaluation)
    )
    method = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in how.items())
    said = "".join(f"<li>{escape(line)}</li>" for line in sentences(evaluation, what))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Erased: {escape(what)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body{{font:16px/1.5 system-ui;max-width:64em;margin:1em auto;padding:0 1em;color:#222;background:#fff}}
.verdict{{padding:.6em 1em;border-radius:6px;overflow-wrap:break-word}}
.verdict{{background:{"#d9f2df" if evaluation["passed"] else "#f8d7d7"}}}
.pictures{{display:flex;flex-wrap:wrap;gap:1em}}figure{{margin:0;max-width:100%}}img{{max-width:100%;height:auto}}
ul{{margin:.3em 0 0;padding-left:1.2em}}
.scroll{{overflow-x:auto}}table{{border-collapse:collapse}}td,th{{text-align:left;padding:.25em .7em;
border-bottom:1px solid #ddd;vertical-align:top}}.numbers td{{white-space:nowrap}}</style>
<h1>Forget: {escape(what)}</h1><div class="verdict"><strong>Gates {verdict}.</strong><ul>{said}</ul></div>
<h2>The same seeds before and after</h2><div class="pictures">{images}</div>
<h2>Measured</h2><div class="scroll"><table class="numbers">
<tr><th>metric</th><th>base</th><th>erased</th><th>gate</th></tr>{rows}</table></div>
<h2>How it was measured</h2><div class="scroll"><table>{method}</table></div></html>
"""


def how_measured(
    evaluation: Mapping[str, Any], evaluate: Mapping[str, Any], erase: Mapping[str, Any]
) -> dict[str, str]:
    """How the numbers came about, in words by subject.

    Args:
        evaluate, erase: those sections of params.yaml.
    """
    base, judge = evaluation["base"], evaluation["classifier"]
    steps, scale, own = evaluate["inference_steps"], evaluate["guidance_scale"], "the model's own"
    how = {
        "samples": f"{evaluate['samples_per_concept']} a concept × {evaluate['draws']} noise draws, the same seeds for "
        "both models",
        "sampling": f"{steps or own} steps, guidance scale {own if scale is None else f'{scale:g}'}",
        "base model": f"{base['recognised']:.3f} of its pictures recognised, all concepts",
        "classifier": f"accuracy {judge['accuracy']:.4f} on {judge['test_samples']} held-out pictures",
        "distance": "Fréchet distance of classifier features, retained concepts, to held-out real pictures",
        "method": f"{erase['method']}, {erase['outer_steps']} updates",
    }
    if erase["method"] == "erasediff":
        how["method"] += f", η {erase['eta']:g}, multiplier {erase['multiplier']}"
        if (erase["forget_source"], erase["retain_target"]) != ("forget", "noise"):
            how["deviation from the paper"] = (
                f"forget source {erase['forget_source']} (paper: forget), retain target {erase['retain_target']} "
                "(paper: noise); the evidence is in docs/PAPERS.md"
            )
    return how
