"""The data set of a run: read, cut to a subset, and with validation images held out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.normalization import Normalization
from mixwell.parse import nearest
from mixwell.train.cifar import cifar10, cifar100
from mixwell.train.config import Config
from mixwell.train.dataset import DataSet, Source, Split, class_name
from mixwell.train.errors import RunError
from mixwell.train.huggingface import huggingface, huggingface_stream
from mixwell.train.image_folder import folder
from mixwell.train.layouts import aircraft, cars, cub200, inaturalist, places205, tiny_imagenet
from mixwell.train.listing import csv_file
from mixwell.train.litdata_chunks import litdata
from mixwell.train.stream import Stream
from mixwell.train.tar_shards import webdataset


def stratified(labels: Tensor, count: int, classes: int, both: bool = False) -> tuple[Tensor, Tensor]:
    """Choose ``count`` rows, the same share of each class and at least one of each, always the same ones.

    A larger choice contains a smaller one. Shares are rounded as seats are by the method of Webster and Sainte-Laguë.

    Args:
        labels: Class indices, shape ``(N,)``.
        count: How many rows are chosen, at least one for each class that occurs.
        classes: Number of classes.
        both: Whether at least one row of each class stays among the others as well.

    Returns:
        The chosen rows and the others, both ascending.

    Example:
        >>> labels = torch.tensor([0] * 40 + [1] * 3)
        >>> chosen, others = stratified(labels, 9, 2, both=True)
        >>> labels[chosen].bincount().tolist(), labels[others].bincount().tolist()
        ([8, 1], [32, 2])
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    turn = torch.empty(len(labels), dtype=torch.float64)  # when a row is chosen
    for label in range(classes):
        rows = order[labels[order] == label]
        turn[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / max(len(rows), 1)
        turn[rows[-1:]] = 2.0 if both else turn[rows[-1:]]
        turn[rows[:1]] = -1.0
    ranked = order[turn[order].argsort(stable=True)]
    return ranked[:count].sort().values, ranked[count:].sort().values


def digits(config: Config) -> Source:
    """Return scikit-learn's 1797 handwritten digits, enlarged from 8x8 pixels; the last 897 are the test set."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).view(-1, 1, 8, 8).float() * (255 / 16)
    size = (config.image_size, config.image_size)
    images = F.interpolate(images, size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
    both = Split(images, torch.from_numpy(labels).long())
    splits = {
        "train": lambda: both.take(torch.arange(900)),
        "test": lambda: both.take(torch.arange(900, 1797)),
    }
    return Source(splits, [str(digit) for digit in range(10)], 1, Normalization((0.305,), (0.32,)), "scikit-learn")


SETS: dict[str, Callable[[Config], Source]] = {
    **{make.__name__: make for make in (digits, cifar10, cifar100, folder)},
    "csv": csv_file,
    **{make.__name__: make for make in (aircraft, cars, cub200, inaturalist, places205, tiny_imagenet)},
    **{make.__name__: make for make in (huggingface, huggingface_stream, webdataset, litdata)},
}


def load(config: Config, only: str = "") -> DataSet:
    """Return the data set of a config, cut to its ``subset`` and with its ``val_split`` held out.

    Args:
        config: Names the data set.
        only: ``"val"`` or ``"test"`` to read just that split, which then stands for all three; ``""`` for all.

    Raises:
        RunError: The data set is unknown, missing, unreadable or too small; the sentence says what to do.
    """
    if config.dataset not in SETS:
        raise RunError(f"no data set called {config.dataset!r}{nearest(config.dataset, SETS)}")
    source = SETS[config.dataset](config)
    names = _splits(source, config, only)
    read: dict[str, Split] = {}
    for name in dict.fromkeys([names[only]] if only else ["train", *names.values()]):
        if name not in read:
            read |= _read(source, config, name)
    train, val, test = (read[names.get(only or name, name)] for name in ("train", "val", "test"))
    classes = list(map(class_name, source.classes))
    return DataSet(train, val, test, classes, source.channels, source.normalization, source.skipped)


def _splits(source: Source, config: Config, only: str) -> dict[str, str]:
    """Return which split serves to validate and which to test: one that exists, or ``"held"`` out of training."""
    there = [name for name in ("val", "test") if name in source.splits]
    val = "held" if config.val_split else "".join(there[:1])
    test = "".join(there[-1:]) or val
    if not test and only:
        raise RunError(f"no {only} images in {source.where}: expected a split test or val")
    if not test:
        raise RunError(
            f"no images to validate on in {source.where}: add a split val or test beside train, or hold out a share of "
            "the training images with --val_split 0.1"
        )
    return {"val": val, "test": test}


def _read(source: Source, config: Config, name: str) -> dict[str, Split]:
    """Read a split; the training images come with those held out of them."""
    if name not in ("train", "held"):
        return {name: source.splits[name]()}
    if "train" not in source.splits:
        raise RunError(f"no training images in {source.where}")
    train, held = source.splits["train"](), None
    if isinstance(train, Stream) and (config.subset or config.val_split):
        raise RunError(f"images of {config.dataset} are a stream and cannot be chosen: leave out subset and val_split")
    if config.subset:
        train = _subset(train, config.subset, source.classes)
    if config.val_split:
        train, held = _held_out(train, config.val_split, source.classes)
    return {"train": train} | ({"held": held} if held else {})


def _strata(labels: Tensor) -> Tensor:
    """Return the class by which an image is counted: of several labels the rarest."""
    if labels.ndim == 1:
        return labels
    without = (labels.sum(1) == 0)[:, None]  # images of no class are counted as one more class
    counts = torch.cat([labels.sum(0), torch.zeros(1)])
    return torch.where(torch.cat([labels, without], 1) > 0, counts, torch.inf).argmin(1)


def _subset(train: Split, count: int, classes: list[str]) -> Split:
    if count > len(train):
        raise RunError(f"subset asks for {count} training images, and there are {len(train)}")
    labels = _strata(train.labels)
    there = len(labels.unique())
    if count < there:
        raise RunError(f"subset {count} is smaller than the number of classes: use at least {there}, one image of each")
    return train.take(stratified(labels, count, len(classes) + 1)[0])


def _held_out(train: Split, share: float, classes: list[str]) -> tuple[Split, Split]:
    counts = train.counts(len(classes))
    for name, size in zip(classes, counts, strict=True):
        if size == 1:
            raise RunError(
                f"val_split needs two training images of each class, one for each side, and class {name!r} has one"
            )
    labels = _strata(train.labels)
    there = len(labels.unique())
    count = min(max(round(share * len(train)), there), len(train) - there)
    held, kept = (train.take(rows) for rows in stratified(labels, count, len(classes) + 1, both=True))
    for name, *sizes in zip(classes, counts, kept.counts(len(classes)), held.counts(len(classes)), strict=True):
        if sizes[0] and 0 in sizes:  # possible only where images have several labels
            raise RunError(f"val_split {share} leaves no image of class {name!r} on one side: use another share")
    return kept, held
