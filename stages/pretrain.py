"""Pretrain: the model to erase from, trained here or taken as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stages.door import logged_params, run_door

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator
    from diffusers import DiffusionPipeline

    from erasediff.tracking import StageRun
    from erasediff.training.state import OnStep
    from stages.params import Pretrain


def main(run: StageRun, seed: int, pretrain: Pretrain) -> None:
    """params.yaml, ``data/curated/`` → ``models/base/``, ``plots/pretrain.csv``."""
    import pandas as pd
    from accelerate import Accelerator
    from tqdm import tqdm

    from erasediff.artifacts import new_folder, write_bytes, write_json
    from erasediff.data.inputs import read_table
    from erasediff.device import repeatable
    from erasediff.training.checkpoint import FileCheckpoint
    from stages import layout

    table = read_table(layout.TABLE, "train")
    rows: list[dict[str, float]] = []
    key = (seed, pretrain, table["sample_id"].tolist())
    checkpoint = FileCheckpoint("pretrain", key, pretrain.checkpoint_every, rows)
    accelerator = Accelerator(mixed_precision=pretrain.mixed_precision)
    repeatable(accelerator.device)

    def trained(on_step: OnStep | None = None) -> DiffusionPipeline:
        return _trained(table, pretrain, seed, accelerator, checkpoint, on_step)

    if not accelerator.is_main_process:  # it computes its part of every batch
        if pretrain.source == "train":
            trained()
        return
    run.start(logged_params("pretrain", {"seed": seed, "pretrain": pretrain}), continues=checkpoint.run_id)
    checkpoint.begin(run)
    if pretrain.source == "train":
        with tqdm(total=pretrain.steps, desc="pretrain", mininterval=2) as bar:

            def on_step(step: int, row: dict[str, float]) -> None:
                bar.update(step - bar.n)
                rows.append({"step": step, **row})
                run.log_metrics(row, step)

            pipeline = trained(on_step)
        checkpoint.clear()
    else:
        pipeline = _given(pretrain, sorted(set(table["concept"])))
    columns = ["step", "loss", "grad_norm", "learning_rate"]
    write_bytes(layout.PRETRAIN_TRACE, pd.DataFrame(rows, columns=columns).to_csv(index=False).encode())
    with new_folder(layout.BASE) as folder:
        pipeline.save_pretrained(folder)
        write_json(folder / layout.ERASURES.name, _erasures(pretrain))
    print(f"base model in {layout.BASE}")


def _given(pretrain: Pretrain, concepts: list[str]) -> DiffusionPipeline:
    """A diffusers folder, hub snapshot or registry version, with the data's concepts where it does not name them."""
    from huggingface_hub import snapshot_download

    from erasediff.families import open_pipeline
    from erasediff.loading import load

    if pretrain.source == "registry":
        return load(f"models:/{pretrain.repo}/{pretrain.revision}")
    if pretrain.source == "folder":
        return open_pipeline(pretrain.path, concepts)
    return open_pipeline(snapshot_download(str(pretrain.repo), revision=pretrain.revision), concepts)


def _erasures(pretrain: Pretrain) -> list[str]:
    """What a version of the registry has forgotten; nothing is known of a model from elsewhere."""
    from erasediff.registry.promotion import erasures
    from erasediff.registry.versions import get

    if pretrain.source != "registry":
        return []
    return sorted(erasures(get(str(pretrain.repo), str(pretrain.revision)).tags))


def _trained(
    table: pd.DataFrame,
    pretrain: Pretrain,
    seed: int,
    accelerator: Accelerator,
    checkpoint: Any,
    on_step: OnStep | None,
) -> DiffusionPipeline:
    from erasediff.data.inputs import load_images, table_shape
    from erasediff.families import family_of
    from erasediff.families.class_conditional import build_pipeline
    from erasediff.training.denoising import RECIPE, Recipe, train_denoiser

    shape = table_shape(table)
    data = load_images(table, shape)
    pipeline = build_pipeline(
        sorted(set(data.concepts)),
        shape,
        block_out_channels=pretrain.block_out_channels,
        layers_per_block=pretrain.layers_per_block,
        attention=pretrain.attention,
        beta_schedule=pretrain.beta_schedule,
        prediction_type=pretrain.prediction_type,
        seed=seed,
    )
    train_denoiser(
        family_of(pipeline),
        data.images,
        data.concepts,
        Recipe(**pretrain.model_dump(include=RECIPE)),
        seed=seed,
        accelerator=accelerator,
        checkpoint=checkpoint,
        on_step=on_step,
    )
    return pipeline


if __name__ == "__main__":
    run_door("pretrain", main, __doc__, trains=True)
