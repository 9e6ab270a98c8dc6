import weakref
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from erasediff.metrics import distance
from erasediff.metrics.distance import Moments, frechet_distance, kernel_distance
from erasediff.metrics.draw import Draw
from erasediff.metrics.table import METRICS


def with_moments(mean, covariance, n, seed):
    """Samples whose mean and covariance are exactly these."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T @ np.linalg.cholesky(covariance).T
    return torch.tensor(x + mean)


@pytest.mark.reference
def test_frechet_golden():
    a = with_moments(np.zeros(4), np.diag([1.0, 4, 9, 16]), 50, 0)
    b = with_moments(np.ones(4), np.eye(4), 60, 1)
    assert frechet_distance(a, b) == pytest.approx(18, rel=1e-6)


@pytest.mark.reference
def test_frechet_agrees_with_scipy():
    a, b = torch.randn(80, 5) @ torch.randn(5, 5), torch.randn(90, 5) + 0.5
    ca, cb = np.cov(a.double(), rowvar=False), np.cov(b.double(), rowvar=False)
    means = ((a.double().mean(0) - b.double().mean(0)) ** 2).sum().item()
    expected = means + np.trace(ca + cb - 2 * scipy.linalg.sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="cannot be compared"):
        frechet_distance(a[:1], b)


def parts(sizes, width, seed):
    return [
        torch.randn(n, width, generator=torch.Generator().manual_seed(seed + i)) * 3 + 100 for i, n in enumerate(sizes)
    ]


@pytest.mark.property
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 8), st.integers(0, 99))
def test_moments_of_parts_are_those_of_all_together(sizes, width, seed):
    some = parts(sizes, width, seed)
    whole, streamed = Moments.of(torch.cat(some)), Moments.of_parts(iter(some))
    assert streamed.n == whole.n == sum(sizes)
    assert torch.allclose(streamed.mean, whole.mean, rtol=1e-12)
    assert torch.allclose(streamed.scatter, whole.scatter, rtol=1e-9, atol=1e-9)
    if whole.n > 1:
        assert np.allclose(streamed.covariance, np.cov(torch.cat(some).double().T.numpy()), atol=1e-9)


@pytest.mark.unit
def test_moments_keep_no_picture_that_went_by():
    here, most = weakref.WeakSet(), 0

    def some():
        nonlocal most
        for seed in range(30):
            part = torch.randn(50, 16, generator=torch.Generator().manual_seed(seed))
            here.add(part)
            most = max(most, len(here))
            yield part

    streamed = Moments.of_parts(some())
    assert streamed.n == 1500 and streamed.scatter.shape == (16, 16) and most <= 2


@pytest.mark.reference
@pytest.mark.parametrize(("n", "width"), [(300, 6), (20, 40)])
def test_frechet_agrees_with_torchmetrics_also_where_there_are_fewer_pictures_than_features(n, width):
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        num_features = width

        def forward(self, features):
            return features

    a, b = parts([n, n + 7], width, 5)
    metric = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    metric.update(b.double(), real=True), metric.update(a.double() * 1.3, real=False)
    assert frechet_distance(a * 1.3, b) == pytest.approx(float(metric.compute()), rel=1e-6)


def kernel_sum(a, b):
    return sum((float(x @ y) / len(x) + 1) ** 3 for x in a.double() for y in b.double())


@pytest.mark.reference
def test_the_kernel_distance_agrees_with_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    a, b = (torch.randn(70, 12, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    assert kernel_distance(a + 0.4, b) == pytest.approx(float(poly_mmd((a + 0.4).double(), b.double())), rel=1e-9)
    few, other = a[:9], b[:8]  # of two sizes, which torchmetrics does not take
    pairs = [
        (kernel_sum(z, z) - sum(kernel_sum(x[None], x[None]) for x in z)) / (len(z) * (len(z) - 1))
        for z in (few, other)
    ]
    assert kernel_distance(few, other) == pytest.approx(sum(pairs) - 2 * kernel_sum(few, other) / 72)


@pytest.mark.unit
def test_the_kernel_distance_of_the_same_is_nothing_on_average():
    many = [kernel_distance(*torch.randn(2, 60, 5, generator=torch.Generator().manual_seed(s))) for s in range(200)]
    assert abs(np.mean(many)) < 4 * np.std(many) / len(many) ** 0.5 and min(many) < 0  # unbiased
    assert (
        kernel_distance(
            *torch.randn(2, 60, 5, generator=torch.Generator().manual_seed(0)) + torch.tensor([[[0.0]], [[1.0]]])
        )
        > 1
    )


@pytest.mark.unit
def test_blocks_of_a_few_rows_give_what_all_at_once_gives(monkeypatch):
    """Of each metric of sets, and of its resamples."""
    features = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    draw = Draw(torch.ones(90, 1), features[:90] + 0.3, ["a"] * 90, "a", [], features[90:])
    chosen = torch.stack([draw.chosen(torch.Generator().manual_seed(n)) for n in range(4)])
    sets = [METRICS[f"{name}_classifier"] for name in ("fd", "kid", "recall", "coverage")]

    def found():
        fresh = replace(draw, _known={})
        return [torch.tensor([*m.of(fresh).values(), *m.of_resamples(fresh, chosen)]) for m in sets]

    whole = found()
    monkeypatch.setattr(distance, "ROWS", 7)
    monkeypatch.setattr(distance, "COLUMNS", 11)
    assert distance.at_once(77) == 1 and distance.at_once(5) == 7
    for in_blocks, at_once in zip(found(), whole, strict=True):
        assert torch.allclose(in_blocks, at_once, rtol=1e-9, atol=1e-12)
