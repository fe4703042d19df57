"""Exponential moving average (EMA) of the weights of a classifier."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class Average(nn.Module):
    """Exponential moving average of the weights and buffers of a model.

    The decay is ``min(decay, (1 + step) / (10 + step))``, so that the initial weights are soon forgotten. Unlike
    torch's ``AveragedModel``, an update reads nothing from the device.

    Args:
        model: The classifier, which is copied; create the average before hooks are added to the model.
        decay: EMA decay per step, in [0, 1).

    Example:
        >>> model = nn.Linear(1, 1)
        >>> average = Average(model, decay=0.5)
        >>> with torch.no_grad():
        ...     _ = model.weight.add_(1)
        >>> average.update(model, step=100)
        >>> (model.weight - average.module.weight).item()
        0.5
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average; ``step`` counts optimizer steps from 0."""
        own, other = self.module.state_dict(), model.state_dict()
        floats = [name for name, value in own.items() if value.is_floating_point()]
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([own[n] for n in floats], [other[n] for n in floats], 1 - decay)
        for name in own.keys() - set(floats):
            own[name].copy_(other[name])
