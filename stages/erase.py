"""Erase: EraseDiff, or a method beside it, on the base model."""

from __future__ import annotations

from pathlib import Path

from stages.door import run_door

FOLDER = Path("models/erased")
#: Columns of the trace, in this order.
TRACE = [
    "step",
    "retain_loss",
    "forget_loss",
    "constraint_gap",
    "retain_grad_norm",
    "forget_grad_norm",
    "gradient_cosine",
    "multiplier",
    "images_per_second",
    "peak_memory_bytes",
]


def main() -> None:
    """params.yaml, base, forget set → ``models/erased/``, ``metrics/erase.json``, ``plots/erase.csv``."""
    from stages.params import load_params

    whole = load_params()
    params = whole.erase
    import pandas as pd
    from accelerate import Accelerator
    from tqdm import tqdm

    from stages import tracking
    from stages.artifacts import MANIFEST, new_folder, sha256_folder, write_bytes, write_json
    from stages.diffusion import family_of, open_pipeline
    from stages.forget_set import FOLDER as SETS
    from stages.loading import FileCheckpoint, load_images, read_table
    from stages.pretrain import FOLDER as BASE
    from stages.unlearning import METHODS, erase

    pipeline = open_pipeline(BASE)
    shape = family_of(pipeline).image_shape
    forget = load_images(read_table(SETS / "forget.parquet"), shape)
    retain = load_images(read_table(SETS / "retain.parquet"), shape)
    settings = params.model_dump(
        exclude={"method", "mixed_precision", "checkpoint_every", "fixed_multiplier", "anchor"}
    )
    if METHODS[params.method].get("multiplier", params.multiplier) == "fixed":
        settings["eta"] = params.fixed_multiplier
    key = (whole.seed, params, sha256_folder(BASE), (SETS / MANIFEST).read_text())
    rows: list[dict[str, float]] = []
    checkpoint = FileCheckpoint("erase", key, params.checkpoint_every, rows)
    with tracking.stage_run("erase", {"seed": whole.seed, **params.model_dump()}) as run:
        with tqdm(total=params.outer_steps, desc="erase", mininterval=2) as bar:

            def on_step(step: int, row: dict[str, float]) -> None:
                bar.update(step - bar.n)
                rows.append({"step": step, **row})
                run.log_metrics(row, step)

            result = erase(
                pipeline,
                sorted(set(forget.concepts)),
                method=params.method,
                forget=forget,
                retain=retain,
                anchor=params.anchor,
                seed=whole.seed,
                accelerator=Accelerator(mixed_precision=params.mixed_precision),
                checkpoint=checkpoint,
                on_step=on_step,
                **settings,
            )
        trace = pd.DataFrame(rows, columns=TRACE)
        write_bytes(Path("plots/erase.csv"), trace.to_csv(index=False).encode())
        # What a method does not measure has no mean.
        numbers = trace.drop(columns=["step", "constraint_gap"]).iloc[-10:].mean().dropna().to_dict()
        write_json(Path("metrics/erase.json"), {"updates": params.outer_steps, **numbers})
        with new_folder(FOLDER) as folder:
            result.pipeline.save_pretrained(folder)
        checkpoint.clear()
        run.log_artifact(Path("plots/erase.csv"))
        print(f"erased model in {FOLDER}")


if __name__ == "__main__":
    run_door("erase", main, __doc__)
