"""The verb ``attack`` of the command line: tries to bring a forgotten concept back, and says what it found."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erasediff.arguments import within
from erasediff.errors import DataError, ParamsError, shown
from erasediff.evaluate_command import MODEL, open_model
from erasediff.evaluation.attacks.table import ATTACKS
from erasediff.loading import require_model

if TYPE_CHECKING:
    from erasediff.evaluation.attacks.target import Found


def add_attack(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`attack` takes."""
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("concepts", metavar="CONCEPT", nargs="+", help="what it should have forgotten")
    parser.add_argument(
        "--judge",
        required=True,
        help="shapes, nudity, a judge's folder, clip:WHERE or image_classifier:WHERE",
    )
    parser.add_argument("--base", metavar="MODEL", help="the model before: searches need it; it is attacked too")
    parser.add_argument(
        "--attacks", nargs="+", choices=list(ATTACKS), metavar="NAME", help=f"of {', '.join(ATTACKS)} (default: all)"
    )
    parser.add_argument("--lora", metavar="FILE", help="a LoRA of the base to merge with (default: one is trained)")
    parser.add_argument("--pictures", type=within(1, 10**6), default=20, help="of each variant (default: 20)")
    parser.add_argument("--budget", choices=["quick", "paper"], default="quick", help="of searches (default: quick)")
    parser.add_argument("--steps", type=within(1, 10**5), help="of the sampler (default: the model's own)")
    parser.add_argument("--guidance-scale", type=float, help="1: no guidance (default: the model's own)")
    parser.add_argument("--seed", type=within(0, 2**31), default=0, help="of the attacks (default: 0)")
    parser.add_argument("--output", metavar="FILE", help="JSON to write, too")


def attack(
    model: str,
    concepts: list[str],
    judge: str,
    base: str | None,
    attacks: list[str] | None,
    pictures: int,
    budget: str,
    steps: int | None,
    guidance_scale: float | None,
    seed: int,
    output: str | None,
    lora: str | None,
) -> None:
    """Attack a model, and its base where one is given, and print a line for each variant.

    Raises: What :func:`erasediff.attack` raises. DataError: no such ``output``.
    """
    for name in filter(None, (base, model)):
        require_model(name)
    if lora is not None and base is None:
        raise ParamsError("--lora is of a base: name it by --base")
    from erasediff.artifacts import write_json
    from erasediff.device import device
    from erasediff.evaluation.attacking import attack as verb
    from erasediff.evaluation.attacks import to_json
    from erasediff.evaluation.judging import named_judge
    from erasediff.families.lora import lora_file

    file = None if lora is None else lora_file(lora)
    if lora is not None and file is None:
        raise ParamsError(f"--lora {shown(lora)} is no LoRA: give its .safetensors file, or a folder that holds one")
    opened = named_judge(judge, concepts)
    before = None if base is None else open_model(base).to(device())
    how: dict[str, Any] = {"attacks": attacks, "pictures": pictures, "budget": budget, "seed": seed}
    how |= {
        "steps": steps,
        "guidance_scale": guidance_scale,
        "judge": opened.to(device()),
        "base": before,
        "lora": file,
    }
    found = {"model": verb(open_model(model, base).to(device()), concepts, **how)}
    found |= {} if before is None else {"base": verb(before, concepts, **how)}
    for name, variants in found["model"].items():
        for variant, it in variants.items():
            reference = found.get("base", {}).get(name, {}).get(variant)
            print(f"{name}: {variant}: {_said(it)}" + (f"; base {_said(reference)}" if reference else ""))
    if output is not None:
        try:
            write_json(Path(output), {which: to_json(its) for which, its in found.items()})
        except OSError as error:
            raise DataError(f"{output} cannot be written ({error.strerror}): give a file of yours") from None


def _said(found: Found) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
