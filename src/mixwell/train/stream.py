"""Images in shards that are read from start to end: a part for each process and worker, and batches of one size."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mixwell.train.dataset import Split
from mixwell.train.errors import RunError
from mixwell.train.images import Encoded

BUFFER = 1000  # images from which the next one is drawn at random
HEAD = 256  # images that pictures choose from

Example = tuple[Encoded, int]  # an image and the index of its class


@dataclass(frozen=True)
class Stream(Split, ABC):
    """Images that cannot be read in any order, and whose labels are unknown before they are read.

    Attributes:
        length: Number of images.
        classes: Number of classes.
        names: Names of the shards, which a resumed run compares.
    """

    images: list[Path] = field(default_factory=list, init=False)
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long), init=False)
    length: int
    classes: int
    names: tuple[str, ...]

    @abstractmethod
    def examples(self, rank: int, world: int, seed: int | None) -> Iterator[Example]:
        """Yield the part of a process, or in a worker of a ``DataLoader`` the part of the worker.

        All parts together are all images, each once.

        Args:
            rank: Number of the process.
            world: Number of all processes.
            seed: Seed of a random order, the same in all processes; None for the order of the shards.
        """

    def __len__(self) -> int:
        return self.length

    def take(self, rows: Tensor) -> Split:
        """Refuse to choose images.

        Raises:
            RunError: Always.
        """
        raise RunError(
            "images of a stream are read in their order and cannot be chosen: use a data set of another kind"
        )

    def counts(self, classes: int) -> list[int]:
        """Return nothing, as the labels are unknown."""
        return []

    def digest(self) -> str:
        """Return a hash of the file names of the shards and the number of images."""
        names = [Path(name).name for name in self.names]
        return hashlib.blake2b(os.fsencode("\n".join([*names, str(self.length)])), digest_size=8).hexdigest()

    def head(self) -> Split:
        """Return the first images."""
        found = list(islice(self.examples(0, 1, None), HEAD))
        return Split([image for image, _ in found], torch.tensor([label for _, label in found]))  # type: ignore[arg-type]


def deal(shards: list[str], rank: int, world: int) -> tuple[list[str], int, int]:
    """Return the shards of this process and worker, the first image of theirs to keep, and the step to the next one.

    Shards are dealt to processes if their number divides evenly. Otherwise every process reads all shards and keeps one
    image of ``world``. The shards of a process are dealt to its workers.

    Example:
        >>> deal(["a", "b", "c", "d"], 1, 2), deal(["a", "b", "c"], 1, 2)
        ((['b', 'd'], 0, 1), (['a', 'b', 'c'], 1, 2))
    """
    even = len(shards) % world == 0
    mine, worker = shards[rank::world] if even else shards, get_worker_info()
    if worker:
        mine = mine[worker.id :: worker.num_workers]
    return (mine, 0, 1) if even else (mine, rank, world)


def shuffled(examples: Iterable[Example], seed: int) -> Iterator[Example]:
    """Shuffle a stream: each example is drawn from the next ``BUFFER`` ones."""
    draws, buffer = Random(seed), []
    for example in examples:
        buffer.append(example)
        if len(buffer) > BUFFER:
            place = draws.randrange(len(buffer))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            yield buffer.pop()
    draws.shuffle(buffer)
    yield from buffer


def regroup(blocks: Iterable[tuple[Tensor, Tensor]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut images and labels that come in blocks into batches of one size; the last batch may be smaller.

    Example:
        >>> blocks = [(torch.arange(n), torch.arange(n)) for n in (2, 3, 1, 1)]
        >>> [images.tolist() for images, _ in regroup(blocks, 3)]
        [[0, 1, 0], [1, 2, 0], [0]]
    """
    rest: list[Tensor] = []
    for block in blocks:
        rest = [torch.cat(parts) for parts in zip(rest, block, strict=True)] if rest else list(block)
        while len(rest[0]) >= size:
            yield rest[0][:size], rest[1][:size]
            rest = [part[size:] for part in rest]
    if rest and len(rest[0]):
        yield rest[0], rest[1]


def class_names(root: Path) -> list[str]:
    """Return the lines of ``classnames.txt``, the names of the classes in the order of their indices.

    Raises:
        RunError: It is missing, or has fewer than two lines.
    """
    path = root / "classnames.txt"
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        names = []
    if len(names) < 2:
        raise RunError(f"expected the names of the classes in {path}, one a line, in the order of their indices")
    return names


def needed(package: str, dataset: str) -> RunError:
    """Return the error that says which package is missing."""
    return RunError(f"--dataset {dataset} needs the package {package}: pip install 'mixwell[{package}]'")
