"""A network of which every process keeps a part: FSDP, where there is more than one process.

Parameters are then ``DTensor``; what is made of their local parts is a plain tensor, different on each process.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from erasediff.training.offload import met


def shard(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Spread the parameters over all processes, in place; gathered block by block where they are used.

    A backward pass then leaves each process its part of the gradient's sum over processes.

    Source: ``torch.distributed.fsdp.fully_shard``.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for stack in (child for child in network.children() if isinstance(child, nn.ModuleList)):
        for block in stack:
            fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return network


def is_sharded(tensor: Tensor) -> bool:
    """True if each process has a part of the tensor."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return this process's part, which shares its memory; a plain tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """Return all parts put together, on every process, which all have to ask; a plain tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(parameter: Tensor, part: Tensor) -> Tensor:
    """Return a local part as the sharded tensor it belongs to, sharded as ``parameter``; itself if that is plain."""
    if not isinstance(parameter, DTensor):
        return part
    layout = parameter.device_mesh, parameter.placements
    return DTensor.from_local(part, *layout, shape=parameter.shape, stride=parameter.stride())


def spread_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a whole tensor sharded as ``parameter``; itself where that is plain, or of another shape."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def in_plane(a: Tensor, b: Tensor, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """Return two vectors ``(2,)`` with the lengths and the angle of two vectors that are spread over processes.

    The three inner products are all that joining two gradients needs.

    Args:
        a, b: this process's parts, flat ``(P,)``; the second may be off the device.
    """
    parts = [torch.stack([torch.dot(x, x), torch.dot(x, y), torch.dot(y, y)]).double() for x, y in met(a, b)]
    products = torch.stack(parts).sum(0)
    aa, ab, bb = accelerator.reduce(products, "sum")
    along = ab / aa.sqrt() if aa > 0 else torch.zeros_like(ab)
    across = (bb - along**2).clamp(min=0).sqrt()
    return torch.stack([aa.sqrt(), torch.zeros_like(aa)]).float(), torch.stack([along, across]).float()
