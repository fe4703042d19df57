"""The plain way: mix, predict, weigh the labels, and learn from the mixed images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.labels import LabelPolicy, PixelShare, View
from mixwell.losses import check_logits, cross_entropy
from mixwell.methods.method import Method, check_policy, clean_pass
from mixwell.policy import BatchPolicy, NoMix

Loss = Callable[[Tensor, MixedBatch], Tensor]


class Mixing(Method):
    """Train on the images of any sample policy, with the labels of any label policy.

    Args:
        model: The classifier, images ``(B, C, H, W)`` to logits ``(B, N)``.
        policy: What goes where; ``None`` trains on the images as they are.
        num_classes: Number of classes N; not needed, taken so that all methods are made alike.
        label: What a mixed image is called. A label policy that looks at the unmixed images costs one more forward
            pass, without gradient and without moving batch-norm statistics.
        loss: What an error costs, ``(logits, mixed) -> scalar``.

    Raises:
        TypeError: The model is no module, or the policy cannot mix.

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
        loss: Loss = cross_entropy,
    ) -> None:
        super().__init__(model)
        self.policy = NoMix() if policy is None else policy
        check_policy(self.policy)
        self.label, self.loss = label, loss

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`."""
        # Not in one line: until 2.7 torch.compile starts anew at every step if a method waits for a break in the graph.
        mixed = self.policy(images, labels, model=self.model)
        return self._learn(mixed, images)

    def _learn(self, mixed: MixedBatch, images: Tensor) -> dict[str, Tensor]:
        """Predict the mixed images, weigh their labels and measure the error."""
        clean_logits = self._clean_logits(images)
        return self._judged(self.model(mixed.images), mixed, clean_logits)

    def _clean_logits(self, images: Tensor) -> Tensor | None:
        """Predict the unmixed images where the label policy looks at them."""
        if not self.label.needs_clean:
            return None
        with clean_pass(self.model):
            return self.model(images)

    def _judged(self, logits: Tensor, mixed: MixedBatch, clean_logits: Tensor | None) -> dict[str, Tensor]:
        """Weigh the labels and measure the error."""
        check_logits(logits, mixed)
        mixed = mixed.with_weights(self.label(mixed, View(logits.detach(), clean_logits)))
        return {"loss": self.loss(logits, mixed), "output": logits}
