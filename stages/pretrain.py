"""Pretrain: the model to erase from, trained here or taken as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.door import run_door

FOLDER = Path("models/base")
#: In the folder: what the model had forgotten before it came here, concepts and starts of sample ids.
ERASURES = "erasures.json"


def main() -> None:
    """params.yaml, ``data/curated/`` → ``models/base/``, ``plots/pretrain.csv``."""
    from stages.params import load_params

    whole = load_params()
    params = whole.pretrain
    from accelerate import Accelerator
    from tqdm import tqdm

    from stages import tracking
    from stages.artifacts import new_folder, write_json
    from stages.curate import TABLE
    from stages.loading import FileCheckpoint, read_table, repeatable

    table = read_table(TABLE, "train")
    rows: list[dict[str, float]] = []
    key = (whole.seed, params, table["sample_id"].tolist())
    checkpoint = FileCheckpoint("pretrain", key, params.checkpoint_every, rows)
    accelerator = Accelerator(mixed_precision=params.mixed_precision)
    repeatable(accelerator.device)
    if not accelerator.is_main_process:  # it computes its part of every batch
        if params.source == "train":
            _trained(table, params, whole.seed, accelerator, checkpoint)
        return
    logged = {"seed": whole.seed, **params.model_dump()}
    with tracking.stage_run("pretrain", logged, continues=checkpoint.run_id) as run:
        checkpoint.begin(run)
        if params.source == "train":
            with tqdm(total=params.steps, desc="pretrain", mininterval=2) as bar:

                def on_step(step: int, row: dict[str, float]) -> None:
                    bar.update(step - bar.n)
                    rows.append({"step": step, **row})
                    run.log_metrics(row, step)

                pipeline = _trained(table, params, whole.seed, accelerator, checkpoint, on_step)
            checkpoint.clear()
            _write_rows(rows)
        else:
            pipeline = _given(params, sorted(set(table["concept"])))
            _write_rows([])
        with new_folder(FOLDER) as folder:
            pipeline.save_pretrained(folder)
            write_json(folder / ERASURES, _erasures(params))
        print(f"base model in {FOLDER}")


def _given(params: Any, concepts: list[str]) -> Any:
    """A diffusers folder, hub snapshot or registry version, with the data's concepts where it does not name them."""
    from stages.diffusion import open_pipeline

    if params.source == "folder":
        return open_pipeline(params.path, concepts)
    if params.source == "hub":
        from huggingface_hub import snapshot_download

        return open_pipeline(snapshot_download(params.repo, revision=params.revision), concepts)
    from stages.registry import load_pipeline

    return load_pipeline(f"models:/{params.repo}/{params.revision}")


def _erasures(params: Any) -> list[str]:
    """What a version of the registry has forgotten; nothing is known of a model from elsewhere."""
    if params.source != "registry":
        return []
    from stages.registry.promotion import erasures
    from stages.registry.versions import get

    return sorted(erasures(get(params.repo, params.revision).tags))


#: What of ``pretrain`` says how a model is trained: arguments of ``train_denoiser``.
RECIPE = {
    "steps",
    "batch_size",
    "learning_rate",
    "warmup_steps",
    "ema_decay",
    "condition_dropout",
    "max_grad_norm",
}


def _trained(table: Any, params: Any, seed: int, accelerator: Any, checkpoint: Any, on_step: Any = None) -> Any:
    from stages.diffusion import family_of
    from stages.diffusion.class_conditional import build_pipeline
    from stages.diffusion.training import train_denoiser
    from stages.loading import load_images, table_shape

    shape = table_shape(table)
    data = load_images(table, shape)
    pipeline = build_pipeline(
        sorted(set(data.concepts)),
        shape,
        block_out_channels=params.block_out_channels,
        layers_per_block=params.layers_per_block,
        attention=params.attention,
        beta_schedule=params.beta_schedule,
        prediction_type=params.prediction_type,
        seed=seed,
    )
    train_denoiser(
        family_of(pipeline),
        data.images,
        data.concepts,
        **params.model_dump(include=RECIPE),
        seed=seed,
        accelerator=accelerator,
        checkpoint=checkpoint,
        on_step=on_step,
    )
    return pipeline


def _write_rows(rows: list[dict[str, float]]) -> None:
    import pandas as pd

    from stages.artifacts import write_bytes

    columns = ["step", "loss", "grad_norm", "learning_rate"]
    write_bytes(Path("plots/pretrain.csv"), pd.DataFrame(rows, columns=columns).to_csv(index=False).encode())


if __name__ == "__main__":
    run_door("pretrain", main, __doc__, trains=True)
