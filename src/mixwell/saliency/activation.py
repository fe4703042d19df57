"""Saliency from the last feature map of a network."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.checks import classes_of
from mixwell.features.isolation import undisturbed
from mixwell.features.layers import classifier_of, module_of, unwrapped
from mixwell.features.maps import as_maps
from mixwell.saliency.base import Saliency, network_for, with_teacher
from mixwell.typecheck import PositiveInt

_REDUCTIONS = {
    "mean": lambda maps: maps.mean(1),
    "norm": lambda maps: maps.norm(dim=1),
    "last": lambda maps: maps[:, -1],
}


class NetworkSaliency(Saliency):
    """Base of sources that use the last feature map of a network."""

    teacher: nn.Module | None = field(default=None, kw_only=False, repr=False)

    def __repr__(self) -> str:
        return with_teacher(super().__repr__(), self.teacher)

    def _network(self, model: nn.Module | None, images: Tensor) -> nn.Module:
        """Return the teacher, or the classifier."""
        return unwrapped(network_for(self, model if self.teacher is None else self.teacher, images))


class Activation(NetworkSaliency):
    """Activation of the last feature map of a network at every position; needs no gradient.

    Args:
        teacher: A network to use instead of the classifier in training: pretrained and frozen, or a moving average.
        layer: Module whose output to read, as ``named_modules()`` calls it; ``None`` takes the last map, or the last
            tokens of a transformer.
        reduce: ``"mean"`` over channels, ``"norm"``, or ``"last"`` for the last channel alone, as Attentive CutMix's
            code.
        size: Side in pixels to which images are scaled for the network, which both the paper's code and OpenMixup do
            for a teacher: 224. ``None`` keeps their size.

    Raises:
        TypeError: The teacher is not an ``nn.Module``.
        ValueError: ``reduce`` is unknown, ``size`` is not positive or, when called, there is no model, or no such map
            in it, or images are not floating point.

    Note: maps are shifted to be non-negative where they are not.

    Source: Walawalkar et al., *Attentive CutMix*, ICASSP 2020 (arXiv:2003.13048).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        >>> Activation()(model, torch.rand(2, 3, 9, 9), torch.tensor([0, 4])).shape
        torch.Size([2, 4, 4])
    """

    layer: str | None = None
    reduce: Literal["mean", "norm", "last"] = "mean"
    size: PositiveInt | None = None

    def __call__(self, model: nn.Module | None, images: Tensor, labels: Tensor) -> Tensor:
        network = self._network(model, images)
        if self.size is not None:
            sides = (self.size, self.size)
            images = F.interpolate(images.float(), sides, mode="bilinear", antialias=True).to(images.dtype)
        with torch.no_grad(), undisturbed(network):
            maps = reduced(last_features(network, images, self.layer).float(), self.reduce)
        return maps - maps.amin((1, 2), keepdim=True).clamp_max(0)


class ClassActivation(NetworkSaliency):
    """Class activation map of each image's own class.

    Args:
        teacher: See :class:`Activation`.
        layer: See :class:`Activation`.
        gradient: Weigh channels by the gradient of the class score (Grad-CAM), which suits any network, instead of by
            the classifier's weights, which suits those that pool their last map and classify (CAM).

    Raises:
        TypeError: The teacher is not an ``nn.Module``.
        ValueError: When called: there is no model, no map in it, or no linear classifier on that map's channels, or
            images are not floating point.

    Note: maps are shifted so that their smallest value is zero (CAM), or cut off at zero (Grad-CAM, as published).

    Source: Zhou et al., *Learning Deep Features for Discriminative Localization*, CVPR 2016 (arXiv:1512.04150);
        Selvaraju et al., *Grad-CAM*, ICCV 2017 (arXiv:1610.02391).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        >>> ClassActivation()(model, torch.rand(2, 3, 9, 9), torch.tensor([0, 4])).shape
        torch.Size([2, 4, 4])
    """

    layer: str | None = None
    gradient: bool = False

    def __call__(self, model: nn.Module | None, images: Tensor, labels: Tensor) -> Tensor:
        network = self._network(model, images)
        with undisturbed(network):
            if self.gradient:
                return _grad_cam(network, images, labels, self.layer)
            with torch.no_grad():
                features = last_features(network, images, self.layer).float()
        classifier = classifier_of(network)[1]
        weight, bias = classifier.weight, classifier.bias
        if not isinstance(weight, Tensor) or weight.flatten(1).shape[1] != features.shape[1]:
            raise ValueError(
                f"ClassActivation needs a linear classifier on the {features.shape[1]} channels of the last map, but "
                f"it is {classifier}; use ClassActivation(gradient=True), or name the layer."
            )
        maps = class_map(
            features, weight.detach().flatten(1), bias.detach() if isinstance(bias, Tensor) else None, labels
        )
        return maps - maps.amin((1, 2), keepdim=True)


def reduced(features: Tensor, reduce: str) -> Tensor:
    """Make one value of the channels of ``(B, D, h, w)``; see :class:`Activation`.

    Example:
        >>> reduced(torch.ones(1, 4, 1, 1), "norm")
        tensor([[[2.]]])
    """
    return _REDUCTIONS[reduce](features)


def class_map(features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Apply the classifier at every place, for each image's own class.

    Args:
        features: Shape ``(B, D, h, w)``.
        weight: Of the classifier, shape ``(N, D)``.
        bias: Shape ``(N,)``.
        labels: Class indices ``(B,)`` or dense labels ``(B, N)``.

    Returns:
        Shape ``(B, h, w)``; may be negative.

    Example:
        >>> class_map(torch.ones(1, 2, 1, 1), torch.eye(2), torch.zeros(2), torch.tensor([1]))
        tensor([[[1.]]])
    """
    dense = _dense(labels, len(weight)).to(weight.dtype)
    maps = torch.einsum("bdhw,bd->bhw", features.relu(), dense @ weight)
    return maps if bias is None else maps + (dense @ bias)[:, None, None]


def _dense(labels: Tensor, num_classes: int) -> Tensor:
    """Return dense labels ``(B, N)``; a label that does not name a class, which a loss may ignore, is a row of 0."""
    if labels.dim() == 2:
        return labels
    labels, known = classes_of(labels, num_classes)
    return F.one_hot(labels, num_classes) * known[:, None]


def _grad_cam(network: nn.Module, images: Tensor, labels: Tensor, layer: str | None) -> Tensor:
    with torch.enable_grad():
        output, logits = _run(network, images.detach().requires_grad_(), layer)
        score = logits.float()
        (gradient,) = torch.autograd.grad((score * _dense(labels, score.shape[1])).sum(), output)
    features, gradient = (_as_map(t.detach(), images, layer).float() for t in (output, gradient))
    return (gradient.mean((2, 3), keepdim=True) * features).sum(1).relu()


def last_features(network: nn.Module, images: Tensor, layer: str | None = None) -> Tensor:
    """Run a network and return its last map.

    Args:
        network: Any classifier.
        images: Shape ``(B, C, H, W)``.
        layer: Module whose output is the map; ``None`` takes the last output that is a map or tokens.

    Returns:
        Shape ``(B, D, h, w)``.

    Raises:
        ValueError: The network has no such map.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        >>> last_features(model, torch.rand(2, 3, 9, 9)).shape
        torch.Size([2, 6, 4, 4])
    """
    return _as_map(_run(network, images, layer)[0], images, layer)


def _run(network: nn.Module, images: Tensor, layer: str | None) -> tuple[Tensor, Tensor]:
    """Return the output of the layer, or the last map or tokens, and the logits."""
    found: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor) and (output.dim() == 3 or (output.dim() == 4 and output[0, 0].numel() > 1)):
            found[:] = [output]

    modules = [module_of(network, layer)] if layer is not None else [m for m in network.modules() if m is not network]
    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(keep))
        logits = network(images)
    if not found:
        place = "" if layer is None else f" at {layer!r}"
        raise ValueError(
            f"{type(network).__name__} shows no map (B, D, h, w) and no tokens{place}; name another layer, or pass "
            "saliency= maps."
        )
    return found[-1], logits


def _as_map(output: Tensor, images: Tensor, layer: str | None) -> Tensor:
    return as_maps(output, (images.shape[2], images.shape[3]), layer or "the last map")
