import pytest
import torch

from erasediff.metrics.draw import Draw
from erasediff.metrics.similarity import clip_score, feature_change


@pytest.mark.unit
def test_the_clip_score_is_of_retained_pictures_alone_and_never_below_nothing():
    rows = torch.eye(2)[[0, 0, 1, 1]]
    cosines = torch.tensor([0.9, 0.9, 0.25, -0.1])
    it = Draw(rows, rows, ["a", "a", "b", "b"], ("a", "b"), ["a"], rows, alignment=cosines)
    assert clip_score(it).tolist() == pytest.approx([25.0, 0.0], abs=1e-5)
    assert clip_score(it.resampled(torch.Generator().manual_seed(0))).shape == (2,)
    assert clip_score(Draw(rows, rows, ["a", "a", "b", "b"], ("a", "b"), ["a"], rows)) is None


@pytest.mark.reference
def test_the_change_is_half_the_squared_distance_of_directions():
    a, b = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(0)).double()
    unit = [x / x.norm(dim=1, keepdim=True) for x in (a, b)]
    assert torch.allclose(feature_change(a, b), (unit[0] - unit[1]).square().sum(1) / 2)
    assert feature_change(a, 7 * a).abs().max() < 1e-12 and torch.allclose(
        feature_change(a, -a), torch.full((30,), 2.0).double()
    )
    zero = torch.zeros(1, 5)
    assert feature_change(zero, zero).tolist() == [0.0] and feature_change(zero, a[:1]).tolist() == [1.0]
