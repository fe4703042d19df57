"""Data sets of the Hugging Face package ``datasets``: from the Hub or a folder, in any order or as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixwell.normalization import IMAGENET
from mixwell.train.config import Config
from mixwell.train.dataset import SPLITS, Source, Split
from mixwell.train.errors import RunError, first_line
from mixwell.train.images import Encoded
from mixwell.train.paths import expand
from mixwell.train.stream import BUFFER, Example, Stream, needed

HUB = "hf://datasets/"


@dataclass(frozen=True)
class Column:
    """The images of a table, encoded; see :class:`mixwell.train.dataset.Rows`."""

    table: Any
    image: str

    def __getitem__(self, row: int) -> Path | Encoded:
        return _encoded(self.table[row][self.image], f"image {row}")

    def select(self, rows: list[int]) -> Column:
        """Return the given rows, in their order."""
        return Column(self.table.select(rows), self.image)


@dataclass(frozen=True)
class TableStream(Stream):
    """Images of a ``datasets.IterableDataset``."""

    table: Any
    image: str
    label: str

    def examples(self, rank: int, world: int, seed: int | None) -> Iterator[Example]:
        """See :meth:`Stream.examples`: a random order of files, then of images within a buffer."""
        from datasets.distributed import split_dataset_by_node

        table = self.table if seed is None else self.table.shuffle(seed=seed, buffer_size=BUFFER)
        for number, row in enumerate(split_dataset_by_node(table, rank, world)):
            image = _encoded(row[self.image], f"image {number} of process {rank}")
            label = row[self.label]
            yield (
                image if isinstance(image, Encoded) else Encoded(str(image), image.read_bytes()),
                (-1 if label is None else label),
            )


def huggingface(config: Config) -> Source:
    """Return a data set whose images can be read in any order; see :func:`huggingface_stream` for ``config.data``."""
    return _source(config, False, _in_any_order)


def huggingface_stream(config: Config) -> Source:
    """Return a data set that is read as a stream, without a download before the run.

    ``config.data`` is ``hf://datasets/NAME`` for a data set on the Hub, or a folder that ``load_dataset`` understands,
    or (if it is not read as a stream) one that ``save_to_disk`` has written. The labels are the column of type
    ClassLabel; of several such columns the one named ``label``, or else the one with most classes.

    Raises:
        RunError: datasets is not installed, the data set cannot be loaded, or has no images or class labels.
    """
    return _source(config, True, _as_stream)


def _source(config: Config, streaming: bool, read: Callable[[Any, str, str], Split]) -> Source:
    try:
        import datasets
    except ImportError:
        raise needed("datasets", config.dataset) from None
    where = config.data.removeprefix(HUB) if config.data.startswith(HUB) else str(expand(config.data or "data"))
    try:
        if not streaming and any((Path(where) / name).is_file() for name in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(where)
        else:
            found = datasets.load_dataset(where, streaming=streaming)
    except Exception as error:  # it has one for each kind of file
        raise RunError(f"cannot load the data set {where}: {first_line(error)}") from None
    tables = dict(found) if isinstance(found, dict) else {"train": found}
    splits = {name: table for name in SPLITS for key, table in tables.items() if str(key).startswith(name)}
    if not splits:
        raise RunError(f"{where} has the splits {', '.join(map(str, tables))}: expected train, validation and test")
    features = next(iter(splits.values())).features or {}
    image, label = _columns(features, where)

    def encoded(table: Any) -> Any:
        return table.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))

    reads = {name: lambda table=table: read(encoded(table), image, label) for name, table in splits.items()}
    return Source(reads, list(features[label].names), 3, IMAGENET, where)


def _columns(features: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Return the names of the columns of images and of labels."""
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = {name: len(kind.names) for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    if not images or not labels:
        raise RunError(
            f"{where} has the columns {dict(features)}: expected one of type Image and one of type ClassLabel"
        )
    return images[0], "label" if "label" in labels else max(labels, key=lambda name: labels[name])


def _in_any_order(table: Any, image: str, label: str) -> Split:
    labels = torch.from_numpy(np.array(table.with_format("numpy")[label][:], np.int64))
    if len(labels) and labels.min() < 0:
        raise RunError(f"{int((labels < 0).sum())} images have no label in column {label!r}: remove that split")
    return Split(Column(table.select_columns([image]), image), labels)


def _as_stream(table: Any, image: str, label: str) -> Stream:
    split = (table.info.splits or {}).get(str(table.split))
    length = split.num_examples if split is not None else 0
    length = length or sum(1 for _ in table.select_columns([label]))
    return TableStream(length, len(table.features[label].names), (str(table.num_shards),), table, image, label)


def _encoded(value: Any, name: str) -> Path | Encoded:
    """Return an image whose content is in the table, or its path."""
    value = value or {}
    if value.get("bytes") is None and value.get("path"):
        return Path(value["path"])
    return Encoded(value.get("path") or name, value.get("bytes") or b"")
