"""What each preset of a large model takes, computed: nothing here was run at its true size.

Weights are counted by 4 bytes, or 2 where the preset computes in bf16, which leaves a base that is stored so as it is.
What is trained is held six times more, in float32: the student, two gradients, Adam's two moments, the average. With
erase.offload its base, one gradient and the average are elsewhere. What a forward pass keeps for the backward pass
comes beside it; it grows with the batch, and is small with gradient checkpointing. While pictures are drawn, the text
encoders and the VAE are on the GPU too, and nothing is trained.

The time of the training is its passes, a backward one counted as two, times what one takes: counted by PyTorch in a
denoiser of the true architecture without weights, and divided by what an A100 does, about a third of its peak in bf16
and half of it in float32. That of the whole run has the pictures too that judge, forget set and evaluation draw, at the
pipeline's own number of steps; encoding, attacks and pictures that are drawn in vain come beside it.

    python -m tests.benchmarks.presets          # the table
    python -m tests.benchmarks.presets count    # what a pass takes, counted anew: half a minute
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from erasediff.unlearning.table_sets import EXAMPLES

if TYPE_CHECKING:
    from stages.params import Params

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
#: 10¹² operations of a pass of one picture through the denoiser, at the model's own size.
OPERATIONS = {
    "sd15": 0.803,
    "sd21": 2.149,
    "sdxl": 6.761,
    "sd35": 11.25,
    "flux": 74.385,
    "sana": 0.316,
    "dit": 0.237,
}
#: Passes of a picture that is drawn: the steps of diffusers' pipeline, twice where it is guided.
DRAWN_BY = {"sd15": 100, "sd21": 100, "sdxl": 100, "sd35": 56, "flux": 28, "sana": 40}
#: 10¹² operations a second of an A100, in bf16 and in float32.
A_SECOND = {True: 100, False: 10}


def rows() -> list[tuple[str, ...]]:
    """Preset, what is trained, GiB while drawing, training, training with offload, thousands of pictures, times."""
    from erasediff.unlearning import method_for
    from stages.params import changed_params
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
        second = A_SECOND[half] / OPERATIONS[base]
        hours = ""
        if base in DRAWN_BY:
            hours = f"{(passes + DRAWN_BY[base] * pictures(changed_params(preset(file.stem))[0])) / second / 3600:.1f}"
        found.append((file.stem, what, *gib, f"{passes / 1000:.1f}", f"{passes / second / 60:.1f}", hours))
    return found


def pictures(params: Params) -> int:
    """What the stages draw of a preset of words."""
    concepts, forgotten, judge = len(params.curate.concepts), len(params.forget_set.concepts), params.classifier
    judged = concepts * (judge.count * (judge.kind == "cnn") + judge.count // 4)
    kept = params.forget_set.count * (concepts - forgotten)
    gone = forgotten * (params.forget_set.count if "forget" in params.reads else EXAMPLES)
    measured = 2 * concepts * params.evaluate.samples_per_concept * params.evaluate.draws
    return judged + kept + gone + measured


def table() -> str:
    """The rows as Markdown."""
    head = (
        "| preset | trained | GiB, drawing | GiB, training | with offload | thousand pictures through the denoiser | "
        "minutes of an A100, training | hours, whole run |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|", *(f"| `{row[0]}` | {' | '.join(row[1:])} |" for row in rows())]
    return "\n".join(lines)


def counted() -> dict[str, float]:
    """What :data:`OPERATIONS` says, counted in denoisers of the true architectures on the meta device."""
    import diffusers as d
    import torch
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device="meta")

    def operations(network: nn.Module, *inputs: Tensor, **more: object) -> float:
        with FlopCounterMode(display=False) as counter:
            network(*inputs, **more)
        return round(counter.get_total_flops() / 1e12, 3)

    def unet(side: int, width: int, added: dict[str, Tensor] | None = None, **config: object) -> float:
        network = d.UNet2DConditionModel(sample_size=side, cross_attention_dim=width, **config)
        return operations(network, empty(1, 4, side, side), empty(1), empty(1, 77, width), added_cond_kwargs=added)

    xl = {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }
    medium = {
        "sample_size": 128,
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 384,
        "dual_attention_layers": tuple(range(13)),
        "qk_norm": "rms_norm",
    }
    small = {
        "num_attention_heads": 36,
        "num_layers": 28,
        "num_cross_attention_heads": 16,
        "cross_attention_head_dim": 72,
        "cross_attention_dim": 1152,
        "sample_size": 16,
    }
    class_ = torch.zeros(1, dtype=torch.long, device="meta")
    with torch.device("meta"):
        return {
            "sd15": unet(64, 768, attention_head_dim=8),
            "sd21": unet(96, 1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True),
            "sdxl": unet(128, 2048, {"text_embeds": empty(1, 1280), "time_ids": empty(1, 6)}, **xl),
            "sd35": operations(
                d.SD3Transformer2DModel(**medium), empty(1, 16, 128, 128), empty(1, 333, 4096), empty(1, 2048), empty(1)
            ),
            "flux": operations(
                d.FluxTransformer2DModel(guidance_embeds=True),
                *(empty(1, 4096, 64), empty(1, 512, 4096), empty(1, 768), empty(1)),
                *(empty(4096, 3), empty(512, 3), empty(1)),
            ),
            "sana": operations(d.SanaTransformer2DModel(**small), empty(1, 32, 16, 16), empty(1, 300, 2304), empty(1)),
            "dit": operations(
                d.DiTTransformer2DModel(num_attention_heads=16, attention_head_dim=72, out_channels=8),
                *(empty(1, 4, 32, 32), class_, class_),
            ),
        }


if __name__ == "__main__":
    print(counted() if "count" in sys.argv else table())
