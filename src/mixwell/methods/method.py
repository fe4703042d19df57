"""The base of all methods: a module that owns the classifier and computes the loss of one training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.batch import MixedBatch, Pairs
from mixwell.labels import LabelPolicy, View
from mixwell.metrics import mixed_accuracy
from mixwell.mixers.predictor import MaskPredictor
from mixwell.normalization import Normalization
from mixwell.plan import MaskPlan, Plan
from mixwell.schedule import at
from mixwell.typecheck import hints_of, typechecked

LossFunction = Callable[[Tensor, MixedBatch], Tensor]


class Method(nn.Module, ABC):
    """A training step around a classifier; ``method.model`` is the classifier to evaluate and ship.

    Calling a method always runs a training step: in eval mode, too, it mixes and returns a loss.

    Args:
        model: The classifier, images ``(B, C, H, W)`` to logits ``(B, N)``.
        normalization: How the images were normalized; None means that they are in [0, 1].

    Raises:
        TypeError: The model is not an ``nn.Module``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):  # settings are checked against their annotations; a policy may be any callable
            cls.__init__ = typechecked(cls.__init__, (), partial(_settings_of, cls.__init__))

    def __init__(self, model: nn.Module, normalization: Normalization | None = None) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, but got {type(model).__name__}.")
        self.model = model
        self.normalization = normalization
        self.progress = 0.0
        self._schedules: dict[str, Any] = {}

    def set_current(self, **settings: Any) -> None:
        """Set attributes to the numbers that hold now; after each step, those with schedules are set again."""
        self._schedules |= {name: value for name, value in settings.items() if at(value, 0.0) is not value}
        for name, value in settings.items():
            setattr(self, name, at(value, self.progress))

    @abstractmethod
    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the loss of one training step.

        Args:
            images: Shape ``(B, C, H, W)``, floating point.
            labels: Class indices ``(B,)``, int64, or dense labels ``(B, N)``.

        Returns:
            ``{"loss": scalar, "output": logits (B, N), "accuracy": scalar, ...}``. Everything but the loss and the
            output is a scalar to log, without gradient.
        """

    def after_step(self, progress: float) -> None:
        """Call this once after every optimizer step: schedules move on, and teachers follow the classifier.

        Args:
            progress: Share of the training that is done, in [0, 1].

        Raises:
            ValueError: The progress is out of range.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be the share of the training that is done, in [0, 1], but got {progress}.")
        self.progress = float(progress)
        if self._schedules:
            self.set_current(**self._schedules)

    def mask_predictor(self) -> MaskPredictor | None:
        """Return the mix block that this method trains, with the network whose features it reads, or None."""
        return None

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the parameters for an optimizer, in groups where some have settings of their own."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def get_extra_state(self) -> Tensor:
        """Return the progress, which belongs to the state of a method: a resumed training continues its schedules."""
        return torch.tensor(self.progress, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the progress."""
        self.progress = float(state)
        self.set_current(**self._schedules)


@cache
def _settings_of(init: Callable[..., None]) -> dict[str, Any]:
    return {name: kind for name, kind in hints_of(init).items() if name not in ("model", "policy")}


def check_policy(policy: object) -> None:
    """Raise unless a policy can mix a batch: a policy object, or any callable with the same arguments."""
    if isinstance(policy, type) or not callable(policy):
        raise TypeError(f"policy must be an object such as CutMix(alpha=0.2), but got {policy!r}.")


def mix(plan: Plan, images: Tensor, labels: Tensor) -> MixedBatch:
    """Return the batch that a plan mixes; its label weights, the shares of the pixels, have no gradient."""
    return MixedBatch(plan.apply(images), plan.source_labels(labels), plan.weights.detach(), plan)


def weighted(label: LabelPolicy, mixed: MixedBatch, logits: Tensor, clean_logits: Tensor | None) -> MixedBatch:
    """Return a mixed batch with the weights of a label policy."""
    view = View(logits.detach(), None if clean_logits is None else clean_logits.detach())
    return mixed.with_weights(label(mixed, view))


def unmixed(images: Tensor, labels: Tensor) -> MixedBatch:
    """Return images as they are with their labels, in the form that losses take."""
    pairs = Pairs(torch.arange(len(images)), torch.ones(1), (images.shape[2], images.shape[3]))
    plan = MaskPlan(pairs, torch.ones(1, 1, 1, 1)).to(images.device)
    return MixedBatch(images, plan.source_labels(labels), plan.weights, plan)


def step_output(loss: Tensor, output: Tensor, mixed: MixedBatch, **logged: Tensor) -> dict[str, Tensor]:
    """Return what a training step returns: loss, output, training accuracy, and scalars to log without their graph.

    The accuracy is :func:`mixwell.mixed_accuracy`, in percent: the label weight of the predicted class.
    """
    with torch.no_grad():
        accuracy = mixed_accuracy(output, mixed)
    return {"loss": loss, "output": output, "accuracy": accuracy, **{k: v.detach() for k, v in logged.items()}}
