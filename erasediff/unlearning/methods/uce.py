"""UCE (arXiv 2308.14761): keys and values of the forgotten prompts become those of others, by least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from erasediff.unlearning.methods.closed_form import ClosedForm, Embeddings

if TYPE_CHECKING:
    from torch import Tensor


class Uce(ClosedForm):
    r"""Unified concept editing, of every token instead of the last one of the concept.

    .. math:: W^* = W\,(\lambda I + \overline{a c^\top} + \overline{k k^\top})
              (\lambda I + \overline{c c^\top} + \overline{k k^\top})^{-1}

    with c the tokens asked, a their answers and k the tokens kept. What a concept is taken for is another one, never
    the empty prompt, whose first token draws the attention of every prompt.

    Attributes:
        stay: λ, the pull towards the old weight.
        erase_scale, keep_scale: weights of the two means.
    """

    name = "uce"
    edits = "xattn_kv"
    stay: ClassVar[float] = 0.01
    erase_scale: ClassVar[float] = 1.0
    keep_scale: ClassVar[float] = 1.0
    recorded = (*ClosedForm.recorded, "stay", "erase_scale", "keep_scale")

    def matrix(self, found: Embeddings) -> Tensor:
        import torch

        c, a, k = found.asked, found.answers, found.kept
        held = self.stay * torch.eye(c.shape[1], dtype=c.dtype) + self.keep_scale * k.T @ k / len(k)
        new, old = held + self.erase_scale * a.T @ c / len(c), held + self.erase_scale * c.T @ c / len(c)
        return torch.linalg.solve(old, new, left=False)
