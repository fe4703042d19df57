"""A finished mix block, with the network it looks through, as a policy that is saved and loaded like any other."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.batch import Pairs
from mixwell.methods.adaptivemask import AdaptiveMask, SourceAttention
from mixwell.methods.encoder import MapTap
from mixwell.methods.masks import even_where, near_pure
from mixwell.methods.mixblock import BlockSettings, MixBlock, PairAttention
from mixwell.methods.momentum import copy_of
from mixwell.plan import MaskPlan, Plan
from mixwell.policy import Policy
from mixwell.ratio import Ratio
from mixwell.taps import classifier_of
from mixwell.value import set_field

KINDS: dict[str, type[BlockSettings]] = {kind.__name__: kind for kind in (PairAttention, SourceAttention)}


class LearnedMask(Policy):
    """Mix two images by the mask that a trained block predicts for them.

    Nothing is trained: block and encoder are those of the file, whatever the student is.

    Args:
        path: A file written by :func:`save_mask`.
        alpha: See :class:`Policy`; blocks are trained with 2.0.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        margin: Ratios this near to 0 or 1 mix plainly instead, in [0, 1/2].
        encoder: The network whose features the block reads, where the file does not name a model of ours or of timm.
            Its weights are loaded from the file.

    Raises:
        ImportError: ``safetensors`` is not installed.
        ValueError: There is no such file, it holds no block, or the encoder does not fit.

    Note: label weights follow the mask's area, as a policy's should; the publications keep the drawn ratio, and
    :class:`SAMixPretrained` does so.

    Source: Li et al., *Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup*, 2021
    (arXiv:2111.15454), for the pretrained block.

    Example:
        >>> LearnedMask("nowhere.safetensors")
        Traceback (most recent call last):
        ValueError: There is no file nowhere.safetensors: expected one that save_mask() has written.
    """

    path: str = field(default="", kw_only=False)
    alpha: float | Ratio = 2.0
    margin: float = 0.08
    encoder: nn.Module | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.margin <= 0.5:
            raise ValueError(f"margin must lie in [0, 0.5], but got {self.margin}.")
        set_field(self, "path", str(self.path))
        set_field(self, "_seer", Seer.load(self.path, self.encoder) if self.path else None)

    def plan(self, pairs: Pairs) -> Plan:
        seer: Seer | None = self._seer  # type: ignore[attr-defined]  # set when the settings were checked
        if seer is None:
            raise ValueError("LearnedMask needs the file of a trained block, as in LearnedMask('block.safetensors').")
        lam = pairs.lam.expand(len(pairs))[:, None]
        share = seer.share(pairs.batch.images, pairs.partner, lam[:, 0], pairs.size)
        return MaskPlan(pairs, even_where(near_pure(lam, self.margin), share, lam))


class Seer:
    """A frozen block with its frozen encoder.

    Args:
        block: See :class:`MixBlock` and :class:`AdaptiveMask`.
        encoder: The network.
        layer: The layer whose map the block reads.
    """

    def __init__(self, block: nn.Module, encoder: nn.Module, layer: str) -> None:
        self.block, self.encoder = (module.eval().requires_grad_(False) for module in (block, encoder))
        self.tap = MapTap(encoder, layer)

    @classmethod
    def load(cls, path: str, encoder: nn.Module | None = None) -> Seer:
        """Read a file; see :class:`LearnedMask`."""
        card, weights = _read(Path(path))
        settings = KINDS[card["block"]](**card["settings"])
        encoder = _built(card, path) if encoder is None else copy_of(encoder)
        seer = cls(settings.build(card["channels"]), encoder, card["layer"])
        for name, module in (("block", seer.block), ("encoder", seer.encoder)):
            state = {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}
            try:
                module.load_state_dict(state)
            except RuntimeError as error:
                reason = str(error).splitlines()[1].strip()
                raise ValueError(f"The {name} in {path} does not fit {type(module).__name__}: {reason}") from None
        return seer

    @torch.no_grad()
    def share(self, images: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the anchors' share, shape ``(B, 1, H, W)``."""
        weight = next(self.encoder.parameters(), images)
        if not images.is_floating_point():
            raise TypeError(
                f"LearnedMask looks at images as its encoder was trained on, normalised, but got {images.dtype}."
            )
        if weight.device != images.device:
            self.encoder.to(images.device)
            self.block.to(images.device)
        features = self.tap.map(self.encoder, images.to(weight.dtype))
        others = features.index_select(0, partner)
        if isinstance(self.block, AdaptiveMask):
            several = torch.stack((features, others), 1)
            return self.block(several, torch.stack((lam, 1 - lam), 1), size)[:, :1]
        return self.block(features, others, lam, size)


def save_mask(
    path: str | Path, block: MixBlock | AdaptiveMask, encoder: nn.Module, layer: str, model: str | None = None
) -> None:
    """Write a trained block and the network it looks through, with a card that says what they are.

    The file is safetensors; the card is JSON text in its header, so that the two cannot be parted.

    Args:
        path: Where to write.
        block: ``method.block``.
        encoder: ``method.teacher``.
        layer: ``method.tap.name``.
        model: Name of the encoder's architecture as :func:`mixwell.models.build` takes it, such as ``"resnet18"``;
            without it, the encoder must be given again when the file is loaded.

    Raises:
        ImportError: ``safetensors`` is not installed.

    Example:
        >>> import tempfile
        >>> from mixwell.models import mini_resnet
        >>> folder, block = tempfile.TemporaryDirectory(), PairAttention().build(64)
        >>> save_mask(f"{folder.name}/block.safetensors", block, mini_resnet(10), "layer2", model="mini_resnet")
        >>> policy = LearnedMask(f"{folder.name}/block.safetensors")
        >>> policy(torch.rand(4, 3, 32, 32), torch.arange(4)).weights.shape
        torch.Size([4, 2])
        >>> folder.cleanup()
    """
    classifier = classifier_of(encoder)[1]
    stem = next((m for m in encoder.modules() if isinstance(m, nn.Conv2d)), None)
    card = {
        "format": 1,
        "block": type(block.settings).__name__,
        "settings": dataclasses.asdict(block.settings),
        "channels": block.channels,
        "layer": layer,
        "model": model,
        "classes": getattr(classifier, "out_features", None),
        "in_chans": 3 if stem is None else stem.in_channels,
    }
    state = {f"block.{key}": value for key, value in block.state_dict().items()}
    state |= {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    _safetensors().save_file(plain, path, {"mixwell": json.dumps(card)})


def read_card(path: str | Path) -> dict[str, Any]:
    """Return what a file says of itself, without reading the weights.

    Raises:
        ImportError: ``safetensors`` is not installed.
        ValueError: There is no such file, or it holds no block.
    """
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ValueError(f"There is no file {path}: expected one that save_mask() has written.")
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {})["mixwell"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no dictionary)
        if card["format"] != 1 or card["block"] not in KINDS:
            raise KeyError("format")
    except Exception:  # a damaged file fails in many ways
        raise ValueError(f"{path} holds no mix block: expected a file that save_mask() has written.") from None
    return card, weights


def _built(card: dict[str, Any], path: str) -> nn.Module:
    if card["model"] is None:
        raise ValueError(
            f"{path} does not name its encoder: give the network, as in LearnedMask(path, encoder=network)."
        )
    from mixwell.models import build

    return build(card["model"], card["classes"], card["in_chans"])


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError("Mix blocks are kept in safetensors files: pip install safetensors") from None
    return safetensors.torch
