"""The file of a mix block and its encoder: safetensors with a description, the card, in the header."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.features.layers import classifier_of
from mixwell.mixers.adaptivemask import SourceAttention
from mixwell.mixers.mixblock import Block, BlockSettings, PairAttention
from mixwell.normalization import Normalization

KINDS: dict[str, type[BlockSettings]] = {kind.__name__: kind for kind in (PairAttention, SourceAttention)}
FORMAT = 1
# Settings of a timm model that a card may have: numbers and shapes. Others can make timm read files.
MODEL_SETTINGS = {
    *("img_size", "patch_size", "window_size", "depth", "depths", "embed_dim", "dims", "num_heads", "mlp_ratio"),
    *("drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate", "global_pool"),
}
LARGEST_SIZE = 4096  # of images (pixels), and of a setting of a timm model, that a card may ask for


def save_mask(
    path: str | Path,
    block: Block,
    encoder: nn.Module,
    layer: str,
    model: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
) -> None:
    """Write a trained block and the network whose features it reads.

    The file is safetensors; its header describes block and encoder as JSON.

    Args:
        path: Where to write.
        block: ``method.block``.
        encoder: ``method.teacher.model``.
        layer: ``method.teacher.layer``.
        model: Name of the encoder's architecture as in :func:`mixwell.models.build`, such as ``"resnet18"``;
            without it, :class:`LearnedMask` needs ``encoder=``.
        size: Height and width of the training images; the encoder gets images of another size resized to it. ``None``
            does not resize.
        normalization: How the training images were normalized; ``None`` means that they were in [0, 1].

    Raises:
        ImportError: ``safetensors`` is not installed.
        TypeError: The block cannot be saved.
        ValueError: The folder does not exist.

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
    found = packed(block, encoder, layer, model, size=size, normalization=normalization)
    file = Path(os.path.expanduser(path))  # noqa: PTH111  (pathlib's raises for an unknown user)
    if not file.parent.is_dir():
        raise ValueError(f"The folder {file.parent} for the mix block does not exist: create it first.")
    file.write_bytes(found)


def packed(
    block: nn.Module,
    encoder: nn.Module,
    layer: str,
    model: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
) -> bytes:
    """Return the content of the file that :func:`save_mask` writes."""
    kind = type(getattr(block, "settings", None)).__name__
    if not isinstance(block, Block) or kind not in KINDS:
        raise TypeError(
            f"block must be a mix block with settings of type {' or '.join(KINDS)}, such as method.block, but got "
            f"{type(block).__name__} with {kind}."
        )
    classifier = classifier_of(encoder)[1]
    stem = next((m for m in encoder.modules() if isinstance(m, nn.Conv2d)), None)
    card = {
        "format": FORMAT,
        "block": kind,
        "settings": dataclasses.asdict(block.settings),
        "channels": block.channels,
        "layer": layer,
        "model": model,
        "classes": getattr(classifier, "out_features", None),
        "in_chans": 3 if stem is None else stem.in_channels,
        "size": size,
        "mean": None if normalization is None else normalization.mean,
        "std": None if normalization is None else normalization.std,
    }
    state = {f"block.{key}": value for key, value in block.state_dict().items()}
    state |= {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    return _safetensors().save(plain, {"mixwell": json.dumps(card)})


def read_card(path: str | Path) -> dict[str, Any]:
    """Return the description in a file, without reading the weights.

    Raises:
        ImportError: ``safetensors`` is not installed.
        ValueError: The file holds no mix block, or this version cannot read it.
    """
    return read(Path(path), weights=False)[0]


def read(path: Path, weights: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the card and, on request, the weights; see :func:`read_card`."""
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {})["mixwell"])
            found = {name: file.get_tensor(name) for name in file.keys()} if weights else {}  # noqa: SIM118
        version, known = card["format"], card["block"] in KINDS
    except Exception:  # a damaged file fails in many ways
        raise ValueError(
            f"{path} holds no mix block: expected a file written by mixwell train or save_mask()."
        ) from None
    if version != FORMAT or not known:
        raise ValueError(
            f"{path} was written by another version of mixwell: its format is {version} and its block "
            f"{card['block']}, but this version reads format {FORMAT} and {' or '.join(KINDS)}."
        )
    _check_card(card, path)
    return card, found


def build_parts(card: dict[str, Any]) -> tuple[Block, nn.Module | None]:
    """Return an untrained block and encoder as a card describes them; the encoder is ``None`` if it has no name."""
    block = KINDS[card["block"]](**card["settings"]).build(card["channels"])
    if card["model"] is None:
        return block, None
    from mixwell.models import build

    return block, build(card["model"], card["classes"], card["in_chans"])


def normalization_of(card: dict[str, Any]) -> Normalization | None:
    """Return how the training images were normalized; ``None`` means that they were in [0, 1]."""
    given: dict[str, Any] = {name: card.get(name) for name in ("mean", "std")}
    if given == {"mean": None, "std": None}:
        return None
    return Normalization(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def check_shapes(card: dict[str, Any], weights: dict[str, Tensor], path: Path) -> None:
    """Raise unless the parts that a card describes have the shapes of the weights; no memory is allocated for them."""
    try:
        normalization_of(card)
        _check_numbers(card["model"] or "")
        with torch.device("meta"):
            block, encoder = build_parts(card)
    except Exception as error:  # values come from the file and may be anything
        raise ValueError(f"The mix block in {path} cannot be built: {str(error).splitlines()[0]}") from None
    for name, part in (("block", block), ("encoder", encoder)):
        shapes = {f"{name}.{key}": value.shape for key, value in part.state_dict().items()} if part else {}
        given = {key: value.shape for key, value in weights.items() if key.startswith(f"{name}.")}
        wrong = sorted(key for key in shapes.keys() | given.keys() if shapes.get(key) != given.get(key))
        if part is not None and wrong:
            sizes = [None if shape is None else tuple(shape) for shape in (shapes.get(wrong[0]), given.get(wrong[0]))]
            raise ValueError(
                f"The {name} in {path} does not fit {type(part).__name__}: {wrong[0]} should have shape {sizes[0]}, "
                f"but the file has {sizes[1]}."
            )


def _check_card(card: dict[str, Any], path: Path) -> None:
    size, model, numbers = card.get("size"), card.get("model"), (card.get("channels"), card.get("in_chans"))
    if model is not None:
        numbers += (card.get("classes"),)
    sizes = [] if size is None else size
    sane = (
        isinstance(card.get("settings"), dict)
        and isinstance(card.get("layer"), str)
        and isinstance(model, str | None)
        and isinstance(sizes, list)
        and len(sizes) in (0, 2)
        and all(type(number) is int and number > 0 for number in (*numbers, *sizes))
        and all(side <= LARGEST_SIZE for side in sizes)
    )
    if not sane:
        raise ValueError(
            f"{path} describes its mix block with values that are missing or out of range: expected a file written by "
            "mixwell train or save_mask()."
        )
    if other := sorted(_settings_in(model or "") - MODEL_SETTINGS):
        raise ValueError(
            f"{path} names the encoder {model!r}, but a file may not set {other[0]!r}: give the network, as in "
            "LearnedMask(path, encoder=network)."
        )


def _settings_in(model: str) -> set[str]:
    """Return the names of the settings in ``NAME(setting=value)``."""
    if "(" not in model:
        return set()
    try:
        call = ast.parse("_(" + model.partition("(")[2], mode="eval").body
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return {model}
    return {keyword.arg or "**" for keyword in call.keywords} if isinstance(call, ast.Call) else {model}


def _check_numbers(model: str) -> None:
    """Raise if ``NAME(setting=value)`` has a number above the limit: timm might build that many blocks."""
    settings = model.partition("(")[2]
    for node in ast.walk(ast.parse(f"_({settings}", mode="eval")) if settings else ():
        number = node.value if isinstance(node, ast.Constant) else 0
        if isinstance(number, int | float) and not number <= LARGEST_SIZE:
            raise ValueError(f"a number in {model[:100]!r} is above {LARGEST_SIZE}")


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError("Mix blocks are stored as safetensors files: pip install safetensors") from None
    return safetensors.torch
