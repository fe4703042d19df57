"""Label policies: how the weights of a mixed image's labels are computed after the forward pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.normalization import Normalization
from mixwell.plan import Plan
from mixwell.value import Value

Boxes = Tensor | Sequence[Tensor] | None  # (B, 4), (B, M, 4) or one (M, 4) per image, see ObjectShare


@dataclass(frozen=True)
class View:
    """What one training step computed, for a label policy to read.

    A method fills in the fields that its label policy ``needs``; all others may be ``None``. None has a gradient.

    Attributes:
        logits: Logits of the mixed images, shape ``(B, N)``.
        clean_logits: Logits of the unmixed images, shape ``(B, N)``.
        clean_features: Last feature map of the unmixed images, shape ``(B, C, h, w)``.
        attention: Attention of the class token, or of all patches on average, to every patch of the mixed images in the
            last block, averaged over the heads, shape ``(B, h, w)``, not negative.
        attentions: Attention matrix of the mixed images in every block, averaged over the heads, shape ``(B, T, T)``
            each; the last ``h * w`` of the T tokens are patches.
        images: The unmixed images, shape ``(B, C, H, W)``.
        labels: Their labels, class indices ``(B,)`` or dense labels ``(B, N)``.
        model: The classifier.
        normalization: How the images were normalized; None means that they are in [0, 1].
        masks: Objects in the unmixed images, shape ``(B, H, W)``, see :class:`ObjectShare`.
        boxes: Their bounding boxes instead.
    """

    logits: Tensor | None = None
    clean_logits: Tensor | None = None
    clean_features: Tensor | None = None
    attention: Tensor | None = None
    attentions: tuple[Tensor, ...] | None = None
    images: Tensor | None = None
    labels: Tensor | None = None
    model: nn.Module | None = None
    normalization: Normalization | None = None
    masks: Tensor | None = None
    boxes: Boxes = None

    def get(self, name: str, user: LabelPolicy) -> Any:
        """Return a field, or raise if it was not filled in."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(
                f"{user} needs View({name}=...): give it there, or use the label policy in a method that computes it."
            )
        return value


class LabelPolicy(Value, ABC):
    """Computes the weights of a mixed batch's labels.

    ``needs`` names the fields of :class:`View` that cost something and that the policy reads: ``clean_logits``,
    ``clean_features``, ``attention`` or ``attentions``. ``two_sources`` is True where it needs images of two sources.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    two_sources: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, mixed: MixedBatch, view: View) -> Tensor:
        """Return weights ``(B, K)``, float32, without gradient."""

    def evidence(self, mixed: MixedBatch, view: View) -> Tensor | None:
        """Return what the weights sum up over each mixed image, as maps ``(B, h, w)``; None if there is no map."""
        return None


class RatioShare(LabelPolicy):
    """Label weights are the drawn ratios, whatever the pixels show; the published form of AutoMix and its successors.

    Raises:
        ValueError: When called: the plan has drawn no ratio for each source.

    Example:
        >>> import torch
        >>> from mixwell import Constant, CutMix
        >>> mixed = CutMix(alpha=Constant(0.7))(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))
        >>> RatioShare()(mixed, View(torch.zeros(2, 3)))
        tensor([[0.7000, 0.3000],
                [0.7000, 0.3000]])
    """

    def __call__(self, mixed: MixedBatch, view: View) -> Tensor:
        return plan_of(mixed, self).ratios


class PixelShare(LabelPolicy):
    """Label weights are the shares of the pixels, as the sample policy computed them.

    Example:
        >>> import torch
        >>> from mixwell import NoMix
        >>> PixelShare()(NoMix()(torch.rand(1, 3, 4, 4), torch.tensor([1])), View(torch.zeros(1, 3)))
        tensor([[1., 0.]])
    """

    def __call__(self, mixed: MixedBatch, view: View) -> Tensor:
        return mixed.weights


def normalized(seen: Tensor, mixed: MixedBatch) -> Tensor:
    """Scale what is seen of each source, ``(B, K)``, to the sum of the label weights.

    Label weights stay as they are where nothing is seen.
    """
    total, whole = seen.sum(1, keepdim=True), mixed.weights.sum(1, keepdim=True)
    return torch.where(total > 1e-9, seen / total.clamp_min(1e-9) * whole, mixed.weights)


def plan_of(mixed: MixedBatch, user: LabelPolicy | str) -> Plan:
    """Return the plan of a mixed batch, or raise where a policy of a user's own has given none."""
    plan: Any = mixed.plan
    if plan is None:
        raise ValueError(
            f"{user} reads which pixels come from which source, but the mixed batch has no plan: pass one to "
            "MixedBatch, or use label=PixelShare()."
        )
    return plan
