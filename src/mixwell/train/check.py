"""``mixwell check``: read every image of a data set once, before a run depends on it."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mixwell.train import checksums, images
from mixwell.train.config import Config
from mixwell.train.data import SETS
from mixwell.train.dataset import SPLITS
from mixwell.train.errors import Parser, RunError
from mixwell.train.files import save
from mixwell.train.paths import expand

ABOUT = """\
Read every image file of a data set once and report what a training run would find: the splits and classes, files that
are not images, images that cannot be read, and files that differ from those that the authors publish (MD5 checksums of
CIFAR, CUB-200-2011 and iNaturalist). The exit status is 0 if a run can use all of it, else 2.

  mixwell check DIR             DIR/train/CLASS/*.jpg, DIR/val, DIR/test; or any folder of images
  mixwell check DIR --list bad.txt
  mixwell check DIR --dataset cifar100
  mixwell check labels.csv --dataset csv"""


def read_all(paths: Sequence[Path], threads: int) -> tuple[Counter[tuple[int, int]], list[images.BadImageError]]:
    """Read image files, several at a time; return how many have each size, and the errors of the others."""
    sizes: Counter[tuple[int, int]] = Counter()
    bad: list[images.BadImageError] = []

    def size(path: Path) -> tuple[int, int] | images.BadImageError:
        try:
            return images.read(path).size
        except images.BadImageError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(size, paths):
            if isinstance(found, images.BadImageError):
                bad.append(found)
            else:
                sizes[found] += 1
    return sizes, bad


def describe(dataset: str, root: Path) -> tuple[list[str], list[Path]]:
    """Return lines about a data set, or a folder of images without splits and classes, and the paths of its images.

    Raises:
        RunError: A run could not use it.
    """
    if dataset == "folder" and not any((root / name).is_dir() for name in SPLITS):
        found = images.find_some(root)
        return list(filter(None, [images.summary(found.skipped)])), found.paths
    source = SETS[dataset](Config(dataset=dataset, data=str(root), bad_images="skip"))
    lines, paths, classes = [], [], len(source.classes)
    for name, read in source.splits.items():
        split = read()
        counts = split.counts(classes)
        each = f", {min(counts)} to {max(counts)} of each" if counts else ""
        lines.append(f"{name}: {len(split)} images of {classes} classes{each}")
        paths += split.images if isinstance(split.images, list) else []
    return [*lines, *checksums.compare(dataset, root), *filter(None, [images.summary(source.skipped)])], paths


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
        raise RunError(f"no folder or CSV file {root}")
    if threads < 1:
        raise RunError(f"threads must be at least 1, got {threads}")
    lines, paths = describe(args.dataset, root)
    sizes, bad = read_all(paths, threads)
    if paths:
        lines.append(f"{sizes.total()} images can be read")
    if sizes:
        widths, heights = zip(*sizes, strict=True)
        lines[-1] += f", {min(widths)}x{min(heights)} to {max(widths)}x{max(heights)} pixels"
    print("\n".join([*lines, *map(str, bad)]))
    if args.list:
        save(expand(args.list), "".join(f"{error.path}\n" for error in bad).encode(errors="surrogateescape"))
    if bad:
        raise RunError(
            f"{len(bad)} of {len(paths)} images cannot be read: repair or remove them, or train with --bad_images skip"
        )
