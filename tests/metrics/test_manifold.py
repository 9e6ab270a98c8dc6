"""Precision, recall, density and coverage, against scikit-learn's neighbours and on cases whose answer is known."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from erasediff.metrics import distance, manifold
from erasediff.metrics.draw import Draw
from erasediff.metrics.manifold import NEIGHBOURS
from erasediff.metrics.table import METRICS


def draw(features, reference):
    n = len(features)
    return Draw(torch.eye(2)[[0] * n], features, ["a"] * n, ("a", "b"), [], reference)


def measured(features, reference):
    found = draw(features, reference)
    mean = lambda it: it if isinstance(it, float) else float(it.double().mean())  # noqa: E731
    return {
        n: mean(getattr(manifold, f"{n}_classifier")(found)) for n in ("precision", "recall", "density", "coverage")
    }


def expected(features, reference):
    """The four as their papers define them, by another library."""
    x, y = features.double().numpy(), reference.double().numpy()
    radius = {}
    for name, rows in (("x", x), ("y", y)):
        radius[name] = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(rows).kneighbors(rows)[0][:, -1]
    apart = np.linalg.norm(x[:, None] - y[None], axis=2)
    inside = apart < radius["y"][None]
    return {
        "precision": inside.any(1).mean(),
        "recall": (apart < radius["x"][:, None]).any(0).mean(),
        "density": inside.sum(1).mean() / NEIGHBOURS,
        "coverage": (apart.min(0) < radius["y"]).mean(),
    }


def normal(n, width, seed):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.reference
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.4, 0.0), (2.0, 0.0), (1.0, 1.5)])
def test_the_four_are_those_of_their_papers(scale, shift):
    features, reference = normal(130, 4, 0) * scale + shift, normal(90, 4, 1)
    assert measured(features, reference) == pytest.approx(expected(features, reference))


@pytest.mark.unit
def test_fidelity_and_variety_are_told_apart():
    real = normal(300, 2, 0)
    few = normal(300, 2, 1) * 0.1
    wide = normal(300, 2, 2) * 6
    narrow, scattered, same = (measured(x, real) for x in (few, wide, normal(300, 2, 3)))
    assert narrow["precision"] == 1.0 and narrow["recall"] < 0.1 and narrow["coverage"] < 0.2
    assert scattered["precision"] < 0.3 and scattered["recall"] > 0.9
    assert min(same.values()) > 0.85 and scattered["density"] < 0.3


@pytest.mark.unit
def test_rows_in_parts_give_the_same(monkeypatch):
    features, reference = normal(40, 3, 0), normal(33, 3, 1)
    whole = measured(features, reference)
    monkeypatch.setattr(distance, "ROWS", 7)
    assert measured(features, reference) == whole


@pytest.mark.unit
def test_too_few_pictures_have_no_neighbours_and_no_number():
    few = draw(normal(NEIGHBOURS, 3, 0), normal(50, 3, 1))
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(manifold, f"{name}_classifier")(few) is None


@pytest.mark.reference
@pytest.mark.parametrize("rows", [1024, 7])
def test_resamples_all_at_once_are_those_one_after_another(rows, monkeypatch):
    monkeypatch.setattr(distance, "ROWS", rows)
    features, reference = normal(80, 3, 0), normal(33, 3, 1)
    it = Draw(torch.eye(3)[[0, 1] * 40], features, ["a", "b"] * 40, ("a", "b", "c"), ["a"], reference)
    chosen = torch.stack([it.chosen(torch.Generator().manual_seed(seed)) for seed in range(6)])
    for name in ("kid_classifier", "recall_classifier", "coverage_classifier"):
        one_by_one = [METRICS[name].of(it.taken(of))[name] for of in chosen]
        assert METRICS[name].of_resamples(it, chosen).tolist() == pytest.approx(one_by_one, abs=1e-9), name
        assert len(set(one_by_one)) > 1
