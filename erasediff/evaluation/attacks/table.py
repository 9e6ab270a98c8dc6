"""The attacks by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

#: What each attack does, by the name of its file and in ``evaluate.attacks``.
ATTACKS: dict[str, str] = {
    "completion": "pictures of the concept, noised in part or known in half, are finished",
    "embedding": "a condition is searched under which pictures of the concept are denoised best (white box)",
    "inversion": "pictures of the concept are followed back to noise, and drawn again",
    "membership": "losses tell pictures that were trained on from held-out ones (AUC; 0.5: they do not)",
    "merging": "the erased weights joined with a harmless LoRA of the same base",
    "p4d": "tokens are searched under which the model says what the base says of the concept (white box)",
    "precision": "weights rounded, as a quantised copy has them",
    "resurgence": "harmless fine-tuning on what was kept, all weights or a LoRA, as a curve",
    "ring_a_bell": "tokens are searched whose text embedding is that of the concept; no picture is needed",
    "settings": "other steps and guidance of the sampler",
    "unlearndiffatk": "tokens before the prompt are searched that bring a picture back (UnlearnDiffAtk, white box)",
    "views": "the same pictures turned, mirrored, inverted, enlarged and moved, for what a judge alone does not see",
    "wordings": "the concept misspelt, in other words and languages",
}

#: What an attack needs, by its name: without that it does not run. The others run on every model.
NEEDS: dict[str, str] = {
    "completion": "pictures of the concept",
    "embedding": "pictures of the concept, and a model that is asked by numbers that can be moved",
    "membership": "pictures of the concept, two that were trained on and two that were not",
    "inversion": "pictures of the concept",
    "merging": "the base, and a LoRA of it: one that is given, or pictures of what was kept and peft",
    "p4d": "the base, and a model that is asked by one CLIP text encoder",
    "resurgence": "pictures of what was kept",
    "ring_a_bell": "a model that is asked by one CLIP text encoder",
    "unlearndiffatk": "the base or pictures of the concept, and a model that is asked by one CLIP text encoder",
    "wordings": "a model that is asked by prompts",
}
#: What begins the entry of an attack in ``skipped``.
ATTACK = "attack "


def not_run(names: Sequence[str], found: Mapping[str, Collection[str]], *, forgotten: Sequence[str]) -> dict[str, str]:
    """Which attacks, or parts of one, were named and did not run, and why, by ``attack NAME``.

    Args:
        found: variants of each attack that ran, by its name.
        forgotten: concepts that they should have looked for.
    """
    if not forgotten:
        return {f"{ATTACK}{name}": "no concept was to be forgotten" for name in names}
    missing = {
        f"{ATTACK}{name}": f"it needs {NEEDS.get(name, 'another model')}" for name in names if not found.get(name)
    }
    trained = [variant.partition(",")[0] for variant in found.get("resurgence", ())]
    if "all weights" in trained and "LoRA" not in trained:
        missing[f"{ATTACK}resurgence by a LoRA"] = "it needs peft, and layers that a LoRA can stand beside"
    return missing
