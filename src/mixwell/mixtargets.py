"""Mixing in the form ``images, targets = mix(images, labels)`` that timm and torchvision use."""

from __future__ import annotations

from torch import Tensor

from mixwell.losses.softmax import check_smoothing
from mixwell.normalization import Normalization
from mixwell.policy import BatchPolicy, NoMix


class MixTargets:
    """A callable from images and labels to mixed images and dense targets, for existing training scripts.

    It takes the place of ``timm.data.Mixup`` and of torchvision's ``v2.MixUp`` and ``v2.CutMix``, in the loop or in a
    ``collate_fn``; use it with a loss of soft targets, such as ``torch.nn.CrossEntropyLoss()``. Batches of any size are
    accepted, odd ones too. Without this class a policy returns a :class:`MixedBatch`, which costs less and keeps the
    plan.

    Args:
        policy: The sample policy.
        num_classes: Number of classes N.
        smoothing: Label smoothing of the targets, in [0, 1).
        normalization: How the images were normalized; None means that they are in [0, 1].

    Attributes:
        mixup_enabled: Set it to False to return unmixed images, with smoothed targets, as timm's training script does
            for the last epochs.

    Raises:
        TypeError: The policy is not a policy.
        ValueError: ``num_classes`` or the smoothing is out of range.

    Example:
        >>> import torch
        >>> from mixwell import CutMix
        >>> mix = MixTargets(CutMix(), num_classes=10, smoothing=0.1)
        >>> images, targets = mix(torch.rand(5, 3, 8, 8), torch.arange(5))
        >>> images.shape, targets.shape
        (torch.Size([5, 3, 8, 8]), torch.Size([5, 10]))
    """

    def __init__(
        self,
        policy: BatchPolicy,
        num_classes: int,
        smoothing: float = 0.0,
        *,
        normalization: Normalization | None = None,
    ) -> None:
        if isinstance(policy, type) or not callable(policy):  # AnyShape is no BatchPolicy
            raise TypeError(f"policy must be an object such as CutMix(alpha=0.2), but got {policy!r}.")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, but got {num_classes}.")
        check_smoothing(smoothing)
        self.policy, self.num_classes, self.smoothing = policy, num_classes, smoothing
        self.normalization = normalization
        self.mixup_enabled = True

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mixed images ``(B, C, H, W)`` and targets ``(B, N)``, float32.

        Args:
            images: Shape ``(B, C, H, W)``, floating point or uint8; never modified.
            labels: Class indices ``(B,)`` or dense labels ``(B, N)``.
        """
        policy = self.policy if self.mixup_enabled else NoMix()
        mixed = policy(images, labels, normalization=self.normalization)
        return mixed.images, mixed.targets(self.num_classes, self.smoothing)

    def __repr__(self) -> str:
        return f"MixTargets({self.policy!r}, num_classes={self.num_classes}, smoothing={self.smoothing})"
