"""The card of an erased model that leaves the house: front matter for the hub, then what was done, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from erasediff.unlearning.erased import Erased

TEXT = """---
{front}
---

# {name}: {forgotten} forgotten

{what} was made to forget **{forgotten}**. It is to draw everything else as before.

## How to load it
```python
{load}
```

## How it was made
{made}

## How it was measured
{measured}

## What came back
{back}

## Not promised
- That the concept cannot be brought back: fine-tuning, or a prompt that is sought for it, may do so.
- Anything about wordings, seeds, samplers and guidance other than those measured.
- That a LoRA is as good under another guidance, sampler or resolution, or with a negative prompt.
"""
UNMEASURED = (
    "Nobody has measured yet what this model draws. Look at its pictures, of the concept and of its neighbours."
)
NOT_ATTACKED = "Nobody has tried to bring the concept back yet."


def model_card(
    result: Erased,
    *,
    fused: bool,
    measured: Mapping[str, object] | None = None,
    came_back: Mapping[str, object] | None = None,
) -> ModelCard:
    """Return the card of an erased model, as the hub reads it.

    Args:
        fused: it is of the whole pipeline, not of the LoRA alone.
        measured, came_back: what was measured of it, and under attacks, by what it is called; in words or numbers.
    """
    from huggingface_hub import ModelCard, ModelCardData

    pipeline, base = result.base, base_of(result)
    takes_words = hasattr(pipeline, "tokenizer")
    adapter: dict[str, Any] = {} if fused or base is None else {"base_model_relation": "adapter"}
    data = ModelCardData(
        base_model=base,
        library_name="diffusers",
        license="other",
        license_name="terms-of-the-base-model-and-its-data",
        pipeline_tag="text-to-image" if takes_words else "unconditional-image-generation",
        tags=["machine-unlearning", "concept-erasure", "erasediff", *([] if fused else ["lora"])],
        **adapter,
    )
    name, forgotten = type(pipeline).__name__, ", ".join(map(_plain, result.forgotten))
    load = f'pipeline = {name}.from_pretrained("THIS REPOSITORY")'
    if not fused:
        load = (
            f'pipeline = {name}.from_pretrained("{base or "THE BASE"}")\npipeline.load_lora_weights("THIS REPOSITORY")'
        )
    record = result.record
    facts: dict[str, object] = {"method": record.method, "updates": record.updates, **record.settings}
    facts["kept beside"] = ", ".join(filter(None, result.kept))
    moved = {
        "predictions of the concept, part of the way to another one": record.concept_change,
        "change of what is kept, in the same measure": record.kept_change,
    }
    found = {k: v for k, v in moved.items() if v is not None} | dict(measured or {})
    return ModelCard(
        TEXT.format(
            front=data.to_yaml(),
            name=name,
            forgotten=forgotten,
            what=f"[{base}](https://huggingface.co/{base})" if base else "A model",
            load=f"from diffusers import {name}\n\n{load}",
            made=_list(facts),
            measured="\n\n".join(filter(None, [_list(found), "" if measured else UNMEASURED])),
            back=_list(came_back) if came_back else NOT_ATTACKED,
        )
    )


def base_of(result: Erased) -> str | None:
    """Return the base's name on the hub; ``None`` where it is from a folder, or made here."""
    config: Any = result.base.config
    name = str(config.get("_name_or_path") or "")
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists() else None


def _list(facts: Mapping[str, object]) -> str:
    said = {
        _plain(k): f"{v:.4g}" if isinstance(v, float) else _plain(v) for k, v in facts.items() if v not in (None, "")
    }
    return "\n".join(f"- {name}: {value}" for name, value in said.items())


def _plain(text: object) -> str:
    """Return text in a line of Markdown that cannot become a head, a link or a table."""
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", " ".join(str(text).split()))
