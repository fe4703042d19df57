"""Label weights from how much of what a network responds to is still visible."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import field

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import MixedBatch
from mixwell.labels.base import LabelPolicy, View, normalized, plan_of
from mixwell.saliency import ClassActivation
from mixwell.saliency.base import Saliency
from mixwell.typecheck import Fraction, NonNegativeFloat


class MapShare(LabelPolicy):
    """The base of label policies that weigh every source by the visible part of a map of it.

    Each map is divided by its sum and moved as the pixels are. Weights of an image keep the sum of its pixel shares,
    unless a subclass has the setting ``normalize`` and it is False; where nothing of any map is visible they are the
    pixel shares.

    Args:
        area: Weight of the pixel share in the result.
    """

    area: Fraction = 0.0

    @abstractmethod
    def maps(self, view: View) -> Tensor:
        """Return maps of the unmixed images, shape ``(B, h, w)``, not negative, without gradient."""

    def __call__(self, mixed: MixedBatch, view: View) -> Tensor:
        maps = self._scaled(mixed, view)
        with torch.no_grad(), torch.autocast(maps.device.type, enabled=False):
            seen = mixed.plan.visible(maps)
            seen = normalized(seen, mixed) if getattr(self, "normalize", True) else seen
            return torch.lerp(seen, mixed.weights, self.area) if self.area else seen

    def evidence(self, mixed: MixedBatch, view: View) -> Tensor:
        """Return the visible part of the maps, shape ``(B, H, W)``."""
        return mixed.plan.apply(self._scaled(mixed, view))[:, 0]

    def _scaled(self, mixed: MixedBatch, view: View) -> Tensor:
        size = plan_of(mixed, self).size
        maps = F.interpolate(self.maps(view)[:, None], size, mode="bilinear", align_corners=False)
        return maps / maps.sum((2, 3), keepdim=True).clamp_min(1e-12)


class ActivationShare(MapShare):
    """Label weights are the shares of each source's activation that remain visible in the mixed image.

    The activation of a place is the length of its feature vector in the last feature map of the unmixed image, to the
    power ``power``, divided by the sum over the image. The plan moves these maps exactly as it moves the pixels; the
    weight of a source is its visible activation, divided by that of all sources. The classifier is not used, so that
    the weights make sense from the first training step on.

    Args:
        power: Power of the length, positive.
        area: Weight of the pixel share in the result, in [0, 1], a number or a schedule: ``Step({0.0: 1.0, 0.1: 0.0})``
            starts with the pixel share.

    Raises:
        ValueError: A setting is out of range or, when called, there is no feature map.

    Note:
        On birds with bounding boxes these weights are closer to the visible share of each bird than the pixel share is
        (``docs/labels.md``).

    Example:
        >>> from mixwell import Constant, CutMix
        >>> mixed = CutMix(alpha=Constant(0.7))(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> weights = ActivationShare()(mixed, View(clean_features=torch.ones(4, 16, 2, 2)))
        >>> bool(torch.allclose(weights, mixed.weights))  # a constant map gives the pixel share
        True
    """

    power: NonNegativeFloat = 2.0

    needs = frozenset({"clean_features"})

    def maps(self, view: View) -> Tensor:
        features: Tensor = view.get("clean_features", self)
        if features.dim() != 4:
            raise ValueError(f"{self} needs a feature map (B, C, h, w), but got {tuple(features.shape)}.")
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return features.float().norm(dim=1).pow(self.power)


class SaliencyShare(MapShare):
    """Label weights are the shares of each source's saliency that remain visible in the mixed image.

    With ``ClassActivation(teacher=...)`` and ``normalize=False`` these are TokenMix's token scores, with attention
    as the saliency MergeMix's share.

    Args:
        saliency: A saliency source, which is called with the unmixed images.
        area: Weight of the pixel share in the result, in [0, 1], a number or a schedule.
        normalize: Divide by the visible saliency of all sources, so that the weights of an image sum to one. Without
            it, a weight is the share of the source's own saliency that is visible, and the weights of an image that
            hides what matters in both sources sum to less than one.

    Raises:
        ValueError: ``area`` is out of range.

    Source: Liu et al., *TokenMix: Rethinking Image Mixing for Data Augmentation in Vision Transformers*, ECCV 2022
    (arXiv:2207.08409); Jin et al., *MergeMix: A Unified Augmentation Paradigm for Visual and Multi-Modal
    Understanding*, 2025 (arXiv:2510.23479).

    Example:
        >>> from mixwell import CutMix, SpectralResidual
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
        >>> SaliencyShare(SpectralResidual())(CutMix()(images, labels), View(images=images, labels=labels)).shape
        torch.Size([4, 2])
    """

    saliency: Saliency = field(default=ClassActivation(), kw_only=False)
    normalize: bool = True

    def maps(self, view: View) -> Tensor:
        known = {"normalization": view.normalization} if getattr(self.saliency, "uses_normalization", False) else {}
        maps = self.saliency(view.model, view.get("images", self), view.get("labels", self), **known)
        return maps.detach().float().clamp_min(0)
