"""Memory of one update at the size of Stable Diffusion 1.5: ours against EraseDiff's official way, batch 1.

The UNet has the shape of Stable Diffusion 1.5 and random weights. What its tensors take at most is counted as they come
and go, while the code of both runs as it is; only the kernels that would fill large tensors are left out, so that it
takes neither the memory nor the hours. With --kernels they run, and the count is the same: a test compares them.

    python tests/benchmarks/memory.py [--width 320] [--kernels] [--variant "ours, LoRA"]
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
#: Bytes of what is always computed: indices, timesteps, losses.
SMALL = 2**20
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


def counting(kernels: bool):
    """Count the bytes of all tensors that are alive at once, those that wait for a backward pass too.

    Mapped files are counted by themselves: of those the system keeps in memory what there is room for.

    Args:
        kernels: whether large tensors are computed. If not, they are real, but nothing is ever written into them: the
            system gives them no memory. Small ones that would be computed of them are 1.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter, tree_map_only

    aten = torch.ops.aten
    for_real = {aten.set_.source_Storage_storage_offset, aten.set_.source_Tensor, aten.resize_.default}

    def size(tree) -> int:
        return sum(part.nbytes for part in tree_iter(tree) if isinstance(part, torch.Tensor))

    def on_meta(tensor):
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    def allocated(tensor):
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        return made.fill_(1) if made.nbytes < SMALL else made

    def left_out(function, args, kwargs):
        """What a function would give, not computed; it takes as much memory."""
        written = [a.name for a in function._schema.arguments if a.alias_info and a.alias_info.is_write]
        if written:
            given = dict(zip((a.name for a in function._schema.arguments), args, strict=False)) | kwargs
            return None if not function._schema.returns else given[written[0]]
        if function is aten.equal.default:
            return True
        meta_args, meta_kwargs = tree_map_only(torch.Tensor, on_meta, (args, kwargs))
        if "device" in meta_kwargs:
            meta_kwargs["device"] = torch.device("meta")
        return tree_map_only(torch.Tensor, allocated, function(*meta_args, **meta_kwargs))

    class Peak(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.alive: dict[int, tuple[str, int]] = {}
            self.now, self.most = {"memory": 0, "files": 0}, {"memory": 0, "files": 0}

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            views = any(r.alias_info and not r.alias_info.is_write for r in function._schema.returns)
            real = kernels or views or function in for_real or function is aten.from_file.default
            if real or size((args, kwargs)) < SMALL:
                found = function(*args, **kwargs)
            else:
                found = left_out(function, args, kwargs)
            for tensor in tree_iter(found):
                if isinstance(tensor, torch.Tensor):
                    self.count(tensor.untyped_storage(), "files" if function is aten.from_file.default else "memory")
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


def run(width: int, variant: str, kernels: bool) -> dict[str, float]:
    """Make two updates of batch 1; return what tensors took at most, in bytes, and the seconds of the second."""
    import torch
    from updates import official, ours

    from erasediff.data.concept_images import ConceptImages
    from erasediff.families import family_of

    with counting(kernels) as peak:
        family = family_of(pipeline(width))
        pictures = torch.rand(2, 3, 512, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
        sets = family, ConceptImages(pictures[:1], ["a red star"]), ConceptImages(pictures[1:], ["a red circle"])
        if variant in OURS:
            seconds = ours(sets, UPDATES, 1, OURS[variant], "no")
        else:
            seconds = official(sets, UPDATES, 1, pause=0.0)
    return {"bytes": peak.most["memory"], "in_files": peak.most["files"], "seconds": seconds[-1]}


def measured(width: int, variant: str, kernels: bool = False) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--width", str(width), "--variant", variant, "--child"]
    command += ["--kernels"] if kernels else []
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=FULL, help="of the UNet, a multiple of 32 (default: %(default)s)")
    parser.add_argument("--kernels", action="store_true", help="run them too, and take the time")
    parser.add_argument("--variant", choices=["official", *OURS], help="this one alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run(arguments.width, arguments.variant, arguments.kernels)))
        return
    print(f"batch 1, fp32, width {arguments.width}")
    reference = None
    for variant in [arguments.variant] if arguments.variant else ["official", *OURS]:
        found = measured(arguments.width, variant, arguments.kernels)
        reference = reference or found["bytes"]
        print(f"{variant:40}{found['bytes'] / 2**30:9.2f} GiB {found['bytes'] / reference:5.2f}×", end="")
        aside = f", {found['in_files'] / 2**30:.2f} GiB more in files" if found["in_files"] else ""
        print(f"{aside}", end="")
        print(f", {found['seconds']:.1f} s an update" if arguments.kernels else "", flush=True)


if __name__ == "__main__":
    main()
