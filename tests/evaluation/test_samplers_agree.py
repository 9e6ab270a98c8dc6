"""Few steps of a fast solver draw what 1,000 steps of ancestral sampling draw, as a judge sees it."""

import pytest
import torch

from erasediff.data.concept_images import ConceptImages
from erasediff.evaluation.judging import shapes_judge
from erasediff.examples import open_example
from erasediff.families import family_of
from erasediff.judges import cnn
from erasediff.metrics.distance import kernel_distance
from erasediff.training.base import train_base
from erasediff.training.denoising import RECIPE, Recipe
from stages.params import load_params

SOLVERS = ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler")


def digits():
    from erasediff.training.base import ARCHITECTURE

    params, data = load_params(), open_example("digits").images
    how = (params.pretrain.model_dump(include=some) for some in (ARCHITECTURE, RECIPE))
    architecture, recipe = how
    data = ConceptImages(data.images, data.concepts)
    pipeline = train_base(data, (1, 8, 8), architecture=architecture, recipe=Recipe(**recipe), seed=0)
    of_judge = params.classifier.model_dump(include={"width", "steps", "batch_size", "learning_rate"})
    judge = cnn.train(data.images, data.concepts, (1, 8, 8), seed=0, **of_judge)
    return family_of(pipeline), judge, [c for c in "0123456789" for _ in range(12)], 1.0


def shapes():
    judge = shapes_judge(("object",))
    asked = [c for c in judge.concepts[:8] for _ in range(6)]
    return family_of(open_example("shapes").pipeline), judge, asked, 3.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("world", [digits, shapes])
def test_few_steps_of_a_fast_solver_agree_with_a_thousand_ancestral_ones(world):
    family, judge, asked, scale = world()
    labels = torch.tensor([judge.concepts.index(concept) for concept in asked])

    def drawn(steps, sampler, first=0):
        seeds = list(range(first, first + len(asked)))
        images = family.sample(asked, seeds, steps=steps, guidance_scale=scale, sampler=sampler)
        scores, features = judge.read(images)
        return float((scores.argmax(1) == labels).double().mean()), features

    right, ancestral = drawn(1000, "DDPMScheduler", first=10_000)
    _, scribble = drawn(1, None)
    far = kernel_distance(scribble, ancestral)
    for sampler in SOLVERS:
        found, features = drawn(12, sampler)
        assert abs(found - right) <= 0.08, (sampler, found, right)
        assert kernel_distance(features, ancestral) < far / 10, (sampler, kernel_distance(features, ancestral), far)
