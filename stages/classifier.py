"""Classifier: what recognises a concept in a picture, with its own test accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import progress_bar, run_door, step_bar

if TYPE_CHECKING:
    from types import ModuleType

    import pandas as pd

    from erasediff.judges import Judge
    from erasediff.tracking import StageRun
    from stages.params import Classifier

#: What of ``classifier`` is a setting of its training.
SETTINGS = {"width", "steps", "batch_size", "learning_rate"}


def main(run: StageRun, seed: int, classifier: Classifier) -> None:
    """params.yaml, ``data/curated/``, where asked the base, or a judge of others → ``models/classifier/``,
    ``metrics/classifier.json``."""
    import shutil

    from erasediff.artifacts import new_folder, sha256_file, write_json
    from erasediff.data.inputs import has_pictures, load_images, read_table, table_shape
    from erasediff.device import device
    from erasediff.errors import ClassifierTooWeak, DataError
    from erasediff.judges import accuracy, judge_kind, weights_of
    from erasediff.records import JUDGE_BY_BASE, JUDGE_BY_LABELS
    from stages import layout

    kind, table = judge_kind(classifier.kind), read_table(layout.TABLE)
    drawn, trains = classifier.pictures == str(layout.BASE), hasattr(kind, "train")
    if not drawn and not has_pictures(table):
        raise DataError(f"the curated table holds words, no pictures: set classifier.pictures to {layout.BASE}")
    judge = None if trains else _trained_by_others(kind, classifier, sorted(set(table["concept"])))
    if drawn:
        table = _drawn_by_base(table[table["split"] == "train"], classifier, seed, classifier.count if trains else 0)
    train, test = (table[table["split"] == split].reset_index(drop=True) for split in ("train", "test"))
    shape = table_shape(test)
    held_out = load_images(test, shape)
    if judge is None:
        known = load_images(train, shape)
        how = {"seed": seed, "device": device(), **classifier.model_dump(include=SETTINGS)}
        with step_bar("classifier", classifier.steps, run) as on_step:
            judge = kind.train(known.images, known.concepts, shape, on_step=on_step, **how)
    # What the base drew for a concept need not show it: of a judge of others it tells nothing.
    share = accuracy(judge, held_out.images, held_out.concepts) if trains or not drawn else None
    facts: dict[str, object] = {"accuracy": share, "test_samples": 0 if share is None else len(test)}
    if share is not None:
        run.log_metrics({"accuracy": share})
        if share < classifier.min_accuracy:
            remedy = "Raise classifier.steps or width, or give more pictures" if trains else "Take another, or labels"
            raise ClassifierTooWeak(
                f"the classifier reads {share:.3f} of {len(test)} test pictures, below classifier.min_accuracy "
                f"{classifier.min_accuracy}: it cannot judge. {remedy}"
            )
    with new_folder(layout.CLASSIFIER) as folder:
        kind.save(judge, folder, **facts)
        if drawn:
            test.to_parquet(folder / layout.HELD_OUT.name, index=False)
        facts["sha256"] = sha256_file(weights_of(folder))
    shutil.rmtree(layout.drawn("classifier"), ignore_errors=True)
    facts |= {"fingerprint": judge.fingerprint, "kind": classifier.kind}
    facts["pictures"] = JUDGE_BY_BASE if drawn else JUDGE_BY_LABELS
    write_json(layout.CLASSIFIER_METRICS, facts)
    told = "accuracy not measured" if share is None else f"accuracy {share:.4f} on {len(test)} test pictures"
    print(f"classifier: {told}")


def _trained_by_others(kind: ModuleType, classifier: Classifier, concepts: list[str]) -> Judge:
    from erasediff.device import device

    where, revision = (classifier.repo, classifier.revision) if classifier.repo else (classifier.path, None)
    judge: Judge = kind.opened(where, revision=revision, concepts=concepts, labels=classifier.labels)
    return judge.to(device())


def _drawn_by_base(words: pd.DataFrame, classifier: Classifier, seed: int, train: int) -> pd.DataFrame:
    """``train`` pictures of each of the table's concepts that the base draws, and some to be tested on."""
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
            resumable(family, layout.drawn("classifier"), sha256_folder(layout.BASE)),
            prompts_by_concept(words),
            train=train,
            test=max(2, classifier.count // 4),
            seed=seed,
            steps=classifier.inference_steps,
            guidance_scale=classifier.guidance_scale,
            on_progress=on_progress,
        )


if __name__ == "__main__":
    run_door("classifier", main, __doc__, precedes_selection=True)
