"""A student that learns from clean and mixed images in the same step."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.features.hooks import Tap
from mixwell.losses import check_logits, check_smoothing, cross_entropy
from mixwell.methods.method import Method

HEADS = ("clean", "mixed", "both")


class SecondHead(nn.Module):
    """A second classifier on the feature that the model's own one reads.

    Args:
        model: The classifier; its last layer is copied and initialised anew.
        name: The layer, where it cannot be found.

    Raises:
        ValueError: The layer is not found, see :func:`mixwell.classifier_of`.
    """

    def __init__(self, model: nn.Module, name: str | None = None) -> None:
        super().__init__()
        self.tap = Tap(model, name, of="input")
        self.layer = deepcopy(model.get_submodule(self.tap.name))
        self.layer._forward_hooks.clear()  # those of taps, the one above among them
        self.layer._forward_hooks_with_kwargs.clear()
        if callable(reset := getattr(self.layer, "reset_parameters", None)):
            reset()

    def forward(self) -> Tensor:
        """Classify what the model has just classified."""
        return self.layer(self.tap.take())

    def teacher(self, model: nn.Module) -> SecondHead:
        """Return a frozen copy on a copy of the model."""
        copied = SecondHead(model, self.tap.name)
        copied.layer.load_state_dict(self.layer.state_dict())
        return copied.requires_grad_(False)


class TwoHeads(Method):
    """What methods share whose student learns from clean and from mixed images.

    Args:
        model: The classifier.
        head: What the model's own last layer learns from: ``"clean"`` images, while the ``"mixed"`` ones train a second
            one that is used in training only, the other way round, or ``"both"`` with a single layer. It is the layer
            that is evaluated and shipped, so the choice is made before anything is measured.
        clean_weight: Weight of the loss on clean images; 0 leaves that pass out and needs ``head="both"``.
        smoothing: Label smoothing of all losses, in [0, 1).
        classifier: Name of the last layer, where it cannot be found.

    Raises:
        ValueError: A setting is unknown or out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        head: str = "clean",
        clean_weight: float = 1.0,
        smoothing: float = 0.0,
        classifier: str | None = None,
    ) -> None:
        super().__init__(model)
        check_smoothing(smoothing)
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, but got {head!r}.")
        if clean_weight < 0 or (not clean_weight and head != "both"):
            raise ValueError(
                f'clean_weight must not be negative, and 0 needs head="both", but got {clean_weight} and head={head!r}.'
            )
        self.head, self.clean_weight, self.smoothing = head, clean_weight, smoothing
        self.second = None if head == "both" else SecondHead(model, classifier)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = _spelled_out(cls)

    @property
    def student(self) -> nn.Module:
        """The classifier in training."""
        return self.model

    def predict(self, model: nn.Module, second: SecondHead | None, images: Tensor, kind: str) -> Tensor:
        """Return the logits of the head that classifies this kind of images, ``"clean"`` or ``"mixed"``."""
        logits = model(images)
        if second is None:
            return logits
        if kind == self.head:
            second.tap.take()  # keeps no feature, with its graph, longer than needed
            return logits
        return second()

    def learn(self, images: Tensor, labels: Tensor, mixed: MixedBatch) -> dict[str, Tensor]:
        """Return the student's losses, and what it says of the mixed images."""
        found = {}
        if self.clean_weight:
            logits = self.predict(self.student, self.second, images, "clean")
            found["clean_loss"] = F.cross_entropy(logits.float(), targets(labels), label_smoothing=self.smoothing)
        output = self.predict(self.student, self.second, mixed.images, "mixed")
        check_logits(output, mixed)
        found["mixed_loss"] = cross_entropy(output, mixed, self.smoothing)
        found["loss"] = found["mixed_loss"] + self.clean_weight * found.get("clean_loss", 0)
        return found | {"output": output}


def targets(labels: Tensor) -> Tensor:
    """Return labels as torch's cross entropy takes them: class indices, or probabilities in float32."""
    return labels.float() if labels.is_floating_point() else labels


def reported(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a step reports: only the loss and the output keep their graph."""
    return {name: value if name in ("loss", "output") else value.detach() for name, value in terms.items()}


def _spelled_out(cls: type) -> inspect.Signature:
    """Return a class's signature with the settings that it hands on to its base, which ``help`` and the parser read."""
    own = list(inspect.signature(cls.__init__).parameters.values())[1:]
    handed = inspect.signature(cls.__mro__[1]).parameters.values()
    named = [p for p in own if p.kind is not p.VAR_KEYWORD]
    if len(named) < len(own):
        known = {p.name for p in named}
        named += [p for p in handed if p.kind is p.KEYWORD_ONLY and p.name not in known]
    return inspect.Signature(named)
