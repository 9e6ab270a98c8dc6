"""The verb ``attack`` of the command line: tries to bring a forgotten concept back, and says what it found."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erasediff.arguments import add_size, within
from erasediff.errors import DataError, ParamsError, shown
from erasediff.evaluate_command import MODEL, open_model
from erasediff.evaluation.attacks.table import ATTACKS
from erasediff.loading import require_model

if TYPE_CHECKING:
    from erasediff.evaluation.attacks.target import Found
    from erasediff.records import Json


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
        "--retrained", metavar="MODEL", help="a model that never saw the concept, as a reference; it is attacked too"
    )
    parser.add_argument(
        "--attacks", nargs="+", choices=list(ATTACKS), metavar="NAME", help=f"of {', '.join(ATTACKS)} (default: all)"
    )
    parser.add_argument("--lora", metavar="FILE", help="a LoRA of the base to merge with (default: one is trained)")
    parser.add_argument("--pictures", type=within(1, 10**6), default=20, help="of each variant (default: 20)")
    parser.add_argument("--budget", choices=["quick", "paper"], default="quick", help="of searches (default: quick)")
    parser.add_argument("--steps", type=within(1, 10**5), help="of the sampler (default: the model's own)")
    parser.add_argument("--guidance-scale", type=float, help="1: no guidance (default: the model's own)")
    add_size(parser, "of pictures, drawn and searched with")
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
    retrained: str | None,
    size: tuple[int, int] | None = None,
) -> None:
    """Attack a model, and its base and a retrained one where these are given, and print a line for each variant.

    Raises: What :func:`erasediff.attack` raises. DataError: no such ``output``.
    """
    for name in filter(None, (base, model, retrained)):
        require_model(name)
    if lora is not None and base is None:
        raise ParamsError("--lora is of a base: name it by --base")
    from erasediff.artifacts import write_json
    from erasediff.device import device
    from erasediff.evaluation.attacking import attack as verb
    from erasediff.evaluation.attacks import to_json
    from erasediff.evaluation.attacks.table import not_run
    from erasediff.evaluation.judging import named_judge
    from erasediff.families.lora import lora_file
    from erasediff.records import told_size

    file = None if lora is None else lora_file(lora)
    if lora is not None and file is None:
        raise ParamsError(f"--lora {shown(lora)} is no LoRA: give its .safetensors file, or a folder that holds one")
    opened = named_judge(judge, concepts)
    before = None if base is None else open_model(base).to(device())
    protocol: dict[str, Any] = {
        "attacks": attacks or list(ATTACKS),
        "pictures": pictures,
        "budget": budget,
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance_scale,
    }
    how = {**protocol, "size": size, "judge": opened.to(device()), "base": before, "lora": file}
    found = {"model": verb(open_model(model, base).to(device()), concepts, **how)}
    found |= {} if before is None else {"base": verb(before, concepts, **how)}
    if retrained is not None:
        found["retrained"] = verb(open_model(retrained, base).to(device()), concepts, **how)
    missing = not_run(protocol["attacks"], found["model"], forgotten=concepts)
    _print(found, missing)
    if output is not None:
        told: Json = {which: to_json(its) for which, its in found.items()}
        told |= {"concepts": concepts, "judge": opened.fingerprint, "protocol": protocol | told_size(size)}
        told["skipped"] = missing
        try:
            write_json(Path(output), told)
        except OSError as error:
            raise DataError(f"{output} cannot be written ({error.strerror}): give a file of yours") from None


def _print(found: Mapping[str, Mapping[str, Mapping[str, Found]]], missing: Mapping[str, str]) -> None:
    """A line a variant, with what it found on the other models; then what did not run."""
    for name, variants in found["model"].items():
        for variant, it in variants.items():
            others = {which: its.get(name, {}).get(variant) for which, its in found.items() if which != "model"}
            beside = [f"; {which} {_said(other)}" for which, other in others.items() if other]
            print(f"{name}: {variant}: {_said(it)}" + "".join(beside))
    for name, why in missing.items():
        print(f"{name} did not run: {why}")


def _said(found: Found) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
