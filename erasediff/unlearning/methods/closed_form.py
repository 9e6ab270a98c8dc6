"""Methods that train nothing: new keys and values of the attention to the prompt, in one step.

Each layer's new weight is the old one times a matrix that the prompts' embeddings alone decide, so that it is computed
once for all layers. What is edited has no bias among it: a bias is added after the weight, and would count twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from erasediff.unlearning.methods.method import Method
from erasediff.unlearning.settings import DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from erasediff.data.concept_images import ConceptImages
    from erasediff.families.family import Family


class Embeddings(NamedTuple):
    """Rows are tokens, float64.

    Attributes:
        asked: of the prompts to forget, ``(N, D)``.
        answers: what each of them is to be taken for, ``(N, D)``.
        kept: of the retained prompts, ``(M, D)``.
        null: of the null prompt, ``(L, D)``.
    """

    asked: Tensor
    answers: Tensor
    kept: Tensor
    null: Tensor


class ClosedForm(Method):
    """A method without updates, pictures or losses.

    Attributes:
        edits: the selection of weights that are changed.
    """

    retain_weight = forget_weight = 0.0
    edits: ClassVar[str]
    recorded: ClassVar[tuple[str, ...]] = ("edits",)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        method = super().from_settings(settings)
        if (target := method.settings.forget_target) not in ("relabel", "anchor"):
            raise ValueError(f"forget_target {target} does not go with method {cls.name}: it takes relabel or anchor")
        return method

    def ignored(self) -> dict[str, str]:
        read = {"forget_target"} | ({"anchor"} if self.settings.forget_target == "anchor" else set())
        return {name: f"method {self.name}, which trains nothing" for name in DEFAULTS if name not in read}

    def reads(self) -> set[str]:
        return set()

    def passes_of_update(self, step: int) -> int:
        return 0

    def matrix(self, found: Embeddings) -> Tensor:
        """Return what each edited weight ``(out, D)`` is multiplied by from the right, float64 ``(D, D)``."""
        raise NotImplementedError

    def solve(self, family: Family, forget_set: ConceptImages, retain_set: ConceptImages) -> nn.Module:
        """Return a denoiser that takes the prompts to forget for others; ``family.denoiser`` is unchanged.

        Raises: ModelError: the model's attention to the prompt does not read the prompt's embeddings themselves.
        """
        import copy

        import torch

        from erasediff.unlearning.network import trainable_parameters

        matrix = self.matrix(embeddings(family, forget_set, retain_set, self))
        denoiser = copy.deepcopy(family.denoiser).requires_grad_(False).eval()
        with torch.no_grad():
            for name, weight in trainable_parameters(family, denoiser, self.edits).items():
                if name.endswith("weight"):
                    weight.copy_((weight.double().cpu() @ matrix).to(weight))
        return denoiser


def embeddings(family: Family, forget_set: ConceptImages, retain_set: ConceptImages, method: ClosedForm) -> Embeddings:
    """Encode the prompts of both sets; every prompt to forget is paired with every answer that it may get."""
    import torch
    from diffusers import UNet2DConditionModel

    from erasediff.errors import ModelError
    from erasediff.families.family import NULL_CONCEPT, DenoiserArguments
    from erasediff.unlearning.network import trainable_parameters
    from erasediff.unlearning.targets import Relabelling
    from erasediff.unlearning.words import takes_words

    needs = f"method {method.name} needs attention to the prompt's own embeddings, as in a UNet"
    if not isinstance(family.denoiser, UNet2DConditionModel):  # transformers project them first, some to the same width
        raise ModelError(needs)
    weights = trainable_parameters(family, family.denoiser, method.edits)
    pairs = Relabelling(forget_set, retain_set, method.settings, by_kind=takes_words(family)).pairs()

    def encoded(prompts: list[str]) -> Tensor:
        condition = family.condition(prompts)
        assert isinstance(condition, DenoiserArguments)  # the only kind there is
        text: Any = condition.batched.get("encoder_hidden_states")
        widths = {weight.shape[1] for name, weight in weights.items() if name.endswith("weight")}
        if text is None or widths != {text.shape[-1]}:
            raise ModelError(needs)
        return text.double().cpu()

    asked, unshifted = encoded([a for a, _ in pairs]), encoded([b for _, b in pairs])
    shifts = [tokens(family, b) - tokens(family, a) for a, b in pairs]
    last = asked.shape[1] - 1
    where = [[min(max(i + shift, 0), last) for i in range(last + 1)] for shift in shifts]
    answers = torch.stack([answer[index] for answer, index in zip(unshifted, where, strict=True)])
    # What stands before the concept, the first token above all, is itself in both.
    same = (asked - unshifted).abs().amax(-1, keepdim=True) < 1e-5
    answers = torch.where(same.cumprod(1).bool(), asked, answers)
    kept = encoded(sorted({*retain_set.prompts, NULL_CONCEPT}))
    return Embeddings(asked.flatten(0, 1), answers.flatten(0, 1), kept.flatten(0, 1), encoded([NULL_CONCEPT])[0])


def tokens(family: Family, prompt: str) -> int:
    """Return the number of tokens of a prompt, by the pipeline's first tokenizer."""
    return len(family.pipeline.tokenizer(prompt).input_ids)
