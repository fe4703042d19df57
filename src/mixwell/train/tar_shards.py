"""WebDataset: images in tar files, each with its class index in a file beside it."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from random import Random

from mixwell.normalization import IMAGENET
from mixwell.train.config import Config
from mixwell.train.dataset import SPLITS, Source
from mixwell.train.errors import RunError, first_line
from mixwell.train.files import parsed, text
from mixwell.train.images import Encoded, endings
from mixwell.train.paths import expand
from mixwell.train.stream import Example, Stream, class_names, deal, shuffled


@dataclass(frozen=True)
class TarShards(Stream):
    """Images of tar files; ``names`` are their paths."""

    def examples(self, rank: int, world: int, seed: int | None) -> Iterator[Example]:
        """See :meth:`Stream.examples`: a random order of shards, then of images within a buffer."""
        shards = list(self.names)
        if seed is not None:
            Random(seed).shuffle(shards)
        mine, first, step = deal(shards, rank, world)
        found = _examples(mine, first, step)
        return found if seed is None else shuffled(found, seed)


def webdataset(config: Config) -> Source:
    """Return the tar files ``SPLIT/*.tar`` or ``*SPLIT*.tar`` of the folder ``config.data``, and ``classnames.txt``.

    A sample is an image and a class index with one name, as in ``0001.jpg`` and ``0001.cls``. Images are counted when
    the run starts, unless ``_info.json`` has their number, as in data sets published for timm. The package webdataset
    is not needed.

    Raises:
        RunError: A file is missing or damaged.
    """
    root = expand(config.data or "data")
    shards = {name: sorted(root.glob(f"{name}/*.tar")) or sorted(root.glob(f"*{name}*.tar")) for name in SPLITS}
    if not any(shards.values()):
        raise RunError(f"no tar files in {root}: expected {root / 'train'}/*.tar and {root / 'val'}/*.tar")
    classes, stated = class_names(root), _stated(root / "_info.json")

    def read(name: str) -> TarShards:
        length = stated.get(name) or sum(map(_count, shards[name]))
        return TarShards(length, len(classes), tuple(map(str, shards[name])))

    splits = {name: lambda name=name: read(name) for name in SPLITS if shards[name]}
    return Source(splits, classes, 3, IMAGENET, str(root))


def _examples(shards: list[str], first: int, step: int) -> Iterator[Example]:
    """Yield every ``step``-th sample of some tar files, and the error in place of the rest of a damaged one."""
    number = 0
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as file:
                members = filter(tarfile.TarInfo.isfile, file)
                for name, group in groupby(members, lambda member: _parts(member.name)[0]):
                    parts = {_parts(member.name)[1]: member for member in group}
                    if number % step == first:
                        yield _example(f"{name} in {shard}", file, parts)
                    number += 1
        except (OSError, tarfile.TarError) as error:
            yield Encoded(shard, error), -1


def _parts(name: str) -> tuple[str, str]:
    """Return the name of a sample, and the lower-case ending of one of its files, without the dot.

    Example:
        >>> _parts("train.2/0001.seg.PNG")
        ('train.2/0001', 'seg.png')
    """
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return folder + slash + stem, ending.lower()


def _example(name: str, file: tarfile.TarFile, parts: dict[str, tarfile.TarInfo]) -> Example:
    image = next((ending for ending in parts if f".{ending}" in endings()), "")
    found = [file.extractfile(parts[ending]) if ending in parts else None for ending in (image, "cls")]
    content, label = (part.read() if part else b"" for part in found)
    return Encoded(name, content), int(label) if label.strip().isdigit() else -1


def _stated(path: Path) -> dict[str, int]:
    """Return the number of images of each split that ``_info.json`` has."""
    if not path.is_file():
        return {}
    try:
        splits = parsed(text(path), str(path))["splits"]
        return {name: int(splits[key]["num_samples"]) for name in SPLITS for key in splits if key.startswith(name)}
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} does not have the number of images of each split: {error!r}") from None


def _count(path: Path) -> int:
    """Count the samples of a tar file, of which only the headers are read."""
    try:
        with tarfile.open(path, "r:") as file:
            return sum(member.name.endswith(".cls") for member in file)
    except (OSError, tarfile.TarError) as error:
        raise RunError(f"cannot read {path}: {first_line(error)}") from None
