"""Classifier: what recognises a concept in a picture, with its own test accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.door import run_door

if TYPE_CHECKING:
    from erasediff.tracking import StageRun
    from stages.params import Classifier


def main(run: StageRun, seed: int, classifier: Classifier) -> None:
    """params.yaml, ``data/curated/`` → ``models/classifier/``, ``metrics/classifier.json``."""
    from tqdm import tqdm

    from erasediff.artifacts import new_folder, sha256_file, write_json
    from erasediff.data.images import decode
    from erasediff.data.inputs import read_table, table_shape
    from erasediff.device import device
    from erasediff.errors import ClassifierTooWeak
    from erasediff.judges.cnn import save_classifier, train_classifier
    from stages import layout

    train, test = read_table(layout.TABLE, "train"), read_table(layout.TABLE, "test")
    shape = table_shape(train)
    with tqdm(total=classifier.steps, desc="classifier", mininterval=2) as bar:

        def on_step(step: int, row: dict[str, float]) -> None:
            bar.update()
            run.log_metrics(row, step)

        model = train_classifier(
            decode(train["image"].tolist(), shape),
            train["concept"].tolist(),
            shape,
            width=classifier.width,
            steps=classifier.steps,
            batch_size=classifier.batch_size,
            learning_rate=classifier.learning_rate,
            seed=seed,
            device=device(),
            on_step=on_step,
        )
    accuracy = model.accuracy(decode(test["image"].tolist(), shape), test["concept"].tolist())
    run.log_metrics({"accuracy": accuracy})
    if accuracy < classifier.min_accuracy:
        raise ClassifierTooWeak(
            f"the classifier reads {accuracy:.3f} of {len(test)} test pictures, below classifier.min_accuracy "
            f"{classifier.min_accuracy}: it cannot judge. Raise classifier.steps or width, or give more pictures"
        )
    with new_folder(layout.CLASSIFIER) as folder:
        save_classifier(model, folder, accuracy=accuracy)
        digest = sha256_file(folder / "model.safetensors")
    facts = {"accuracy": accuracy, "test_samples": len(test), "sha256": digest}
    write_json(layout.CLASSIFIER_METRICS, facts)
    print(f"classifier: accuracy {accuracy:.4f} on {len(test)} test pictures")


if __name__ == "__main__":
    run_door("classifier", main, __doc__)
