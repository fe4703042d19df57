"""Forward passes that leave a model as it was: modes, statistics of norms, gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode and give every module its own training flag back.

    Flags are set one by one: ``model.train()`` would also wake what was frozen, and models override it.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout())
        >>> with undisturbed(model):
        ...     model[1].training
        False
        >>> model[0].training, model[1].training
        (False, True)
    """
    awake = [module for module in model.modules() if module.training]
    try:
        for module in awake:
            module.training = False
        yield
    finally:
        for module in awake:
            module.training = True


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise by the statistics of the batch without moving the running ones.

    Modules in eval mode are not touched: they keep normalising by their running statistics. A backward pass may come
    after the block.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> with frozen_statistics(norm):
        ...     _ = norm(torch.rand(8, 2))
        >>> norm.running_mean.tolist(), norm.num_batches_tracked.item()
        ([0.0, 0.0], 0)
    """
    norms = [m for m in model.modules() if isinstance(m, (_BatchNorm, _InstanceNorm)) and m.training]
    norms = [m for m in norms if m.track_running_stats]
    # An instance norm in training mode writes to its buffers whatever the flag says, so they are taken away as well.
    buffers = [(m._buffers, name, m._buffers[name]) for m in norms if isinstance(m, _InstanceNorm) for name in _RUNNING]
    try:
        for module in norms:
            module.track_running_stats = False
        for owner, name, _ in buffers:
            owner[name] = None
        yield
    finally:
        for module in norms:
            module.track_running_stats = True
        for owner, name, value in buffers:
            owner[name] = value


_RUNNING = ("running_mean", "running_var")


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
