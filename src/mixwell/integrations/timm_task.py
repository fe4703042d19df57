"""A method as a training task of timm, the object that timm's training script calls for the loss."""

from __future__ import annotations

from typing import Any

import torch
from timm.task import TrainingTask
from torch import Tensor, nn

from mixwell.methods.method import Method


class MethodTask(TrainingTask):
    """A method in the place of timm's ``ClassificationTask``; needs a version of timm that has ``timm.task``.

    Validation, checkpoints and their EMA hold the classifier, as with timm's own tasks.

    Args:
        method: The method; it mixes by itself, so switch off the mixing of the script.
        optimizer: The optimizer, if ``after_step`` is to be called after each of its steps.
        steps: Number of optimizer steps of the training, with ``optimizer``.

    Raises:
        ValueError: Only one of ``optimizer`` and ``steps`` is given.

    Example:
        >>> from mixwell import CutMix, SUMix
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
        >>> task = MethodTask(SUMix(model, CutMix(), num_classes=10))
        >>> task(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].backward()
    """

    def __init__(
        self, method: Method, optimizer: torch.optim.Optimizer | None = None, steps: int | None = None
    ) -> None:
        super().__init__(verbose=False)
        if (optimizer is None) != (steps is None):
            raise ValueError("optimizer and steps belong together: give both, or call method.after_step yourself.")
        self.trainable_module: nn.Module = method
        self.method = method
        self.eval_model = method.model
        if optimizer is not None and steps is not None:
            self._done, self._steps = 0, steps
            optimizer.register_step_post_hook(self._after_step)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:  # noqa: A002  (timm's name)
        """Return what the method computes: the loss, logits as ``"output"``, and scalars to log."""
        return self.trainable_module(input, target)

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """Return the classifier, or its EMA."""
        if module is not None or not ema:
            return self.eval_model if module is None else module
        average = self.get_trainable_module(ema=True)
        return None if average is None else average.module.model  # type: ignore[union-attr,return-value]

    def prepare_distributed(self, device_ids: list | None = None, **settings: Any) -> MethodTask:
        """Wrap the method in ``DistributedDataParallel``."""
        self.trainable_module = nn.parallel.DistributedDataParallel(self.method, device_ids, **settings)
        return self

    def _after_step(self, *_: Any) -> None:
        self._done = min(self._done + 1, self._steps)
        self.method.after_step(self._done / self._steps)
