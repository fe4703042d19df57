"""A step that is no number is left out on the device, which nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def leave_out(optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor], good: Tensor) -> None:
    """Have an optimiser's next step do nothing unless it is good; an optimiser that cannot gets no gradient.

    Args:
        optimizer: One of torch's fused ones leaves parameters and its own state as they are.
        gradients: All gradients; they are written where the optimiser is another.
        good: Whether the step is good, a boolean scalar on their device.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]  # what fused steps look at
    else:
        for gradient in gradients:
            gradient.copy_(torch.where(good, gradient, 0.0))


def flat(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return a copy of all tensors in one, or None for none."""
    return torch.cat([t.detach().reshape(-1) for t in tensors]) if tensors else None


def restore(tensors: Sequence[Tensor], before: Tensor, good: Tensor) -> None:
    """Put tensors back to their flat copy unless the step was good, in a few large operations."""
    now = flat(tensors)
    assert now is not None
    kept = torch.where(good, now, before).split([t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [piece.view_as(t) for piece, t in zip(kept, tensors, strict=True)])
