"""The text that goes with a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erasediff.registry.lineage import stage_params

LIMITS = """- That the concept cannot be brought back: fine-tuning the weights, or an adversarial condition, may do so.
- That a picture of the forget set left no trace at all: the gates measure what is drawn, not what is remembered.
- Anything about data, concepts, seeds and samplers other than those measured.
- That the base model's other faults are mended: only the concepts above were worked on."""

LICENCE = """The code is under Apache-2.0. The weights derive from the base model and its training data: the terms of
both go on applying, and are not changed by forgetting."""


def model_card(
    evaluation: Mapping[str, Any],
    forgotten: Sequence[str],
    base: str,
    hashes: Mapping[str, str],
    deviations: Sequence[str] = (),
) -> str:
    """Markdown: what was forgotten and from what, gates, numbers, hashes, deviations, limits, licence.

    Args:
        evaluation: content of ``metrics/evaluation.json``.
        forgotten: concepts; empty where single pictures were forgotten.
        base: where the base model is from, in a few words.
        hashes: what the version was made from, by name.
        deviations: how the settings differ from the paper's, a line each.
    """
    verdict = "passed" if evaluation["passed"] else "FAILED: do not use this version as if the concept were gone"
    made_from = "\n".join(f"- {name}: `{value}`" for name, value in hashes.items())
    differs = "\n".join(f"- {line}" for line in deviations) or "- none in the parameters of the erase stage"
    what = ", ".join(map(_cell, forgotten)) or "single pictures"
    return f"""# Forgotten: {what}

A diffusion model made to forget **{what}**, from {_cell(base)}. Gates **{verdict}**.

| gate | value | limit | |
|---|---|---|---|
{_gates(evaluation["gates"])}

| metric | base | erased |
|---|---|---|
{_numbers(evaluation["base"], evaluation["erased"])}

## Where it differs from the paper (EraseDiff, arXiv 2401.05779)
{differs}

The evidence is in docs/PAPERS.md of the code.

## Not promised
{LIMITS}

## Made from
{made_from}

## Licence
{LICENCE}
"""


def gate_text(gate: Mapping[str, Any]) -> str:
    """``0.9633 ≥ 0.9 passed``."""
    sign = "≥" if gate["direction"] == "min" else "≤"
    return f"{gate['value']:.4f} {sign} {gate['limit']:g} {'passed' if gate['passed'] else 'FAILED'}"


def paper_deviations(erase: Mapping[str, Any]) -> list[str]:
    """Settings of the erase stage that are not the paper's, a line each."""
    paper = {
        "method": "erasediff",
        "multiplier": "paper",
        "forget_target": "relabel",
        "forget_source": "forget",
        "retain_target": "noise",
        "trainable": "full",
    }
    return [f"{k}: {erase[k]} (paper: {v})" for k, v in paper.items() if k in erase and erase[k] != v]


def _cell(text: str) -> str:
    """A name in a Markdown line or table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("*", "\\*")


def _gates(gates: Mapping[str, Any]) -> str:
    def row(name: str, gate: Mapping[str, Any]) -> str:
        value, sign, limit, outcome = gate_text(gate).split()
        return f"| {name} | {value} | {sign} {limit} | {outcome} |"

    return "\n".join(row(name, gate) for name, gate in gates.items())


def _numbers(base: Mapping[str, float], erased: Mapping[str, float]) -> str:
    suffixes = ("_sd", "_low", "_high")
    # Seconds of stages that ran side by side with others do not compare.
    names = [n for n in base if n in erased and n != "seconds" and not n.endswith(suffixes)]

    def cell(numbers: Mapping[str, float], name: str) -> str:
        spread = numbers.get(f"{name}_sd")
        return f"{numbers[name]:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")

    return "\n".join(f"| {_cell(n)} | {cell(base, n)} | {cell(erased, n)} |" for n in names)


def lineage_card(
    evaluation: Mapping[str, Any], sets: Mapping[str, Any], facts: Mapping[str, str], lock: dict[str, Any]
) -> str:
    """The model card, with the settings that the erased model was made with: those of ``dvc.lock``."""
    made = stage_params(lock, "pretrain")
    base = {
        "train": "a base model trained here",
        "folder": f"the diffusers folder {made.get('path')}",
        "hub": f"{made.get('repo')} at revision {made.get('revision')}",
        "registry": f"version {made.get('revision')} of {made.get('repo')}",
    }.get(made.get("source", ""), "a base model")
    if sets["earlier"]:
        base += f", which had forgotten {', '.join(sets['earlier'])} before"
    return model_card(evaluation, sets["concepts"], base, facts, paper_deviations(stage_params(lock, "erase")))
