"""What stays in the checkout: pictures and secrets. And names from outside stay names."""

import base64
import io
import json

import numpy as np
import pandas as pd
import pytest
from checkout import new_project
from PIL import Image

SECRET = "hush-hush"


def contents(*folders):
    return {p: p.read_bytes() for folder in folders for p in folder.rglob("*") if p.is_file()}


@pytest.mark.pipeline
def test_pictures_of_the_data_are_sent_nowhere(flow_run):
    """Neither MLflow nor Prefect nor the report holds one, of those to forget or to retain; drawn ones they may."""
    root = flow_run[0].root
    sets = [pd.read_parquet(root / f"data/forget_set/{name}.parquet")["image"] for name in ("forget", "retain")]
    pictures = [picture for column in sets for picture in column]
    kept = contents(root / "mlartifacts", root / ".work", root / "reports", root / "runs", root / "plots")
    kept |= {p: p.read_bytes() for p in root.glob("mlflow.db*")}
    assert len(pictures) > 20 and any(p.name == "report.html" for p in kept) and any(p.suffix == ".db" for p in kept)
    assert not [p for p in kept if p.suffix == ".parquet"]
    for path, content in kept.items():
        assert not any(x in content or base64.b64encode(x) in content for x in pictures), path


@pytest.mark.pipeline
def test_a_password_in_the_tracking_uri_is_shown_nowhere(project):
    uri = f"http://ann:{SECRET}@127.0.0.1:9"
    for command in (("stages.verdict",), ("stages.register",), ("flows.promote", "history")):
        code = 0 if command == ("stages.verdict",) else 1
        said = project.run(*command, code=code, MLFLOW_TRACKING_URI=uri)
        assert SECRET not in said and "127.0.0.1:9" in said
    assert json.loads((project.root / "runs/verdict.json").read_text())["tracking_uri"] == "http://127.0.0.1:9"
    for path, content in contents(project.root).items():
        assert SECRET.encode() not in content, path


@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.timeout(600)
def test_names_from_outside_are_neither_paths_nor_commands(tmp_path):
    """Concepts as a file of somebody else's may have them."""
    names = ["../../escaped", "$(touch pwned); `touch pwned`", "-rf 'x' | y", "<script>alert(1)</script>"]
    draw, rows = np.random.default_rng(0), []
    for number, name in enumerate(names):
        for _ in range(24):
            pixels = draw.integers(0, 90, (8, 8), np.uint8)
            pixels[2 * number : 2 * number + 2] += 150
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            rows.append({"image": {"bytes": buffer.getvalue(), "path": "../../../x.png"}, "label": name})
    pd.DataFrame(rows).to_parquet(tmp_path / "theirs.parquet")
    settings: dict[str, object] = {"curate__source": "parquet", "curate__path": str(tmp_path / "theirs.parquet")}
    settings["evaluate__samples_per_concept"] = 30  # two are retained, and a distance needs a hundred pictures
    project = new_project(tmp_path / "a/b/project", **settings, forget_set__concepts=names[:2])
    project.run("dvc", "repro")
    project.run("flows.promote", "challenger", "--version", "1", "--why", "'; touch pwned; '")
    for concept in names[2:]:
        out = str(project.root / "out.png")
        project.run(
            "stages.sample", "--model=models/erased", f"--concept={concept}", "--n=1", "--steps=2", f"--out={out}"
        )
    outside = {p.name for p in tmp_path.iterdir()} | {p.name for p in (tmp_path / "a").iterdir()}
    assert outside == {"theirs.parquet", "a", "b"}
    assert not [p for p in tmp_path.rglob("*") if "pwned" in p.name or "escaped" in p.name]
    page = (project.root / "reports/report.html").read_text()
    assert "<script" not in page and "touch pwned" in page
