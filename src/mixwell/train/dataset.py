"""Data sets: images, labels, class names, and a fingerprint that a resumed run compares."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mixwell.normalization import Normalization
from mixwell.train.errors import RunError
from mixwell.train.images import Encoded

SPLITS = ("train", "val", "test")


class Rows(Protocol):
    """N images that a package reads when they are asked for."""

    def __getitem__(self, row: int) -> Path | Encoded: ...

    def select(self, rows: list[int]) -> Rows:
        """Return the given rows, in their order."""
        ...


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 tensor of shape ``(N, C, H, W)``, the paths of N image files, or N images in another place.
        labels: Class indices, int64, shape ``(N,)``; or 0 and 1 for several labels per image, shape ``(N, classes)``.
    """

    images: Tensor | list[Path] | Rows
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Split:
        """Return the given rows, in their order."""
        if isinstance(self.images, Tensor):
            return Split(self.images[rows], self.labels[rows])
        chosen = rows.tolist()
        images = [self.images[i] for i in chosen] if isinstance(self.images, list) else self.images.select(chosen)
        return Split(images, self.labels[rows])

    def head(self) -> Split:
        """Return a split whose images can be read in any order: this one, or the first images of a stream."""
        return self

    def counts(self, classes: int) -> list[int]:
        """Return the number of images of each class."""
        if self.labels.ndim == 2:
            return self.labels.sum(0).long().tolist()
        return torch.bincount(self.labels, minlength=classes).tolist()

    def digest(self) -> str:
        """Return a hash of labels and file names, in their order; names start at the folder that holds all files."""
        found = hashlib.blake2b(self.labels.numpy().tobytes(), digest_size=8)
        if isinstance(self.images, list) and self.images:
            folders = {path.parent: str(path.parent.absolute()) for path in self.images}
            start = len(os.path.commonpath(folders.values()))
            for path in self.images:
                found.update(os.fsencode(f"{folders[path.parent][start:]}/{path.name}\n"))
        return found.hexdigest()

    def one_label(self, classes: Sequence[str]) -> tuple[Tensor, list[str]]:
        """Return one label per image, and its names: several labels of an image become one that names them all.

        Example:
            >>> split = Split([Path("x.jpg"), Path("y.jpg")], torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
            >>> split.one_label(["ant", "bee"])
            (tensor([1, 0]), ['bee', 'ant + bee'])
        """
        if self.labels.ndim == 1:
            return self.labels, list(classes)
        sets, labels = self.labels.unique(dim=0, return_inverse=True)
        return labels, [" + ".join(classes[int(i)] for i in row.nonzero()[:, 0]) or "none" for row in sets]


@dataclass(frozen=True)
class Source:
    """A data set on the disk. Its splits are read when they are needed.

    Attributes:
        splits: What reads each split that exists, of ``"train"``, ``"val"`` and ``"test"``.
        classes: Name of each class, by index.
        channels: Channels of the images.
        normalization: How images are normalized.
        skipped: Number of files that are not images, by kind; complete once the splits are read.
        where: Where it lies, for error messages.
    """

    splits: Mapping[str, Callable[[], Split]]
    classes: list[str]
    channels: int
    normalization: Normalization
    where: str
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class DataSet:
    """What a run is trained and measured on.

    Attributes:
        train, val, test: The splits; ``val`` and ``test`` are the same object if there is only one of them.
        classes: Name of each class, by index.
        channels: Channels of the images.
        normalization: How images are normalized.
        skipped: Number of files in the folders of the data set that are not images, by kind.
    """

    train: Split
    val: Split
    test: Split
    classes: list[str]
    channels: int
    normalization: Normalization
    skipped: Counter[str] = field(default_factory=Counter)

    def fingerprint(self) -> dict[str, Any]:
        """Return class names, and the number of images of each class and a hash for each split, as plain values.

        Example:
            >>> split = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 1]))
            >>> DataSet(split, split, split, ["ant", "bee"], 1, Normalization(0.5, 0.5)).fingerprint()["train"]
            [1, 2]
        """
        splits = {"train": self.train, "val": self.val, "test": self.test}
        counts = {name: split.counts(len(self.classes)) for name, split in splits.items()}
        return {"classes": self.classes} | counts | {"hashes": [split.digest() for split in splits.values()]}

    def check_fingerprint(self, theirs: object) -> None:
        """Compare with the fingerprint that a run has stored.

        Raises:
            RunError: The data set has other classes or other images now, or what is stored is damaged.
        """
        mine = self.fingerprint()
        if not isinstance(theirs, dict) or not all(isinstance(theirs.get(key), list) for key in mine):
            raise RunError("the checkpoint does not say which data set it was made with: start a new run with --out")
        change = "the data set has changed since the run began"
        fix = "restore it, name the right folder with --data, or start a new run with --out"
        if mine["classes"] != theirs["classes"]:
            raise RunError(f"{change}: {difference(theirs['classes'], mine['classes'])}; {fix}")
        for split in ("train", "val", "test"):
            for name, now, before in zip(self.classes, mine[split], theirs[split], strict=False):
                if now != before:
                    raise RunError(f"{change}: class {name!r} has {now} {split} images, {before} before; {fix}")
        for split, now, before in zip(("train", "val", "test"), mine["hashes"], theirs["hashes"], strict=False):
            if now != before:
                raise RunError(f"{change}: the {split} images have other file names or labels, or another order; {fix}")


def class_name(text: str) -> str:
    """Return the name of a class in the one form that is compared and stored.

    Unicode writes an accent as part of a letter or as a character of its own, which looks the same; macOS stores file
    names in the second form. Bytes of a file name that are not UTF-8 are escaped.

    Example:
        >>> class_name("Mu\u0308cke") == "M\u00fccke"
        True
    """
    return unicodedata.normalize("NFC", text).encode(errors="backslashreplace").decode()


def difference(expected: Sequence[str], found: Sequence[str]) -> str:
    """Say how two lists of class names differ.

    Example:
        >>> difference(["ant", "bee"], ["ant", "wasp"]), difference(["ant", "bee"], ["bee", "ant"])
        ("class 'bee' is missing, class 'wasp' is new", 'the classes are in another order')
    """
    missing, new = (
        [name for name in these if name not in set(others)] for these, others in ((expected, found), (found, expected))
    )
    parts = [_named(names, words) for names, words in ((missing, "missing"), (new, "new")) if names]
    return ", ".join(parts) or "the classes are in another order"


def _named(names: list[str], word: str) -> str:
    shown = ", ".join(repr(name) for name in names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
    return f"class {shown} is {word}" if len(names) == 1 else f"classes {shown} are {word}"


def match_classes(split: Split, classes: Sequence[str], wanted: Sequence[str]) -> Split:
    """Return a split with the class indices of another list of the same class names.

    Args:
        split: Images and labels.
        classes: Names that the labels index.
        wanted: Names that the labels are to index.

    Raises:
        RunError: The names are not the same.

    Example:
        >>> split = Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]))
        >>> match_classes(split, ["bee", "ant"], ["ant", "bee"]).labels
        tensor([1, 0])
    """
    classes, wanted = ([class_name(name) for name in names] for names in (classes, wanted))
    if classes == wanted:
        return split
    if sorted(classes) != sorted(wanted) or len(set(wanted)) < len(wanted):
        raise RunError(f"the images have other classes than the model: {difference(wanted, classes)}")
    places = {name: index for index, name in enumerate(wanted)}
    order = torch.tensor([places[name] for name in classes])
    if split.labels.ndim == 2:
        return Split(split.images, split.labels[:, order.argsort()])
    return Split(split.images, order[split.labels])
