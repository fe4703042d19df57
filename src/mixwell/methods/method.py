"""What a training step is: a module that owns the classifier and returns a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Method(nn.Module, ABC):
    """Owns the classifier and whatever else training needs; ``self.model`` is what you evaluate and ship.

    Args:
        model: The classifier, images ``(B, C, H, W)`` to logits ``(B, N)``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Run one training step's forward passes.

        Args:
            images: Shape ``(B, C, H, W)``, floating point.
            labels: Class indices ``(B,)``, int64, or dense labels ``(B, N)``.

        Returns:
            ``{"loss": scalar, "output": logits (B, N), ...}``; other entries are scalars to log, without gradient.
        """

    def after_step(self, progress: float) -> None:
        """Call this once after every optimiser step.

        Args:
            progress: Share of the training that is done, in [0, 1].
        """

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the parameters for the optimiser, grouped where some want their own learning rate or decay."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]
