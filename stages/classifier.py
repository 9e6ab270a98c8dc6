"""Classifier: what recognises a concept in a picture, with its own test accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import progress_bar, run_door, step_bar

if TYPE_CHECKING:
    import pandas as pd

    from erasediff.tracking import StageRun
    from stages.params import Classifier

#: What of ``classifier`` is no setting of its training.
NO_SETTING = {"kind", "pictures", "count", "inference_steps", "guidance_scale", "min_accuracy"}


def main(run: StageRun, seed: int, classifier: Classifier) -> None:
    """params.yaml, ``data/curated/``, where asked the base → ``models/classifier/``, ``metrics/classifier.json``."""
    import shutil

    from erasediff.artifacts import new_folder, sha256_file, write_json
    from erasediff.data.inputs import has_pictures, load_images, read_table, table_shape
    from erasediff.device import device
    from erasediff.errors import ClassifierTooWeak, DataError
    from erasediff.judges import accuracy, judge_kind
    from erasediff.records import JUDGE_BY_BASE, JUDGE_BY_LABELS
    from stages import layout

    table, drawn = read_table(layout.TABLE), classifier.pictures == str(layout.BASE)
    if drawn:
        table = _drawn_by_base(table[table["split"] == "train"], classifier, seed)
    elif not has_pictures(table):
        raise DataError(f"the curated table holds words, no pictures: set classifier.pictures to {layout.BASE}")
    train, test = (table[table["split"] == split].reset_index(drop=True) for split in ("train", "test"))
    shape, kind = table_shape(train), judge_kind(classifier.kind)
    known, held_out = load_images(train, shape), load_images(test, shape)
    how = {"seed": seed, "device": device(), **classifier.model_dump(exclude=NO_SETTING)}
    with step_bar("classifier", classifier.steps, run) as on_step:
        judge = kind.train(known.images, known.concepts, shape, on_step=on_step, **how)
    share = accuracy(judge, held_out.images, held_out.concepts)
    run.log_metrics({"accuracy": share})
    if share < classifier.min_accuracy:
        raise ClassifierTooWeak(
            f"the classifier reads {share:.3f} of {len(test)} test pictures, below classifier.min_accuracy "
            f"{classifier.min_accuracy}: it cannot judge. Raise classifier.steps or width, or give more pictures"
        )
    with new_folder(layout.CLASSIFIER) as folder:
        kind.save(judge, folder, accuracy=share)
        if drawn:
            test.to_parquet(folder / layout.HELD_OUT.name, index=False)
        digest = sha256_file(folder / "model.safetensors")
    shutil.rmtree(layout.DRAWN, ignore_errors=True)
    facts = {"accuracy": share, "test_samples": len(test), "sha256": digest, "fingerprint": judge.fingerprint}
    facts["pictures"] = JUDGE_BY_BASE if drawn else JUDGE_BY_LABELS
    write_json(layout.CLASSIFIER_METRICS, facts)
    print(f"classifier: accuracy {share:.4f} on {len(test)} test pictures")


def _drawn_by_base(words: pd.DataFrame, classifier: Classifier, seed: int) -> pd.DataFrame:
    """Pictures of the table's concepts that the base draws, a quarter as many to be tested on."""
    from erasediff.artifacts import sha256_folder
    from erasediff.data.inputs import prompts_by_concept
    from erasediff.device import device
    from erasediff.families import family_of, open_pipeline
    from erasediff.families.judge_pictures import judge_pictures
    from erasediff.families.resuming import resumable
    from stages import layout

    family = family_of(open_pipeline(layout.BASE).to(device()))
    with progress_bar("classifier: pictures by the base") as on_progress:
        return judge_pictures(
            resumable(family, layout.DRAWN, sha256_folder(layout.BASE)),
            prompts_by_concept(words),
            train=classifier.count,
            test=max(2, classifier.count // 4),
            seed=seed,
            steps=classifier.inference_steps,
            guidance_scale=classifier.guidance_scale,
            on_progress=on_progress,
        )


if __name__ == "__main__":
    run_door("classifier", main, __doc__)
