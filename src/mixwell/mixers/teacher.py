"""The teacher of a mix block: an exponential moving average of the classifier."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from mixwell.ema import Buffers, follow, frozen_copy
from mixwell.features.passes import MapHook, frozen_statistics, reading
from mixwell.mixers.heads import Heads
from mixwell.schedule import Schedule
from mixwell.typecheck import Fraction


class Momentum(Schedule):
    """EMA momentum of a teacher: constant at first, then increasing along half a cosine.

    The cosine counts from the start of the training, as published, so that there is a small jump where it starts.

    Args:
        base: Smallest momentum, in [0, 1].
        end: Momentum at the end, in [base, 1].
        warm: Share of the training that stays at ``base``, in [0, 1].

    Raises:
        ValueError: A setting is out of range.

    Source: Liu et al., *AutoMix: Unveiling the Power of Mixup for Stronger Classifiers*, ECCV 2022 (arXiv:2103.13027).

    Example:
        >>> momentum = Momentum(end=0.99999)
        >>> momentum(0.0), round(momentum(0.1), 8), round(momentum(0.5), 8), momentum(1.0)
        (0.999, 0.99902423, 0.999495, 0.99999)
    """

    base: Fraction = 0.999
    end: Fraction = 0.999999
    warm: Fraction = 0.1

    def __post_init__(self) -> None:
        if self.base > self.end:
            raise ValueError(f"Momentum needs base <= end, but got {self.base} and {self.end}.")

    def range(self) -> tuple[float, float]:
        """See :meth:`Schedule.range`."""
        return self.base, self.end

    def __call__(self, progress: float) -> float:
        if progress < self.warm:
            return self.base
        return self.end - (self.end - self.base) * (1 + math.cos(math.pi * progress)) / 2


class Teacher(nn.Module):
    """A frozen copy of the classifier that follows it as an exponential moving average.

    Args:
        model: The classifier; it is copied.
        heads: Its last layers; they are copied.
        layer: Layer whose feature map is read, a name in ``model.named_modules()``; ``None`` takes the last stage but
            one, or the middle block of a transformer.
        momentum: Share of the teacher that is kept in a step, in [0, 1], a number or a schedule.
        buffers: What happens to batch-norm statistics: ``"keep"`` lets the teacher's own passes update them, as
            published; with ``"average"`` or ``"copy"`` they follow the classifier's, see :func:`mixwell.ema.follow`.

    Raises:
        ValueError: The layer was not found.

    Example:
        >>> from mixwell.models import mini_resnet
        >>> model, images = mini_resnet(10), torch.rand(2, 3, 32, 32)
        >>> teacher = Teacher(model, Heads(model))
        >>> teacher.features(images).shape, teacher(images).shape
        (torch.Size([2, 64, 16, 16]), torch.Size([2, 10]))
    """

    def __init__(
        self,
        model: nn.Module,
        heads: Heads,
        *,
        layer: str | None = None,
        momentum: float | Schedule = Momentum(),
        buffers: Buffers = "keep",
    ) -> None:
        super().__init__()
        self.model = frozen_copy(model)
        self.heads = heads.copy_for(self.model)
        self.hook = MapHook(self.model, layer)
        self.momentum = momentum
        self.buffer_policy: Buffers = buffers

    @property
    def layer(self) -> str:
        """Name of the layer whose feature map is read."""
        return self.hook.name

    def features(self, images: Tensor) -> Tensor:
        """Return the feature map ``(B, C, h, w)`` of unmixed images, without gradient; the pass stops at the layer."""
        with torch.no_grad(), self._statistics():
            return self.hook.map(self.model, images)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return feature map and logits of unmixed images from one full pass, without gradient."""
        with torch.no_grad(), self._statistics():
            with reading(self.hook):
                logits = self.heads(self.model, images, "mixed")
            return self.hook.taken(images), logits

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, N)`` of mixed images; the gradient reaches the images and no parameter."""
        with self._statistics():
            return self.heads(self.model, images, "mixed")

    def follow(self, model: nn.Module, heads: Heads, progress: float) -> None:
        """Move towards the classifier, after each optimizer step; ``progress`` is that of the step, in [0, 1]."""
        momentum = self.momentum(progress) if isinstance(self.momentum, Schedule) else self.momentum
        follow(self.model, model, momentum, self.buffer_policy)
        follow(self.heads, heads, momentum, self.buffer_policy)

    def _statistics(self) -> AbstractContextManager[None]:
        return nullcontext() if self.buffer_policy == "keep" else frozen_statistics(self.model)
