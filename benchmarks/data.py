"""How many images per second each stage of the input pipeline handles, beside torch and torchvision, in one run.

Part one is a data set in memory (CIFAR: 32 pixels), which mixwell keeps on the device as uint8 and augments there a
batch at a time. Part two is a folder of JPEG files, which workers decode and crop. The peer is the pipeline of
torchvision's manual: transforms v2 of one image at a time, normalization included, in a ``DataLoader``. The rows of a
table take turns for ``--rounds`` rounds, and each figure is the median of all calls, with the quartiles. ``whole
loader`` times a pass over the images, with the start of the workers. ``--cpu-time`` counts the processor time of this
process instead of the time that passes, which is less disturbed on a busy machine but does not see the workers.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

import mixwell as mw
from mixwell.train import images as files
from mixwell.train.augment import crop_and_flip, erase
from mixwell.train.config import Config
from mixwell.train.dataset import DataSet, Split
from mixwell.train.image_files import ImageFiles, collate
from mixwell.train.loader import ArrayLoader, FolderLoader, Loader, ProcessInfo

Row = tuple[str, int, Callable[[], object]]  # name, number of images, and what to time
MEAN, STD = mw.IMAGENET.mean, mw.IMAGENET.std
CLASSES = 10
TURN = 0.1  # seconds of calls of one row before the next has its turn


class Tensors(Dataset[tuple[Tensor, int]]):
    """Images in memory, transformed one at a time, as ``torchvision.datasets.CIFAR100`` does."""

    def __init__(self, images: Tensor, labels: Tensor, transform: v2.Transform) -> None:
        self.images, self.labels, self.transform = images, labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(self.images[row]), self.labels[row]


def run(batches: Iterable[Any]) -> None:
    """Read all batches, and wait for the device."""
    for _ in batches:
        pass
    wait()


def wait() -> None:
    """Wait until the GPU is done, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(rows: list[Row], args: argparse.Namespace) -> dict[str, list[float]]:
    """Return images per second of every call; the rows take turns, of a tenth of a second or one call each."""
    found: dict[str, list[float]] = {name: [] for name, _, _ in rows}
    clock = process_time if args.cpu_time else perf_counter
    for round_ in range(args.rounds + 1):
        for name, images, call in rows:
            end, now = clock() + TURN, 0.0
            while now < end:
                start = clock()
                call()
                wait()
                now = clock()
                if round_:  # the first round finds code and memory
                    found[name].append(images / max(now - start, 1e-9))
    return found


def table(title: str, rows: list[Row], args: argparse.Namespace) -> None:
    """Time rows, and print the median of each with the lowest and highest figure."""
    print(f"\n{title}\n{'':50}{'images/s':>10}{'quartiles':>20}{'calls':>7}", flush=True)
    for name, rates in timed(rows, args).items():
        low, median, high = statistics.quantiles(rates, n=4) if len(rates) > 1 else rates * 3
        print(f"{name:50}{median:10,.0f}{f'{low:,.0f} - {high:,.0f}':>20}{len(rates):7}", flush=True)


def peer_steps(crop: v2.Transform) -> v2.Compose:
    """Return torchvision's transforms of one training image."""
    return v2.Compose([crop, v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def peer_loaders(name: str, dataset: Dataset[Any], batch: int, workers: list[int]) -> list[Row]:
    """Return a row for torch's ``DataLoader`` with each number of workers."""
    found = []
    for count in workers:
        loader = DataLoader(dataset, batch, shuffle=True, num_workers=count, drop_last=True)
        images = len(loader) * batch
        found.append((f"whole loader: {name}, {count} workers", images, lambda loader=loader: run(loader)))
    return found


def mixing_rows(pixels: Tensor, normal: Tensor, labels: Tensor, loader: Loader) -> list[Row]:
    """Return rows that mix float32 images after they are normalized, and uint8 images before."""
    rows: list[Row] = []
    for policy in (mw.CutMix(), mw.MixUp()):
        name = type(policy).__name__
        rows += [
            (f"normalize, then {name} on float32 (in use)", len(pixels),
             lambda policy=policy: policy(loader.normalise(pixels), labels)),
            (f"{name} on uint8, then normalize", len(pixels),
             lambda policy=policy: loader.normalise(policy(pixels, labels).images)),
            (f"{name} on float32 alone", len(pixels), lambda policy=policy: policy(normal, labels)),
        ]  # fmt: skip
    return rows


def in_memory(args: argparse.Namespace, device: torch.device) -> None:
    """Print the table of a data set in memory."""
    count, size, batch = args.images, 32, args.batch
    images, labels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8), torch.arange(count) % CLASSES
    split = Split(images, labels)
    data = DataSet(split, split, split, [str(i) for i in range(CLASSES)], 3, mw.IMAGENET)
    config = Config(dataset="cifar100", image_size=size, crop=4, flip=True, batch_size=batch)
    ours = ArrayLoader(split, data, config, ProcessInfo(device), torch.Generator().manual_seed(0))
    rows = torch.randint(count, (batch,), device=device)
    shift, mirror = torch.randint(9, (2, batch), device=device), torch.rand(batch, device=device) < 0.5
    crop = v2.RandomCrop(size, 4, padding_mode="reflect")
    small, peer = v2.Compose([crop, v2.RandomHorizontalFlip()]), peer_steps(crop)
    pixels, one_by_one = ours.images[rows, :, :size, :size].contiguous(), images[:batch]
    normal, ready = ours.normalise(pixels), torch.empty(batch, 3, size, size)
    normalize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def crops() -> Tensor:
        return crop_and_flip(ours.images, rows, shift[0], shift[1], mirror, (size, size))

    table(
        f"in memory: {count} images of {size} pixels, batch {batch}",
        [
            ("read (gather), crop, flip: mixwell, a batch", batch, crops),
            ("crop, flip: torchvision, one by one", batch, lambda: [small(image) for image in one_by_one]),
            *transfers(ready, device),
            ("normalize: mixwell, a batch", batch, lambda: ours.normalise(pixels)),
            ("normalize: torchvision, a batch", batch, lambda: normalize(pixels)),
            ("normalize: torchvision, one by one", batch, lambda: [normalize(image) for image in one_by_one]),
            *mixing_rows(pixels, normal, labels[:batch].to(device), ours),
            ("whole loader: mixwell", len(ours) * batch, lambda: run(ours)),
            *peer_loaders("torchvision", Tensors(images, labels, peer), batch, args.workers),
        ],
        args,
    )


def transfers(ready: Tensor, device: torch.device) -> list[Row]:
    """Return rows that copy a batch to the device as uint8, as mixwell does, and as float32; none on a CPU."""
    if device.type == "cpu":
        return []
    small, ready = ready.byte().pin_memory(), ready.pin_memory()
    return [
        ("transfer: uint8", len(ready), lambda: small.to(device, non_blocking=True)),
        ("transfer: float32", len(ready), lambda: ready.to(device, non_blocking=True)),
    ]


def write(root: Path, count: int, side: int) -> None:
    """Write JPEG files of smooth random images, as large after compression as photographs are."""
    draws = np.random.default_rng(0)
    for index in range(count):
        coarse = draws.integers(0, 256, (side // 8, side // 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side * 4 // 3, side), Image.Resampling.BICUBIC)
        path = root / "train" / f"class{index % CLASSES}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)


def in_files(args: argparse.Namespace, device: torch.device, root: Path) -> None:
    """Print the table of a folder of JPEG files."""
    count, size, batch = args.files, args.size, args.batch
    paths = files.find(root / "train").paths
    split = Split(paths, torch.arange(count) % CLASSES)
    data = DataSet(split, split, split, [str(i) for i in range(CLASSES)], 3, mw.IMAGENET)
    config = Config(dataset="folder", image_size=size, flip=True, batch_size=batch)
    loaders = {
        workers: FolderLoader(
            split, data, Config(dataset="folder", image_size=size, flip=True, batch_size=batch, workers=workers),
            ProcessInfo(device), torch.Generator().manual_seed(0),
        )
        for workers in args.workers
    }  # fmt: skip
    ours, first = ImageFiles(split, config, True, (0, 0, 0)), paths[:batch]
    decoded, tensors = [files.read(path) for path in first], [torchvision.io.decode_image(str(path)) for path in first]
    crop = v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC)
    small = v2.Compose([crop, v2.RandomHorizontalFlip()])
    items, loader = [ours[row] for row in range(batch)], loaders[args.workers[0]]
    pixels = torch.stack([item.image for item in items if item.image is not None]).to(device)
    normal, erasing = loader.normalise(pixels), v2.RandomErasing(0.25, value="random")  # type: ignore[arg-type]
    peer = datasets.ImageFolder(root / "train", v2.Compose([v2.PILToTensor(), peer_steps(crop)]))
    table(
        f"files: {count} JPEG files, {args.size * 4 // 3} x {args.size} stored, {size} pixels used, batch {batch}",
        [
            ("decode: mixwell", batch, lambda: [files.read(path) for path in first]),
            ("decode: Pillow, as ImageFolder", batch,
             lambda: [datasets.folder.pil_loader(str(path)) for path in first]),
            ("decode: torchvision.io", batch, lambda: [torchvision.io.decode_image(str(path)) for path in first]),
            ("crop, flip: mixwell, on Pillow images", batch, lambda: [ours.transform(image) for image in decoded]),
            ("crop, flip: torchvision, on tensors", batch, lambda: [small(image) for image in tensors]),
            ("batch (collate): mixwell", batch, lambda: collate(items)),
            *transfers(normal.cpu(), device),
            ("normalize: mixwell, a batch", batch, lambda: loader.normalise(pixels)),
            ("erase (p = 0.25): mixwell, a batch", batch, lambda: erase(normal, 0.25)),
            ("erase (p = 0.25): torchvision, one by one", batch,
             lambda: torch.stack([erasing(image) for image in normal])),
            *mixing_rows(pixels, normal, torch.arange(batch, device=device) % CLASSES, loader),
            *[(f"whole loader: mixwell, {workers} workers", len(each) * batch, lambda each=each: run(each))
              for workers, each in loaders.items()],
            *peer_loaders("torchvision", peer, batch, args.workers),
        ],
        args,
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="images in memory")
    parser.add_argument("--files", type=int, default=512, help="JPEG files, written to a temporary folder")
    parser.add_argument("--size", type=int, default=224, help="height and width of images from files")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu-time", action="store_true", help="processor time, with no workers and one thread")
    args = parser.parse_args(argv)
    if args.cpu_time:
        args.workers, args.threads = [0], 1
    warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)  # of torchvision.io, since 0.29
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {device}, {os.cpu_count()} cores")
    in_memory(args, device)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), args.files, args.size)
        size = sum(path.stat().st_size for path in itertools.islice(Path(folder).rglob("*.jpg"), 20))
        print(f"\nfiles have {size // min(20, args.files) // 1000} kB each")
        in_files(args, device, Path(folder))


if __name__ == "__main__":
    main()
