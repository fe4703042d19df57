"""RegMixup."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.labels import LabelPolicy, PixelShare, View
from mixwell.losses import CrossEntropy, check_logits
from mixwell.methods.method import LossFunction, Method, check_policy
from mixwell.policies import MixUp
from mixwell.policy import BatchPolicy, NoMix


class RegMixup(Method):
    """Learn from the unmixed images, and from mixed ones as a regulariser beside them.

    Both go through the model as one batch of twice the size, so that batch norms see them together. Clean images keep
    the model sure of what it knows, which lets the policy mix strongly.

    Args:
        model: The classifier.
        policy: Any policy; ``None`` takes ``MixUp(alpha=20.0)``, as published: ratios near one half.
        num_classes: Number of classes N; not needed, taken so that all methods are made alike.
        eta: Weight of the mixed images' loss.
        halved: Take the mean over clean and mixed images together, that is half of the loss, as the authors' code does.
            It changes the learning rate of plain gradient descent, and nothing else.
        label: What a mixed image is called. A policy that looks at the unmixed images costs nothing more here.
        loss: What an error costs, ``(logits, mixed) -> scalar``.

    Raises:
        TypeError: The model is no module, or the policy cannot mix.
        ValueError: ``eta`` is negative.

    Note:
        The published loss is a sum, the published code a mean; the sum is the default.

    Source: Pinto et al., *RegMixup: Mixup as a Regularizer Can Surprisingly Improve Accuracy and Out Distribution
    Robustness*, NeurIPS 2022 (arXiv:2206.14502).

    Example:
        >>> method = RegMixup(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)))
        >>> sorted(method(torch.rand(4, 3, 8, 8), torch.arange(4)))
        ['clean_loss', 'loss', 'mixed_loss', 'output']
    """

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        eta: float = 1.0,
        halved: bool = False,
        label: LabelPolicy = PixelShare(),
        loss: LossFunction = CrossEntropy(),
    ) -> None:
        super().__init__(model)
        self.policy = MixUp(alpha=20.0) if policy is None else policy
        check_policy(self.policy)
        if not eta >= 0:
            raise ValueError(f"eta must not be negative, but got {eta}.")
        self.eta, self.halved, self.label, self.loss = eta, halved, label, loss

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`; the output is that of the unmixed images, and both losses are logged."""
        mixed = self.policy(images, labels, model=self.model)
        plan = NoMix().draw(images, labels)
        clean = MixedBatch(images, plan.source_labels(labels), plan.weights, plan)
        clean_logits, logits = self.model(torch.cat((images, mixed.images))).chunk(2)
        check_logits(logits, mixed)
        mixed = mixed.with_weights(self.label(mixed, View(logits.detach(), clean_logits.detach())))
        clean_loss, mixed_loss = self.loss(clean_logits, clean), self.loss(logits, mixed)
        loss = clean_loss + self.eta * mixed_loss
        return {
            "loss": loss / 2 if self.halved else loss,
            "output": clean_logits,
            "clean_loss": clean_loss.detach(),
            "mixed_loss": mixed_loss.detach(),
        }
