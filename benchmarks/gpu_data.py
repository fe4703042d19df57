"""Pack CIFAR-100 into two lossless files that a machine without network can be given, and read them back.

Each file holds half of the training images and half of the test images, the same number of each class, so one file
alone is a smaller but balanced data set. A file is a zip archive of lossless WebP mosaics and stays below 60 MB.

    python benchmarks/gpu_data.py                                    read ../shared/data/cifar100.tar.gz
    python benchmarks/gpu_data.py --source FOLDER                    a folder that torchvision's CIFAR100 can read
    python benchmarks/gpu_data.py --source cifar.npz --out data
"""

from __future__ import annotations

import argparse
import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SOURCE, FOLDER = ROOT.parent / "shared" / "data" / "cifar100.tar.gz", ROOT / "data"
NAMES = ("cifar100_1.zip", "cifar100_2.zip")
LIMIT = 60_000_000  # largest size of one file (bytes)
ROWS, COLUMNS = 25, 20  # images in one mosaic


@dataclass(frozen=True)
class Split:
    """Images ``(N, 3, 32, 32)`` uint8, class indices ``(N,)`` and positions in the published order ``(N,)``."""

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Split:
        return Split(self.images[rows], self.labels[rows], self.index[rows])


Splits = dict[str, Split]


def mosaic(images: np.ndarray) -> np.ndarray:
    """Lay up to 500 images out on a canvas of 25 x 20, row by row; the rest of the canvas is black."""
    full = np.zeros((ROWS * COLUMNS, *images.shape[1:]), np.uint8)
    full[: len(images)] = images
    side = images.shape[-1]
    grid = full.reshape(ROWS, COLUMNS, 3, side, side).transpose(0, 3, 1, 4, 2)
    return grid.reshape(ROWS * side, COLUMNS * side, 3)


def images_of(canvas: np.ndarray) -> np.ndarray:
    """Undo :func:`mosaic`: ``(H, W, 3)`` to ``(500, 3, side, side)``."""
    side = canvas.shape[0] // ROWS
    grid = canvas.reshape(ROWS, side, COLUMNS, side, 3).transpose(0, 2, 4, 1, 3)
    return grid.reshape(ROWS * COLUMNS, 3, side, side)


def decoded(data: bytes) -> np.ndarray:
    """Read the images of one WebP mosaic."""
    return images_of(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def from_mosaics(read: Callable[[str], bytes]) -> Splits:
    """Read a folder of WebP mosaics and ``labels.npz``, the form in which the tests of this project have the data."""
    labels, found = np.load(io.BytesIO(read("labels.npz"))), {}
    for name in ("train", "test"):
        classes = labels[f"{name}_fine"]
        files = range(-(-len(classes) // (ROWS * COLUMNS)))
        images = np.concatenate([decoded(read(f"{name}_{number:03d}.webp")) for number in files])
        found[name] = Split(images[: len(classes)], classes.astype(np.int64), np.arange(len(classes)))
    return found


def from_torchvision(folder: Path) -> Splits:
    """Read the published files through torchvision."""
    from torchvision.datasets import CIFAR100

    found = {}
    for name in ("train", "test"):
        data = CIFAR100(str(folder), train=name == "train")
        images = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
        found[name] = Split(images, np.array(data.targets, np.int64), np.arange(len(images)))
    return found


def from_npz(path: Path) -> Splits:
    """Read ``x_train``, ``y_train``, ``x_test`` and ``y_test``, images ``(N, 3, 32, 32)`` uint8."""
    with np.load(path) as arrays:
        return {
            name: Split(arrays[f"x_{name}"], arrays[f"y_{name}"].astype(np.int64), np.arange(len(arrays[f"y_{name}"])))
            for name in ("train", "test")
        }


def load(source: Path) -> Splits:
    """Read CIFAR-100 from an archive, a folder or an npz file.

    Raises:
        SystemExit: There is nothing at that path, or nothing that this program can read.
    """
    if not source.exists():
        raise SystemExit(f"There is no {source}: name the data with --source (a .tar.gz, a folder or an .npz).")
    if source.suffix == ".npz":
        return from_npz(source)
    if source.is_file():
        with tarfile.open(source) as archive:
            members = {Path(member.name).name: member for member in archive if member.isfile()}
            return from_mosaics(lambda name: archive.extractfile(members[name]).read())  # type: ignore[union-attr]
    if (source / "labels.npz").exists():
        return from_mosaics(lambda name: (source / name).read_bytes())
    if (source / "cifar-100-python").is_dir():
        return from_torchvision(source)
    raise SystemExit(f"{source} holds neither labels.npz with mosaics nor cifar-100-python.")


def halves(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of two halves in which every class is equally frequent, each in increasing order."""
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)  # of a row within its class
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        rank[rows] = np.arange(len(rows))
    return np.flatnonzero(rank % 2 == 0), np.flatnonzero(rank % 2 == 1)


def save(path: Path, splits: Splits) -> None:
    """Write one file, and check that every image comes back as it was.

    Raises:
        SystemExit: An image does not come back unchanged, or the file is larger than 60 MB.
    """
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, split in splits.items():
            for start in range(0, len(split.labels), ROWS * COLUMNS):
                images, buffer = split.images[start : start + ROWS * COLUMNS], io.BytesIO()
                Image.fromarray(mosaic(images)).save(buffer, "WEBP", lossless=True, quality=100, method=4)
                if not np.array_equal(decoded(buffer.getvalue())[: len(images)], images):
                    raise SystemExit(f"{name} images from {start} on do not survive WebP: is this Pillow lossless?")
                archive.writestr(f"{name}_{start // (ROWS * COLUMNS):03d}.webp", buffer.getvalue())
            arrays = io.BytesIO()
            np.savez_compressed(arrays, labels=split.labels, index=split.index)
            archive.writestr(f"{name}.npz", arrays.getvalue())
    if part.stat().st_size > LIMIT:
        raise SystemExit(f"{part} has {part.stat().st_size} bytes, more than {LIMIT}.")
    part.replace(path)


def pack(splits: Splits, folder: Path) -> list[Path]:
    """Write both files into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {name: halves(split.labels) for name, split in splits.items()}
    for number, file in enumerate(NAMES):
        save(folder / file, {name: split[rows[name][number]] for name, split in splits.items()})
    return [folder / file for file in NAMES]


def read(path: Path) -> Splits:
    """Read one file."""
    with zipfile.ZipFile(path) as archive:
        found = {}
        for name in ("train", "test"):
            with np.load(io.BytesIO(archive.read(f"{name}.npz"))) as arrays:
                labels, index = arrays["labels"], arrays["index"]
            mosaics = sorted(file for file in archive.namelist() if file.startswith(name) and file.endswith(".webp"))
            images = np.concatenate([decoded(archive.read(file)) for file in mosaics])
            found[name] = Split(images[: len(labels)], labels, index)
    return found


def join(folder: Path) -> tuple[Splits, list[str]]:
    """Read what is there of the two files, in the published order.

    Returns:
        The splits, and the names of the files that were read.

    Raises:
        FileNotFoundError: Neither file is there.
    """
    names = [name for name in NAMES if (folder / name).exists()]
    if not names:
        raise FileNotFoundError(f"{folder} holds neither {NAMES[0]} nor {NAMES[1]}: run benchmarks/gpu_data.py first.")
    parts, found = [read(folder / name) for name in names], {}
    for name in ("train", "test"):
        fields = zip(*[(p[name].images, p[name].labels, p[name].index) for p in parts], strict=True)
        whole = Split(*map(np.concatenate, fields))
        found[name] = whole[np.argsort(whole.index)]
    return found, names


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=SOURCE, help="archive, folder or .npz to read")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to, ignored by git [data]")
    args = parser.parse_args()
    for path in pack(load(args.source), args.out):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
