"""Exponential moving average (EMA) of a model's weights."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Buffers = Literal["keep", "average", "copy"]


class EMA(nn.Module):
    """An exponential moving average of all weights and buffers of a model, in eval mode.

    The decay grows during training, ``min(decay, (1 + step) / (10 + step))``, so that the average of a short training
    forgets the first steps. Unlike torch's ``AveragedModel``, an update reads nothing back from the device.

    Args:
        model: The classifier; it is copied, without the hooks of a method.
        decay: Weight of the past in each step, in [0, 1).

    Raises:
        ValueError: The decay is out of range.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> ema = EMA(model, decay=0.5)
        >>> with torch.no_grad():
        ...     _ = model.weight.add_(1)
        >>> ema.update(model, step=100)
        >>> round((model.weight - ema.module.weight).item(), 4)
        0.5
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), but got {decay}.")
        self.module = frozen_copy(model).eval()
        self.decay = decay

    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model; ``step`` counts the optimizer steps, starting at 0."""
        follow(self.module, model, min(self.decay, (1 + step) / (10 + step)), buffers="average")


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy whose parameters need no gradient, without the hooks that a method of mixwell has registered."""
    copied = deepcopy(model).requires_grad_(False)
    for module in copied.modules():
        for key, hook in list(module._forward_hooks.items()):
            if type(getattr(hook, "__self__", None)).__module__.startswith("mixwell."):
                del module._forward_hooks[key]
                module._forward_hooks_with_kwargs.pop(key, None)
    return copied


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, momentum: float, buffers: Buffers = "keep") -> None:
    """Update the parameters of an average, ``momentum * average + (1 - momentum) * model``, in place.

    All tensors together take a few kernel launches, and nothing is read back from the device.

    Args:
        average: The module to update.
        model: A module of the same structure.
        momentum: Share of the average that is kept, in [0, 1].
        buffers: What happens to buffers, such as batch-norm statistics: ``"keep"`` leaves them as they are,
            ``"average"`` updates them like parameters (integers are copied), ``"copy"`` copies those of the model.

    Raises:
        ValueError: ``buffers`` is unknown.

    Example:
        >>> average, model = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
        >>> model.running_mean += 1
        >>> follow(average, model, 0.75, buffers="average")
        >>> average.running_mean
        tensor([0.2500])
    """
    if buffers not in get_args(Buffers):
        raise ValueError(f"buffers must be one of {', '.join(get_args(Buffers))}, but got {buffers!r}.")
    own: list[Tensor] = list(average.parameters())
    other: list[Tensor] = list(model.parameters())
    for mean, new in zip(average.buffers(), model.buffers(), strict=True) if buffers != "keep" else ():
        if buffers == "average" and mean.is_floating_point():
            own.append(mean)
            other.append(new)
        else:
            mean.copy_(new)
    if own and momentum < 1:
        torch._foreach_lerp_(own, other, 1 - momentum)
