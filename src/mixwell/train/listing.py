"""Data sets whose labels lie beside the images, in a list: a CSV file, with one label or several per image."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mixwell.normalization import IMAGENET
from mixwell.train.config import Config
from mixwell.train.dataset import SPLITS, Source, Split, class_name
from mixwell.train.errors import RunError, closest
from mixwell.train.paths import expand

COLUMNS = ("file", "label", "labels", "split")


class Entry(NamedTuple):
    """One image of a list.

    Attributes:
        split: ``"train"``, ``"val"`` or ``"test"``.
        file: Path of the image.
        classes: Names of its classes.
        where: Line and file, for error messages.
    """

    split: str
    file: Path
    classes: Sequence[str]
    where: str


def listed(config: Config, entries: Iterable[Entry], classes: list[str], where: Path) -> Source:
    """Return a list of images as a data set.

    If any image has another number of labels than one, the labels of all images are rows of 0 and 1.

    Args:
        config: Says whether missing images end the run.
        entries: The images, in any order.
        classes: Names of the classes, in the order of their indices.
        where: The list, for error messages.

    Raises:
        RunError: There are fewer than two classes, a class is not among them, or an image is listed twice, for
            different splits or with different labels.
    """
    by_split = _by_split(entries)
    if len(classes) < 2:
        raise RunError(f"{where} has {len(classes)} classes: expected two or more")
    several = any(len(entry.classes) != 1 for found in by_split.values() for entry in found)
    index = {name: number for number, name in enumerate(classes)}

    def read(name: str) -> Split:
        labels = []
        for entry in by_split[name]:
            if unknown := [label for label in entry.classes if label not in index]:
                raise RunError(f"{entry.where} has an unknown class {unknown[0]!r}{closest(unknown[0], classes)}")
            if config.bad_images == "stop" and not entry.file.is_file():
                raise RunError(f"{entry.where} names an image that does not exist: {entry.file}")
            labels.append([index[label] for label in entry.classes])
        files = [entry.file for entry in by_split[name]]
        if not several:
            return Split(files, torch.tensor(labels).flatten())
        rows = torch.zeros(len(files), len(classes))
        for row, found in zip(rows, labels, strict=True):
            row[found] = 1
        return Split(files, rows)

    splits = {name: lambda name=name: read(name) for name in SPLITS if name in by_split}
    return Source(splits, classes, 3, IMAGENET, str(where))


def _by_split(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    seen: dict[Path, Entry] = {}
    for entry in entries:
        other = seen.setdefault(entry.file, entry)
        if other.split != entry.split:
            raise RunError(f"{entry.where} lists an image for {entry.split} that is also listed for {other.split}")
        if sorted(other.classes) != sorted(entry.classes):
            raise RunError(
                f"{entry.where} has other labels than {other.where}, with the same image: give all in one row"
            )
        found.setdefault(entry.split, []).append(entry)
    return found


def csv_file(config: Config) -> Source:
    """Return the images that a CSV file lists; ``config.data`` is its path, or a folder with ``labels.csv`` in it.

    The first line names the columns: ``file`` (relative to the folder of the CSV file), ``label`` (one or several
    class names, separated by ``|`` or ``;``) or one column of 0 and 1 for each class, and if there are several splits
    ``split`` (train, val or test). Other columns are ignored where there is a column ``label``, or ``labels``.

    Raises:
        RunError: The file is missing or damaged, a column is missing, or a row cannot be understood.
    """
    path = expand(config.data or "data")
    path = path / "labels.csv" if path.is_dir() else path
    if not path.is_file():
        raise RunError(f"no CSV file {path}: name it with --data")
    lines = _lines(path)
    _, header = next(lines, ("", []))
    names = _class_columns(header, path)
    entries = [_entry(where, dict(zip(header, row, strict=True)), names, path) for where, row in lines]
    if not names:
        found = {name for entry in entries for name in entry.classes}
        numbers = all(name.isdecimal() for name in found)
        names = sorted(found, key=lambda name: (int(name) if numbers else 0, name))
    return listed(config, entries, names, path)


def _class_columns(header: list[str], path: Path) -> list[str]:
    """Check the names of the columns; return those of classes, which are none if one column holds all labels."""
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise RunError(f"{path} has more than one column {twice[0]!r}")
    if "file" not in header:
        raise RunError(f"{path} has no column 'file' in its first line, which is {','.join(header)[:80]!r}")
    others = [name for name in header if name not in COLUMNS]
    if "label" in header or "labels" in header:
        for name in others:
            if guess := closest(name, COLUMNS):
                raise RunError(f"{path} has an unknown column {name!r}{guess}")
        return []
    if not others:
        raise RunError(f"{path} has no labels: expected a column 'label', or a column of 0 and 1 for each class")
    return others


def _entry(where: str, row: dict[str, str], names: list[str], path: Path) -> Entry:
    split = row.get("split", "train").strip()
    if split not in SPLITS:
        raise RunError(f"{where} has the split {split!r}: expected {', '.join(SPLITS)}")
    if names:
        classes = [name for name in names if _one(row[name], name, where)]
    else:
        text = row["label"] if "label" in row else row["labels"]
        classes = [class_name(part.strip()) for part in text.replace(";", "|").split("|") if part.strip()]
        if not classes:
            raise RunError(f"{where} has no label; images of no class need a column of 0 and 1 for each class")
    return Entry(split, path.parent / row["file"].strip(), classes, where)


def _one(text: str, name: str, where: str) -> bool:
    if text.strip() not in ("0", "1", "0.0", "1.0"):
        raise RunError(
            f"{where} has {text[:40]!r} in column {name!r}: expected 0 or 1, or a column 'label' of class names"
        )
    return text.strip().startswith("1")


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines of a CSV file, each with its place; all have as many values as the first."""
    width = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                for row in filter(None, reader):
                    place = f"line {reader.line_num} of {path}"
                    row = row if width else [name.strip() for name in row]
                    width = width or len(row)
                    if len(row) != width:
                        raise RunError(f"{place} has {len(row)} values, and the first line has {width}")
                    yield place, row
            except csv.Error as error:
                raise RunError(f"line {reader.line_num} of {path} is damaged: {error}") from None
    except UnicodeDecodeError:
        raise RunError(f"cannot read {path}: it is not UTF-8 text") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
