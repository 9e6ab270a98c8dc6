"""Erase: EraseDiff, or a method beside it, on the base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import logged_params, run_door

if TYPE_CHECKING:
    from erasediff.tracking import StageRun
    from erasediff.training.state import OnStep
    from erasediff.unlearning import Erased
    from stages.params import Erase, Pretrain

#: What of ``erase`` is no setting of the loop.
NO_SETTING = {"method", "passes", "mixed_precision", "checkpoint_every", "fixed_multiplier", "anchor"}


def main(run: StageRun, seed: int, pretrain: Pretrain, erase: Erase) -> None:
    """params.yaml (of ``pretrain`` the recipe, for ``retrain``), base, forget set → ``models/erased/``,
    ``metrics/erase.json``, ``plots/erase.csv``."""
    from dataclasses import asdict

    from accelerate import Accelerator
    from tqdm import tqdm

    from erasediff import unlearning
    from erasediff.artifacts import MANIFEST, new_folder, sha256_folder, write_bytes, write_json
    from erasediff.data.inputs import load_images, read_table
    from erasediff.device import repeatable
    from erasediff.errors import ParamsError
    from erasediff.families import family_of, open_pipeline
    from erasediff.records import EffectiveSettings
    from erasediff.training.checkpoint import FileCheckpoint
    from erasediff.training.denoising import RECIPE
    from erasediff.unlearning.trace import trace_of
    from stages import layout

    settings = erase.model_dump(exclude=NO_SETTING)
    try:
        if unlearning.settings_for(erase.method, **settings).multiplier == "fixed":
            settings["eta"] = erase.fixed_multiplier
        effective = asdict(unlearning.settings_for(erase.method, **settings, anchor=erase.anchor))
    except ValueError as error:
        raise ParamsError(f"params.yaml: erase: {error}") from None
    pipeline = open_pipeline(layout.BASE)
    shape = family_of(pipeline).image_shape
    forget = load_images(read_table(layout.FORGET_TABLE), shape)
    retain = load_images(read_table(layout.RETAIN_TABLE), shape)
    recipe = pretrain.model_dump(include=RECIPE)
    updates, passes = unlearning.planned(erase.method, len(forget), len(retain), erase.passes, recipe, **settings)
    settings["outer_steps"] = updates
    rows: list[dict[str, float]] = []
    key = (seed, erase, recipe, sha256_folder(layout.BASE), (layout.SETS / MANIFEST).read_text())
    checkpoint = FileCheckpoint("erase", key, erase.checkpoint_every, rows)
    accelerator = Accelerator(mixed_precision=erase.mixed_precision)
    pipeline.to(repeatable(accelerator.device))

    def erased(on_step: OnStep | None = None) -> Erased:
        return unlearning.erase(
            pipeline,
            sorted(set(forget.concepts)),
            method=erase.method,
            forget=forget,
            retain=retain,
            anchor=erase.anchor,
            seed=seed,
            accelerator=accelerator,
            checkpoint=checkpoint,
            on_step=on_step,
            recipe=recipe,
            **settings,
        )

    if not accelerator.is_main_process:  # it computes its part of every batch
        erased()
        return
    run.start(logged_params("erase", {"seed": seed, "erase": erase}), continues=checkpoint.run_id)
    checkpoint.begin(run)
    with tqdm(total=updates, desc="erase", mininterval=2) as bar:

        def on_step(step: int, row: dict[str, float]) -> None:
            bar.update(step - bar.n)
            rows.append({"step": step, **row})
            run.log_metrics(row, step)

        result = erased(on_step)
    trace, numbers = trace_of(rows)
    write_bytes(layout.ERASE_TRACE, trace.to_csv(index=False).encode())
    ran = EffectiveSettings(erase.method, effective, len(trace), passes)
    write_json(layout.ERASE_METRICS, {**ran.to_json(), **numbers})
    with new_folder(layout.ERASED) as folder:
        result.pipeline.save_pretrained(folder)
    checkpoint.clear()
    run.log_artifact(layout.ERASE_TRACE)
    print(f"erased model in {layout.ERASED}")


if __name__ == "__main__":
    run_door("erase", main, __doc__, trains=True)
