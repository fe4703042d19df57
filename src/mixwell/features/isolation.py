"""Forward passes that leave a model unchanged: training flags, running statistics of norms, gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode and restore the training flag of every module afterwards.

    Flags are set one by one: ``model.train()`` would also switch on what the user has frozen, and models override it.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout())
        >>> with undisturbed(model):
        ...     model[1].training
        False
        >>> model[0].training, model[1].training
        (False, True)
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Keep running statistics unchanged in training mode: norms still normalize by the statistics of the batch.

    Statistics are the buffers ``running_*`` and ``num_batches_tracked`` of any module in training mode. Modules in eval
    mode are not touched. A backward pass may come after the block.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with frozen_statistics(norm):
        ...     _ = norm(torch.rand(8, 2))
        >>> norm.running_mean.tolist(), norm.num_batches_tracked.item()
        ([0.0, 0.0], 0)
    """
    flagged: list[_BatchNorm] = []
    swapped: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    for module in model.modules():
        if not module.training or not module._buffers:
            continue
        if isinstance(module, _BatchNorm) and type(module).forward in _TORCH_FORWARDS:
            if module.track_running_stats:
                flagged.append(module)  # without the flag torch's batch norms leave their buffers alone
        else:
            swapped += [(module._buffers, n, b) for n, b in module._buffers.items() if b is not None and _running(n)]
    try:
        for module in flagged:
            module.track_running_stats = False
        for owner, name, buffer in swapped:
            owner[name] = buffer.clone()  # any other module writes to a copy
        yield
    finally:
        for module in flagged:
            module.track_running_stats = True
        for owner, name, buffer in swapped:
            owner[name] = buffer


_TORCH_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def _running(name: str) -> bool:
    return name.startswith("running_") or name == "num_batches_tracked"


@contextmanager
def clean_pass(model: nn.Module, *, grad: bool = False, statistics: bool = False) -> Iterator[None]:
    """Run a model on the unmixed images, by default without gradient and without updating running statistics.

    Args:
        model: The model.
        grad: Keep the gradient.
        statistics: Update running statistics of norms.
    """
    running = nullcontext() if statistics else frozen_statistics(model)
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()), running:
        yield
    if not grad and not torch.compiler.is_compiling():
        # Until torch 2.9, autocast caches the weights that it casts without gradient: the mixed pass would not train.
        torch.clear_autocast_cache()


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Treat the parameters as constants, which saves the half of a backward pass that computes their gradients.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> with frozen_parameters(layer):
        ...     layer(torch.zeros(1, 2)).requires_grad
        False
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.is_leaf]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
