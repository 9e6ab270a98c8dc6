"""Erasures one after the other, each from the champion before it: going back brings nothing back unseen."""

import json

import mlflow
import pandas as pd
import pytest

MODEL = "erasediff-digits"
pytestmark = pytest.mark.timeout(900)  # three erasures on a busy machine


def registry(project):
    return mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")


def erase_from(project, version, concept):
    """Forget one more concept, from a version of the registry; the new version's tags and description."""
    project.set_params(pretrain__source="registry", pretrain__repo=MODEL, pretrain__revision=version)
    project.set_params(forget_set__concepts=[concept])
    project.run("dvc", "repro")
    made = json.loads((project.root / "runs/register.json").read_text())["version"]
    return registry(project).get_model_version(MODEL, made)


@pytest.fixture(scope="module")
def chain(flow_run, tmp_path_factory):
    """Version 1 has forgotten 8, version 2 also 3, version 3 also 0; each was promoted."""
    project = flow_run[0].copy(tmp_path_factory.mktemp("chain") / "project")
    made = []
    for version, concept in (("1", "3"), ("2", "0")):
        made.append(erase_from(project, version, concept))
        new = str(made[-1].version)
        project.run("flows.promote", "challenger", "--version", new, "--why", f"request for {concept}")
    return project, made


@pytest.mark.slow
@pytest.mark.pipeline
def test_each_version_has_forgotten_what_its_base_had(chain):
    project, made = chain
    assert [json.loads(m.tags["erasures"]) for m in made] == [["3", "8"], ["0", "3", "8"]]
    assert [json.loads(m.tags["x.concepts"]) for m in made] == [["3"], ["0"]]
    assert f"made to forget **0**, from version 2 of {MODEL}, which had forgotten 3, 8 before" in made[1].description
    sets = project.root / "data/forget_set"
    assert set(pd.read_parquet(sets / "forget.parquet")["concept"]) == {"0"}
    assert set(pd.read_parquet(sets / "retain.parquet")["concept"]) == set("1245679")
    evaluation = json.loads((project.root / "metrics/evaluation.json").read_text())
    kept = [evaluation["erased"][f"accuracy.{c}"] for c in "1245679"]
    assert evaluation["erased"]["in_domain_retain_accuracy"] == pytest.approx(sum(kept) / 7, abs=1e-6)
    assert evaluation["gates"]["earlier_unlearning_accuracy"]["passed"]


@pytest.mark.slow
@pytest.mark.pipeline
def test_going_back_is_refused_until_each_erasure_it_undoes_is_named(chain):
    project, _ = chain
    back = ("flows.promote", "challenger", "--version", "1", "--why", "looks better")
    said = project.run(*back, code=1)
    assert f"WouldUnerase: version 1 of {MODEL} still draws 0, 3, which the champion (version 3) has forgotten" in said
    assert "still draws 3, which" in project.run(*back, "--brings-back", "0", code=1)
    assert "still draws 0, which" in project.run("flows.promote", "rollback", "--why", "looks better", code=1)
    assert str(registry(project).get_model_version_by_alias(MODEL, "champion").version) == "3"
    project.run(*back, "--brings-back", "0", "--brings-back", "3")
    assert str(registry(project).get_model_version_by_alias(MODEL, "champion").version) == "1"
    last = project.run("flows.promote", "history").splitlines()[-1]
    assert "3 → 1" in last and "looks better; brings back 0, 3" in last
