"""A trained mix block and its encoder as a sample policy."""

from __future__ import annotations

import copy
import dataclasses
import os
from dataclasses import field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import Batch, Pairs
from mixwell.ema import frozen_copy
from mixwell.features.passes import MapHook
from mixwell.mixers.maskfile import Card, build_parts, check_shapes, load, read
from mixwell.mixers.masks import even_near_pure
from mixwell.mixers.predictor import MaskPredictor
from mixwell.normalization import pixels_of
from mixwell.plan import MaskPlan, Plan
from mixwell.policy import Policy
from mixwell.ratio import Ratio
from mixwell.typecheck import UpToHalf
from mixwell.value import set_field


class LearnedMask(Policy):
    """Mix two images by the mask that a trained block predicts for them.

    Block and encoder come from a file and are frozen. The encoder gets images normalized and, if the file has a size,
    resized as in its training; for images that were normalized in another way, pass ``normalization=`` in the call.

    Args:
        path: A file written by ``mixwell train``, ``RUN/mask.safetensors``, or by :func:`save_mask`.
        alpha: See :class:`Policy`; blocks are trained with 2.0.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        margin: Ratios within this distance of 0 or 1 mix as MixUp does, in [0, 1/2].
        encoder: The network whose features the block reads, if the file does not name a model of mixwell or timm. Its
            weights are loaded from the file.

    Raises:
        ImportError: ``safetensors`` is not installed.
        ValueError: The file does not exist or holds no mix block, or the encoder does not fit it; when called: the
            images do not fit the encoder.

    Note: label weights follow the area of the mask; for the drawn ratio, as published, use ``label=RatioShare()``.

    Source: Li et al., *Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup*, 2021
    (arXiv:2111.15454), for the pretrained block.

    Example:
        >>> LearnedMask("nowhere.safetensors")
        Traceback (most recent call last):
        ValueError: The file nowhere.safetensors does not exist: expected one written by mixwell train or save_mask().
    """

    path: str | Path = field(default="", kw_only=False)
    alpha: float | Ratio = 2.0
    margin: UpToHalf = 0.08
    encoder: nn.Module | None = field(default=None, repr=False, compare=False)

    reads_images: ClassVar[bool] = True
    looks_as_trained: ClassVar[bool] = True  # at normalised images, or at bytes: a picture shows pixels in [0, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "path", str(self.path))
        set_field(self, "_trained", _opened(str(self.path), self.encoder) if self.path else None)

    def plan(self, pairs: Pairs) -> Plan:
        trained: TrainedMask | None = self._trained  # type: ignore[attr-defined]  # set when the settings were checked
        if trained is None:
            raise ValueError("LearnedMask needs the file of a trained block, as in LearnedMask('mask.safetensors').")
        lam = pairs.lam.expand(len(pairs))[:, None]
        images, both = trained.prepared(pairs.batch), torch.cat((lam, 1 - lam), 1)
        share = trained.on(images.device).share(images, pairs.partner[:, None], both, pairs.size)[:, :1]
        return MaskPlan(pairs, even_near_pure(share, lam, self.margin))


class TrainedMask:
    """A frozen block with its frozen encoder, copied to each device that needs them.

    Args:
        card: The description in the file.
        predictor: Block and encoder, on the CPU.
    """

    def __init__(self, card: Card, predictor: MaskPredictor) -> None:
        self.card = card
        for module in (predictor.block, predictor.encoder):
            module.eval().requires_grad_(False)
        self._on = {torch.device("cpu"): predictor}

    def on(self, device: torch.device) -> MaskPredictor:
        """Return both on a device."""
        if device not in self._on:
            predictor = copy.deepcopy(self._on[torch.device("cpu")])
            for module in (predictor.block, predictor.encoder):
                module.to(device)
            self._on[device] = predictor
        return self._on[device]

    def prepared(self, batch: Batch) -> Tensor:
        """Return images normalized and resized as in the training of the encoder."""
        images, channels, size = batch.images, self.card.in_chans, self.card.size
        normalization = self.card.normalization
        if self.card.model and images.shape[1] != channels:
            raise ValueError(
                f"LearnedMask's block was trained on images (B, {channels}, H, W), but got {tuple(images.shape)}."
            )
        if images.dtype == torch.uint8 or batch.normalization != normalization:
            pixels = pixels_of(images, batch.normalization, "LearnedMask")
            images = pixels if normalization is None else normalization.normalize(pixels)
        if size is None or size == tuple(images.shape[2:]):
            return images
        return F.interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=True)


def _opened(path: str, encoder: nn.Module | None) -> TrainedMask:
    file = Path(os.path.expanduser(path))  # noqa: PTH111  (pathlib's raises for an unknown user)
    if not file.is_file():
        raise ValueError(f"The file {path} does not exist: expected one written by mixwell train or save_mask().")
    facts = file.stat()
    return _load(str(file), facts.st_mtime_ns, facts.st_size) if encoder is None else _fitted(str(file), encoder)


@lru_cache(maxsize=4)
def _load(path: str, changed: int, size: int) -> TrainedMask:
    """Read a file once, although every change of the policy's settings creates a policy."""
    return _fitted(path, None)


def _fitted(path: str, encoder: nn.Module | None) -> TrainedMask:
    card, weights = read(Path(path))
    card = card if encoder is None else dataclasses.replace(card, model=None)
    check_shapes(card, weights, Path(path))
    with torch.random.fork_rng(devices=[]):  # the random initial weights are overwritten
        block, built = build_parts(card)
    encoder = built if encoder is None else frozen_copy(encoder)
    if encoder is None:
        raise ValueError(
            f"{path} does not name its encoder: give the network, as in LearnedMask(path, encoder=network)."
        )
    hook = MapHook(encoder, card.layer)
    for name, module in (("block", block), ("encoder", encoder)):
        load(module, name, weights, Path(path))
    return TrainedMask(card, MaskPredictor(block, encoder, hook))
