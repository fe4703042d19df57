"""Shard the classifier over the processes (FSDP2): each keeps a part of its weights, gradients and optimizer state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mixwell.methods import Method
from mixwell.train.config import Config
from mixwell.train.errors import RunError


def check(config: Config, method: Method) -> None:
    """Check that a method can be trained with a sharded classifier.

    Raises:
        RunError: It trains other networks beside the classifier, or a setting does not go with it.
    """
    inside = {id(parameter) for parameter in method.model.parameters()}
    if any(id(parameter) not in inside for parameter in method.parameters()):
        raise RunError(f"shard works for methods without parameters of their own, and {config.method} has some")
    for name in ("ema", "channels_last", "compile"):
        if getattr(config, name):
            raise RunError(f"shard does not work with {name}: leave one of them out")
    if config.precision == "fp16":
        raise RunError("shard does not work with precision fp16: use bf16 or fp32")


def shard(model: nn.Module, device: torch.device, world: int) -> None:
    """Shard a classifier in place: each module of its outermost sequences by itself, and the rest together."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world,))
    for child in _blocks(model):
        fully_shard(child, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules in the outermost ``Sequential`` and ``ModuleList`` that have parameters."""
    for child in module.children():
        if not isinstance(module, nn.Sequential | nn.ModuleList):
            yield from _blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def whole(state: Any) -> Any:
    """Return a state with whole tensors in place of sharded ones; all processes call this together."""
    return tree_map(lambda value: value.full_tensor() if hasattr(value, "full_tensor") else value, state)


def like(full: Tensor, own: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, sharded as another one is."""
    if not hasattr(own, "full_tensor"):
        return full
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(own, DTensor)
    return distribute_tensor(full.to(own.device), own.device_mesh, own.placements)


def shard_state(optimizer: torch.optim.Optimizer) -> None:
    """Shard the state that an optimizer has loaded as its parameters are."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = like(value, parameter)


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Gather all weights in every process, so that each can call the model as often as it likes."""
    parts: list[Any] = [part for part in model.modules() if hasattr(part, "unshard")]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()
