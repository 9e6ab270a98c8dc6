"""A stage that trains in two processes, as torchrun starts them."""

import json
import shutil

import pytest
import torch
from checkout import stated
from safetensors.torch import load_file

TWO = {"ERASEDIFF_LAUNCH": "--standalone --nproc_per_node 2", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def weights(project, model):
    found = load_file(next((project.root / "models" / model / "unet").glob("*.safetensors")))
    return torch.cat([value.flatten() for _, value in sorted(found.items())])


def runs(project, stage):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    experiments = [e.experiment_id for e in client.search_experiments()]
    return [r for r in client.search_runs(experiments) if r.info.run_name == stage]


@pytest.mark.pipeline
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "model", "settings"),
    [("pretrain", "base", {}), ("erase", "erased", {}), ("erase", "erased", {"erase__shard": True})],
)
def test_two_processes_write_one_result_and_one_run(project, stage, model, settings):
    project.set_params(**settings)
    one, before = weights(project, model), len(runs(project, stage))
    shutil.rmtree(project.root / "models" / model)
    output = project.run(f"stages.{stage}", **TWO)
    # Not to 1e-5: Adam takes a gradient that is zero but for rounding to a whole step.
    apart = (weights(project, model) - one).norm() / one.norm()
    assert apart < 1e-3, (apart, output)
    (new,) = runs(project, stage)[: len(runs(project, stage)) - before]
    assert new.info.status == "FINISHED"
    assert not list((project.root / ".work/checkpoints").glob("*.safetensors"))


@pytest.mark.pipeline
@pytest.mark.slow
def test_two_processes_measure_what_one_does_and_one_of_them_writes_it(project):
    project.set_params(evaluate__batch_size=16, evaluate__attacks=["precision"])
    project.run("stages.evaluate", "base", OMP_NUM_THREADS="1")
    one, before = json.loads((project.root / "metrics/base.json").read_text()), len(runs(project, "evaluate-base"))
    project.run("stages.evaluate", "base", **TWO)
    two, after = json.loads((project.root / "metrics/base.json").read_text()), runs(project, "evaluate-base")
    assert {**one, "seconds": 0} == {**two, "seconds": 0}
    assert len(after) == before + 1 and after[0].info.status == "FINISHED"
    assert after[0].data.params["samples_per_concept"] == "15"
    assert not list((project.root / ".work/checkpoints").glob("drawn-*"))


@pytest.mark.pipeline
@pytest.mark.slow
def test_a_stated_failure_of_several_processes_is_one_of_the_stage(project):
    project.set_params(erase__trainable="nothing_at_all")
    assert "nothing_at_all" in stated(project.run("stages.erase", code=1, **TWO), "UnknownConcept")
