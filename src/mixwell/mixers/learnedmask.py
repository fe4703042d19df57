"""A finished mix block, with the network it looks through, as a policy that is saved and loaded like any other."""

from __future__ import annotations

import copy
from dataclasses import field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import Pairs
from mixwell.features.maps import MapTap
from mixwell.mixers.maskfile import KINDS, read
from mixwell.mixers.masks import even_where, near_pure
from mixwell.mixers.predictor import Seer
from mixwell.mixers.teacher import copy_of
from mixwell.plan import MaskPlan, Plan
from mixwell.policy import Policy
from mixwell.ratio import Ratio
from mixwell.value import set_field


class LearnedMask(Policy):
    """Mix two images by the mask that a trained block predicts for them.

    Nothing is trained: block and encoder are those of the file, whatever the student is. The encoder sees images as it
    was trained on them, at that size too where the file knows it; uint8 images are normalised first.

    Args:
        path: A file written by ``mixwell train``, ``RUN/mask.safetensors``, or by :func:`save_mask`.
        alpha: See :class:`Policy`; blocks are trained with 2.0.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        margin: Ratios this near to 0 or 1 mix plainly instead, in [0, 1/2].
        encoder: The network whose features the block reads, where the file does not name a model of ours or of timm.
            Its weights are loaded from the file.

    Raises:
        ImportError: ``safetensors`` is not installed.
        TypeError: When called: images are uint8, and the file does not know how they were normalised.
        ValueError: There is no such file, it holds no block, or the encoder does not fit it, or the images when called.

    Note: label weights follow the mask's area, as a policy's should; the publications keep the drawn ratio, and
    :class:`SAMixPretrained` does so.

    Source: Li et al., *Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup*, 2021
    (arXiv:2111.15454), for the pretrained block.

    Example:
        >>> LearnedMask("nowhere.safetensors")
        Traceback (most recent call last):
        ValueError: There is no file nowhere.safetensors: expected one that mixwell train or save_mask() has written.
    """

    path: str | Path = field(default="", kw_only=False)
    alpha: float | Ratio = 2.0
    margin: float = 0.08
    encoder: nn.Module | None = field(default=None, repr=False, compare=False)

    looks_as_trained: ClassVar[bool] = True  # at normalised images, or at bytes: a picture shows pixels in [0, 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.margin <= 0.5:
            raise ValueError(f"margin must lie in [0, 0.5], but got {self.margin}.")
        set_field(self, "path", str(self.path))
        set_field(self, "_finished", _opened(str(self.path), self.encoder) if self.path else None)

    def plan(self, pairs: Pairs) -> Plan:
        finished: Finished | None = self._finished  # type: ignore[attr-defined]  # set when the settings were checked
        if finished is None:
            raise ValueError("LearnedMask needs the file of a trained block, as in LearnedMask('mask.safetensors').")
        lam = pairs.lam.expand(len(pairs))[:, None]
        images, both = finished.seen(pairs.batch.images), torch.cat((lam, 1 - lam), 1)
        share = finished.on(images.device).share(images, pairs.partner[:, None], both, pairs.size)[:, :1]
        return MaskPlan(pairs, even_where(near_pure(lam, self.margin), share, lam))


class Finished:
    """A frozen block with its frozen encoder, on every device where they were needed.

    Args:
        card: What the file says of itself.
        seer: Both, on the CPU.
    """

    def __init__(self, card: dict[str, Any], seer: Seer) -> None:
        self.card = card
        for module in (seer.block, seer.encoder):
            module.eval().requires_grad_(False)
        self._on = {torch.device("cpu"): seer}

    def on(self, device: torch.device) -> Seer:
        """Return both on a device."""
        if device not in self._on:
            seer = copy.deepcopy(self._on[torch.device("cpu")])
            for module in (seer.block, seer.encoder):
                module.to(device)
            self._on[device] = seer
        return self._on[device]

    def seen(self, images: Tensor) -> Tensor:
        """Return images as the encoder was trained on them."""
        channels, mean, size = self.card["in_chans"], self.card.get("mean"), self.card.get("size")
        if self.card["model"] and images.shape[1] != channels:
            raise ValueError(
                f"LearnedMask's block was trained on images (B, {channels}, H, W), but got {tuple(images.shape)}."
            )
        if not images.is_floating_point():
            if mean is None:
                raise TypeError(
                    f"LearnedMask looks at images as its encoder was trained on, normalised, but got {images.dtype}, "
                    "and its file does not say how: give save_mask() mean= and std=."
                )
            shift, scale = (
                torch.tensor(values).to(images.device, non_blocking=True).view(-1, 1, 1)
                for values in (mean, self.card["std"])
            )
            images = (images.float() / 255 - shift) / scale
        if size is None or tuple(size) == tuple(images.shape[2:]):
            return images
        return F.interpolate(images.float(), tuple(size), mode="bilinear", align_corners=False, antialias=True)


def _opened(path: str, encoder: nn.Module | None) -> Finished:
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"There is no file {path}: expected one that mixwell train or save_mask() has written.")
    facts = file.stat()
    return _load(path, facts.st_mtime_ns, facts.st_size) if encoder is None else _fitted(path, encoder)


@lru_cache(maxsize=4)
def _load(path: str, changed: int, size: int) -> Finished:
    """Read a file once, however often the settings of the policy change."""
    return _fitted(path, None)


def _fitted(path: str, encoder: nn.Module | None) -> Finished:
    card, weights = read(Path(path))
    with torch.random.fork_rng(devices=[]):  # what is drawn to initialise them is overwritten
        block = KINDS[card["block"]](**card["settings"]).build(card["channels"])
        encoder = _built(card, path) if encoder is None else copy_of(encoder)
    tap = MapTap(encoder, card["layer"])
    for name, module in (("block", block), ("encoder", encoder)):
        state = {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()
            raise ValueError(f"The {name} in {path} does not fit {type(module).__name__}: {reason}") from None
    return Finished(card, Seer(block, encoder, tap))


def _built(card: dict[str, Any], path: str) -> nn.Module:
    if card["model"] is None:
        raise ValueError(
            f"{path} does not name its encoder: give the network, as in LearnedMask(path, encoder=network)."
        )
    from mixwell.models import build

    return build(card["model"], card["classes"], card["in_chans"])
