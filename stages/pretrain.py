"""Pretrain: the model to erase from, trained here or taken as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import logged_params, run_door, step_bar

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from erasediff.tracking import StageRun
    from erasediff.training.state import OnStep
    from stages.params import Pretrain


def main(run: StageRun, seed: int, pretrain: Pretrain) -> None:
    """params.yaml, ``data/curated/`` → ``models/base/``, ``plots/pretrain.csv``."""
    from dataclasses import asdict

    import pandas as pd
    from accelerate import Accelerator

    from erasediff.artifacts import new_folder, read_json, write_bytes, write_json
    from erasediff.data.inputs import load_images, read_table, table_shape
    from erasediff.device import repeatable
    from erasediff.families import family_of, require_family
    from erasediff.loading import erased_before, load, origin_of
    from erasediff.training.base import ARCHITECTURE, train_base
    from erasediff.training.checkpoint import FileCheckpoint
    from erasediff.training.denoising import RECIPE, Recipe
    from stages import layout

    table = read_table(layout.TABLE, "train")
    rows: list[dict[str, float]] = []
    key = (seed, pretrain, table["sample_id"].tolist())
    checkpoint = FileCheckpoint("pretrain", key, pretrain.checkpoint_every, rows)
    accelerator = Accelerator(mixed_precision=pretrain.mixed_precision)
    repeatable(accelerator.device)

    def trained(on_step: OnStep | None = None) -> DiffusionPipeline:
        return train_base(
            load_images(table, table_shape(table)),
            table_shape(table),
            architecture=pretrain.model_dump(include=ARCHITECTURE),
            recipe=Recipe(**pretrain.model_dump(include=RECIPE)),
            seed=seed,
            accelerator=accelerator,
            checkpoint=checkpoint,
            on_step=on_step,
        )

    if not accelerator.is_main_process:  # it computes its part of every batch
        if pretrain.source == "train":
            trained()
        return
    run.start(logged_params("pretrain", {"seed": seed, "pretrain": pretrain}), continues=checkpoint.run_id)
    checkpoint.begin(run)
    given = source_of(pretrain)
    if given is None:
        with step_bar("pretrain", pretrain.steps, run, rows) as on_step:
            pipeline = trained(on_step)
        checkpoint.clear()
    else:
        pipeline = load(given, read_json(layout.summary(layout.CURATED))["classes"])
        family = family_of(pipeline)  # one that no family handles is told here, not by the stages after it
        if pretrain.family is not None:
            require_family(family, pretrain.family)
    columns = ["step", "loss", "grad_norm", "learning_rate"]
    write_bytes(layout.PRETRAIN_TRACE, pd.DataFrame(rows, columns=columns).to_csv(index=False).encode())
    with new_folder(layout.BASE) as folder:
        pipeline.save_pretrained(folder)
        write_json(folder / layout.ERASURES.name, erased_before(given))
        if given is not None:
            write_json(folder / layout.ORIGIN.name, asdict(origin_of(given, pipeline)))
    print(f"base model in {layout.BASE}")


def source_of(pretrain: Pretrain) -> str | None:
    """The model to take as it is, as :func:`erasediff.load` takes it; ``None``: one is trained."""
    sources = {
        "folder": pretrain.path,
        "hub": f"hf://{pretrain.repo}@{pretrain.revision}",
        "registry": f"models:/{pretrain.repo}/{pretrain.revision}",
    }
    return sources.get(pretrain.source)


if __name__ == "__main__":
    run_door("pretrain", main, __doc__, trains=True, precedes_selection=True)
