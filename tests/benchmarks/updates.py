"""One kept update of ours against the same update done as EraseDiff's official code does it: ratios from one run.

The official way, from its description: K = 2 steps of the inner loop that are rolled back (Adam's moments are not); the
teacher is the moving model in train mode, with a graph; `gc.collect()`, and a pause of 0.1 s, a step of the inner loop;
then one backward pass of the two losses with a fixed weight. Every variant runs in a process of its own, in turns; on
the GPU where there is one, ours with the kernels that give the same bits at every run, as in the pipeline.

    python tests/benchmarks/updates.py [--model digits|cifar] [--updates 5] [--rounds 2] [--batch 8]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time

MODELS = {
    # The digits model, and one of the size of the CIFAR-10 network of the paper.
    "digits": {"shape": (1, 8, 8), "block_out_channels": (32, 64), "attention": (False, True), "layers_per_block": 1},
    "cifar": {
        "shape": (3, 32, 32),
        "block_out_channels": (128, 256, 256, 256),
        "attention": (False, True, False, False),
        "layers_per_block": 2,
        "norm_num_groups": 32,
    },
}
BATCH = {"digits": 64, "cifar": 8}
#: Variant → settings of the loop beside the defaults, and mixed precision.
SHARED, UP = {"shared_batch": True}, {"trainable": "up_blocks"}
NOISE = {"retain_target": "noise"}
CHECKPOINTING, PARTS = {"gradient_checkpointing": True}, {"accumulate": 4}
OURS = {
    "ours, fp32": ({}, "no"),
    "ours, fp32, noise as retain target": (NOISE, "no"),
    "ours, fp32, one batch for both losses": (SHARED, "no"),
    "ours, fp32, up blocks alone": (UP, "no"),
    "ours, fp32, gradient checkpointing": (CHECKPOINTING, "no"),
    "ours, fp32, in four parts": (PARTS, "no"),
    "ours, bf16": ({}, "bf16"),
    "ours, bf16, noise as retain target": (NOISE, "bf16"),
    "ours, bf16, one batch for both losses": (SHARED, "bf16"),
    "ours, bf16, up blocks alone": (UP, "bf16"),
    "ours, bf16, one batch, up blocks alone": (SHARED | UP, "bf16"),
    "ours, bf16, in four parts": (PARTS, "bf16"),
    "ours, bf16, checkpointing, four parts": (CHECKPOINTING | PARTS, "bf16"),
}
INNER_STEPS, PAUSE = 2, 0.1


def prepared(model: str, n: int):
    """A family with random weights, and ``n`` random pictures of both sets."""
    import torch

    from erasediff.data.concept_images import ConceptImages
    from erasediff.families import family_of
    from erasediff.families.class_conditional import build_pipeline

    settings = dict(MODELS[model])
    shape = settings.pop("shape")
    family = family_of(build_pipeline(["a", "b", "c"], shape, **settings))
    pictures = torch.rand(2 * n, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return family, ConceptImages(pictures[:n], ["a"] * n), ConceptImages(pictures[n:], ["b"] * n)


def ours(sets: tuple, updates: int, n: int, settings: dict, precision: str) -> list[float]:
    """Seconds of each update; ``sets`` is a family, and what to forget and to retain."""
    from accelerate import Accelerator

    from erasediff.unlearning import method_for
    from erasediff.unlearning.loop import run_loop

    family, forget, retain = sets
    seconds: list[float] = []
    sizes = {"forget_batch_size": n, "retain_batch_size": n, "outer_steps": updates}
    run_loop(
        family,
        forget,
        retain,
        method_for("erasediff", **sizes, **settings),
        accelerator=Accelerator(mixed_precision=precision),
        on_step=lambda step, row: seconds.append(2 * n / row["images_per_second"]),
    )
    return seconds


def official(sets: tuple, updates: int, n: int, pause: float = PAUSE) -> list[float]:
    """Seconds of each kept update."""
    import torch
    import torch.nn.functional as F
    from accelerate import PartialState
    from diffusers.training_utils import EMAModel

    device = PartialState().device
    family, forget, retain = sets
    network = family.denoiser.to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    average = EMAModel(network.parameters(), decay=0.99)
    draw = torch.Generator().manual_seed(0)

    def noised(data):
        clean = family.encode(data.images).to(device)
        noise = torch.randn(clean.shape, generator=draw).to(device)
        timesteps = family.timesteps(n, draw).to(device)
        return *family.noised(clean, noise, timesteps), timesteps

    def forget_loss():
        noisy, _, timesteps = noised(forget)
        wrong = family.predict(network, noisy, timesteps, family.condition(list(retain.concepts)))
        return F.mse_loss(family.predict(network, noisy, timesteps, family.condition(forget.concepts)), wrong)

    seconds = []
    for _ in range(updates):
        started = time.perf_counter()
        kept = {name: value.clone() for name, value in network.state_dict().items()}
        for _ in range(INNER_STEPS):
            optimizer.zero_grad()
            forget_loss().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            gc.collect()
            time.sleep(pause)
        with torch.no_grad():
            reached = forget_loss()
        network.load_state_dict(kept)
        optimizer.zero_grad()
        noisy, target, timesteps = noised(retain)
        retain_loss = F.mse_loss(family.predict(network, noisy, timesteps, family.condition(retain.concepts)), target)
        loss = retain_loss + 0.1 * (forget_loss() - reached)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.step(network.parameters())
        loss.item()  # what is logged: it waits for the GPU
        seconds.append(time.perf_counter() - started)
    return seconds


def passes(model: str, settings: dict) -> float:
    """Forward passes of a batch in one update of ours, a backward pass counted as two."""
    from erasediff.unlearning import method_for

    sizes = {"forget_batch_size": BATCH[model], "retain_batch_size": BATCH[model]}
    return method_for("erasediff", **sizes, **settings).passes_of_update(0) / BATCH[model]


#: The same for the official way: each inner step a teacher and a student with a graph, both run backward; the loss that
#: was reached; the retain loss, the forget loss with both its networks.
OFFICIAL_PASSES = INNER_STEPS * 2 * 3 + 2 + 3 + 2 * 3


def measured(model: str, variant: str, updates: int, batch: int | None = None) -> dict[str, float]:
    """Mean seconds of an update after the first, and peak memory in bytes, in a process of its own."""
    command = [sys.executable, __file__, "--model", model, "--updates", str(updates), "--variant", variant]
    command += ["--batch", str(batch or BATCH[model])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."})
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--updates", type=int, default=5, help="a round, the first of which is not counted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, help="pictures of each set; default: 64 digits, 8 of CIFAR-10's size")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        from erasediff.command import quiet_environment

        quiet_environment()
        from accelerate import PartialState

        from erasediff.device import device
        from erasediff.unlearning.loop import peak_memory_bytes

        how = OURS.get(arguments.variant)
        where = device() if how else PartialState().device
        sets = prepared(arguments.model, arguments.batch)
        run = (ours if how else official)(sets, arguments.updates, arguments.batch, *(how or ()))
        found = {"seconds": statistics.mean(run[1:]), "bytes": peak_memory_bytes(where)}
        print(json.dumps(found))
        return
    for model in [arguments.model] if arguments.model else MODELS:
        variants = ["official", *OURS]
        rounds = [
            {v: measured(model, v, arguments.updates, arguments.batch) for v in variants}
            for _ in range(arguments.rounds)
        ]
        counted = f"{arguments.updates - 1} updates × {arguments.rounds} rounds, seed 0"
        print(f"\n{model}, batch {arguments.batch or BATCH[model]}, {counted}: one kept update")
        print(f"{'':38} {'seconds':>9} {'speed':>7} {'memory':>9} {'of it':>6} {'passes':>7}")
        reference = None
        for v in variants:
            seconds = statistics.median(r[v]["seconds"] for r in rounds)
            memory = statistics.median(r[v]["bytes"] for r in rounds)
            reference = reference or (seconds, memory)
            count = passes(model, OURS[v][0]) if v in OURS else OFFICIAL_PASSES
            print(
                f"{v:38} {seconds:8.3f}s {reference[0] / seconds:6.2f}× {memory / 2**30:6.2f}GiB "
                f"{memory / reference[1]:5.2f}× {count:7.1f}"
            )


if __name__ == "__main__":
    main()
