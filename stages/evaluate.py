"""Evaluate: one model measured under the classifier; base and erased get the same seeds and draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.door import run_door

if TYPE_CHECKING:
    from torch import Tensor


def main(model: str) -> None:
    """params.yaml, ``models/MODEL/``, classifier, data → ``metrics/MODEL.json``, ``plots/samples_MODEL.png``."""
    from stages.params import load_params

    whole = load_params()
    import time

    from stages import tracking
    from stages.artifacts import read_json, write_bytes, write_json
    from stages.diffusion import open_pipeline
    from stages.evaluation.report import grid_png
    from stages.forget_set import FOLDER as SETS

    sets = read_json(SETS / "summary.json")
    pipeline = open_pipeline(Path("models") / model)
    started = time.perf_counter()
    with tracking.stage_run(f"evaluate-{model}", {"seed": whole.seed, **whole.evaluate.model_dump()}) as run:
        numbers, shown, concepts = measured(pipeline, sets["concepts"], sets["earlier"], whole, f"evaluate {model}")
        grid = Path(f"plots/samples_{model}.png")
        write_bytes(grid, grid_png(shown, concepts, model, marked=[*sets["concepts"], *sets["earlier"]]))
        write_json(Path(f"metrics/{model}.json"), {**numbers, "seconds": time.perf_counter() - started})
        run.log_metrics(numbers)
        run.log_artifact(grid)


def measured(
    pipeline: Any, forgotten: list[str], erased_before: list[str], whole: Any, label: str
) -> tuple[dict[str, float], Tensor, tuple[str, ...]]:
    """Numbers of a pipeline under ``models/classifier``, eight pictures a concept, and the concepts.

    Args:
        erased_before: what the base had forgotten already; what the classifier does not know is not looked at.
        whole: params.

    Raises: DataError: too few held-out pictures. UnknownConcept: the classifier does not know what to forget.
    """
    from tqdm import tqdm

    from stages.classifier import FOLDER as CLASSIFIER
    from stages.curate import TABLE
    from stages.data.images import decode
    from stages.diffusion import family_of
    from stages.errors import DataError, UnknownConcept
    from stages.evaluation.measure import measure
    from stages.loading import device, read_table
    from stages.metrics.classifier import load_classifier

    params = whole.evaluate
    family, classifier = family_of(pipeline.to(device())), load_classifier(CLASSIFIER).to(device())
    if unknown := sorted(set(forgotten) - set(classifier.concepts)):
        raise UnknownConcept(f"{CLASSIFIER} does not know {', '.join(unknown)}: train it on data with these concepts")
    earlier = [c for c in erased_before if c in classifier.concepts]
    test = read_table(TABLE, "test")
    held_out = decode(test[~test["concept"].isin(forgotten + earlier)]["image"].tolist(), classifier.image_shape)
    if len(held_out) < 2:
        raise DataError(
            f"{len(held_out)} held-out picture(s) of retained concepts: a distance needs 2, give more pictures"
        )
    total = len(classifier.concepts) * params.samples_per_concept * params.draws
    with tqdm(total=total, desc=label, mininterval=2) as bar:
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
    return numbers, shown, classifier.concepts


if __name__ == "__main__":
    run_door("evaluate", main, __doc__, {"model": ["base", "erased"]})
