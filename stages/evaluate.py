"""Evaluate: one model measured under the classifier; base and erased get the same seeds and draws."""

from __future__ import annotations

from pathlib import Path

from stages.door import run_door


def main(model: str) -> None:
    """params.yaml, ``models/MODEL/``, classifier, data → ``metrics/MODEL.json``, ``plots/samples_MODEL.png``."""
    from stages.params import load_params

    whole = load_params()
    params = whole.evaluate
    import time

    from tqdm import tqdm

    from stages import tracking
    from stages.artifacts import read_json, write_bytes, write_json
    from stages.classifier import FOLDER as CLASSIFIER
    from stages.curate import TABLE
    from stages.data.images import decode
    from stages.diffusion import family_of, open_pipeline
    from stages.errors import DataError
    from stages.evaluation.measure import measure
    from stages.evaluation.report import grid_png
    from stages.forget_set import FOLDER as SETS
    from stages.loading import device, read_table
    from stages.metrics.classifier import load_classifier

    family = family_of(open_pipeline(Path("models") / model).to(device()))
    classifier = load_classifier(CLASSIFIER).to(device())
    sets = read_json(SETS / "summary.json")
    forgotten, earlier = sets["concepts"], [c for c in sets["earlier"] if c in classifier.concepts]
    test = read_table(TABLE, "test")
    held_out = decode(test[~test["concept"].isin(forgotten + earlier)]["image"].tolist(), classifier.image_shape)
    if len(held_out) < 2:
        raise DataError(
            f"{len(held_out)} held-out picture(s) of retained concepts: a distance needs 2, give more pictures"
        )
    started = time.perf_counter()
    with tracking.stage_run(f"evaluate-{model}", {"seed": whole.seed, **params.model_dump()}) as run:
        total = len(classifier.concepts) * params.samples_per_concept * params.draws
        with tqdm(total=total, desc=f"evaluate {model}", mininterval=2) as bar:
            numbers, shown = measure(
                family,
                classifier,
                classifier.concepts,
                forgotten,
                held_out,
                earlier=earlier,
                samples_per_concept=params.samples_per_concept,
                draws=params.draws,
                steps=params.inference_steps,
                guidance_scale=params.guidance_scale,
                batch_size=params.batch_size,
                seed=whole.seed,
                on_progress=bar.update,
            )
        grid = Path(f"plots/samples_{model}.png")
        write_bytes(grid, grid_png(shown, classifier.concepts, model, marked=forgotten + earlier))
        write_json(Path(f"metrics/{model}.json"), {**numbers, "seconds": time.perf_counter() - started})
        run.log_metrics(numbers)
        run.log_artifact(grid)


if __name__ == "__main__":
    run_door("evaluate", main, __doc__, {"model": ["base", "erased"]})
