"""Memory of one update at the size of Stable Diffusion 1.5: ours against EraseDiff's official way, batch 1.

The UNet has the shape of Stable Diffusion 1.5 and random weights; its width is 320. What tensors take at most is
measured for narrower ones, by PyTorch's own tracker, in a process of its own each. Weights grow with the square of the
width, what is kept for the backward pass with the width: a parabola through three widths gives the column of 320. A
variant that fits into memory can be measured there: --widths 320.

    python tests/benchmarks/memory.py [--widths 64,96,128] [--variant "ours, LoRA"]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import weakref

#: The width of Stable Diffusion 1.5.
FULL = 320
LORA = {"adapter": "lora"}
CHECKPOINTING, OFFLOAD = {"gradient_checkpointing": True}, {"offload": True}
OURS = {
    "ours, full": {},
    "ours, full, checkpointing": CHECKPOINTING,
    "ours, full, checkpointing, offload": CHECKPOINTING | OFFLOAD,
    "ours, cross-attention alone": {"trainable": "xattn"},
    "ours, LoRA": LORA,
    "ours, LoRA, checkpointing": LORA | CHECKPOINTING,
}
UPDATES = 2


def pipeline(width: int):
    """Stable Diffusion with a UNet of a width, and as little as possible beside it."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from tiny_stable_diffusion import tiny_stable_diffusion
    from transformers import CLIPTextModel

    tiny = tiny_stable_diffusion()
    config = tiny.text_encoder.config
    config.hidden_size, config.num_attention_heads = 768, 12
    widths = (width, 2 * width, 4 * width, 4 * width)
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=widths, cross_attention_dim=768, attention_head_dim=8, layers_per_block=2
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=4,
        sample_size=512,
        mid_block_add_attention=False,
    )
    parts = {**tiny.components, "unet": unet.eval(), "vae": vae.eval(), "text_encoder": CLIPTextModel(config).eval()}
    return type(tiny)(**parts, requires_safety_checker=False)


def peak_of_tensors():
    """Count the bytes of all tensors that are alive at once, those that wait for a backward pass too.

    Mapped files are counted by themselves: of those the system keeps in memory what there is room for.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    mapping = torch.ops.aten.from_file.default

    class Peak(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.alive: dict[int, tuple[str, int]] = {}
            self.now, self.most = {"memory": 0, "files": 0}, {"memory": 0, "files": 0}

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            for tensor in tree_iter(found):
                if isinstance(tensor, torch.Tensor):
                    self.count(tensor.untyped_storage(), "files" if function is mapping else "memory")
            return found

        def count(self, storage, place):
            # A storage has one address as long as it lives.
            if storage.data_ptr() and storage._cdata not in self.alive:
                self.alive[storage._cdata] = place, storage.nbytes()
                self.now[place] += storage.nbytes()
                self.most[place] = max(self.most[place], self.now[place])
                weakref.finalize(storage, self.forget, storage._cdata)

        def forget(self, key):
            place, size = self.alive.pop(key)
            self.now[place] -= size

    return Peak()


def run(width: int, variant: str) -> dict[str, float]:
    """Make two updates of batch 1; return what tensors took at most, in bytes, and the seconds of the second."""
    import torch
    from updates import official, ours

    from erasediff.data.concept_images import ConceptImages
    from erasediff.families import family_of

    with peak_of_tensors() as peak:
        family = family_of(pipeline(width))
        pictures = torch.rand(2, 3, 512, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
        sets = family, ConceptImages(pictures[:1], ["a red star"]), ConceptImages(pictures[1:], ["a red circle"])
        if variant in OURS:
            seconds = ours(sets, UPDATES, 1, OURS[variant], "no")
        else:
            seconds = official(sets, UPDATES, 1, pause=0.0)
    return {"bytes": peak.most["memory"], "in_files": peak.most["files"], "seconds": seconds[-1]}


def measured(width: int, variant: str) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--widths", str(width), "--variant", variant, "--child"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="64,96,128", help="of the UNet, each a multiple of 32")
    parser.add_argument("--variant", choices=["official", *OURS], help="this one alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    widths = [int(width) for width in arguments.widths.split(",")]
    if arguments.child:
        print(json.dumps(run(widths[0], arguments.variant)))
        return
    import numpy as np

    computed = len(widths) > 2
    print(f"{'batch 1, fp32':40}" + "".join(f"{f'width {w}':>12}" for w in widths), end="")
    print(f"{f'{FULL} (computed)':>16} {'of it':>6}" if computed else "")
    reference = None
    for variant in [arguments.variant] if arguments.variant else ["official", *OURS]:
        found = [measured(width, variant) for width in widths]
        print(f"{variant:40}" + "".join(f"{f['bytes'] / 2**30:9.2f}GiB" for f in found), end="")
        if computed:
            at_full = float(np.polyval(np.polyfit(widths, [f["bytes"] for f in found], 2), FULL))
            reference = reference or at_full
            print(f"{at_full / 2**30:13.1f}GiB {at_full / reference:5.2f}×", end="")
        aside = f", {found[-1]['in_files'] / 2**30:.2f} GiB more in files" if found[-1]["in_files"] else ""
        print(f"   {found[-1]['seconds']:.1f} s an update{aside}, at width {widths[-1]}", flush=True)


if __name__ == "__main__":
    main()
