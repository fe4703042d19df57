"""The file of a mix block and its encoder: safetensors with a description, the card, in the header."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mixwell.features.layers import classifier_of, outputs_of
from mixwell.mixers.adaptivemask import SourceAttention
from mixwell.mixers.mixblock import Block, BlockSettings, PairAttention
from mixwell.models import build, settings_in
from mixwell.normalization import Normalization
from mixwell.typecheck import Finite, PositiveFloat, PositiveInt, Within
from mixwell.value import Value, set_field

KINDS: dict[str, type[BlockSettings]] = {kind.__name__: kind for kind in (PairAttention, SourceAttention)}
FORMAT = 1
# Settings of a timm model that a card may have: numbers and shapes. Others can make timm read files.
MODEL_SETTINGS = {
    *("img_size", "patch_size", "window_size", "depth", "depths", "embed_dim", "dims", "num_heads", "mlp_ratio"),
    *("drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate", "global_pool"),
}
LARGEST_SIZE = 4096  # of images (pixels), and of a setting of a timm model, that a card may ask for
Side = Annotated[int, Within(1, LARGEST_SIZE)]


class Card(Value):
    """What a file says about its mix block and encoder.

    Args:
        format: Version of the file.
        block: Class of the block's settings.
        settings: The settings.
        channels: Channels of the feature map that the block reads.
        layer: Name of the layer of the encoder that computes the map.
        model: Name of the encoder's architecture, or None if it has none.
        classes: Number of classes of the encoder.
        in_chans: Channels of the images.
        size: Height and width of the training images, or None if images keep their size.
        mean: See :class:`Normalization`; None if images were in [0, 1].
        std: See :class:`Normalization`.
    """

    format: int
    block: str
    settings: dict[str, Any]
    channels: PositiveInt
    layer: str
    model: str | None
    classes: PositiveInt | None
    in_chans: PositiveInt
    size: tuple[Side, Side] | None
    mean: Finite | tuple[Finite, ...] | None = None
    std: PositiveFloat | tuple[PositiveFloat, ...] | None = None

    normalization: ClassVar[Normalization | None]  # of the training images; set when the values are checked

    def __post_init__(self) -> None:
        if self.model is not None and self.classes is None:
            raise ValueError("the number of classes is missing")
        used: Any = (self.mean, self.std)
        set_field(self, "normalization", None if used == (None, None) else Normalization(*used))


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
    stem = next((m for m in encoder.modules() if isinstance(m, nn.Conv2d)), None)
    card = Card(
        format=FORMAT,
        block=kind,
        settings=dataclasses.asdict(block.settings),
        channels=block.channels,
        layer=layer,
        model=model,
        classes=outputs_of(classifier_of(encoder)[1]),
        in_chans=3 if stem is None else stem.in_channels,
        size=size,
        mean=None if normalization is None else normalization.mean,
        std=None if normalization is None else normalization.std,
    )
    state = {f"block.{key}": value for key, value in block.state_dict().items()}
    state |= {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    return _safetensors().save(plain, {"mixwell": json.dumps(dataclasses.asdict(card))})


def read(path: Path) -> tuple[Card, dict[str, Tensor]]:
    """Return the card of a file and the weights.

    Raises:
        ImportError: ``safetensors`` is not installed.
        ValueError: The file holds no mix block, or this version cannot read it.
    """
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, "pt") as file:
            given = json.loads((file.metadata() or {})["mixwell"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        version, known = given["format"], given["block"] in KINDS
    except Exception:  # a damaged file fails in many ways
        raise ValueError(
            f"{path} holds no mix block: expected a file written by mixwell train or save_mask()."
        ) from None
    if version != FORMAT or not known:
        raise ValueError(
            f"{path} was written by another version of mixwell: its format is {version} and its block "
            f"{given['block']}, but this version reads format {FORMAT} and {' or '.join(KINDS)}."
        )
    try:
        return Card(**given), weights
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} describes its mix block with values that are missing or out of range ({error}): expected a file "
            "written by mixwell train or save_mask()."
        ) from None


def build_parts(card: Card) -> tuple[Block, nn.Module | None]:
    """Return an untrained block and encoder as a card describes them; the encoder is ``None`` if it has no name."""
    block = KINDS[card.block](**card.settings).build(card.channels)
    return block, None if card.model is None else build(card.model, card.classes or 0, card.in_chans)


def check_shapes(card: Card, weights: dict[str, Tensor], path: Path) -> None:
    """Raise unless the parts that a card describes have the shapes of the weights; no memory is allocated for them."""
    try:
        _check_settings(card.model or "")
        with torch.device("meta"):
            parts = build_parts(card)
    except Exception as error:  # values come from the file and may be anything
        raise ValueError(f"The mix block in {path} cannot be built: {str(error).splitlines()[0]}") from None
    for name, part in zip(("block", "encoder"), parts, strict=True):
        if part is not None:
            load(part, name, weights, path, assign=True)


def load(part: nn.Module, name: str, weights: dict[str, Tensor], path: Path, assign: bool = False) -> None:
    """Load the weights of ``"block"`` or ``"encoder"``.

    Args:
        part: The module.
        name: Its name in the file.
        weights: All weights of the file.
        path: The file, for the error.
        assign: Let the module hold the tensors themselves, for a module without memory.

    Raises:
        ValueError: The names or shapes of the weights are not those of the module.
    """
    own = {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}
    try:
        part.load_state_dict(own, assign=assign)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"The {name} in {path} does not fit {type(part).__name__}: {reason}") from None


def _check_settings(model: str) -> None:
    """Raise if ``timm/NAME(setting=value)`` has a setting that may read a file, or a very large number."""
    settings = settings_in(model.removeprefix("timm/"))[1]
    if other := sorted(settings.keys() - MODEL_SETTINGS):
        raise ValueError(f"a file may not set {other[0]!r}: give the network, as in LearnedMask(path, encoder=network)")
    for value in tree_leaves(settings):
        if isinstance(value, int | float) and not value <= LARGEST_SIZE:
            raise ValueError(f"a number in {model[:100]!r} is above {LARGEST_SIZE}")


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError("Mix blocks are stored as safetensors files: pip install safetensors") from None
    return safetensors.torch
