"""The network that is trained, and the frozen base beside it: together one network, and the trained weights twice."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from erasediff.errors import UnknownConcept
from erasediff.families.family import Family
from erasediff.families.selections import selected
from erasediff.families.weights import cast, dtypes_of
from erasediff.training.sharding import gathered, is_sharded, shard
from erasediff.unlearning.adapters import adapt
from erasediff.unlearning.settings import Settings


def trainable_parameters(family: Family, denoiser: nn.Module, selection: str) -> dict[str, Tensor]:
    """Return the parameters of a denoiser that erasing changes.

    Args:
        selection: a name of the family's :attr:`~erasediff.families.family.Family.selections`, or a part of parameter
            names.
    Raises: UnknownConcept: the selection is empty.
    """
    parameters = dict(denoiser.named_parameters())
    chosen = {name: parameters[name] for name in selected(parameters, selection, family.selections)}
    if not chosen:
        some = ", ".join(sorted({name.split(".")[0] for name in parameters}))
        raise UnknownConcept(
            f"trainable: {selection!r} selects no parameter; it takes {', '.join(family.selections)}, "
            f"or a part of parameter names, whose top-level parts are: {some}"
        )
    return chosen


@contextmanager
def group_norms_mended(denoiser: nn.Module) -> Iterator[None]:
    """Give trained group norms contiguous inputs for a block.

    PyTorch 2.13 crashes on a CPU in the backward pass of a group norm whose channels-last input needs no gradient, as
    that of the first trainable layer does not.
    """

    def contiguous(norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.contiguous() if torch.is_grad_enabled() and not x.requires_grad else x for x in inputs)

    norms = [m for m in denoiser.modules() if isinstance(m, nn.GroupNorm) and m.weight.requires_grad]
    hooks = [norm.register_forward_pre_hook(contiguous) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def teaching(denoiser: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Keep a denoiser frozen, in eval mode and on the device for a block; then put it back: it is the caller's.

    Its weights are float32 for as long, unless autocast computes in their own dtype. Half precision fits into float32
    without a loss, so that what is put back has the same bits.
    """
    was, training = next(denoiser.parameters()).device, denoiser.training
    dtypes, trainable = dtypes_of(denoiser), [p for p in denoiser.parameters() if p.requires_grad]
    try:
        denoiser.to(accelerator.device).eval().requires_grad_(False)
        if accelerator.mixed_precision == "no":
            denoiser.float()
        yield
    finally:
        denoiser.to(was).train(training)
        cast(denoiser, dtypes)
        for parameter in trainable:
            parameter.requires_grad_(True)


def student(family: Family, settings: Settings, accelerator: Accelerator, seed: int = 0) -> nn.Module:
    """Return the denoiser to train: its trained weights are its own, float32; all others are the base's.

    Args:
        seed: of an adapter's first weights.
    """
    base = family.denoiser
    trained = trainable_parameters(family, base, settings.trainable)
    adapted = list(trained) if settings.adapter == "lora" else []
    trained = {} if adapted else trained
    sharded = settings.shard and accelerator.num_processes > 1
    shared = {} if sharded else {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    for parameter in trained.values():
        shared.pop(id(parameter), None)
    denoiser = copy.deepcopy(base, shared)
    if settings.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    if adapted:
        adapt(denoiser, adapted, settings.rank, settings.lora_alpha or settings.rank, seed)
    if sharded:
        shard(denoiser, accelerator)
    for name, parameter in denoiser.named_parameters():
        if name in trained:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    return denoiser


def finished(base: nn.Module, denoiser: nn.Module, settings: Settings) -> nn.Module:
    """Return a trained denoiser as a network of its own, frozen and in eval mode; an adapted one as it is.

    An adapted one has the base's own weights and its adapter: :func:`erasediff.unlearning.adapters.fused` joins them.
    """
    if is_sharded(next(denoiser.parameters())):
        erased = {name: gathered(value) for name, value in denoiser.state_dict().items()}
        denoiser = copy.deepcopy(base)
        denoiser.load_state_dict(erased)
    elif settings.adapter == "none":
        trained = {id(p): p for p in denoiser.parameters() if p.requires_grad}
        denoiser = copy.deepcopy(denoiser, trained)
        if getattr(denoiser, "is_gradient_checkpointing", False):
            denoiser.disable_gradient_checkpointing()
    return denoiser.requires_grad_(False).eval()
