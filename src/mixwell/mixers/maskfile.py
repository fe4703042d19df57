"""A mix block with its encoder as a file: safetensors, and a card that says what they are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mixwell.features.hooks import classifier_of
from mixwell.mixers.adaptivemask import AdaptiveMask, SourceAttention
from mixwell.mixers.mixblock import BlockSettings, MixBlock, PairAttention

KINDS: dict[str, type[BlockSettings]] = {kind.__name__: kind for kind in (PairAttention, SourceAttention)}
FORMAT = 1


def save_mask(
    path: str | Path,
    block: MixBlock | AdaptiveMask,
    encoder: nn.Module,
    layer: str,
    model: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
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
        size: Height and width of the images that they were trained on; images of another size are scaled to it, for
            the encoder's eyes only. ``None`` shows them as they come.
        mean: What was subtracted from each channel of images in [0, 1]; with it, uint8 images can be mixed.
        std: What they were divided by then.

    Raises:
        ImportError: ``safetensors`` is not installed.
        TypeError: The block is none of ours.
        ValueError: Only one of ``mean`` and ``std`` is given, or the folder is not there.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from mixwell import LearnedMask
        >>> from mixwell.models import mini_resnet
        >>> folder, block = tempfile.TemporaryDirectory(), PairAttention().build(64)
        >>> save_mask(f"{folder.name}/mask.safetensors", block, mini_resnet(10), "layer2", model="mini_resnet")
        >>> policy = LearnedMask(f"{folder.name}/mask.safetensors")
        >>> policy(torch.rand(4, 3, 32, 32), torch.arange(4)).weights.shape
        torch.Size([4, 2])
        >>> folder.cleanup()
    """
    found = packed(block, encoder, layer, model, size=size, mean=mean, std=std)
    if not Path(path).parent.is_dir():
        raise ValueError(f"There is no folder {Path(path).parent} to write the mix block to: make it first.")
    Path(path).write_bytes(found)


def packed(
    block: nn.Module,
    encoder: nn.Module,
    layer: str,
    model: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> bytes:
    """Return what :func:`save_mask` writes."""
    if not isinstance(block, MixBlock | AdaptiveMask):
        raise TypeError(f"block must be a trained mix block, as method.block is, but got {type(block).__name__}.")
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std belong together, but got {mean} and {std}.")
    classifier = classifier_of(encoder)[1]
    stem = next((m for m in encoder.modules() if isinstance(m, nn.Conv2d)), None)
    card = {
        "format": FORMAT,
        "block": type(block.settings).__name__,
        "settings": dataclasses.asdict(block.settings),
        "channels": block.channels,
        "layer": layer,
        "model": model,
        "classes": getattr(classifier, "out_features", None),
        "in_chans": 3 if stem is None else stem.in_channels,
        "size": size,
        "mean": mean,
        "std": std,
    }
    state = {f"block.{key}": value for key, value in block.state_dict().items()}
    state |= {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    return _safetensors().save(plain, {"mixwell": json.dumps(card)})


def read_card(path: str | Path) -> dict[str, Any]:
    """Return what a file says of itself, without reading the weights.

    Raises:
        ImportError: ``safetensors`` is not installed.
        ValueError: It holds no block, or one that this version cannot read.
    """
    return read(Path(path), weights=False)[0]


def read(path: Path, weights: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the card and, unless told otherwise, the weights; see :func:`read_card`."""
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {})["mixwell"])
            found = {name: file.get_tensor(name) for name in file.keys()} if weights else {}  # noqa: SIM118
        version, known = card["format"], card["block"] in KINDS
    except Exception:  # a damaged file fails in many ways
        raise ValueError(
            f"{path} holds no mix block: expected a file that mixwell train or save_mask() has written."
        ) from None
    if version != FORMAT or not known:
        raise ValueError(
            f"{path} was written by another version of mixwell: its format is {version} and its block "
            f"{card['block']}, but this version reads format {FORMAT} and {' or '.join(KINDS)}."
        )
    return card, found


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError("Mix blocks are kept in safetensors files: pip install safetensors") from None
    return safetensors.torch
