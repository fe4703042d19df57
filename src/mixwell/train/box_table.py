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
from mixwell.train.errors import RunError

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


def read_objects(root: Path, table: Path, size: int, count: int, seed: int = 0) -> Objects:
    """Read a table of boxes and ``count`` of its images at random.

    Rows of the same file are boxes of one image. Images that do not exist, and those without a box inside the image,
    are left out; a line on standard error says how many.

    Args:
        root: Folder that the file names are relative to.
        table: CSV with the columns ``file`` and one of ``CORNERS`` in any order; optionally ``split``, of which only
            ``test`` is used if there is any, and ``class_index``, else the class is the folder of the file.
        size: Side of the squares that images are resized to (pixels).
        count: Largest number of images.
        seed: Seed of the choice.

    Raises:
        RunError: The table or an image cannot be read, a column is missing, or fewer than two images are left.
    """
    rows, columns = _rows(table)
    boxes: dict[str, list[list[float]]] = {}
    classes: dict[str, str] = {}
    for row in rows:
        boxes.setdefault(row["file"], []).append(_corners(row, columns, table))
        classes[row["file"]] = row.get("class_index") or Path(row["file"]).parent.name
    names = list(boxes)
    order = [names[index] for index in torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))]
    there = [name for name in order if (root / name).is_file()]
    if missing := sorted(set(names) - set(there)):
        print(f"left out {len(missing)} of {len(names)} images: no file {root / missing[0]}", file=sys.stderr)
    chosen, pixels, scaled, outside = [], [], [], []
    for name in there:
        if len(chosen) == count:
            break
        image = files.read(root / name)
        inside = _inside(boxes[name], image.size, size)
        if not inside:
            outside.append(name)
            continue
        chosen.append(name)
        pixels.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
        scaled.append(inside)
    if outside:
        print(f"left out {len(outside)} images: no box inside {outside[0]}", file=sys.stderr)
    if len(chosen) < 2:
        raise RunError(f"{table} names {len(chosen)} images with boxes in {root}, expected two or more")
    most = max(len(each) for each in scaled)
    filled = [each + [[0.0] * 4] * (most - len(each)) for each in scaled]
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Objects(stacked, torch.tensor(filled), _labels([classes[name] for name in chosen]), chosen)


def _rows(table: Path) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """Return the rows to use, without surrounding blanks, and the names of the columns of the box."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            read = [{str(k).strip(): (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"cannot read the boxes in {table}: {error}") from None
    rows = [row for row in read if row.get("split") == "test"] or read
    columns = next((c for c in CORNERS if rows and set(c) <= rows[0].keys()), None)
    if columns is None or "file" not in rows[0]:
        raise RunError(f"{table} must have a column file and {', or '.join(', '.join(c) for c in CORNERS)}")
    return rows, columns


def _corners(row: Row, columns: tuple[str, ...], table: Path) -> list[float]:
    try:
        left, top, right, bottom = corners = [float(row[name]) for name in columns]
    except (KeyError, ValueError):
        corners = [math.nan] * 4
        left, top, right, bottom = corners
    if not all(map(math.isfinite, corners)):
        raise RunError(f"{table}: the box of {row['file']} must be four finite numbers")
    return corners if columns in CORNERS[2:] else [left, top, left + right, top + bottom]


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
