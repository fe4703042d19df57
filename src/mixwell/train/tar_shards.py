"""WebDataset: images in tar files, each with its class index in a file beside it."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from random import Random

from mixwell.normalization import IMAGENET
from mixwell.train.config import Config
from mixwell.train.dataset import SPLITS, Source
from mixwell.train.errors import RunError, first_line
from mixwell.train.files import parsed, text
from mixwell.train.images import BadImageError, Encoded, endings
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
        found = map(_example, islice(_samples(mine), first, None, step))
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


def _samples(shards: list[str]) -> Iterator[tuple[str, tarfile.TarFile, dict[str, tarfile.TarInfo]]]:
    """Yield the name, the open tar file and the members of each sample by their endings; they follow each other."""
    for shard in shards:
        with _readable(shard), tarfile.open(shard, "r:") as file:
            for name, members in groupby(filter(tarfile.TarInfo.isfile, file), lambda member: _parts(member.name)[0]):
                yield f"{name} in {shard}", file, {_parts(member.name)[1]: member for member in members}


def _parts(name: str) -> tuple[str, str]:
    """Return the name of a sample, and the lower-case ending of one of its files, without the dot.

    Example:
        >>> _parts("train.2/0001.seg.PNG")
        ('train.2/0001', 'seg.png')
    """
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return folder + slash + stem, ending.lower()


def _example(sample: tuple[str, tarfile.TarFile, dict[str, tarfile.TarInfo]]) -> Example:
    name, file, members = sample
    image = next((ending for ending in members if f".{ending}" in endings()), "")
    with _readable(str(file.name)):
        files = [file.extractfile(members[key]) if key in members else None for key in (image, "cls")]
        content, label = (found.read() if found else b"" for found in files)
    return Encoded(name, content), int(label) if label.strip().isdigit() else -1


@contextmanager
def _readable(shard: str) -> Iterator[None]:
    """Name the shard that is damaged."""
    try:
        yield
    except (OSError, tarfile.TarError) as error:
        raise BadImageError(shard, first_line(error)) from None


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
