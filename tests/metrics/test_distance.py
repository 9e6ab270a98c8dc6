import numpy as np
import pytest
import scipy.linalg
import torch

from erasediff.metrics.distance import frechet_distance


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
