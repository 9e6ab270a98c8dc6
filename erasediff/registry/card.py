"""The model card: front matter that hub tools read, and the text that goes with a version."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from erasediff.evaluation.attack_table import ATTACK_HEAD, attack_rows
from erasediff.evaluation.gates import sentences
from erasediff.evaluation.report import LIMITS
from erasediff.evaluation.table import table_rows
from erasediff.records import HUB, REGISTRY, EffectiveSettings, Erasures, Evaluation, Json
from erasediff.unlearning.settings import deviations_from_paper

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

LICENCE = """The code is under Apache-2.0. The weights derive from the base model and its training data: the terms of
both go on applying, and are not changed by forgetting."""


def model_card(
    evaluation: Evaluation,
    erasures: Erasures,
    erase: EffectiveSettings,
    pretrain: Json,
    made: Mapping[str, str],
    hashes: Mapping[str, str],
    *,
    uri: str,
    example: str = "",
    lora_base: str = "",
) -> str:
    """Markdown with front matter: what was forgotten, the version, gates, numbers, attacks, hashes, limits, licence.

    Args:
        erase: what the erasing really did.
        pretrain: that section of params.yaml: where the base model is from.
        made: what tells this version from any other, by name: its number, date, commit, seed, …
        hashes: what the version was made from, by name.
        uri: of the version, ``models:/NAME/VERSION``, or where it is on the hub.
        example: a concept that it still draws.
        lora_base: where the base is, if the version is a LoRA alone.
    """
    warning = "" if evaluation.passed else ": do not use this version as if the concept were gone"
    verdict = f"{evaluation.outcome}{warning}"
    gates = [(name, gate.measured, gate.bound, gate.outcome) for name, gate in evaluation.gates.items()]
    differs = deviations_from_paper(erase) or ["none in the settings of the erasing"]
    what = _cell(erasures.what)
    beside = (
        f"\nThe version is a LoRA. It is put on its base, `{_cell(lora_base)}`, which has to be there.\n"
        if lora_base
        else ""
    )
    here = uri.startswith(REGISTRY)
    pictures = " Pictures of both are in `evidence/report.html`." if here else ""
    attacks = attack_rows(evaluation.attacks)
    ran = {"method": erase.method, "updates": str(erase.updates), "images through the network": f"{erase.passes:,}"}
    return f"""---
{_front_matter(pretrain, lora_base).to_yaml()}
---

# Forgotten: {what}

A diffusion model made to forget **{what}**, from {_cell(base_in_words(pretrain, erasures))}. Gates **{verdict}**.

{_list([_cell(sentence) for sentence in sentences(evaluation, erasures.what)])}

## Which version this is
{_pairs(made)}

## How to load it
```python
{_loading(uri, lora_base)}
image = pipeline([{json.dumps(example, ensure_ascii=False)}]).images[0]
```
{beside}
## Measured
{_table(("gate", "value", "limit", ""), gates)}

Both models, drawn from the same seeds and read by the same judge.{pictures}

{_table(("metric", "base", "erased"), [row[:3] for row in table_rows(evaluation, words=True)])}

In brackets: 95 % intervals. A gate passes where the whole interval keeps its limit. ±: standard deviation over draws.

## What came back under attack
{_table(ATTACK_HEAD, attacks) if attacks else "Nobody has tried to bring the concept back yet."}

## How it was made
{_pairs(ran)}

## Where it differs from the paper (EraseDiff, arXiv 2401.05779)
{_list(differs)}

The evidence is in docs/PAPERS.md of the code.

## Not promised
{_list(LIMITS)}

## Made from
{_list([f"{name}: `{value}`" for name, value in hashes.items()])}

## Licence
{LICENCE}
"""


def _pairs(facts: Mapping[str, str]) -> str:
    return _list([f"{name}: {_cell(value)}" for name, value in facts.items()])


def _loading(uri: str, lora_base: str) -> str:
    """Lines of Python. A LoRA whose base is at no address is put on by whoever has that base."""
    if lora_base and not uri.startswith(REGISTRY) and not lora_base.startswith(HUB):
        return (
            "from diffusers import DiffusionPipeline\n\n"
            f'pipeline = DiffusionPipeline.from_pretrained("FOLDER")  # of its base\n'
            f'pipeline.load_lora_weights("{uri.removeprefix(HUB)}", weight_name="pytorch_lora_weights.safetensors")'
        )
    server = "  # with MLFLOW_TRACKING_URI naming the server" if uri.startswith(REGISTRY) else ""
    return f'import erasediff{server}\n\npipeline = erasediff.load("{uri}")'


def body_of(card: str) -> str:
    """The text of a card without its front matter."""
    return re.sub(r"\A---\n.*?\n---\n\s*", "", card, flags=re.DOTALL)


def _front_matter(pretrain: Json, lora_base: str) -> ModelCardData:
    """Metadata that tools of the hub read. The weights' licence is the base model's, which is not known here."""
    from huggingface_hub import ModelCardData

    base = str(pretrain["repo"]) if pretrain.get("source") == "hub" else None
    adapter: dict[str, Any] = {"base_model_relation": "adapter"} if base and lora_base else {}
    return ModelCardData(
        license="other",
        license_name="terms-of-the-base-model-and-its-data",
        library_name="diffusers",
        tags=["machine-unlearning", "concept-erasure", "erasediff", *(["lora"] if lora_base else [])],
        base_model=base,
        **adapter,
    )


def base_in_words(pretrain: Json, erasures: Erasures) -> str:
    """The base model's origin, and what it had forgotten, in words."""
    base = {
        "train": "a base model trained here",
        "folder": f"the diffusers folder {pretrain.get('path')}",
        "hub": f"{pretrain.get('repo')} at revision {pretrain.get('revision')}",
        "registry": f"version {pretrain.get('revision')} of {pretrain.get('repo')}",
    }.get(pretrain.get("source", ""), "a base model")
    return base + (f", which had forgotten {', '.join(erasures.earlier)} before" if erasures.earlier else "")


def _cell(text: str) -> str:
    """A name in a Markdown line or table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("*", "\\*")


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ("---",) * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
