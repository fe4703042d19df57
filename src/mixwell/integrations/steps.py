"""What a trainer of another library has to do for a method: call it after every step, and seed every process."""

from __future__ import annotations

import torch
from torch import nn

from mixwell.methods.method import Method


def after_step(module: nn.Module, progress: float) -> None:
    """Call ``after_step`` of every method inside a module.

    Args:
        module: The module that a trainer trains.
        progress: Share of the training that is done, in [0, 1].

    Raises:
        ValueError: The progress is out of range.

    Example:
        >>> from mixwell import Mixing
        >>> module = nn.ModuleDict({"method": Mixing(nn.Linear(2, 2))})
        >>> after_step(module, progress=0.5)
        >>> module["method"].progress
        0.5
    """
    for part in module.modules():
        if isinstance(part, Method):
            part.after_step(progress)


def seed_process(rank: int) -> None:
    """Seed torch differently in every process, so that processes do not draw the same partners and ratios.

    Trainers seed all processes alike, so that they start from the same weights; call this after that.

    Args:
        rank: Index of the process; process 0 keeps its random state.
    """
    if rank:
        torch.manual_seed(torch.initial_seed() + 1_000_003 * rank)
