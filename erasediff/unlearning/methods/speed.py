"""SPEED (ICLR 2026): values of the forgotten prompts are changed within the null space of what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from erasediff.unlearning.methods.closed_form import ClosedForm, Embeddings

if TYPE_CHECKING:
    from torch import Tensor


class Speed(ClosedForm):
    r"""Scalable, precise, efficient erasure: what is kept does not move, the null prompt least of all.

    .. math:: \Delta W = W (S_{at} - S_{tt}) P\,[I - M K (K^\top P M K)^{-1} K^\top P]\,M,
              \quad M = (S_{tt} P + r I)^{-1}

    with S_tt the mean of c cᵀ over the tokens asked, S_at that of a cᵀ with their answers, K tokens of the null prompt,
    and P the projector on the directions in which kept tokens hardly reach.

    Attributes:
        null_space: directions with a smaller mean square over the kept tokens belong to the null space.
        ridge: r.
    """

    name = "speed"
    edits = "xattn_v"
    null_space: ClassVar[float] = 0.1
    ridge: ClassVar[float] = 1.0
    recorded = (*ClosedForm.recorded, "null_space", "ridge")

    def matrix(self, found: Embeddings) -> Tensor:
        import torch

        c, a, k = found.asked, found.answers, found.kept
        eye = torch.eye(c.shape[1], dtype=c.dtype)
        squares, directions = torch.linalg.eigh(k.T @ k / len(k))
        free = directions[:, squares < self.null_space]
        project = free @ free.T
        tt, at = c.T @ c / len(c), a.T @ c / len(c)
        inverse = torch.linalg.inv(tt @ project + self.ridge * eye)
        null = found.null.unique(dim=0).T
        # The pseudo-inverse: what of the null prompt lies outside the null space is held by P already.
        held = inverse @ null @ torch.linalg.pinv(null.T @ project @ inverse @ null, rtol=1e-9) @ null.T @ project
        return eye + (at - tt) @ project @ (eye - held) @ inverse
