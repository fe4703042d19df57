"""A moving average of a classifier's weights, kept beside it during training."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class Average(nn.Module):
    """An exponential moving average of every weight and buffer of a model.

    Its memory grows with training, ``min(decay, (1 + step) / (10 + step))``, so that a short run does not average in
    its own beginning. torch's ``AveragedModel`` reads a counter back from the device at each update; this one does not.

    Args:
        model: The classifier, copied; make the copy before hooks are attached to it.
        decay: Weight of the past at each step, in [0, 1).

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
        """Move the average towards the model; ``step`` counts optimiser steps from 0."""
        own, other = self.module.state_dict(), model.state_dict()
        floats = [name for name, value in own.items() if value.is_floating_point()]
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([own[n] for n in floats], [other[n] for n in floats], 1 - decay)
        for name in own.keys() - set(floats):
            own[name].copy_(other[name])
