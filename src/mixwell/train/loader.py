"""Batches: augmented on the device for small images in memory, made by a ``DataLoader`` of all others.

Both loaders draw the order of an epoch (and the small one every crop and flip of it) from a generator of their own, on
the CPU, before the epoch starts. Its state between epochs is all that a checkpoint has to keep.
"""

from __future__ import annotations

import math
import re
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixwell.train.config import Config
from mixwell.train.data import DataSet, Split
from mixwell.train.errors import RunError


def reflect(images: Tensor, pad: int) -> Tensor:
    """Widen images of any dtype by ``pad`` pixels on each side, mirrored at the border without repeating it."""
    for dim in (2, 3):
        size = images.shape[dim]
        inside = torch.arange(-pad, size + pad, device=images.device).abs()
        images = images.index_select(dim, inside.minimum(2 * (size - 1) - inside))
    return images


def augment(padded: Tensor, rows: Tensor, top: Tensor, left: Tensor, mirror: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut one window out of each chosen image, and mirror some.

    Args:
        padded: Images, shape ``(N, C, H + 2 * pad, W + 2 * pad)``.
        rows: Which images, shape ``(B,)``.
        top: First row of each window, shape ``(B,)``.
        left: First column of each window, shape ``(B,)``.
        mirror: Whether to mirror, bool, shape ``(B,)``.
        size: Height and width of the windows.

    Returns:
        Images of shape ``(B, C, *size)`` and the dtype of ``padded``.
    """
    windows = padded.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (N, C, 2 pad + 1, 2 pad + 1, H, W), a view
    crops = windows[rows, :, top, left]
    return torch.where(mirror[:, None, None, None], crops.flip(-1), crops)


@dataclass(frozen=True)
class Place:
    """Where a process computes, and which of how many it is."""

    device: torch.device
    rank: int = 0
    world: int = 1


class Loader(ABC):
    """Yields ``(images, labels)``, normalised, on the device; subclasses say how a batch is made.

    With a generator an epoch is a random order without its incomplete last batch, and every process gets its share of
    every batch in ``accumulate`` pieces; without one it is the plain order, of which a process sees every
    ``world``-th row once, however many that are.

    Args:
        split: Images and labels.
        data: The data set they come from, for its statistics.
        config: Batch size, pieces, augmentation.
        place: This process.
        generator: Source of the random order and augmentation; None for evaluation.
    """

    def __init__(
        self, split: Split, data: DataSet, config: Config, place: Place, generator: torch.Generator | None = None
    ) -> None:
        self.split, self.config, self.place, self.generator = split, config, place, generator
        self.mean, self.std = (torch.tensor(x, device=place.device).view(-1, 1, 1) * 255 for x in (data.mean, data.std))
        self.erase = None
        if config.erasing and generator is not None:
            from torchvision.transforms import v2

            self.erase = v2.RandomErasing(config.erasing, value="random")  # pyright: ignore[reportArgumentType]

    def __len__(self) -> int:
        if self.generator is None:
            mine = range(self.place.rank, len(self.split), self.place.world)
            return math.ceil(len(mine) / self.config.batch_size)
        return len(self.split) // self.config.batch_size * self.config.accumulate

    def rows(self) -> list[Tensor]:
        """Draw the rows of every batch of an epoch."""
        rank, world, size = self.place.rank, self.place.world, self.config.batch_size
        if self.generator is None:
            mine = torch.arange(len(self.split))[rank::world]
            return list(mine.split(size)) if len(mine) else []
        order = torch.randperm(len(self.split), generator=self.generator)[: len(self.split) // size * size]
        return list(order.view(len(self), world, -1)[:, rank])

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images as float32 ones of mean zero and deviation one."""
        return images.float().sub_(self.mean).div_(self.std)

    def erased(self, images: Tensor) -> Tensor:
        """Fill a random box of some training images with noise, where that is wanted."""
        return images if self.erase is None else torch.stack([self.erase(image) for image in images])

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Walk an epoch: normalised images ``(B, C, H, W)`` and class indices ``(B,)``, on the device."""


class ArrayLoader(Loader):
    """Keeps the whole split on the device and crops, mirrors and normalises there, a batch at a time."""

    def __init__(
        self, split: Split, data: DataSet, config: Config, place: Place, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(split, data, config, place, generator)
        assert isinstance(split.images, Tensor)
        images = split.images.to(place.device)
        self.size = (images.shape[2], images.shape[3])
        self.images = images if generator is None else reflect(images, config.crop)
        self.labels = split.labels.to(place.device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches, device, count = self.rows(), self.place.device, len(self.split)
        if self.generator is None:
            for rows in batches:
                rows = rows.to(device)
                yield self.normalise(self.images[rows]), self.labels[rows]
            return
        # Drawn for every image of the split, so that the draws do not depend on the number of processes.
        shift = torch.randint(2 * self.config.crop + 1, (2, count), generator=self.generator).to(device)
        mirror = ((torch.rand(count, generator=self.generator) < 0.5) & self.config.flip).to(device)
        for rows in torch.stack(batches).to(device):
            images = augment(self.images, rows, shift[0, rows], shift[1, rows], mirror[rows], self.size)
            yield self.erased(self.normalise(images)), self.labels[rows]


class _Files(Dataset):
    """Reads images, from files or memory, and brings them to one size, as uint8 tensors."""

    def __init__(self, split: Split, config: Config, train: bool, fill: tuple[int, ...]) -> None:
        from torchvision.transforms import v2

        size, cubic, files = config.image_size, v2.InterpolationMode.BICUBIC, not isinstance(split.images, Tensor)
        if not train:
            steps = [v2.Resize(round(size / config.eval_crop), cubic) if files else v2.Resize((size, size), cubic)]
            steps += [v2.CenterCrop(size)]
        else:
            small = not files and has_size(split, size)
            shift = v2.RandomCrop(size, config.crop, padding_mode="reflect")
            steps = [shift if small else v2.RandomResizedCrop(size, (config.scale, 1), interpolation=cubic)]
            steps += [v2.RandomHorizontalFlip()] if config.flip else []
            steps += [_augmentation(config, fill)] if config.augment else []
        self.split, self.transform = split, v2.Compose([*steps, v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        from PIL import Image
        from torchvision.transforms.v2.functional import to_pil_image

        label, images = int(self.split.labels[row]), self.split.images
        if isinstance(images, Tensor):
            return self.transform(to_pil_image(images[row])), label
        try:
            with Image.open(images[row]) as image:
                return self.transform(image.convert("RGB")), label
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
            path = images[row]
            reason = str(error).replace(f" {str(path)!r}", "").replace(str(path), "").splitlines()
            raise RunError(f"cannot read the image {path}: {reason[0] if reason else type(error).__name__}") from None


def has_size(split: Split, size: int) -> bool:
    """Tell whether images in memory have a size already, which their longer side decides."""
    return isinstance(split.images, Tensor) and max(split.images.shape[2:]) == size


def _augmentation(config: Config, fill: tuple[int, ...]) -> Callable[[Any], Any]:
    """Return RandAugment as timm has it; what a shift or a turn lets in has the colour ``fill``.

    Raises:
        RunError: there is no such augmentation.
    """
    try:
        from timm.data.auto_augment import rand_augment_transform
    except ImportError:
        raise RunError("augment needs timm: pip install timm, or leave augment out") from None
    from PIL import Image

    if not re.fullmatch(r"rand(-(m|n|inc|mmax)\d+|-(p|mstd)\d+(\.\d+)?|-t\w+)*", config.augment):
        raise RunError(f"augment must be like rand-m9-mstd0.5-inc1, and is {config.augment!r}")
    settings = {
        "translate_const": int(0.45 * config.image_size),
        "img_mean": fill,
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        return rand_augment_transform(config.augment, settings)
    except (AssertionError, ValueError, KeyError):
        raise RunError(f"augment must be like rand-m9-mstd0.5-inc1, and is {config.augment!r}") from None


class FolderLoader(Loader):
    """Streams images through ``torch.utils.data.DataLoader`` as uint8, and normalises on the device.

    Images are files, or arrays that are to be resized or augmented one by one.
    """

    def __init__(
        self, split: Split, data: DataSet, config: Config, place: Place, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(split, data, config, place, generator)
        fill = tuple(round(255 * value) for value in data.mean)
        self.files = _Files(split, config, generator is not None, fill)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.place.device
        loader = DataLoader(
            self.files,
            batch_sampler=[rows.tolist() for rows in self.rows()],
            num_workers=self.config.workers,
            pin_memory=device.type == "cuda",
            generator=self._seeds(),
            worker_init_fn=_ignore_interrupt,
        )
        try:
            for images, labels in loader:
                images = self.erased(self.normalise(images.to(device, non_blocking=True)))
                yield images, labels.to(device, non_blocking=True)
        except RunError as error:  # from a worker it comes wrapped in that worker's traceback
            raise RunError(str(error).strip().splitlines()[-1].split("RunError: ")[-1]) from None

    def _seeds(self) -> torch.Generator:
        """Return what seeds the workers; without one they would draw from the global generator.

        The order of rows is the same in all processes, what happens to an image is not.
        """
        if self.generator is None:
            return torch.Generator()
        drawn = int(torch.randint(2**48, (), generator=self.generator))
        return torch.Generator().manual_seed(drawn + 1_000_003 * self.place.rank)


def _ignore_interrupt(worker: int) -> None:
    """Let Ctrl-C end a reading process through its parent, without a traceback of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def loaders(config: Config, data: DataSet, place: Place) -> tuple[Loader, Loader, Loader]:
    """Return the loaders of the training, validation and test images.

    Raises:
        RunError: the batch cannot be shared out evenly, or is larger than the training set.
    """
    pieces = place.world * config.accumulate
    if config.batch_size % pieces:
        raise RunError(f"batch_size {config.batch_size} must divide by {pieces} (processes times accumulate)")
    if config.batch_size > len(data.train):
        raise RunError(f"batch_size {config.batch_size} exceeds the {len(data.train)} training images: lower it")
    if config.augment and data.channels != 3:
        raise RunError(f"augment needs images of 3 channels, and these have {data.channels}: leave augment out")
    kind = ArrayLoader if has_size(data.train, config.image_size) else FolderLoader
    generator = torch.Generator().manual_seed(config.seed)
    train = (FolderLoader if config.augment else kind)(data.train, data, config, place, generator)
    val = kind(data.val, data, config, place)
    return train, val, val if data.test is data.val else kind(data.test, data, config, place)
