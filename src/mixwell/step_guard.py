"""Skips optimizer steps with a NaN or Inf loss or gradient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class StepGuard:
    """Skips every optimizer step whose loss or gradient is NaN or Inf, in all processes of a training alike.

    A skipped step leaves parameters, optimizer state and buffers (batch-norm statistics) as they were. Whether a step
    is skipped is decided on the device: with torch's fused optimizers, the host never waits for the device. Other
    optimizers need one read by the host per step.

    Args:
        module: What is trained: the method, or a model. Its buffers are restored after a skipped step.
        optimizer: The optimizer, or its wrapper by Accelerate.
        scaler: The ``GradScaler``, if there is one; the steps that it skips are counted too.
        patience: Number of skipped steps in a row after which :meth:`read` raises.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> guard = StepGuard(model, optimizer)
        >>> for value in (1.0, float("nan"), 2.0):
        ...     guard.begin()
        ...     loss = (value * model(torch.ones(4, 2))).mean()
        ...     loss.backward()
        ...     guard.check(loss)
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> guard.read(), bool(model.weight.isfinite().all())
        (1, True)
    """

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any = None, patience: int = 20
    ) -> None:
        self.module, self.scaler, self.patience = module, scaler, patience
        self.optimizer: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
        self._before: list[Tensor] = []
        self._skipped = self._streak = self._longest = torch.zeros((), dtype=torch.int64)
        _start_momentum(self.optimizer)

    def begin(self) -> None:
        """Store the buffers; call this before the first forward pass of every optimizer step."""
        self._before = _flat(self.module.buffers())

    def check(self, loss: Tensor) -> None:
        """Skip the optimizer's next step if the loss or a gradient is NaN or Inf.

        Call this after ``backward()``, and before gradients are unscaled or clipped.

        Args:
            loss: Loss of the step; with gradient accumulation, the sum of the losses of all pieces.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        mine = (g.to_local() if hasattr(g, "to_local") else g for g in gradients)  # this process's part, under FSDP
        finite = _all_finite([*(g for g in mine if g.numel()), loss.detach()])
        _restore(self.module.buffers(), self._before, finite)
        self._count(~finite)
        if self.scaler is not None:
            # The scaler looks for NaN and Inf in the gradients only, and then skips the step itself.
            gradients[0].add_(torch.where(_on(finite, gradients[0]), 0.0, torch.nan).to(gradients[0].dtype))
        elif getattr(self.optimizer, "_step_supports_amp_scaling", False):
            _skip_fused(self.optimizer, ~finite)
        elif not finite:
            for parameter in parameters:
                parameter.grad = None

    def _count(self, bad: Tensor) -> None:
        """Count skipped steps, and how many came in a row, on the device."""
        skipped, streak, longest = (_on(count, bad) for count in (self._skipped, self._streak, self._longest))
        self._streak = (streak + 1) * bad
        self._skipped, self._longest = skipped + bad, longest.maximum(self._streak)

    def read(self) -> int:
        """Return the number of steps skipped since the last call; this is where the host waits for the device.

        Raises:
            FloatingPointError: At least ``patience`` steps in a row were skipped.
        """
        skipped, longest = torch.stack([self._skipped, self._longest]).tolist()
        self._skipped = self._longest = torch.zeros_like(self._skipped)
        if longest >= self.patience:
            raise FloatingPointError(
                f"{longest} steps in a row had a NaN or Inf loss or gradient: lower the learning rate, or clip the "
                "gradients."
            )
        return skipped


def _all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """Return whether all values are finite, in all processes: a boolean scalar on the device of the last tensor."""
    norms: list[Tensor] = []
    for alike in _alike(tensors):  # L1: sums of squares may overflow, and the largest value takes four times as long
        norms += torch._foreach_norm(alike, 1, torch.promote_types(alike[0].dtype, torch.float32))
    finite = torch.stack([_on(norm, tensors[-1]) for norm in norms]).isfinite().all()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        everywhere = finite.float()
        torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
        finite = everywhere > 0
    return finite


def _on(value: Tensor, other: Tensor) -> Tensor:
    return value.to(other.device, non_blocking=True)


def _skip_fused(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """Make a fused optimizer's next step do nothing where ``bad`` is true; this is how a ``GradScaler`` does it."""
    _start_momentum(optimizer)
    optimizer.found_inf = bad.float()  # type: ignore[attr-defined]

    def forget(*_: Any) -> None:
        del optimizer.found_inf  # type: ignore[attr-defined]
        handle.remove()

    handle = optimizer.register_step_post_hook(forget)


def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Set the momentum of fused SGD to zero before its first step; if that is skipped, it is uninitialized memory."""
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] and group["fused"] else ():
                if optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _flat(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return copies of all tensors, concatenated by device and dtype."""
    return [torch.cat([t.detach().reshape(-1) for t in alike]) for alike in _alike(tensors)]


def _restore(tensors: Iterable[Tensor], before: Sequence[Tensor], finite: Tensor) -> None:
    """Set tensors back to their flat copies unless the step is finite, in a few large operations."""
    groups = _alike(tensors)
    for alike, old in zip(groups, before, strict=True):
        now = torch.cat([t.detach().reshape(-1) for t in alike])
        kept = torch.where(_on(finite, old), now, old).split([t.numel() for t in alike])
        torch._foreach_copy_(alike, [piece.view_as(t) for piece, t in zip(kept, alike, strict=True)])


def _alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: defaultdict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for t in tensors:
        groups[t.device, t.dtype].append(t)
    return list(groups.values())
