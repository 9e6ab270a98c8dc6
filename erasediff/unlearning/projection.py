"""Updates that leave what the attention to the prompt makes of protected concepts as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from erasediff.errors import ModelError, ParamsError
from erasediff.families.family import DenoiserArguments, Family
from erasediff.families.selections import selected
from erasediff.unlearning.methods.closed_form import tokens

#: Directions of the protected embeddings that are shorter than this share of the longest count as none.
LEAST = 1e-4


class Projection:
    r"""Projects changes of the keys' and values' weights off the embeddings of protected concepts.

    .. math:: \Delta \leftarrow \Delta (I - C (C^\top C)^{-1} C^\top)

    with a column of C for each concept: the embedding of its last token. After an update W c is for each what it was.

    Source: CUIG, arXiv 2511.07970. Deviation: it projects the gradient alone, which Adam then bends; here what Adam
    makes of it is projected too, and the pseudo-inverse takes the place of its ε.

    Attributes:
        basis: orthonormal rows that span the protected embeddings, float32 ``(K, D)``.
    """

    def __init__(self, family: Family, trained: Mapping[str, Tensor], concepts: Sequence[str]):
        """Raises: ModelError: no key or value that reads the prompt's own embeddings is trained. ParamsError: there is
        nothing to protect, or so much that too little is left to change.
        """
        names = set(selected(trained, "xattn_kv", family.selections))
        self.weights = {name: p for name, p in trained.items() if name in names and p.ndim == 2}
        embeddings = _last_tokens(family, concepts)
        width = embeddings.shape[1]
        if not self.weights or {p.shape[1] for p in self.weights.values()} != {width}:
            raise ModelError(
                "project_update needs trained keys and values that read the prompt's own embeddings, as in a UNet: "
                "set trainable to xattn_kv, xattn or full"
            )
        _, lengths, directions = torch.linalg.svd(embeddings, full_matrices=False)
        basis = directions[lengths > LEAST * lengths.max()]
        if 2 * len(basis) > width:
            raise ParamsError(f"project_update: {len(basis)} kept concepts leave too little to change: preserve fewer")
        some = next(iter(self.weights.values()))
        self.basis = basis.to(some.device, torch.float32)
        ends = torch.tensor([0, *(p.numel() for p in trained.values())]).cumsum(0).tolist()
        self.places = {name: slice(ends[i], ends[i + 1]) for i, name in enumerate(trained) if name in self.weights}

    def off(self, change: Tensor) -> Tensor:
        """Return a change ``(out, D)`` without its part along the protected embeddings."""
        return change - (change @ self.basis.T) @ self.basis

    def correct(self, gradients: dict[str, Tensor]) -> None:
        """Project both flat gradients, in place, so that they are joined as they will be used."""
        for gradient in gradients.values():
            for name, place in self.places.items():
                gradient[place] = self.off(gradient[place].view_as(self.weights[name])).flatten()

    @contextmanager
    @torch.no_grad()
    def updating(self) -> Iterator[None]:
        """Project what a block does to the weights."""
        before = {name: p.detach().clone() for name, p in self.weights.items()}
        yield
        for name, weight in self.weights.items():
            weight.copy_(before[name] + self.off(weight - before[name]))


@torch.no_grad()
def _last_tokens(family: Family, concepts: Sequence[str]) -> Tensor:
    """Return the embedding of each concept's last token, float64 ``(B, D)``."""
    if not concepts or not hasattr(family.pipeline, "tokenizer"):
        raise ParamsError("project_update protects kept concepts of a model that takes words: there is none")
    condition = family.condition(list(concepts))
    assert isinstance(condition, DenoiserArguments)  # the only kind there is
    text = condition.batched["encoder_hidden_states"]
    assert isinstance(text, Tensor)
    last = [min(tokens(family, concept) - 2, text.shape[1] - 1) for concept in concepts]  # the end follows
    return torch.stack([row[i] for row, i in zip(text.double().cpu(), last, strict=True)])
