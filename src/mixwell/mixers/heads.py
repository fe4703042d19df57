"""A second last layer, so that clean and mixed images train different ones."""

from __future__ import annotations

from copy import deepcopy

from torch import Tensor, nn

from mixwell.features.hooks import FeatureHook
from mixwell.features.isolation import clean_pass
from mixwell.features.outputs import logits_of
from mixwell.labels import LabelPolicy
from mixwell.schedule import Schedule, check_range

HEADS = ("clean", "mixed", "both")


class Heads(nn.Module):
    """The last layers of a classifier for clean and for mixed images.

    Args:
        model: The classifier. Its last layer is copied and initialized again, to be the second one.
        head: Which images train the model's own last layer, the one that is evaluated: ``"clean"`` or ``"mixed"``, while
            the others train the second layer, or ``"both"``, without a second layer.
        classifier: Name of the last layer in ``model.named_modules()``; ``None`` takes that of
            :func:`mixwell.classifier_of`.

    Raises:
        ValueError: ``head`` is unknown, or there is no such layer; when called: the layer does not compute the logits.

    Example:
        >>> import torch
        >>> from mixwell.models import mini_resnet
        >>> model, images = mini_resnet(10), torch.rand(2, 3, 32, 32)
        >>> heads = Heads(model)
        >>> bool((heads(model, images, "clean") == heads(model, images, "mixed")).any())
        False
    """

    def __init__(self, model: nn.Module, head: str = "clean", classifier: str | None = None) -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, but got {head!r}.")
        self.head, self.hook, self.layer = head, None, None
        if head != "both":
            self.hook = FeatureHook(model, classifier, of="input")
            self.layer = deepcopy(model.get_submodule(self.hook.name))
            self.layer._forward_hooks.clear()  # feature hooks, the one above among them
            self.layer._forward_hooks_with_kwargs.clear()
            if callable(reset := getattr(self.layer, "reset_parameters", None)):
                reset()

    def forward(self, model: nn.Module, images: Tensor, kind: str) -> Tensor:
        """Return the logits ``(B, N)`` of the layer for a kind of images, ``"clean"`` or ``"mixed"``."""
        logits = model(images)
        logits = logits if isinstance(logits, Tensor) else logits_of(logits)
        if self.hook is None or self.layer is None:
            return logits
        feature = self.hook.take()  # in any case, so that no feature is kept with its graph
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
        """Return logits of unmixed images; without gradient, running statistics of norms stay as they are."""
        if grad:
            return self(model, images, "clean")
        with clean_pass(model):
            return self(model, images, "clean")

    def copy_for(self, model: nn.Module) -> Heads:
        """Return a frozen copy for a copy of the model."""
        copied = Heads(model, self.head, None if self.hook is None else self.hook.name)
        copied.load_state_dict(self.state_dict())
        return copied.requires_grad_(False)


def check_clean(clean_weight: float | Schedule, head: str, label: LabelPolicy) -> None:
    """Raise unless all heads are trained, and the label policy gets what it needs."""
    check_range("clean_weight", clean_weight)
    if clean_weight == 0 and head != "both":
        raise ValueError(f'clean_weight=0 trains one head only and needs head="both", but got head={head!r}.')
    if unknown := sorted(label.needs - {"clean_logits"}):
        raise ValueError(f"{label} needs {', '.join(unknown)}, which this method does not compute: use another label.")
