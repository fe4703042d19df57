"""Data sets: scikit-learn's digits, CIFAR-10 and CIFAR-100 from files, any folder of images."""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.parse import nearest
from mixwell.train.config import Config
from mixwell.train.errors import RunError

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 tensor of shape ``(N, C, H, W)``, or the paths of N image files.
        labels: Class indices, int64, shape ``(N,)``.
    """

    images: Tensor | list[Path]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Split:
        """Return the given rows, in their order."""
        images = self.images[rows] if isinstance(self.images, Tensor) else [self.images[i] for i in rows.tolist()]
        return Split(images, self.labels[rows])


@dataclass(frozen=True)
class DataSet:
    """What a run learns from and is measured on.

    Attributes:
        train, val, test: The splits; ``val`` is ``test`` itself when nothing is held out.
        classes: Name of every class, by index.
        channels: Channels of the images.
        mean, std: Per channel, of pixel values scaled to [0, 1].
    """

    train: Split
    val: Split
    test: Split
    classes: list[str]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def stratified(labels: Tensor, count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Choose ``count`` rows, equally many of each class as far as that goes, always the same ones.

    Returns:
        The chosen rows and the others, both ascending.

    Example:
        >>> chosen, others = stratified(torch.tensor([0, 1, 0, 1, 0, 1]), 4, 2)
        >>> len(chosen), len(others)
        (4, 2)
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    turn = torch.empty_like(order)  # how many rows of the same class come before this one
    for label in range(classes):
        rows = order[labels[order] == label]
        turn[rows] = torch.arange(len(rows))
    ranked = order[turn[order].argsort(stable=True)]
    return ranked[:count].sort().values, ranked[count:].sort().values


def digits(config: Config) -> DataSet:
    """Return scikit-learn's 1797 handwritten digits, enlarged from 8x8 pixels; the last 897 are the test set."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).view(-1, 1, 8, 8).float() * (255 / 16)
    size = (config.image_size, config.image_size)
    images = F.interpolate(images, size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
    both = Split(images, torch.from_numpy(labels).long())
    train, test = both.take(torch.arange(900)), both.take(torch.arange(900, 1797))
    return DataSet(train, test, test, [str(digit) for digit in range(10)], 1, (0.305,), (0.32,))


class _ArrayUnpickler(pickle.Unpickler):
    """Reads the pickles that CIFAR comes in, and refuses everything but NumPy arrays."""

    ALLOWED: ClassVar = {
        ("numpy", "_reconstruct"): np.empty(0).__reduce__()[0],  # NumPy has moved it twice, so ask an array for it
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,  # bytes, in a pickle that Python 3 wrote for Python 2
    }

    def find_class(self, module: str, name: str) -> Any:
        known = (module.partition(".")[0], name)
        if known not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which data has no need of")
        return self.ALLOWED[known]


@dataclass(frozen=True)
class CifarFiles:
    """Where a version of CIFAR lies and what it calls its labels."""

    name: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    key: bytes
    meta: tuple[str, bytes]
    classes: int


CIFAR10 = CifarFiles(
    "CIFAR-10", "cifar-10-batches-py", "cifar-10-python.tar.gz", tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test_batch", b"labels", ("batches.meta", b"label_names"), 10,
)  # fmt: skip
CIFAR100 = CifarFiles(
    "CIFAR-100", "cifar-100-python", "cifar-100-python.tar.gz", ("train",),
    "test", b"fine_labels", ("meta", b"fine_label_names"), 100,
)  # fmt: skip


def _pickled(path: Path) -> dict[bytes, Any]:
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError) as error:
        raise RunError(f"{path} is not a CIFAR pickle: {error}") from None


def _cifar_pickles(folder: Path, files: CifarFiles) -> tuple[Split, Split, list[str]]:
    def split(names: tuple[str, ...]) -> Split:
        parts = [_pickled(folder / name) for name in names]
        pixels = np.concatenate([part[b"data"] for part in parts]).reshape(-1, 3, 32, 32)
        return Split(torch.from_numpy(pixels), torch.tensor([y for part in parts for y in part[files.key]]))

    meta, key = files.meta
    known = (folder / meta).is_file()
    names = [n.decode() for n in _pickled(folder / meta)[key]] if known else [str(i) for i in range(files.classes)]
    return split(files.train), split((files.test,)), names


def _cifar_npz(path: Path) -> tuple[Split, Split, list[str]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x, y, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} must hold the arrays x_train, y_train, x_test and y_test: {error}") from None
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1] != 3:
        raise RunError(f"x_train in {path} must be uint8 of shape (N, 3, H, W), and is {x.dtype} of shape {x.shape}")
    train, test = (Split(torch.from_numpy(a), torch.from_numpy(b).long()) for a, b in ((x, y), (x_test, y_test)))
    count = int(max(train.labels.max(), test.labels.max())) + 1
    return train, test, [str(index) for index in range(count)]


def _cifar(config: Config, files: CifarFiles) -> DataSet:
    root = Path(config.data or "data")
    wanted = (*files.train, files.test)
    pickles = [f for f in (root / files.folder, root) if all((f / name).is_file() for name in wanted)]
    archives = [f for f in (root / "cifar.npz", root) if f.suffix == ".npz" and f.is_file()]
    if pickles:
        train, test, classes = _cifar_pickles(pickles[0], files)
    elif archives:
        train, test, classes = _cifar_npz(archives[0])
    else:
        raise RunError(
            f"no {files.name} in {root}: expected {', '.join(wanted)} in {root / files.folder} (get {files.archive} "
            f"from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it there), or {root / 'cifar.npz'} with uint8 "
            "arrays x_train, y_train, x_test, y_test; name the folder with --data"
        )
    return DataSet(train, test, test, classes, 3, CIFAR_MEAN, CIFAR_STD)


def cifar10(config: Config) -> DataSet:
    """Return CIFAR-10 from the folder ``config.data``."""
    return _cifar(config, CIFAR10)


def cifar100(config: Config) -> DataSet:
    """Return CIFAR-100 from the folder ``config.data``."""
    return _cifar(config, CIFAR100)


def _tree(folder: Path) -> tuple[Split, list[str]]:
    """List the images in ``folder/CLASS``, subfolders included, by class and path."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise RunError(f"no class folders in {folder}: expected {folder / 'CLASS'}/*.jpg")
    paths, labels = [], []
    for index, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and p.is_file())
        if not found:
            raise RunError(f"no images in {folder / name}: expected files ending in {', '.join(IMG_EXTENSIONS)}")
        paths += found
        labels += [index] * len(found)
    return Split(paths, torch.tensor(labels)), classes


def folder(config: Config) -> DataSet:
    """Return the images in ``config.data``: train/CLASS/*, and val/CLASS/* or test/CLASS/* or both."""
    root = Path(config.data or "data")
    found = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    if "train" not in found or len(found) == 1:
        raise RunError(
            f"no image folders in {root}: expected {root / 'train'}/CLASS/*.jpg and {root / 'val'}/CLASS/*.jpg "
            f"(or {root / 'test'}); name the folder with --data"
        )
    splits = {name: _tree(path) for name, path in found.items()}
    train, classes = splits["train"]
    for name, (_, others) in splits.items():
        if others != classes:
            odd = sorted(set(others) ^ set(classes))[0]
            raise RunError(f"{found['train']} and {found[name]} must hold the same classes, and differ in {odd!r}")
    val, _ = splits.get("val") or splits["test"]
    test, _ = splits.get("test") or splits["val"]
    return DataSet(train, val, test, classes, 3, IMAGENET_MEAN, IMAGENET_STD)


SETS: dict[str, Callable[[Config], DataSet]] = {f.__name__: f for f in (digits, cifar10, cifar100, folder)}


def load(config: Config) -> DataSet:
    """Return the data set of a config, cut to its ``subset`` and with its ``val_split`` held out.

    Raises:
        RunError: the data set is unknown, missing, unreadable or too small; the sentence says what to do.
    """
    if config.dataset not in SETS:
        raise RunError(f"no data set called {config.dataset!r}{nearest(config.dataset, SETS)}")
    data = SETS[config.dataset](config)
    train, classes = data.train, len(data.classes)
    if config.subset > len(train):
        raise RunError(f"subset asks for {config.subset} training images, and there are {len(train)}")
    if config.subset:
        train = train.take(stratified(train.labels, config.subset, classes)[0])
    if config.val_split:
        held, kept = stratified(train.labels, round(config.val_split * len(train)), classes)
        data, train = replace(data, val=train.take(held)), train.take(kept)
    return replace(data, train=train)
