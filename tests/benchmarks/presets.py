"""What each preset of a large model takes, computed: nothing here was run at its true size.

Weights are counted by 4 bytes, or 2 where the preset computes in bf16, which leaves a base that is stored so as it is.
What is trained is held six times more, in float32: the student, two gradients, Adam's two moments, the average. With
erase.offload its base, one gradient and the average are elsewhere. What a forward pass keeps for the backward pass
comes beside it; it grows with the batch, and is small with gradient checkpointing. While pictures are drawn, the text
encoders and the VAE are on the GPU too, and nothing is trained.

    python tests/benchmarks/presets.py
"""

from __future__ import annotations

from pathlib import Path

#: Millions of weights: of the denoiser, and of text encoders and VAE. Of Stable Diffusion 1.5 counted, of others as
#: their model cards say.
WEIGHTS = {
    "sd15": (859.5, 207),
    "sd21": (866, 424),
    "sdxl": (2567, 902),
    "sd35": (2500, 5700),
    "flux": (11900, 4970),
    "sana": (590, 2930),
    "dit": (675, 84),
}
#: Share of the denoiser that is trained; of cross-attention counted in Stable Diffusion 1.5, of a LoRA of rank 8 at
#: most, of DiT's attention about.
TRAINED = {"full": 1.0, "xattn": 0.051, "noxattn": 0.949, "attn1": 0.3}
LORA, COPIES, OFFLOADED = 0.02, 6, 2


def rows() -> list[tuple[str, ...]]:
    """Preset, what is trained, GiB while drawing, training and training with offload, thousands of pictures."""
    from erasediff.unlearning import method_for
    from stages.presets import preset

    found = []
    for file in sorted((Path(__file__).parents[2] / "presets").glob("*.yaml")):
        if (base := file.stem.split("-")[0]) not in WEIGHTS:
            continue
        changed = {k.removeprefix("erase."): v for k, v in preset(file.stem).items() if k.startswith("erase.")}
        half = changed.pop("mixed_precision", "no") == "bf16"
        method = method_for("erasediff", **changed)
        network, others = (millions * 1e6 for millions in WEIGHTS[base])
        lora = method.settings.adapter == "lora"
        share = LORA if lora else TRAINED[method.settings.trainable]
        size = 2 if half else 4
        drawing, training = (network + others) * size, network * size + COPIES * 4 * share * network
        offload = training - (size + OFFLOADED * 4) * share * network
        passes = method.passes_of_update(0) * method.settings.outer_steps
        what = "LoRA" if lora else method.settings.trainable
        gib = [f"{drawing / 2**30:.1f}", f"{training / 2**30:.1f}", "" if lora else f"{offload / 2**30:.1f}"]
        found.append((file.stem, what, *gib, f"{passes / 1000:.1f}"))
    return found


def table() -> str:
    """The rows as Markdown."""
    head = "| preset | trained | GiB, drawing | GiB, training | with offload | thousand pictures through the denoiser |"
    lines = [head, "|---|---|---|---|---|---|", *(f"| `{row[0]}` | {' | '.join(row[1:])} |" for row in rows())]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
