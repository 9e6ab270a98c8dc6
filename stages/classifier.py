"""Classifier: what recognises a concept in a picture, with its own test accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import run_door, step_bar

if TYPE_CHECKING:
    from erasediff.tracking import StageRun
    from stages.params import Classifier

#: What of ``classifier`` is no setting of its training.
NO_SETTING = {"kind", "min_accuracy"}


def main(run: StageRun, seed: int, classifier: Classifier) -> None:
    """params.yaml, ``data/curated/`` → ``models/classifier/``, ``metrics/classifier.json``."""
    from erasediff.artifacts import new_folder, sha256_file, write_json
    from erasediff.data.inputs import load_images, read_table, table_shape
    from erasediff.device import device
    from erasediff.errors import ClassifierTooWeak
    from erasediff.judges import accuracy, judge_kind
    from stages import layout

    train, test = read_table(layout.TABLE, "train"), read_table(layout.TABLE, "test")
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
        digest = sha256_file(folder / "model.safetensors")
    facts = {"accuracy": share, "test_samples": len(test), "sha256": digest, "fingerprint": judge.fingerprint}
    write_json(layout.CLASSIFIER_METRICS, facts)
    print(f"classifier: accuracy {share:.4f} on {len(test)} test pictures")


if __name__ == "__main__":
    run_door("classifier", main, __doc__)
