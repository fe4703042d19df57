"""LitData: images in the chunks that ``litdata.optimize`` writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixwell.normalization import IMAGENET
from mixwell.train.config import Config
from mixwell.train.dataset import SPLITS, Source
from mixwell.train.errors import RunError
from mixwell.train.files import parsed, text
from mixwell.train.images import Encoded
from mixwell.train.paths import expand
from mixwell.train.stream import Example, Stream, class_names, needed


@dataclass(frozen=True)
class LitdataChunks(Stream):
    """Images of the folder ``root``; ``names`` are the files in it. litdata deals single images, so parts are even."""

    root: str

    def examples(self, rank: int, world: int, seed: int | None) -> Iterator[Example]:
        """See :meth:`Stream.examples`: a random order of chunks, then of images within a chunk."""
        import litdata
        from litdata.utilities.env import _DistributedEnv

        dataset = litdata.StreamingDataset(self.root, shuffle=seed is not None, seed=seed or 0)
        dataset.set_drop_last(False)
        dataset.distributed_env = _DistributedEnv(world, rank, num_nodes=1)
        for number, item in enumerate(dataset):
            yield _example(item, f"image {number} of process {rank} in {self.root}")


def litdata(config: Config) -> Source:
    """Return the folders ``train``, ``val`` and ``test`` of the folder ``config.data``, and ``classnames.txt``.

    An item is a dictionary with ``image`` and ``label`` (or ``class``), or a tuple of both. An image is one of Pillow,
    a uint8 tensor ``(C, H, W)`` or the bytes of an image file; a label is the index of a class.

    Raises:
        RunError: litdata is not installed, or a file is missing or damaged.
    """
    try:
        import litdata as _  # noqa: F401
    except ImportError:
        raise needed("litdata", "litdata") from None
    root = expand(config.data or "data")
    folders = {name: root / name for name in SPLITS if (root / name / "index.json").is_file()}
    if not folders:
        raise RunError(f"no chunks of litdata in {root}: expected {root / 'train'}/index.json and {root / 'val'}")
    classes = class_names(root)
    splits = {name: lambda folder=folder: _read(folder, len(classes)) for name, folder in folders.items()}
    return Source(splits, classes, 3, IMAGENET, str(root))


def _read(folder: Path, classes: int) -> LitdataChunks:
    path = folder / "index.json"
    try:
        sizes = {chunk["filename"]: int(chunk["chunk_size"]) for chunk in parsed(text(path), str(path))["chunks"]}
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is not an index of litdata: {error!r}") from None
    return LitdataChunks(sum(sizes.values()), classes, tuple(sizes), str(folder))


def _example(item: Any, name: str) -> Example:
    if isinstance(item, dict):
        image, label = item.get("image"), item.get("label", item.get("class", -1))
    else:
        image, label = item[:2]
    if hasattr(image, "numpy"):
        from torchvision.transforms.v2.functional import to_pil_image

        image = to_pil_image(image)
    return Encoded(name, image if image is not None else b""), int(label)
