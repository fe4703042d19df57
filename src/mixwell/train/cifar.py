"""CIFAR-10 and CIFAR-100 from the files of their authors, or from one NumPy archive."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixwell.normalization import CIFAR10 as NORMALIZATION  # for CIFAR-100 as well
from mixwell.train import cifar_pickle
from mixwell.train.config import Config
from mixwell.train.dataset import Source, Split
from mixwell.train.errors import RunError, first_line
from mixwell.train.paths import expand

ARRAYS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
RATIO = 1100  # deflate cannot make data smaller than by this factor


@dataclass(frozen=True)
class Files:
    """Names and content of the files of CIFAR-10 or CIFAR-100."""

    name: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    key: bytes
    meta: tuple[str, bytes]
    classes: int


CIFAR10 = Files(
    "CIFAR-10", "cifar-10-batches-py", "cifar-10-python.tar.gz", tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test_batch", b"labels", ("batches.meta", b"label_names"), 10,
)  # fmt: skip
CIFAR100 = Files(
    "CIFAR-100", "cifar-100-python", "cifar-100-python.tar.gz", ("train",),
    "test", b"fine_labels", ("meta", b"fine_label_names"), 100,
)  # fmt: skip


def cifar10(config: Config) -> Source:
    """Return CIFAR-10 from the folder ``config.data``."""
    return _cifar(config, CIFAR10)


def cifar100(config: Config) -> Source:
    """Return CIFAR-100 from the folder ``config.data``."""
    return _cifar(config, CIFAR100)


def _cifar(config: Config, files: Files) -> Source:
    root = expand(config.data or "data")
    for folder in (root / files.folder, root):
        if all((folder / name).is_file() for name in files.train) or (folder / files.test).is_file():
            return _from_pickles(folder, files)
    for path in (root / "cifar.npz", root):
        if path.suffix == ".npz" and path.is_file():
            return _from_npz(path, files)
    raise RunError(
        f"no {files.name} in {root}: expected {', '.join((*files.train, files.test))} in {root / files.folder} (get "
        f"{files.archive} from https://www.cs.toronto.edu/~kriz/cifar.html, unpack it there), or {root / 'cifar.npz'} "
        "with uint8 arrays x_train, y_train, x_test, y_test; name the folder with --data"
    )


def _from_pickles(folder: Path, files: Files) -> Source:
    def split(names: tuple[str, ...]) -> Split:
        parts = [_batch(folder / name, files) for name in names]
        return Split(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))  # type: ignore[arg-type]

    wanted = {"train": files.train, "test": (files.test,)}
    there = {split: batch for split, batch in wanted.items() if all((folder / name).is_file() for name in batch)}
    splits = {name: lambda batch=batch: split(batch) for name, batch in there.items()}
    return Source(splits, _names(folder / files.meta[0], files), 3, NORMALIZATION, str(folder))


def _names(path: Path, files: Files) -> list[str]:
    if not path.is_file():
        return [str(index) for index in range(files.classes)]
    found = _pickle(path).get(files.meta[1])
    names = [name for name in found if isinstance(name, bytes | str)] if isinstance(found, list) else []
    if len(names) != files.classes:
        raise RunError(f"{path} must hold {files.classes} class names under {files.meta[1].decode()!r}")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]


def _batch(path: Path, files: Files) -> Split:
    found = _pickle(path)
    pixels, labels = found.get(b"data"), found.get(files.key)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise RunError(f"{path} must hold an array of shape (N, 3072) under 'data'")
    values = labels.tolist() if isinstance(labels, np.ndarray) else labels
    # NumPy would expand nested lists, so it is given plain numbers only.
    if not isinstance(values, list) or not all(type(value) is int and abs(value) < 2**31 for value in values):
        raise RunError(f"{path} must hold a list of whole numbers below 2**31 under {files.key.decode()!r}")
    numbers = class_indices(np.array(values, np.int64), len(pixels), files.classes, f"{files.key.decode()} in {path}")
    return Split(torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy()), torch.from_numpy(numbers))


def _pickle(path: Path) -> dict[bytes, Any]:
    try:
        return cifar_pickle.read(path)
    except cifar_pickle.RefusedError as error:
        raise RunError(f"{path} is not a CIFAR pickle: {first_line(error)}") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None


def _from_npz(path: Path, files: Files) -> Source:
    arrays = _npz(path)
    labels = {}
    for split, (x, y) in ARRAYS.items():
        check_images(arrays[x], f"{x} in {path}")
        labels[split] = class_indices(arrays[y], len(arrays[x]), files.classes, f"{y} in {path}")
    shapes = {arrays[x].shape[1:] for x, _ in ARRAYS.values()}
    if len(shapes) > 1:
        raise RunError(f"the images in {path} must have one size, got {' and '.join(map(str, sorted(shapes)))}")
    count = 1 + max(int(numbers.max()) for numbers in labels.values())
    if count < 2:
        raise RunError(f"all labels in {path} are 0: expected two or more classes")
    splits = {
        split: lambda x=x, split=split: Split(torch.from_numpy(arrays[x]), torch.from_numpy(labels[split]))
        for split, (x, _) in ARRAYS.items()
    }
    return Source(splits, [str(index) for index in range(count)], 3, NORMALIZATION, str(path))


def _npz(path: Path) -> Mapping[str, np.ndarray]:
    """Read the four arrays, after a comparison of the sizes that the file states with its own size."""
    needed = [name for pair in ARRAYS.values() for name in pair]
    try:
        with zipfile.ZipFile(path) as archive:
            for name in needed:
                _check_size(archive, f"{name}.npy")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in needed}
    except Exception as error:  # zip, every compression and NumPy have their own exceptions
        reason = error.args[0] if isinstance(error, KeyError) else first_line(error)
        raise RunError(f"{path} must hold the arrays x_train, y_train, x_test and y_test: {reason}") from None


def _check_size(archive: zipfile.ZipFile, name: str) -> None:
    info = archive.getinfo(name)
    if info.file_size > RATIO * info.compress_size + 1000:
        raise ValueError(f"{name} states {info.file_size} bytes, which {info.compress_size} bytes cannot hold")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        rest = info.file_size - file.tell()
    if dtype.hasobject or any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError(f"{name} states the shape {shape} of {dtype}, which does not fit its {rest} bytes")


def check_images(pixels: np.ndarray, name: str) -> None:
    """Refuse an array that is not a batch of 8-bit RGB images.

    Raises:
        RunError: The sentence says what it is instead, and how to convert it.
    """
    if pixels.dtype.kind == "f":
        raise RunError(
            f"{name} must be uint8 in 0 to 255, got {pixels.dtype}: convert it, (255 * x).round().astype('uint8') if "
            "its values are in [0, 1]"
        )
    if pixels.ndim == 4 and pixels.shape[3] == 3 and pixels.shape[1] != 3:
        raise RunError(f"{name} must have the shape (N, 3, H, W), got {pixels.shape}: use x.transpose(0, 3, 1, 2)")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or 0 in pixels.shape:
        raise RunError(f"{name} must be uint8 of shape (N, 3, H, W), got {pixels.dtype} of shape {pixels.shape}")


def class_indices(labels: np.ndarray, count: int, classes: int, name: str) -> np.ndarray:
    """Return labels as class indices, int64, shape ``(count,)``.

    Args:
        labels: Class indices ``(N,)`` or ``(N, 1)``, of any type with whole numbers in it; or one-hot ``(N, classes)``.
        count: Number of images.
        classes: Number of classes; a label lies in ``[0, classes)``.
        name: What to call the labels in an error message.

    Raises:
        RunError: There are fewer or more labels than images, or a label is not a class index.

    Example:
        >>> class_indices(np.array([[0.0, 1.0], [1.0, 0.0]]), 2, 10, "y")
        array([1, 0])
        >>> class_indices(np.array([[7], [3]]), 2, 10, "y")
        array([7, 3])
    """
    if labels.ndim < 1 or len(labels) != count:
        raise RunError(f"{name} must be one label for each of the {count} images, got shape {labels.shape}")
    if count == 0:
        raise RunError(f"{name} is empty: expected at least one image")
    if labels.dtype.kind not in "biuf":
        raise RunError(f"{name} must be whole numbers, got {labels.dtype}")
    if labels.ndim == 2 and labels.shape[1] > 1:
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
            raise RunError(f"{name} has shape {labels.shape} but is not one-hot: expected class indices of shape (N,)")
        labels = labels.argmax(1)
    elif labels.size != count:
        raise RunError(f"{name} must be class indices of shape (N,), got shape {labels.shape}")
    labels = labels.reshape(-1)
    wrong = [value for value in labels.tolist() if not (0 <= value < classes and value == int(value))]
    if wrong:  # NaN compares false
        raise RunError(f"{name} must be class indices from 0 to {classes - 1}, got {wrong[0]!r:.30}")
    return labels.astype(np.int64)
