"""Pictures and the report: one HTML file that loads nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.evaluation.table import table_rows

if TYPE_CHECKING:
    from torch import Tensor


def grid_png(
    images: Tensor, concepts: Sequence[str], title: str, tile: int = 48, marked: Collection[str] = ()
) -> bytes:
    """A row a concept, its name at the left, under a title.

    Args:
        images: ``(concepts, columns, C, H, W)`` in [-1, 1].
        tile: least pixels a side of a picture; small ones are enlarged without smoothing.
        marked: concepts framed and named in red: those to forget.
    """
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    rows, columns, channels, height, width = images.shape
    scale = max(1, tile // max(height, width))
    cell_h, cell_w = height * scale + 4, width * scale + 4
    # Matplotlib's own font: Pillow's has no accents.
    font = ImageFont.truetype(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size=17)
    label = 16 + max(int(font.getlength(c[:24])) for c in concepts)
    canvas = Image.new("RGB", (label + columns * cell_w, 34 + rows * cell_h), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((8, 6), title, fill="black", font=font)
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
    for r in range(rows):
        top = 34 + r * cell_h
        colour = "#c00000" if concepts[r] in marked else "black"
        pen.text((8, top + cell_h // 2), concepts[r][:24], fill=colour, font=font, anchor="lm")
        if concepts[r] in marked:
            pen.rectangle((label - 3, top - 3, label + columns * cell_w - 2, top + cell_h - 2), fill=colour)
        for c in range(columns):
            array = pixels[r, c].permute(1, 2, 0).numpy()
            picture = Image.fromarray(array[..., 0] if channels == 1 else array)
            picture = picture.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            canvas.paste(picture, (label + c * cell_w, top))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def trace_png(trace: Path) -> bytes:
    """Losses, and multiplier with cosine, over the updates."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd

    rows = pd.read_csv(trace)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    for name in ("retain_loss", "forget_loss"):
        left.plot(rows["step"], rows[name], label=name.replace("_", " "))
    for name in ("multiplier", "gradient_cosine"):
        right.plot(rows["step"], rows[name], label=name.replace("_", " "))
    left.set(xlabel="update", yscale="log", title="losses")
    right.set(xlabel="update", title="multiplier and cosine of the two gradients")
    left.legend()
    right.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


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
