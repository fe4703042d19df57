"""Single training and evaluation images: read, brought to one size, augmented, and put into batches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from mixwell.train.config import Config
from mixwell.train.dataset import Split
from mixwell.train.errors import RunError, first_line
from mixwell.train.images import BadImageError, Encoded, read
from mixwell.train.stream import Stream


class Item(NamedTuple):
    """An image that was read, and path and reason of those that could not be."""

    image: Tensor | None
    label: Tensor | None
    bad: list[tuple[str, str]]


def transform(split: Split, config: Config, train: bool, fill: tuple[int, ...]) -> Callable[[Any], Tensor]:
    """Return what brings an image of Pillow to the size of the config, as a uint8 tensor.

    Args:
        split: The images; those in memory are not enlarged before a center crop.
        config: Size and augmentation.
        train: Whether to augment.
        fill: Colour that fills what RandAugment leaves empty.
    """
    from torchvision.transforms import v2

    size = config.image_size if train else config.evaluation_size
    cubic, files = v2.InterpolationMode.BICUBIC, not isinstance(split.images, Tensor)
    if not train:
        steps = [v2.Resize(round(size / config.eval_crop), cubic) if files else v2.Resize((size, size), cubic)]
        steps += [v2.CenterCrop(size)]
    else:
        small = not files and has_size(split, size)
        shift = v2.RandomCrop(size, config.crop, padding_mode="reflect")
        steps = [shift if small else v2.RandomResizedCrop(size, (config.scale, 1), interpolation=cubic)]
        steps += [v2.RandomHorizontalFlip()] if config.flip else []
        steps += [_augmentation(config, fill)] if config.augment else []
    return v2.Compose([*steps, v2.PILToTensor()])


class ImageFiles(Dataset[Item]):
    """Reads images from files or memory and brings them to one size, as uint8 tensors.

    A training image that cannot be read is replaced by the next one of the split, so that batches keep their size; an
    evaluation image is left out.
    """

    def __init__(self, split: Split, config: Config, train: bool, fill: tuple[int, ...]) -> None:
        self.split, self.transform = split, transform(split, config, train, fill)
        self.tries = len(split) if train and config.bad_images == "skip" else 1

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> Item:
        from torchvision.transforms.v2.functional import to_pil_image

        images, bad = self.split.images, []
        for other in range(row, row + self.tries):
            other %= len(self.split)
            try:
                image = to_pil_image(images[other]) if isinstance(images, Tensor) else read(images[other])
            except BadImageError as error:
                bad.append((error.path, error.reason))
            else:
                return Item(self.transform(image), self.split.labels[other], bad)
        return Item(None, None, bad)


class StreamImages(IterableDataset[Item]):
    """Reads the part of a stream that belongs to a process and worker; images that cannot be read are left out."""

    def __init__(
        self, stream: Stream, transform: Callable[[Any], Tensor], rank: int, world: int, seed: int | None
    ) -> None:
        self.stream, self.transform, self.part = stream, transform, (rank, world, seed)

    def __iter__(self) -> Iterator[Item]:
        examples = self.stream.examples(*self.part)
        for number in count():
            try:
                example = next(examples, None)
            except Exception as error:  # every package has its own for a damaged shard
                yield Item(None, None, [(f"number {number} of the stream", first_line(error))])
                return
            if example is None:
                return
            yield self._item(*example)

    def _item(self, image: Encoded, label: int) -> Item:
        try:
            pixels, largest = read(image), self.stream.classes - 1
            if not 0 <= label <= largest:
                raise BadImageError(image.name, f"its label must be from 0 to {largest}, but is {label}")
            return Item(self.transform(pixels), torch.tensor(label), [])
        except BadImageError as error:
            return Item(None, None, [(error.path, error.reason)])


def collate(items: list[Item]) -> tuple[Tensor, Tensor, list[tuple[str, str]]]:
    """Put images into a batch, without those that could not be read; the batch is empty if none is left."""
    read = [(item.image, item.label) for item in items if item.image is not None]
    images, labels = default_collate(read) if read else (torch.empty(0), torch.empty(0))
    return images, labels, [bad for item in items for bad in item.bad]


def has_size(split: Split, size: int) -> bool:
    """Tell whether images in memory have a size already; their longer side decides."""
    return isinstance(split.images, Tensor) and max(split.images.shape[2:]) == size


def _augmentation(config: Config, fill: tuple[int, ...]) -> Callable[[Any], Any]:
    """Return timm's RandAugment; translations and rotations fill with the colour ``fill``.

    Raises:
        RunError: timm is not installed or cannot parse the expression.
    """
    try:
        from timm.data.auto_augment import rand_augment_transform
    except ImportError:
        raise RunError("augment needs timm: pip install timm, or leave augment out") from None
    from PIL import Image

    if not re.fullmatch(r"rand(-(m|inc|mmax)\d{1,3}|-n[1-9]\d?|-(p|mstd)\d+(\.\d+)?|-t\w+)*", config.augment):
        raise RunError(f"augment must be like rand-m9-mstd0.5-inc1, got {config.augment!r}")
    settings = {
        "translate_const": int(0.45 * config.image_size),
        "img_mean": fill,
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        return rand_augment_transform(config.augment, settings)
    except (AssertionError, ValueError, KeyError):
        raise RunError(f"augment must be like rand-m9-mstd0.5-inc1, got {config.augment!r}") from None
