"""RegMixup: train on unmixed and mixed images together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixwell.features.passes import logits_of, reading
from mixwell.labels import Boxes, LabelPolicy, PixelShare
from mixwell.losses import CrossEntropy
from mixwell.methods.method import LossFunction, Method, Output, relabelled, unmixed
from mixwell.normalization import Normalization
from mixwell.policies import MixUp
from mixwell.policy import BatchPolicy
from mixwell.schedule import Schedule
from mixwell.typecheck import NonNegativeFloat


class RegMixup(Method):
    """Train on the unmixed images, and on mixed images as a regulariser.

    Both go through the model as one batch of twice the size, so that batch norms see them together. The clean images
    keep the model confident, so that the policy can mix strongly.

    Args:
        model: The classifier.
        policy: The sample policy; None takes ``MixUp(alpha=20.0)``, as published: ratios near one half.
        num_classes: Ignored; accepted so that all methods share a signature.
        eta: Weight of the loss of the mixed images, a number or a schedule.
        label: See :class:`Mixing`. A label policy that reads the unmixed images needs no additional pass here.
        loss: See :class:`Mixing`.
        normalization: See :class:`Mixing`.

    Raises:
        TypeError: The model is not an ``nn.Module``, or the policy is not callable.
        ValueError: ``eta`` is negative.

    Note:
        The published loss is a sum, the published code takes the mean over both halves, which is half of it; the sum is
        used here.

    Source: Pinto et al., *RegMixup: Mixup as a Regularizer Can Surprisingly Improve Accuracy and Out Distribution
    Robustness*, NeurIPS 2022 (arXiv:2206.14502).

    Example:
        >>> method = RegMixup(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)))
        >>> sorted(method(torch.rand(4, 3, 8, 8), torch.arange(4)))
        ['accuracy', 'clean_loss', 'loss', 'mixed_loss', 'output']
    """

    eta: float

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        eta: NonNegativeFloat | Schedule = 1.0,
        label: LabelPolicy = PixelShare(),
        loss: LossFunction = CrossEntropy(),
        normalization: Normalization | None = None,
    ) -> None:
        policy = MixUp(alpha=20.0) if policy is None else policy
        super().__init__(model, policy, label, loss, normalization, eta=eta)

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`; output and accuracy are those of the unmixed images, both losses are logged."""
        mixed = self.policy.__call__(images, labels, **self.policy_arguments)
        clean = unmixed(images, labels)
        both, n = torch.cat((images, mixed.images)), len(images)
        with reading(self.on_clean), reading(self.on_mixed):
            clean_logits, logits = logits_of(self.model(both)).chunk(2)
        fields = {"images": images, "labels": labels, "masks": masks, "boxes": boxes, **self.policy_arguments}
        fields["clean_logits"] = clean_logits.detach()
        if self.label.needs:
            fields.update(self.observer.clean_fields(both, slice(n)))
            fields.update(self.observer.mixed_fields(both, slice(n, None)))
        mixed = relabelled(mixed, self.label, logits, fields)
        clean_loss, mixed_loss = self.loss(clean_logits, clean), self.loss(logits, mixed)
        total = clean_loss + self.eta * mixed_loss
        return self.step_output(total, clean_logits, clean, clean_loss=clean_loss, mixed_loss=mixed_loss)
