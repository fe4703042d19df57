"""Read images and the bounding boxes of their objects from a table (CSV)."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mixwell.train import images as files
from mixwell.train.errors import RunError, check_memory

CORNERS = (
    ("bbox_x", "bbox_y", "bbox_w", "bbox_h"),
    ("x", "y", "w", "h"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
)
Row = Mapping[str, str]


@dataclass
class Objects:
    """Images with one class each, and the boxes of what the class names.

    Attributes:
        images: uint8, shape ``(N, 3, S, S)``; the whole image, resized to a square.
        boxes: ``(x1, y1, x2, y2)`` in pixels of these, shape ``(N, M, 4)``; images with fewer boxes are filled up with
            boxes of no area.
        labels: Class indices, shape ``(N,)``.
        names: File names.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    names: list[str]


@dataclass(frozen=True)
class Entry:
    """One image of a table.

    Attributes:
        file: Its path below a folder.
        boxes: ``(x1, y1, x2, y2)`` in pixels of the file.
        split: Such as ``"test"``; empty if the table has no column ``split``.
        class_index: Empty if the table has no such column.
    """

    file: str
    boxes: list[list[float]]
    split: str = ""
    class_index: str = ""

    @property
    def class_name(self) -> str:
        """The class index, or else the folder of the file."""
        return self.class_index or Path(self.file).parent.name


def read_objects(root: Path, table: Path, size: int, count: int, seed: int = 0) -> Objects:
    """Read a table of boxes and ``count`` of its images at random; of the split ``test`` if there is one.

    Raises:
        RunError: See :func:`read_table` and :func:`read_images`.
    """
    entries = read_table(table)
    return read_images(root, shuffled([e for e in entries if e.split == "test"] or entries, seed), table, size, count)


def read_table(table: Path) -> list[Entry]:
    """Read a table of boxes; rows of the same file are boxes of one image.

    Args:
        table: CSV with the columns ``file`` and one of ``CORNERS`` in any order, optionally ``split`` and
            ``class_index``.

    Raises:
        RunError: The table cannot be read, a column is missing, or a box is not four finite numbers.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [{str(k).strip(): (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"cannot read the boxes in {table}: {error}") from None
    columns = next((c for c in CORNERS if rows and set(c) <= rows[0].keys()), None)
    if columns is None or "file" not in rows[0]:
        raise RunError(f"{table} must have a column file and {', or '.join(', '.join(c) for c in CORNERS)}")
    found: dict[str, Entry] = {}
    for row in rows:
        new = Entry(row["file"], [], row.get("split", ""), row.get("class_index", ""))
        found.setdefault(new.file, new).boxes.append(_corners(row, columns, table))
    return [*found.values()]


def shuffled(entries: list[Entry], seed: int = 0) -> list[Entry]:
    """Return the entries in random order."""
    return [entries[index] for index in torch.randperm(len(entries), generator=torch.Generator().manual_seed(seed))]


def read_images(root: Path, entries: list[Entry], table: Path, size: int, count: int) -> Objects:
    """Read the first ``count`` images of a table that can be used, and resize them to squares.

    Images that do not exist, and those without a box inside the image, are left out; a line on standard error says how
    many.

    Args:
        root: Folder that the file names are relative to.
        entries: Of the table.
        table: For errors.
        size: Side of the squares (pixels).
        count: Largest number of images.

    Raises:
        RunError: An image cannot be read, or fewer than two are left.
    """
    there = [entry for entry in entries if (root / entry.file).is_file()]
    if missing := sorted({entry.file for entry in entries} - {entry.file for entry in there}):
        print(f"left out {len(missing)} of {len(entries)} images: no file {root / missing[0]}", file=sys.stderr)
    check_memory(min(count, len(there)), size)
    chosen, pixels, scaled, outside = list[Entry](), [], [], []
    for entry in there:
        if len(chosen) == count:
            break
        image = files.read(root / entry.file)
        inside = _inside(entry.boxes, image.size, size)
        if not inside:
            outside.append(entry.file)
            continue
        chosen.append(entry)
        pixels.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
        scaled.append(inside)
    if outside:
        print(f"left out {len(outside)} images: no box inside {outside[0]}", file=sys.stderr)
    if len(chosen) < 2:
        raise RunError(f"{table} names {len(chosen)} images with boxes in {root}, expected two or more")
    most = max(len(each) for each in scaled)
    filled = torch.tensor([each + [[0.0] * 4] * (most - len(each)) for each in scaled])
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Objects(stacked, filled, _labels([e.class_name for e in chosen]), [e.file for e in chosen])


def _corners(row: Row, columns: tuple[str, ...], table: Path) -> list[float]:
    try:
        left, top, right, bottom = (float(row[name]) for name in columns)
        if not math.isfinite(left + top + right + bottom):
            raise ValueError("NaN or Inf")
    except (KeyError, ValueError):
        raise RunError(f"{table}: the box of {row['file']} must be four finite numbers") from None
    return [left, top, right, bottom] if columns in CORNERS[2:] else [left, top, left + right, top + bottom]


def _inside(boxes: list[list[float]], image: tuple[int, int], size: int) -> list[list[float]]:
    """Return the boxes cut off at the border of the image and scaled to the square; those without area are left out."""
    limits = (*image, *image)
    cut = [[min(max(value, 0), limit) / limit * size for value, limit in zip(b, limits, strict=True)] for b in boxes]
    return [b for b in cut if b[2] > b[0] and b[3] > b[1]]


def _labels(names: list[str]) -> Tensor:
    """Return class indices: the names themselves where they are numbers, else their places in alphabetical order."""
    if all(name.isdecimal() for name in names):
        return torch.tensor([int(name) for name in names])
    classes = sorted(set(names))
    return torch.tensor([classes.index(name) for name in names])
