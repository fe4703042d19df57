"""A second last layer, so that clean and mixed images train different ones."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

from torch import Tensor, nn

from mixwell.features.passes import FeatureHook, clean_pass, logits_of, reading
from mixwell.schedule import Schedule

Head = Literal["clean", "mixed", "both"]


class Heads(nn.Module):
    """The last layers of a classifier for clean and for mixed images.

    Args:
        model: The classifier. Its last layer is copied and initialized again, to be the second one.
        head: Which images train the model's own last layer, the one that is evaluated: ``"clean"`` or ``"mixed"``,
            while the others train the second layer, or ``"both"``, without a second layer.
        classifier: Name of the last layer in ``model.named_modules()``; ``None`` takes that of
            :func:`mixwell.classifier_of`.
        num_classes: Number of classes N, to find that layer.

    Raises:
        ValueError: The layer was not found; when called: the layer does not compute the logits.

    Example:
        >>> import torch
        >>> from mixwell.models import mini_resnet
        >>> model, images = mini_resnet(10), torch.rand(2, 3, 32, 32)
        >>> heads = Heads(model)
        >>> bool((heads(model, images, "clean") == heads(model, images, "mixed")).any())
        False
    """

    def __init__(
        self, model: nn.Module, head: Head = "clean", classifier: str | None = None, num_classes: int | None = None
    ) -> None:
        super().__init__()
        self.head: Head = head
        self.hook = self.layer = None
        if head != "both":
            self.hook = FeatureHook(model, classifier, num_classes=num_classes)
            self.layer = deepcopy(self.hook.module)
            if callable(reset := getattr(self.layer, "reset_parameters", None)):
                reset()

    def forward(self, model: nn.Module, images: Tensor, kind: str) -> Tensor:
        """Return the logits ``(B, N)`` of the layer for a kind of images, ``"clean"`` or ``"mixed"``."""
        if self.hook is None or self.layer is None:
            output = model(images)
            return output if isinstance(output, Tensor) else logits_of(output)
        with reading(self.hook):
            output = model(images)
        logits = output if isinstance(output, Tensor) else logits_of(output)
        feature = self.hook.take(logits)  # in any case, so that no feature is kept with its graph
        if kind == self.head:
            return logits
        second = self.layer(feature)
        if second.shape != logits.shape:
            raise ValueError(
                f"The second head is a copy of {self.hook.name!r} and returns {tuple(second.shape)}, but the logits of "
                f"the model have shape {tuple(logits.shape)}: name the layer that computes them, as in "
                "classifier='head.fc', or use head='both'."
            )
        return second

    def clean(self, model: nn.Module, images: Tensor, grad: bool) -> Tensor:
        """Return logits of unmixed images; without gradient, running statistics of norms are unchanged."""
        if grad:
            return self(model, images, "clean")
        with clean_pass(model):
            return self(model, images, "clean")

    def copy_for(self, model: nn.Module) -> Heads:
        """Return a frozen copy for a copy of the model."""
        copied = Heads(model, self.head, None if self.hook is None else self.hook.name)
        copied.load_state_dict(self.state_dict())
        return copied.requires_grad_(False)


def check_clean(clean_weight: float | Schedule, head: str) -> None:
    """Raise unless the weight of unmixed images is in range and all heads are trained."""
    if clean_weight == 0 and head != "both":
        raise ValueError(f'clean_weight=0 trains one head only and needs head="both", but got head={head!r}.')
