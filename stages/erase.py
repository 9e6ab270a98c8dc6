"""Erase: EraseDiff, or a method beside it, on the base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import run_door, step_bar

if TYPE_CHECKING:
    from erasediff.tracking import StageRun
    from erasediff.training.state import OnStep
    from erasediff.unlearning.erasing import Erased
    from stages.params import Erase, Pretrain


def main(run: StageRun, seed: int, pretrain: Pretrain, erase: Erase) -> None:
    """params.yaml (of ``pretrain`` the recipe, for ``retrain``), base, forget set → ``models/erased/``,
    ``metrics/erase.json``, ``plots/erase.csv``."""
    import shutil

    from accelerate import Accelerator

    from erasediff.artifacts import MANIFEST, new_folder, read_json, sha256_folder, write_bytes, write_json
    from erasediff.data.inputs import load_images, read_table
    from erasediff.device import repeatable
    from erasediff.families import family_of, open_pipeline
    from erasediff.records import LORA_BASE
    from erasediff.training.checkpoint import FileCheckpoint
    from erasediff.training.denoising import RECIPE, Recipe
    from erasediff.unlearning import method_for
    from erasediff.unlearning.adapters import LORA_FOLDER
    from erasediff.unlearning.erasing import erase as erase_concepts
    from erasediff.unlearning.plan import planned
    from erasediff.unlearning.trace import trace_of
    from stages import layout

    pipeline = open_pipeline(layout.BASE)
    shape = family_of(pipeline).image_shape
    forget = load_images(read_table(layout.FORGET_TABLE), shape)
    retain = load_images(read_table(layout.RETAIN_TABLE), shape)
    recipe = Recipe(**pretrain.model_dump(include=RECIPE))
    rows: list[dict[str, float]] = []
    key = (seed, erase, recipe, sha256_folder(layout.BASE), (layout.SETS / MANIFEST).read_text())
    checkpoint = FileCheckpoint("erase", key, erase.checkpoint_every, rows)
    accelerator = Accelerator(mixed_precision=erase.mixed_precision)
    pipeline.to(repeatable(accelerator.device))
    plan = planned(
        method_for(erase.method, **erase.settings()),
        len(forget),
        len(retain),
        passes=erase.passes,
        recipe=recipe,
        mixed_precision=erase.mixed_precision,
    )

    def erased(on_step: OnStep | None = None) -> Erased:
        return erase_concepts(
            pipeline,
            sorted(set(forget.concepts)),
            method=erase.method,
            forget=forget,
            retain=retain,
            seed=seed,
            passes=erase.passes,
            accelerator=accelerator,
            checkpoint=checkpoint,
            on_step=on_step,
            recipe=recipe,
            cache=layout.LATENTS,
            before=read_json(layout.ERASURES),
            **erase.settings(),
        )

    if not accelerator.is_main_process:  # it computes its part of every batch
        erased()
        return
    run.start({"seed": seed, "method": plan.method, **plan.settings}, continues=checkpoint.run_id)
    checkpoint.begin(run)
    with step_bar("erase", plan.updates, run, rows) as on_step:
        result = erased(on_step)
    trace, numbers = trace_of(rows)
    write_bytes(layout.ERASE_TRACE, trace.to_csv(index=False).encode())
    write_json(layout.ERASE_METRICS, {**result.record.to_json(), **numbers})
    with new_folder(layout.ERASED) as folder:
        result.save(folder, fused=erase.fused or None)
        if result.lora:
            lora = folder / LORA_FOLDER if erase.fused else folder
            if erase.fused:
                result.save(lora, fused=False)
            shutil.copyfile(layout.ORIGIN, lora / LORA_BASE)
    checkpoint.clear()
    run.log_metrics({"updates": result.updates, "passes": result.record.passes})
    run.log_artifact(layout.ERASE_TRACE)
    print(f"erased model in {layout.ERASED}")


if __name__ == "__main__":
    run_door("erase", main, __doc__, trains=True)
