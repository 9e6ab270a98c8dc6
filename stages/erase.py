"""Erase: EraseDiff, or a method beside it, on the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
#: What of ``erase`` is no setting of the loop.
NO_SETTING = {"method", "passes", "mixed_precision", "checkpoint_every", "fixed_multiplier", "anchor"}


def main() -> None:
    """params.yaml (of ``pretrain`` the recipe, for ``retrain``), base, forget set → ``models/erased/``,
    ``metrics/erase.json``, ``plots/erase.csv``."""
    from stages.params import load_params

    whole = load_params()
    params, recipe = whole.erase, whole.pretrain
    import pandas as pd
    from accelerate import Accelerator
    from tqdm import tqdm

    from stages import tracking
    from stages.artifacts import MANIFEST, new_folder, sha256_folder, write_bytes, write_json
    from stages.diffusion import family_of, open_pipeline
    from stages.errors import ParamsError
    from stages.forget_set import FOLDER as SETS
    from stages.loading import FileCheckpoint, load_images, read_table, repeatable
    from stages.pretrain import FOLDER as BASE
    from stages.pretrain import RECIPE
    from stages.unlearning import erase, planned, settings_for

    settings = params.model_dump(exclude=NO_SETTING)
    try:
        if settings_for(params.method, **settings).multiplier == "fixed":
            settings["eta"] = params.fixed_multiplier
    except ValueError as error:
        raise ParamsError(f"params.yaml: erase: {error}") from None
    pipeline = open_pipeline(BASE)
    shape = family_of(pipeline).image_shape
    forget = load_images(read_table(SETS / "forget.parquet"), shape)
    retain = load_images(read_table(SETS / "retain.parquet"), shape)
    how = recipe.model_dump(include=RECIPE)
    updates, passes = planned(params.method, len(forget), len(retain), params.passes, how, **settings)
    settings["outer_steps"] = updates
    rows: list[dict[str, float]] = []
    key = (whole.seed, params, how, sha256_folder(BASE), (SETS / MANIFEST).read_text())
    checkpoint = FileCheckpoint("erase", key, params.checkpoint_every, rows)
    accelerator = Accelerator(mixed_precision=params.mixed_precision)
    pipeline.to(repeatable(accelerator.device))

    def erased(on_step: Any = None) -> Any:
        return erase(
            pipeline,
            sorted(set(forget.concepts)),
            method=params.method,
            forget=forget,
            retain=retain,
            anchor=params.anchor,
            seed=whole.seed,
            accelerator=accelerator,
            checkpoint=checkpoint,
            on_step=on_step,
            recipe=how,
            **settings,
        )

    if not accelerator.is_main_process:  # it computes its part of every batch
        erased()
        return
    logged = {"seed": whole.seed, **params.model_dump()}
    with tracking.stage_run("erase", logged, continues=checkpoint.run_id) as run:
        checkpoint.begin(run)
        with tqdm(total=updates, desc="erase", mininterval=2) as bar:

            def on_step(step: int, row: dict[str, float]) -> None:
                bar.update(step - bar.n)
                rows.append({"step": step, **row})
                run.log_metrics(row, step)

            result = erased(on_step)
        trace = pd.DataFrame(rows, columns=TRACE)
        write_bytes(Path("plots/erase.csv"), trace.to_csv(index=False).encode())
        # What a method does not measure has no mean.
        numbers = trace.drop(columns=["step", "constraint_gap"]).iloc[-10:].mean().dropna().to_dict()
        numbers |= {f"{name}_mean": value for name, value in trace[["gradient_cosine"]].mean().dropna().items()}
        write_json(Path("metrics/erase.json"), {"updates": len(trace), "passes": passes, **numbers})
        with new_folder(FOLDER) as folder:
            result.pipeline.save_pretrained(folder)
        checkpoint.clear()
        run.log_artifact(Path("plots/erase.csv"))
        print(f"erased model in {FOLDER}")


if __name__ == "__main__":
    run_door("erase", main, __doc__, trains=True)
