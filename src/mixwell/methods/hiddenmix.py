"""HiddenMix: mix what goes on inside the model instead of its images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.features.layers import stages_of
from mixwell.features.mixing import Gate, mix_features
from mixwell.labels import LabelPolicy, PixelShare
from mixwell.losses import cross_entropy
from mixwell.methods.mixing import Loss, Mixing
from mixwell.plan import Plan
from mixwell.policies import MixUp
from mixwell.policy import BatchPolicy

INPUT = ("input", "")


class HiddenMix(Mixing):
    """Mix the output of a layer that is drawn anew for every batch, the images themselves among them (ManifoldMix).

    The model runs once; up to the drawn layer it sees clean images, from there on mixed features. Hooks change
    something only inside the step: ``method.model`` alone is the plain model, in training and in eval mode.

    Args:
        model: The classifier.
        policy: What goes where; ``None`` takes ``MixUp(alpha=2.0)``, as the authors do on CIFAR (0.2 is usual on
            ImageNet). A policy of places (CutMix, FMix, ...) mixes maps and tokens too, each place by the mean share of
            the pixels it covers.
        num_classes: Number of classes N; not needed, taken so that all methods are made alike.
        layers: Where to mix, each as likely: ``"input"`` (or ``""``) for the images, and names of modules as
            ``model.named_modules()`` gives them, whose output is mixed. ``None`` takes the input and what comes a
            quarter and half of the way up the model's stages: the first two of four. Wrappers such as
            ``DistributedDataParallel`` are looked through.
        label: What a mixed image is called, as in :class:`Mixing`.
        loss: What an error costs, ``(logits, mixed) -> scalar``.

    Raises:
        TypeError: The model is no module, or the policy cannot mix.
        ValueError: A layer does not exist (the nearest names are given), or the model's stages cannot be told.

    Note:
        The layer is drawn on the host with torch's global generator: compiled, there is one graph for each layer, and
        processes of one training may draw different ones. Batch norms behind the drawn layer see mixed features, as
        published. A layer inside a part that is recomputed in the backward pass (activation checkpointing) cannot be
        mixed: name the part itself. The published code takes the input and the first two residual stages.

    Source: Verma et al., *Manifold Mixup: Better Representations by Interpolating Hidden States*, ICML 2019
    (arXiv:1806.05236).

    Example:
        >>> body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        >>> model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
        >>> method = HiddenMix(model, layers=("input", "0"))
        >>> method(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].backward()
    """

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        layers: Sequence[str] | None = None,
        label: LabelPolicy = PixelShare(),
        loss: Loss = cross_entropy,
    ) -> None:
        policy = MixUp(alpha=2.0) if policy is None else policy
        super().__init__(model, policy, num_classes=num_classes, label=label, loss=loss)
        self.layers = _default_layers(model) if layers is None else _several(layers)
        self.gates = tuple(None if name in INPUT else Gate(model, name) for name in self.layers)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`."""
        gate = self._drawn_gate()
        plan = self.policy.draw(images, labels, model=self.model)
        clean_logits = self._clean_logits(images)
        if gate is None:
            images = plan.apply(images)
            logits = self.model(images)
        else:
            with gate.opened(FeaturePlan(plan)):
                logits = self.model(images)
        mixed = MixedBatch(images, plan.source_labels(labels), plan.weights, plan)
        return self._judged(logits, mixed, clean_logits)

    def _drawn_gate(self) -> Gate | None:
        if len(self.gates) == 1:
            return self.gates[0]
        return self.gates[int(float(torch.rand(())) * len(self.gates))]


class FeaturePlan:
    """A plan as a change of features.

    Args:
        plan: See :func:`mix_features`.

    Example:
        >>> plan = MixUp().draw(torch.rand(2, 3, 8, 8), torch.arange(2))
        >>> FeaturePlan(plan)(torch.rand(2, 6, 4, 4)).shape
        torch.Size([2, 6, 4, 4])
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, features: Tensor) -> Tensor:
        return mix_features(self.plan, features)


def _several(layers: Sequence[str]) -> tuple[str, ...]:
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f'layers must be names of modules, as in layers=("input", "layer1"), but got {layers!r}.')
    if not names:
        raise ValueError('layers must name at least one place to mix, such as "input", but got none.')
    return names


def _default_layers(model: nn.Module) -> tuple[str, ...]:
    stages = stages_of(model)
    if not stages:
        raise ValueError(
            f"The stages of {type(model).__name__} cannot be told: say where to mix, as in "
            'layers=("input", "features.4"), with names of model.named_modules().'
        )
    upward = {stages[math.ceil(len(stages) * part) - 1] for part in (1 / 4, 1 / 2)}
    return ("input", *sorted(upward, key=stages.index))
