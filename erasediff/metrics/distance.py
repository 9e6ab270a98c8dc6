"""How far two sets of features lie apart: Fréchet distance from running moments, kernel distance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from erasediff.metrics.draw import Draw

#: Rows of a kernel matrix that are held at once, and columns.
ROWS, COLUMNS = 1024, 2048


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and scatter of features, in float64: all that a Fréchet distance needs of them, however many there were.

    Attributes:
        n: features seen.
        mean: ``(D,)``.
        scatter: sum of the outer products of what is left without the mean, ``(D, D)``.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of features ``(N, D)``, ``N >= 1``."""
        rows = features.double()
        mean = rows.mean(0)
        return cls(len(rows), mean, (rows - mean).T @ (rows - mean))

    @classmethod
    def of_parts(cls, parts: Iterable[Tensor]) -> Moments:
        """Of features that come in parts ``(B, D)``, none of which is kept."""
        total: Moments | None = None
        for part in parts:
            total = cls.of(part) if total is None else total.joined(cls.of(part))
        if total is None:
            raise ValueError("no features: no moments are known of nothing")
        return total

    def joined(self, other: Moments) -> Moments:
        """Of both sets together. Source: Chan, Golub and LeVeque, The American Statistician 37 (1983), eq. 2.1."""
        n, apart = self.n + other.n, other.mean - self.mean
        between = torch.outer(apart, apart) * (self.n * other.n / n)
        return Moments(n, self.mean + apart * (other.n / n), self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """Unbiased, ``(D, D)``."""
        return self.scatter / (self.n - 1)


def frechet(a: Moments, b: Moments) -> float:
    r"""Fréchet distance of the normal distributions with these moments, squared, as FID is.

    .. math:: \lVert\mu_1-\mu_2\rVert^2 + \mathrm{tr}(\Sigma_1+\Sigma_2-2(\Sigma_1\Sigma_2)^{1/2})

    Raises: ValueError: one of a single sample, or of other features.
    Source: arXiv 1706.08500, eq. 6.
    """
    if a.mean.shape != b.mean.shape or min(a.n, b.n) < 2:
        shapes = [(m.n, len(m.mean)) for m in (a, b)]
        raise ValueError(f"features of shapes {shapes[0]} and {shapes[1]} cannot be compared: it takes two of each")
    if not all(bool(m.scatter.isfinite().all()) for m in (a, b)):
        return float("nan")
    # Σ₁Σ₂ has the eigenvalues of the symmetric Σ₁^½ Σ₂ Σ₁^½, which are found exactly and fast.
    values, vectors = torch.linalg.eigh(a.covariance)
    half = vectors * values.clamp(min=0).sqrt() @ vectors.T
    roots = torch.linalg.eigvalsh(half @ b.covariance @ half).clamp(min=0).sqrt()
    return float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * roots.sum())


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """:func:`frechet` of features ``(N, D)`` and ``(M, D)``, ``N, M >= 2``.

    Raises: ValueError: fewer than two samples, or different ``D``.
    """
    if features.ndim != 2 or reference.ndim != 2 or not (len(features) and len(reference)):
        raise ValueError(f"features of shapes {tuple(features.shape)} and {tuple(reference.shape)} cannot be compared")
    return frechet(Moments.of(reference), Moments.of(features))


def fd_classifier(draw: Draw) -> float:
    """Fréchet distance of the judge's features: pictures drawn for retained concepts, to held-out ones."""
    return frechet(draw.of_reference(Moments.of), moments_of(draw.features, draw.retained.nonzero()[:, 0]))


def held_out_variance(draw: Draw) -> float:
    """Variance of the judge's features of held-out pictures, of all entries together: what distances are a share of."""
    return float(draw.of_reference(Moments.of).covariance.trace())


def held_out_variance_of_resamples(draw: Draw, chosen: Tensor) -> Tensor:
    """The same for each resample, ``(R,)``: held-out pictures stay what they are."""
    return torch.full((len(chosen),), held_out_variance(draw), dtype=torch.float64)


def fd_classifier_of_resamples(draw: Draw, chosen: Tensor) -> Tensor:
    """:func:`fd_classifier` of each of some resamples, ``(R,)``; ``chosen``: their rows, ``(R, N)``."""
    reference, of = draw.of_reference(Moments.of), chosen[:, draw.retained]
    return torch.tensor([frechet(reference, moments_of(draw.features, rows)) for rows in of], dtype=torch.float64)


def fid_inception2048(draw: Draw) -> float | None:
    """The same of Inception-v3's 2,048 features, where its weights are at hand."""
    if draw.inception is None or draw.inception_reference is None:
        return None
    return frechet(draw.inception_reference, moments_of(draw.inception, draw.retained.nonzero()[:, 0]))


def fid_inception2048_of_resamples(draw: Draw, chosen: Tensor) -> Tensor:
    """:func:`fid_inception2048` of each of some resamples, likewise, where its weights are at hand."""
    assert draw.inception is not None and draw.inception_reference is not None
    reference, of = draw.inception_reference, chosen[:, draw.retained]
    return torch.tensor([frechet(reference, moments_of(draw.inception, rows)) for rows in of], dtype=torch.float64)


def moments_of(features: Tensor, rows: Tensor) -> Moments:
    """Moments of some rows of features ``(N, D)``, of which :data:`COLUMNS` are held at once.

    Of more the last digits are others than of all at once: the same sums, in another order.
    """
    return Moments.of_parts(features[some] for some in rows.split(COLUMNS))


def kid_classifier(draw: Draw) -> float | None:
    """Kernel distance of the judge's features: pictures drawn for retained concepts, to held-out ones."""
    features = draw.features[draw.retained]
    if min(len(features), len(draw.reference)) < 2:
        return None
    within = draw.of_reference(_within)
    return _within(features) + within - 2 * _between(features, draw.reference)


def kid_classifier_of_resamples(draw: Draw, chosen: Tensor) -> Tensor:
    """:func:`kid_classifier` of each of some resamples, ``(R,)``; ``chosen``: their rows, ``(R, N)``."""
    rows, times = draw.features[draw.retained].double(), draw.retained_times(chosen).double()
    n = len(rows)
    own = _kernel((rows * rows).sum(1), rows.shape[1])
    each = at_once(n)
    # Both are there before: small ones made in turn with large ones would keep the memory of these from reuse.
    pairs = torch.empty(-(-n // each), len(times), dtype=torch.float64)
    near = torch.empty(n, dtype=torch.float64)
    for number, some in enumerate(rows.split(each)):
        own_times = times[:, number * each : number * each + each]
        pairs[number] = (own_times * (times @ _kernel(rows @ some.T, rows.shape[1]))).sum(1)
    for start in range(0, n, ROWS):
        some = rows[start : start + ROWS]
        near[start : start + ROWS] = _kernel(some @ draw.reference.double().T, rows.shape[1]).mean(1)
    within = (pairs.sum(0) - times @ own) / (n * (n - 1))
    between = times @ near / n
    return within + draw.of_reference(_within) - 2 * between


def kernel_distance(features: Tensor, reference: Tensor) -> float:
    r"""Squared maximum mean discrepancy under the kernel :math:`(x^T y / D + 1)^3`, unbiased: it may be below 0.

    Args:
        features: ``(N, D)``, ``N >= 2``; reference: ``(M, D)``, ``M >= 2``.

    Source: KID, arXiv 1801.01401, section 4.
    """
    return _within(features) + _within(reference) - 2 * _between(features, reference)


def _within(features: Tensor) -> float:
    """Mean of the kernel over all pairs of two different rows."""
    rows = features.double()
    own = _kernel((rows * rows).sum(1), rows.shape[1])
    return (_sum(rows, rows) - float(own.sum())) / (len(rows) * (len(rows) - 1))


def _between(features: Tensor, reference: Tensor) -> float:
    return _sum(features.double(), reference.double()) / (len(features) * len(reference))


def _sum(a: Tensor, b: Tensor) -> float:
    return sum(
        float(_kernel(some @ others.T, b.shape[1]).sum()) for some in a.split(ROWS) for others in b.split(COLUMNS)
    )


def at_once(columns: int) -> int:
    """Rows of a matrix of so many columns that are held at once: :data:`ROWS`, of a wide matrix fewer."""
    return max(1, min(ROWS, ROWS * COLUMNS // columns))


def _kernel(products: Tensor, width: int) -> Tensor:
    base = products / width + 1
    return base * base * base
