"""Classifier: what recognises a concept in a picture, with its own test accuracy."""

from __future__ import annotations

from pathlib import Path

from stages.door import run_door

FOLDER = Path("models/classifier")


def main() -> None:
    """params.yaml, ``data/curated/`` → ``models/classifier/``, ``metrics/classifier.json``."""
    from stages.params import load_params

    whole = load_params()
    params = whole.classifier
    from tqdm import tqdm

    from stages import tracking
    from stages.artifacts import new_folder, sha256_file, write_json
    from stages.curate import TABLE
    from stages.data.images import decode
    from stages.errors import ClassifierTooWeak
    from stages.loading import device, read_table, table_shape
    from stages.metrics.classifier import save_classifier, train_classifier

    train, test = read_table(TABLE, "train"), read_table(TABLE, "test")
    shape = table_shape(train)
    with tracking.stage_run("classifier", {"seed": whole.seed, **params.model_dump()}) as run:
        with tqdm(total=params.steps, desc="classifier", mininterval=2) as bar:

            def on_step(step: int, row: dict[str, float]) -> None:
                bar.update()
                run.log_metrics(row, step)

            model = train_classifier(
                decode(train["image"].tolist(), shape),
                train["concept"].tolist(),
                shape,
                width=params.width,
                steps=params.steps,
                batch_size=params.batch_size,
                learning_rate=params.learning_rate,
                seed=whole.seed,
                device=device(),
                on_step=on_step,
            )
        probabilities = model.predict(decode(test["image"].tolist(), shape))
        read = [model.concepts[i] for i in probabilities.argmax(1).tolist()]
        right = [a == b for a, b in zip(read, test["concept"], strict=True)]
        accuracy = sum(right) / len(right)
        run.log_metrics({"accuracy": accuracy})
        if accuracy < params.min_accuracy:
            raise ClassifierTooWeak(
                f"the classifier reads {accuracy:.3f} of {len(right)} test pictures, below classifier.min_accuracy "
                f"{params.min_accuracy}: it cannot judge. Raise classifier.steps or width, or give more pictures"
            )
        with new_folder(FOLDER) as folder:
            save_classifier(model, folder, accuracy=accuracy)
            digest = sha256_file(folder / "model.safetensors")
        write_json(
            Path("metrics/classifier.json"), {"accuracy": accuracy, "test_samples": len(right), "sha256": digest}
        )
        print(f"classifier: accuracy {accuracy:.4f} on {len(right)} test pictures")


if __name__ == "__main__":
    run_door("classifier", main, __doc__)
