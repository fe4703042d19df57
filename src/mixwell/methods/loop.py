"""What a method sees of the training loop that calls it: optimizer steps, and the parameters that they leave out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

STEPS, PASSES = 3, 16  # optimizer steps, and forward passes, after which a training loop has shown what it calls


@dataclass
class Loop:
    """What a method has seen of its training loop.

    Attributes:
        told: Number of calls of ``after_step``.
        passes: Number of forward passes before the first of them.
        steps: Number of optimizer steps.
        held: Parameters beside the model that an optimizer has.
        left_out: Parameters beside the model that had a gradient in a step of an optimizer without them.
        warned: Whether there was a warning about them.
    """

    told: int = 0
    passes: int = 0
    steps: int = 0
    held: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    warned: bool = False

    def saw_step(self, method: nn.Module, held: set[int]) -> None:
        """Count an optimizer step, and warn once if two of them left out parameters with a gradient.

        Args:
            method: The method.
            held: The ``id`` of every parameter of the optimizer; an optimizer of other modules does not count.
        """
        named = list(method.named_parameters())
        if not any(id(p) in held for _, p in named):
            return
        self.steps += 1
        own = [(name, p) for name, p in named if p.grad is not None and not name.startswith("model.")]
        self.held |= {name for name, p in own if id(p) in held}
        left_out = [name for name, _ in own if name not in self.held]
        forgotten = [name for name in left_out if name in self.left_out]
        if forgotten and not self.warned:
            self.warned = True
            warnings.warn(
                f"The optimizer does not update {len(forgotten)} parameters that {type(method).__name__} trains beside "
                f"the model, such as {forgotten[0]!r}: create it with method.param_groups() instead of "
                "model.parameters().",
                stacklevel=4,
            )
        self.left_out |= set(left_out)


watched: WeakSet[Any] = WeakSet()  # methods that watch their first optimizer steps
hooks: list[RemovableHandle] = []  # the hook on all optimizers, which is there only while a method watches


def after_optimizer_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Tell all methods that watch of an optimizer's step; nothing is read from the device."""
    if not torch.compiler.is_compiling():
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for method in tuple(watched):
            method._loop.saw_step(method, held)
