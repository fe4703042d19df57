"""The images of Protocol B: the same balanced splits of CIFAR-100 every time, and crops and flips of a batch."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Split(NamedTuple):
    """Images in [0, 1], shape ``(n, 3, 32, 32)``, and superclass labels ``(n,)``."""

    images: Tensor
    labels: Tensor


class Data(NamedTuple):
    """The three splits of the protocol."""

    train: Split
    held_out: Split
    test: Split


def read(folder: Path, train_images: int, held_out_images: int) -> Data:
    """Read CIFAR-100 and choose the same balanced training and held-out images every time."""
    parts = []
    for name in ("train", "test"):
        with (folder / "cifar-100-python" / name).open("rb") as file:
            raw = pickle.load(file, encoding="latin1")  # noqa: S301  the published format of CIFAR-100
        images = torch.from_numpy(raw["data"]).view(-1, 3, 32, 32)
        parts.append((images, torch.tensor(raw["coarse_labels"]), torch.tensor(raw["fine_labels"])))
    (images, coarse, fine), (test_images, test_coarse, _) = parts
    chosen = balanced(fine, [train_images, held_out_images])
    splits = [Split(scaled(images[rows]), coarse[rows]) for rows in chosen]
    return Data(*splits, Split(scaled(test_images), test_coarse))


def balanced(classes: Tensor, counts: list[int]) -> list[Tensor]:
    """Return disjoint sets of rows with equally many of each class, the same at every call."""
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    rows: list[list[Tensor]] = [[] for _ in counts]
    kinds = classes.unique()
    for kind in kinds:
        members, start = order[classes[order] == kind], 0
        for found, count in zip(rows, counts, strict=True):
            share = count // len(kinds)
            found.append(members[start : start + share])
            start += share
    return [torch.cat(found) for found in rows]


def scaled(images: Tensor) -> Tensor:
    """Turn uint8 images into float32 in [0, 1], channels last in memory."""
    return (images.float() / 255).contiguous(memory_format=torch.channels_last)


def augmented(images: Tensor, generator: torch.Generator, crop: int) -> Tensor:
    """Shift every image by up to ``crop`` pixels, with black borders, and flip half of them."""
    count, size = len(images), images.shape[-1]
    padded = F.pad(images, (crop,) * 4)
    top, left = torch.randint(0, 2 * crop + 1, (2, count), generator=generator).unbind()
    columns = torch.arange(size).expand(count, size)
    columns = torch.where(torch.rand(count, 1, generator=generator) < 0.5, columns.flip(1), columns)
    rows = top[:, None] + torch.arange(size)
    columns = left[:, None] + columns
    pixels = padded.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return pixels.permute(0, 3, 1, 2)


def batches(split: Split, size: int, crop: int, generator: torch.Generator) -> Iterator[Split]:
    """Yield the augmented batches of one epoch; a last incomplete batch is dropped."""
    order = torch.randperm(len(split.labels), generator=generator)
    for rows in order.split(size):
        if len(rows) == size:
            yield Split(augmented(split.images[rows], generator, crop), split.labels[rows])
