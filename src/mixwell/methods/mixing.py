"""Plain training on mixed images: mix, predict, weight the labels, compute the loss."""

from __future__ import annotations

from torch import Tensor, nn

from mixwell.features.passes import logits_of, reading
from mixwell.labels import Boxes, LabelPolicy, PixelShare
from mixwell.losses import CrossEntropy
from mixwell.methods.method import LossFunction, Method, Output
from mixwell.normalization import Normalization
from mixwell.policy import BatchPolicy, NoMix


class Mixing(Method):
    """Train on the images of any sample policy, with the labels of any label policy.

    Args:
        model: The classifier, images ``(B, C, H, W)`` to logits ``(B, N)``.
        policy: The sample policy; None trains on unmixed images.
        num_classes: Ignored; accepted so that all methods share a signature.
        label: How label weights are computed. A label policy that reads the unmixed images costs one more forward pass,
            without gradient and without updating batch-norm statistics.
        loss: The loss, ``(logits, mixed) -> scalar``.
        normalization: How the images were normalized; None means that they are in [0, 1].

    Raises:
        TypeError: The model is not an ``nn.Module``, or the policy is not callable.
        ValueError: The label policy needs something that methods do not compute.

    Example:
        >>> import torch
        >>> from mixwell import CutMix
        >>> method = Mixing(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)), CutMix(alpha=0.2))
        >>> method(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].backward()
    """

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        label: LabelPolicy = PixelShare(),
        loss: LossFunction = CrossEntropy(),
        normalization: Normalization | None = None,
    ) -> None:
        policy = NoMix() if policy is None else policy
        super().__init__(model, policy, label, loss, normalization)

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`."""
        mixed = self.policy.__call__(images, labels, **self.policy_arguments)
        fields = self.seen(images, labels, masks, boxes)
        with reading(self.on_mixed):
            logits = logits_of(self.model(mixed.images))
        mixed = self.weighted(mixed, logits, fields)
        return self.step_output(self.loss(logits, mixed), logits, mixed)
