"""A folder of images as a data set: one folder for each split, in it one folder for each class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from mixwell.normalization import IMAGENET
from mixwell.train import images
from mixwell.train.config import Config
from mixwell.train.dataset import SPLITS, Source, Split, class_name, difference
from mixwell.train.errors import RunError
from mixwell.train.paths import expand

DEEPEST = 3  # how many folders around a data set are looked through for an error message


def folder(config: Config) -> Source:
    """Return the images in ``config.data``: train/CLASS/*, val/CLASS/* and test/CLASS/*, of which some may be missing.

    Raises:
        RunError: The folders do not exist, there are fewer than two classes, or the splits have different classes.
    """
    root = expand(config.data or "data")
    found = [name for name in SPLITS if (root / name).is_dir()]
    if not found:
        raise RunError(_no_splits(root))
    skipped: Counter[str] = Counter()
    classes = {name: class_names(root / name) for name in found}
    first = classes[found[0]]
    for name, others in classes.items():
        if others != first:
            raise RunError(
                f"{root / found[0]} and {root / name} must hold the same classes: in the second "
                f"{difference(first, others)}"
            )
    splits = {name: lambda name=name: read_split(root / name, first, skipped) for name in found}
    return Source(splits, first, 3, IMAGENET, str(root), skipped)


def class_names(split: Path) -> list[str]:
    """Return the names of the class folders of a split, sorted; hidden folders are not classes.

    Raises:
        RunError: There are fewer than two, or two have the same name.
    """
    names = list(folders := class_folders(split))
    if not names:
        raise RunError(f"no class folders in {split}: expected {split / 'CLASS'}/*.jpg")
    if len(names) == 1:
        only = folders[names[0]]
        inner = [path.name for path in _folders(only)]
        if inner:
            raise RunError(
                f"{split} holds one folder, so there is one class: the classes seem to be in {only} "
                f"({', '.join(inner[:3])}{', ...' if len(inner) > 3 else ''}); move them up into {split}"
            )
        raise RunError(f"{split} holds one class, {names[0]!r}: expected a folder for each of two or more classes")
    return names


def class_folders(split: Path) -> dict[str, Path]:
    """Return the class folders of a split by the names of the classes, sorted.

    Raises:
        RunError: Two of them have the same name; see :func:`class_name`.
    """
    found: dict[str, Path] = {}
    for path in _folders(split):
        if found.setdefault(class_name(path.name), path) != path:
            raise RunError(f"{split} holds two folders of the class {path.name!r}, with another spelling: merge them")
    return dict(sorted(found.items()))


def read_split(split: Path, classes: list[str], skipped: Counter[str]) -> Split:
    """List the images of each class, subfolders included, by class and path.

    Args:
        split: Folder that holds the class folders.
        classes: Their names.
        skipped: Other files are counted here, by kind.

    Raises:
        RunError: A class has no images.
    """
    paths, labels = [], []
    for path, is_folder in images.listed(split):
        if images.hidden(path.name):
            skipped["hidden"] += len(list(path.rglob("*"))) if is_folder else 1
        elif not is_folder:
            skipped["outside class folders"] += 1
    folders = class_folders(split)
    for index, name in enumerate(classes):
        found = images.find_some(folders[name])
        skipped.update(found.skipped)
        paths += found.paths
        labels += [index] * len(found.paths)
    return Split(paths, torch.tensor(labels))


def _folders(folder: Path) -> list[Path]:
    return [path for path, is_folder in images.listed(folder) if is_folder and not images.hidden(path.name)]


def _no_splits(root: Path) -> str:
    expected = f"expected {root / 'train'}/CLASS/*.jpg and {root / 'val'}/CLASS/*.jpg (or {root / 'test'})"
    there = f"no image folders in {root}"
    if not root.is_dir():
        return f"{there}, which is not a folder: {expected}; name the folder with --data"
    inner = _inner(root)
    if inner is not None:
        return f"{there}, but in {inner}: use --data {inner}"
    names = [path.name for path in _folders(root)]
    if names:
        shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        return (
            f"{there}: {expected}, found the folders {shown}; if these are classes, move them into a folder train, val "
            f"or test of {root}"
        )
    return f"{there}: {expected}; name the folder with --data"


def _inner(root: Path) -> Path | None:
    """Return the folder below that holds splits, if there is one."""
    level = [root]
    for _ in range(DEEPEST):
        level = [path for parent in level for path in _folders(parent)[:100]]
        for path in level:
            if (path / "train").is_dir():
                return path
    return None
