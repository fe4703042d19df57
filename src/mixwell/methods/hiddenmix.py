"""HiddenMix: mix the features of a randomly chosen layer instead of the images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.features.layers import stages_of, unwrapped
from mixwell.features.mixing import mix_features
from mixwell.features.passes import FeatureHook, attached, logits_of, reading
from mixwell.labels import Boxes, LabelPolicy, PixelShare
from mixwell.losses import CrossEntropy
from mixwell.methods.method import LossFunction, Method, Output
from mixwell.normalization import Normalization
from mixwell.plan import Plan
from mixwell.policies import MixUp
from mixwell.policy import BatchPolicy

INPUT = ("input", "")


class HiddenMix(Method):
    """Mix the output of a layer that is drawn for every batch, the images among them (ManifoldMix).

    The model runs once: it sees clean images up to the drawn layer, and mixed features after it.

    Args:
        model: The classifier.
        policy: The sample policy; None takes ``MixUp(alpha=2.0)``, as the authors do on CIFAR (0.2 is usual on
            ImageNet). A policy that mixes regions (CutMix, FMix, ...) mixes maps and tokens too: each position by the
            mean share of the pixels it covers.
        num_classes: Ignored; accepted so that all methods share a signature.
        layers: The layers to draw from, all equally likely: ``"input"`` (or ``""``) for the images, and names of
            modules in ``model.named_modules()``, whose output is mixed. None takes the input and the stages at a
            quarter and at half of the model: the first two of four.
        label: See :class:`Mixing`.
        loss: See :class:`Mixing`.
        normalization: See :class:`Mixing`.

    Raises:
        TypeError: The model is not an ``nn.Module``, or the policy has no ``draw``.
        ValueError: A layer does not exist, or the model's stages could not be inferred.

    Note:
        The layer is drawn on the host with torch's global generator: compiled, there is one graph for each layer, and
        the processes of one training may draw different ones. Batch norms after the drawn layer see mixed features, as
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
        layers: str | tuple[str, ...] | None = None,
        label: LabelPolicy = PixelShare(),
        loss: LossFunction = CrossEntropy(),
        normalization: Normalization | None = None,
    ) -> None:
        policy = MixUp(alpha=2.0) if policy is None else policy
        super().__init__(model, policy, label, loss, normalization, calls="draw")
        named = (layers,) if isinstance(layers, str) else layers
        if named == ():
            raise ValueError('layers must name at least one layer to mix, such as "input", but got none.')
        self.layers = _default_layers(model) if named is None else named
        self.hooks = {name: FeatureHook(model, name, of="output") for name in self.layers if name not in INPUT}
        self._check_attention(label)

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`."""
        layer = self.layers[0] if len(self.layers) == 1 else self.layers[int(float(torch.rand(())) * len(self.layers))]
        plan = self.policy.draw(images, labels, **self.policy_arguments)
        with attached(*self.hooks.values()):
            fields = self.seen(images, labels, masks, boxes)
            if layer in INPUT:
                images = plan.apply(images)
                with reading(self.on_mixed):
                    logits = logits_of(self.model(images))
            else:
                with self.hooks[layer].changed(FeatureMix(plan)), reading(self.on_mixed):
                    logits = logits_of(self.model(images))
        mixed = MixedBatch(images, plan.source_labels(labels), plan.weights, plan)
        mixed = self.weighted(mixed, logits, fields)
        return self.step_output(self.loss(logits, mixed), logits, mixed)

    def _check_attention(self, label: LabelPolicy) -> None:
        """Raise if a label policy reads attention of blocks that come before a layer where features are mixed."""
        if self.observer.attention_hook is None:
            return
        read, order = self.observer.attention_hook.names[0], [name for name, _ in unwrapped(self.model).named_modules()]
        for name in self.hooks:
            if read.startswith(f"{name}.") or order.index(name) > order.index(read):
                raise ValueError(
                    f"{label} reads the attention of {read!r} to mixed images, but HiddenMix mixes the output of "
                    f"{name!r}, behind it: name earlier layers, as in layers=('input',), or use another label policy."
                )


class FeatureMix:
    """The change of features that a plan makes.

    Args:
        plan: See :func:`mix_features`.

    Example:
        >>> plan = MixUp().draw(torch.rand(2, 3, 8, 8), torch.arange(2))
        >>> FeatureMix(plan)(torch.rand(2, 6, 4, 4)).shape
        torch.Size([2, 6, 4, 4])
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __call__(self, features: Tensor) -> Tensor:
        return mix_features(self.plan, features)


def _default_layers(model: nn.Module) -> tuple[str, ...]:
    stages = stages_of(model)
    if not stages:
        raise ValueError(
            f"Could not infer the stages of {type(model).__name__}: name the layers to mix, as in "
            'layers=("input", "features.4"), by their names in model.named_modules().'
        )
    chosen = {stages[math.ceil(len(stages) * part) - 1] for part in (1 / 4, 1 / 2)}
    return ("input", *sorted(chosen, key=stages.index))
