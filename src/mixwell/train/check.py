"""``mixwell check``: read every image of a data set once, before a run depends on it."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mixwell.train import images
from mixwell.train.config import Config
from mixwell.train.data import SETS
from mixwell.train.dataset import SPLITS, Source
from mixwell.train.errors import Parser, RunError
from mixwell.train.files import save
from mixwell.train.paths import expand

ABOUT = """\
Read every image of a data set once and report what a training run would find: the splits and classes, files that are
not images, and images that cannot be read. The exit status is 0 if a run can use all of it, else 2.

  mixwell check DIR             DIR/train/CLASS/*.jpg, DIR/val, DIR/test; or any folder of images
  mixwell check DIR --list bad.txt
  mixwell check DIR --dataset cifar100
  mixwell check labels.csv --dataset csv"""


@dataclass
class Report:
    """The result of reading image files.

    Attributes:
        good: Number of images that were read.
        sizes: How many images have each size (width, height).
        bad: Path and reason of each image that could not be read.
    """

    good: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    bad: list[images.BadImageError] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as text."""
        lines = [f"{self.good} images can be read"]
        if self.sizes:
            widths, heights = zip(*self.sizes, strict=True)
            lines[0] += f", {min(widths)}x{min(heights)} to {max(widths)}x{max(heights)} pixels"
        return lines + [str(error) for error in self.bad]


def read_all(paths: Sequence[Path], threads: int) -> Report:
    """Read image files, several at a time."""
    report = Report()

    def size(path: Path) -> tuple[int, int] | images.BadImageError:
        try:
            return images.read(path).size
        except images.BadImageError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(size, paths):
            if isinstance(found, images.BadImageError):
                report.bad.append(found)
            else:
                report.good += 1
                report.sizes[found] += 1
    return report


def check(dataset: str, root: Path, threads: int) -> tuple[list[str], Report]:
    """Check a data set, or a folder of images without splits and classes.

    Returns:
        Lines about the splits, and a report about the image files.

    Raises:
        RunError: A run could not use it.
    """
    if dataset == "folder" and not any((root / name).is_dir() for name in SPLITS):
        found = images.find(root)
        if not found.paths:
            raise RunError(f"no images in {root}: {images.summary(found.skipped) or 'the folder is empty'}")
        return [line for line in [images.summary(found.skipped)] if line], read_all(found.paths, threads)
    lines, paths = describe(SETS[dataset](Config(dataset=dataset, data=str(root), bad_images="skip")))
    return lines, read_all(paths, threads)


def describe(source: Source) -> tuple[list[str], list[Path]]:
    """Read all splits of a data set; return lines about them, and the paths of their images."""
    lines, paths = [], []
    for name, read in source.splits.items():
        split = read()
        counts = split.counts(len(source.classes))
        lines.append(
            f"{name}: {len(split)} images of {len(source.classes)} classes, {min(counts)} to {max(counts)} of each"
        )
        paths += split.images if isinstance(split.images, list) else []
    skipped = images.summary(source.skipped)
    return lines + [skipped] * bool(skipped), paths


def main(argv: Sequence[str]) -> None:
    """Check the folder or data set of the arguments, and print the result.

    Raises:
        RunError: A training run could not use it; the sentence says why.
    """
    parser = Parser("mixwell check", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="folder of a data set, or its CSV file")
    kinds = [name for name in SETS if name != "digits"]
    parser.add_argument("--dataset", choices=kinds, default="folder", help="kind of data set [folder]")
    parser.add_argument("--threads", type=int, metavar="N", help="files read at a time [one for each core]")
    parser.add_argument("--list", metavar="FILE", help="write the paths of the bad images to this file, one a line")
    args = parser.parse_args(argv)
    root, threads = expand(args.folder), args.threads or os.cpu_count() or 1
    if not root.exists():
        raise RunError(f"nothing at {root}: expected a folder, or a CSV file")
    if threads < 1:
        raise RunError(f"threads must be at least 1, got {threads}")
    lines, report = check(args.dataset, root, threads)
    print("\n".join([*lines, *(report.lines() if report.good or report.bad else [])]))
    if args.list:
        lines = "".join(f"{error.path}\n" for error in report.bad)
        save(expand(args.list), lines.encode(errors="surrogateescape"))
    if report.bad:
        raise RunError(
            f"{len(report.bad)} of {report.good + len(report.bad)} images cannot be read: repair or remove them, or "
            "train with --bad_images skip"
        )
