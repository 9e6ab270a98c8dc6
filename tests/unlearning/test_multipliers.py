import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from erasediff.unlearning.multipliers import cosine_multiplier, fixed_multiplier, paper_multiplier

FLOAT32 = np.finfo(np.float32)
#: The least length that float32 holds in full precision.
LEAST = FLOAT32.tiny

vectors = arrays(np.float32, 6, elements=st.floats(-100, 100, width=32, allow_subnormal=False))


@pytest.mark.property
@given(vectors, vectors, st.floats(0.01, 10))
@example(np.float32([4, 0]), np.float32([0, LEAST]), 1.0)
@example(np.float32([0, 0]), np.float32([LEAST, LEAST]), 0.01)
@example(np.float32([-1, 0]), np.float32([LEAST, LEAST]), 1.0)
@example(np.float32([-4, 0]), np.float32([LEAST, 0]), 1.0)
def test_constraint_always_shrinks(retain, gap, eta):
    multiplier = paper_multiplier(torch.tensor(retain), torch.tensor(gap), eta=eta).item()
    assert 0 <= multiplier <= FLOAT32.max
    direction = retain.astype(np.float64) + multiplier * gap.astype(np.float64)
    scale = float(np.abs(gap).max()) * max(np.abs(direction).max(), float(np.abs(retain).max()))
    # Where float32 ends before the weight that it takes, it is the largest there is.
    shrinks = gap.astype(np.float64) @ direction >= eta * (gap.astype(np.float64) @ gap) - 1e-4 * scale
    assert shrinks or multiplier == FLOAT32.max


@pytest.mark.reference
@given(vectors.filter(lambda v: np.abs(v).max() > 1e-3), vectors, st.floats(0.01, 10))
def test_agrees_with_float64(gap, retain, eta):
    r, g = retain.astype(np.float64), gap.astype(np.float64)
    expected = max(0.0, eta - (g @ r) / (g @ g))
    tolerance = 1e-4 * (1 + np.abs(r).max() / np.abs(g).max())
    assert paper_multiplier(torch.tensor(retain), torch.tensor(gap), eta=eta).item() == pytest.approx(
        expected, rel=1e-4, abs=tolerance
    )


@pytest.mark.unit
def test_zero_gradient_is_safe():
    zero, one = torch.zeros(3), torch.ones(3)
    assert paper_multiplier(one, zero, eta=1.0) == 0
    assert cosine_multiplier(one, zero, eta=1.0) == 0
    assert torch.isfinite(paper_multiplier(one, 1e-25 * one, eta=1.0))


@pytest.mark.unit
def test_rules_differ_where_they_should():
    retain, gap = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 0.0])
    assert paper_multiplier(retain, gap, eta=1.0).item() == pytest.approx(3.0)
    assert cosine_multiplier(retain, gap, eta=1.0).item() == pytest.approx(2.0)
    assert fixed_multiplier(retain, gap, weight=0.5).item() == 0.5


@pytest.mark.unit
def test_bad_arguments():
    with pytest.raises(ValueError, match="different shapes"):
        paper_multiplier(torch.ones(2), torch.ones(3), eta=1.0)
    with pytest.raises(ValueError, match="eta must be positive, not 0"):
        paper_multiplier(torch.ones(2), torch.ones(2), eta=0)
