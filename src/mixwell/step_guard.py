"""A step that is no number is left out on the device, which nobody waits for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def all_finite(tensors: Sequence[Tensor], good: Tensor) -> Tensor:
    """Return whether it was good so far and all values are finite, in all processes: a boolean scalar."""
    if tensors:  # of the largest value, as a sum of squares may overflow
        norms = torch._foreach_norm(list(tensors), float("inf"))
        good = good & torch.stack([norm.to(good.device) for norm in norms]).isfinite().all()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        everywhere = good.float()
        torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
        good = everywhere > 0
    return good


def leave_out(optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor], good: Tensor) -> None:
    """Have an optimiser's next step do nothing unless it is good; an optimiser that cannot gets no gradient.

    Args:
        optimizer: One of torch's fused ones leaves parameters and its own state as they are.
        gradients: All gradients; they are written where the optimiser is another.
        good: Whether the step is good, a boolean scalar.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        for gradient in gradients:
            gradient.copy_(torch.where(good.to(gradient.device, non_blocking=True), gradient, 0.0))
        return
    begin_momentum(optimizer)
    optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]  # what fused steps look at

    def forget(*_: Any) -> None:
        del optimizer.found_inf  # type: ignore[attr-defined]
        handle.remove()

    handle = optimizer.register_step_post_hook(forget)


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Start the momentum of fused SGD from zero: a first step that is left out leaves raw memory there otherwise."""
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] and group["fused"] else ():
                if optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Return what batch norm and its like have gathered."""
    found = (getattr(m, name, None) for m in module.modules() for name in ("running_mean", "running_var"))
    return [statistic for statistic in found if isinstance(statistic, Tensor)]


def flat(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return copies of all tensors, in one for each device and type."""
    return [torch.cat([t.detach().reshape(-1) for t in alike]) for alike in _alike(tensors)]


def restore(tensors: Sequence[Tensor], before: Sequence[Tensor], good: Tensor) -> None:
    """Put tensors back to their flat copies unless the step was good, in a few large operations."""
    for alike, old, now in zip(_alike(tensors), before, flat(tensors), strict=True):
        kept = torch.where(good.to(old.device, non_blocking=True), now, old).split([t.numel() for t in alike])
        torch._foreach_copy_(alike, [piece.view_as(t) for piece, t in zip(kept, alike, strict=True)])


def _alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: defaultdict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for t in tensors:
        groups[t.device, t.dtype].append(t)
    return list(groups.values())
