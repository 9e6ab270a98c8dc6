"""What is wrong with a picture, whatever a judge sees in it."""

import numpy as np
import pytest
import torch

from erasediff.metrics import pictures
from erasediff.metrics.draw import Draw
from erasediff.metrics.pictures import Yardstick, forget_degenerate, nearest, retain_degenerate, smoothness, turned


@pytest.fixture(scope="module")
def yardstick(digits):
    images, _ = digits
    return Yardstick.of(images[1::2], images[::2])


def marked(yardstick, images):
    return {name: found.tolist() for name, found in yardstick.marks(images, images).items()}


@pytest.mark.reference
def test_smoothness_is_the_correlation_of_neighbours():
    images = torch.rand(3, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    for image, found in zip(images[:, 0].double().numpy(), smoothness(images).tolist(), strict=True):
        centred = image - image.mean()
        beside = (centred[:, 1:] * centred[:, :-1]).mean(), (centred[1:] * centred[:-1]).mean()
        assert found == pytest.approx(np.mean(beside) / centred.var())
    assert smoothness(torch.ones(1, 3, 4, 4)).tolist() == [0.0]


@pytest.mark.unit
def test_the_nearest_other_picture_is_never_the_picture_itself(monkeypatch):
    """However many are looked at together, and among however many."""
    flat = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    for chunk in (1, 2, 512):
        monkeypatch.setattr(pictures, "CHUNK", chunk)
        monkeypatch.setattr(pictures, "HELD", 0)
        assert nearest(flat, flat, selves=True).tolist() == pytest.approx([1.0, 18**0.5, 1.0])
    assert nearest(flat, flat).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.unit
def test_real_pictures_that_were_never_seen_are_none_of_it(yardstick, digits):
    others = digits[0][1::2]
    found = yardstick.marks(others, others)
    assert found.pop("close").double().mean() == pytest.approx(0.5, abs=0.02), "half of them, by what close means"
    assert all(mark.double().mean() < 0.01 for mark in found.values()), {n: m.double().mean() for n, m in found.items()}


@pytest.mark.unit
def test_a_picture_is_turned_eight_ways_and_one_that_is_not_square_four():
    image = torch.arange(4.0).view(1, 1, 2, 2)
    assert len({tuple(it.flatten().tolist()) for it in turned(image)}) == 8
    wide = list(turned(torch.arange(6.0).view(1, 1, 2, 3)))
    assert len(wide) == 4 and {it.shape for it in wide} == {(1, 1, 2, 3)}


@pytest.mark.unit
def test_blank_noise_copies_and_repetition_are_told_apart(yardstick, digits):
    chance = torch.Generator().manual_seed(0)
    blank = torch.stack([torch.full((1, 8, 8), v) for v in (-1.0, 0.0, 1.0)])
    assert marked(yardstick, blank) == {"blank": [True] * 3} | dict.fromkeys(
        ("noise", "copied", "close", "repeated"), [False] * 3
    )
    for noise in (torch.randn(200, 1, 8, 8, generator=chance).clamp(-1, 1), torch.rand(200, 1, 8, 8, generator=chance)):
        assert yardstick.marks(noise, noise)["noise"].double().mean() > 0.9
    real = digits[0]
    almost = real[:6] + 0.03 * torch.randn(6, 1, 8, 8, generator=chance)
    found = marked(yardstick, almost)
    assert found["copied"] == [True, False] * 3 and found["repeated"] == [False] * 6
    for quarter, mirrored in [(1, False), (2, False), (3, True), (0, True)]:
        moved = almost.rot90(quarter, (2, 3)).flip(3) if mirrored else almost.rot90(quarter, (2, 3))
        assert marked(yardstick, moved)["copied"] == [True, False] * 3, (quarter, mirrored)
    noisier = real[:200:2] + 0.1 * torch.randn(100, 1, 8, 8, generator=chance)
    found = yardstick.marks(noisier, noisier)
    assert found["copied"].double().mean() < 0.1 and found["close"].all(), (
        "a copy under noise is close, and no near-copy"
    )
    again = marked(yardstick, torch.cat([real[1:4:2], real[1:4:2]]))
    assert again["repeated"] == [True] * 4 and again["copied"] == [False] * 4


@pytest.mark.unit
def test_without_training_pictures_nothing_is_said_of_copies(digits):
    found = Yardstick.of(digits[0][:50], None).marks(digits[0][:4], digits[0][:4])
    assert set(found) == {"blank", "noise", "repeated"}


@pytest.mark.unit
def test_forgotten_and_retained_concepts_are_counted_apart():
    rows = torch.eye(3)
    marks = {"blank": torch.tensor([True, False, False]), "repeated": torch.tensor([False, False, True])}
    draw = Draw(rows, rows, ["a", "b", "c"], ("a", "b", "c"), ["a"], rows, marks=marks)
    assert forget_degenerate(draw).tolist() == [True] and retain_degenerate(draw).tolist() == [False, True]
    assert forget_degenerate(Draw(rows, rows, ["a", "b", "c"], ("a", "b", "c"), ["a"], rows)) is None
