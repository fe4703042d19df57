"""Batches of images: small images in memory are augmented on the device, all others by a ``DataLoader``.

All loaders draw the order of an epoch from their own generator, on the CPU, before the epoch starts; the one for small
images draws all crops and flips of the epoch as well. A checkpoint stores the generator's state between epochs.
"""

from __future__ import annotations

import math
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mixwell.train.augment import crop_and_flip, erase, reflect
from mixwell.train.config import Config
from mixwell.train.dataset import DataSet, Split
from mixwell.train.errors import RunError
from mixwell.train.image_files import ImageFiles, Item, StreamImages, collate, has_size, transform
from mixwell.train.images import BadImages
from mixwell.train.stream import Stream, regroup


@dataclass(frozen=True)
class ProcessInfo:
    """The device of a process, its number (rank) and the number of all processes (world)."""

    device: torch.device
    rank: int = 0
    world: int = 1


class Loader(ABC):
    """Yields ``(images, labels)``, normalised, on the device. Subclasses define how a batch is made.

    With a generator (training) an epoch is in random order, without its incomplete last batch, and every process gets
    its share of every batch in ``accumulate`` pieces. Without one (evaluation) the order is that of the split; every
    process gets every ``world``-th row, so that each image is seen exactly once.

    Args:
        split: Images and labels.
        data: The data set they come from; its normalization is applied to the images.
        config: Batch size, pieces, augmentation.
        process: This process.
        generator: Source of the random order and augmentation; None for evaluation.
        bad: What happens to image files that cannot be read; None to stop at the first one.
    """

    def __init__(
        self,
        split: Split,
        data: DataSet,
        config: Config,
        process: ProcessInfo,
        generator: torch.Generator | None = None,
        bad: BadImages | None = None,
    ) -> None:
        self.split, self.config, self.process, self.generator = split, config, process, generator
        self.bad = bad or BadImages()
        self.device = process.device
        blank = torch.empty(1, data.channels, 1, 1, device=self.device)
        self.mean, self.std = (255 * numbers for numbers in data.normalization.tensors(blank))
        self.prepare(split, data)

    @abstractmethod
    def prepare(self, split: Split, data: DataSet) -> None:
        """Prepare what all batches share."""

    def __len__(self) -> int:
        if self.generator is None:
            mine = range(self.process.rank, len(self.split), self.process.world)
            return math.ceil(len(mine) / self.config.batch_size)
        return len(self.split) // self.config.batch_size * self.config.accumulate

    def rows(self) -> list[Tensor]:
        """Draw the rows of every batch of an epoch."""
        rank, world, size = self.process.rank, self.process.world, self.config.batch_size
        if self.generator is None:
            mine = torch.arange(len(self.split))[rank::world]
            return list(mine.split(size)) if len(mine) else []
        order = torch.randperm(len(self.split), generator=self.generator).repeat_interleave(self.config.repeats)
        order = order[: len(self.split) // size * size]
        return list(order.view(len(self), world, -1)[:, rank])

    def normalise(self, images: Tensor) -> Tensor:
        """Return uint8 images as float32, with mean zero and standard deviation one over the data set."""
        return images.float().sub_(self.mean).div_(self.std)

    def erased(self, images: Tensor) -> Tensor:
        """Fill a random box of some training images with noise, if the config asks for it."""
        return erase(images, self.config.erasing) if self.config.erasing and self.generator is not None else images

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch: normalised images ``(B, C, H, W)`` and labels ``(B,)``, on the device."""


class ArrayLoader(Loader):
    """Keeps the whole split on the device and crops, mirrors and normalises there, a batch at a time."""

    def prepare(self, split: Split, data: DataSet) -> None:
        """See :meth:`Loader.prepare`."""
        assert isinstance(split.images, Tensor)
        images = split.images.to(self.device)
        self.size = (images.shape[2], images.shape[3])
        self.images = images if self.generator is None else reflect(images, self.config.crop)
        self.labels = split.labels.to(self.device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.generator is None:
            mine, size = slice(self.process.rank, None, self.process.world), self.config.batch_size
            for images, labels in zip(self.images[mine].split(size), self.labels[mine].split(size), strict=True):
                if len(labels):  # a process may have none
                    yield self.normalise(images), labels
            return
        batches, device, count = self.rows(), self.device, len(self.split)
        # Drawn for every image of the split, so that the draws do not depend on the number of processes.
        shift = torch.randint(2 * self.config.crop + 1, (2, count), generator=self.generator).to(device)
        mirror = ((torch.rand(count, generator=self.generator) < 0.5) & self.config.flip).to(device)
        for rows in torch.stack(batches).to(device):
            images = crop_and_flip(self.images, rows, shift[0, rows], shift[1, rows], mirror[rows], self.size)
            yield self.erased(self.normalise(images)), self.labels[rows]


class FolderLoader(Loader):
    """Streams images through ``torch.utils.data.DataLoader`` as uint8, and normalises on the device.

    The images are files, or arrays that are resized or augmented one by one.
    """

    def prepare(self, split: Split, data: DataSet) -> None:
        """See :meth:`Loader.prepare`."""
        self.files = ImageFiles(split, self.config, self.generator is not None, self.fill(data))

    def fill(self, data: DataSet) -> tuple[int, ...]:
        """Return the mean colour of the data set, 0 to 255."""
        return tuple(self.mean.expand(data.channels, 1, 1).flatten().round().int().tolist())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rows = [rows.tolist() for rows in self.rows()]
        for images, labels in self.read(self.files, self._seeds(), batch_sampler=rows):
            if len(images):
                yield self.erased(self.normalise(images)), labels
            elif self.generator is not None:
                raise RunError(f"none of the {len(self.split)} training images can be read")

    def read(self, files: Dataset[Item], seeds: torch.Generator, **batches: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 images and labels on the device, in batches; a batch without readable images is empty."""
        loader = DataLoader(
            files,
            **batches,
            num_workers=self.config.workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            generator=seeds,
            worker_init_fn=_ignore_interrupt,
        )
        for images, labels, bad in loader:
            self.bad.add(bad)
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def _seeds(self) -> torch.Generator:
        """Return the generator that seeds the workers; the default would be torch's global generator.

        The order of rows is the same in all processes, the augmentation is not.
        """
        if self.generator is None:
            return torch.Generator()
        drawn = int(torch.randint(2**48, (), generator=self.generator))
        return torch.Generator().manual_seed(drawn + 1_000_003 * self.process.rank)


class StreamLoader(FolderLoader):
    """Reads a stream, of which every process and worker has a part, and cuts it into batches of one size.

    A process whose part is too short for the batches of an epoch reads its part of another order after it.
    """

    split: Stream

    def prepare(self, split: Split, data: DataSet) -> None:
        """See :meth:`Loader.prepare`."""
        self.transform = transform(split, self.config, self.generator is not None, self.fill(data))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.batches():
            yield self.erased(self.normalise(images)), labels

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the batches of an epoch as uint8."""
        if self.generator is None:
            return regroup(self.once(None, self._seeds()), self.config.batch_size)
        order, seeds = int(torch.randint(2**31, (), generator=self.generator)), self._seeds()
        blocks = (block for again in count() for block in self.once(order + again, seeds))
        return islice(
            regroup(blocks, self.config.batch_size // (self.process.world * self.config.accumulate)), len(self)
        )

    def once(self, order: int | None, seeds: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the part of this process to its end.

        Raises:
            RunError: It has no training images that can be read.
        """
        part, found = StreamImages(self.split, self.transform, self.process.rank, self.process.world, order), 0
        for images, labels in self.read(part, seeds, batch_size=self.config.batch_size):
            found += len(images)
            if len(images):
                yield images, labels
        if not found and order is not None:
            raise RunError(f"none of the {len(self.split)} training images can be read")


def _ignore_interrupt(worker: int) -> None:
    """Ignore Ctrl-C in a worker process: its parent ends it, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def evaluation_loader(
    split: Split, data: DataSet, config: Config, process: ProcessInfo, bad: BadImages | None = None
) -> Loader:
    """Return a loader that yields each image of a split once, in order."""
    return _kind(split, config.evaluation_size)(split, data, config, process, None, bad)


def _kind(split: Split, size: int, at_once: bool = True) -> type[Loader]:
    """Return the loader of a split: of images in memory of that size whole batches may be augmented at once."""
    if isinstance(split, Stream):
        return StreamLoader
    return ArrayLoader if has_size(split, size) and at_once else FolderLoader


def loaders(
    config: Config, data: DataSet, process: ProcessInfo, run: Path | None = None
) -> tuple[Loader, Loader, Loader]:
    """Return the loaders of the training, validation and test images.

    Args:
        config: Batch size, pieces, augmentation, what happens to bad images.
        data: The data set.
        process: This process.
        run: Directory that gets a list of the images that cannot be read; None for no list.

    Raises:
        RunError: The batch cannot be divided evenly, or is larger than the training set.
    """
    pieces = process.world * config.accumulate
    if config.batch_size % pieces:
        raise RunError(f"batch_size {config.batch_size} must divide by {pieces} (processes times accumulate)")
    if config.batch_size > len(data.train):
        raise RunError(f"batch_size {config.batch_size} exceeds the {len(data.train)} training images: lower it")
    if config.augment and data.channels != 3:
        raise RunError(f"augment needs images of 3 channels, and these have {data.channels}: leave augment out")
    if config.repeats > 1 and isinstance(data.train, Stream):
        raise RunError("repeats needs images that are drawn by index, and a stream is read in order: leave repeats out")
    bad = bad_images(config, run)
    at_once = not config.augment and config.repeats == 1  # copies of an image have different crops
    kind = _kind(data.train, config.image_size, at_once)
    train = kind(data.train, data, config, process, torch.Generator().manual_seed(config.seed), bad)
    val = evaluation_loader(data.val, data, config, process, bad)
    test = val if data.test is data.val else evaluation_loader(data.test, data, config, process, bad)
    return train, val, test


def bad_images(config: Config, run: Path | None = None) -> BadImages:
    """Return how a config treats unreadable images, which are listed in the run directory."""
    return BadImages(config.bad_images == "skip", run and run / "bad_images.txt")
