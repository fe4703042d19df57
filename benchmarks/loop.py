"""How fast the training program is beside a bare training loop: ``python benchmarks/loop.py``.

The program trains a recipe on random images, with its policy, augmentation, step guard, progress display,
``metrics.jsonl`` and TensorBoard. The bare loop is forward, cross-entropy, backward and SGD step, for the same network,
on one batch that stays on the device. Blocks of steps of both alternate within one epoch; the share is the median of
the ratios of neighbouring blocks, by wall time and by CPU time, which other programs on the machine disturb less. What
the program does once per epoch is timed at the end and divided among the steps of an epoch. Validation and checkpoints
are not included.

A CUDA device measures float32, bf16, channels-last and compiled networks; a CPU measures float32.

    python benchmarks/loop.py --device cpu --model mini_resnet --batch_size 20 --blocks 3    a smoke test
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixwell import models
from mixwell.train.config import Config
from mixwell.train.display import Display
from mixwell.train.loop import Training
from mixwell.train.recipes import RECIPES
from mixwell.train.records import Records

IMAGES = 50_000
MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"precision": "bf16"},
    "bf16, channels-last": {"precision": "bf16", "channels_last": True},
    "bf16, channels-last, compiled": {"precision": "bf16", "channels_last": True, "compile": True},
    "float32, compiled": {"compile": True},
}


@dataclass
class Bare:
    """Forward, loss, backward and step on one batch."""

    config: Config
    device: torch.device

    def __post_init__(self) -> None:
        model = models.build(self.config.model, 100).to(self.device)
        self.images = torch.randn(self.config.batch_size, 3, 32, 32, device=self.device)
        self.labels = torch.randint(100, (self.config.batch_size,), device=self.device)
        if self.config.channels_last:
            model = model.to(memory_format=torch.channels_last)
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        if self.config.compile:
            model.compile()
        self.model: nn.Module = model
        self.optimizer = torch.optim.SGD(
            model.parameters(), self.config.lr, self.config.momentum, weight_decay=self.config.weight_decay, fused=True
        )

    def step(self) -> None:
        """Take a step."""
        narrow = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if narrow else nullcontext():
            loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@dataclass
class Alternating:
    """Batches for the program; after every block of them the bare loop takes as many steps."""

    loader: Any
    bare: Bare
    block: int
    blocks: int
    warmup: int
    full: list[np.ndarray] = field(default_factory=list[np.ndarray])
    alone: list[np.ndarray] = field(default_factory=list[np.ndarray])
    ended: Any = 0.0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        began = self.now()
        for index, batch in enumerate(self.loader, 1):
            yield batch
            if index % self.block == 0:
                middle = self.now()
                for _ in range(self.block):
                    self.bare.step()
                self.full.append(middle - began)
                self.alone.append(self.now() - middle)
                if len(self.full) == self.blocks + self.warmup:
                    break
                began = self.now()
        self.full, self.alone = self.full[self.warmup :], self.alone[self.warmup :]
        self.ended = self.now()

    def now(self) -> np.ndarray:
        """Return wall time and CPU time (seconds), after the work of the device."""
        if self.bare.device.type == "cuda":
            torch.cuda.synchronize()
        return np.array([perf_counter(), process_time()])


def noise(folder: Path, images: int) -> None:
    """Write random images in a form that the program reads as CIFAR-100."""
    draw, parts = np.random.default_rng(0), {}
    for name, count in (("train", images), ("test", 100)):
        parts[f"x_{name}"] = draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        parts[f"y_{name}"] = np.arange(count) % 100
    np.savez(folder / "cifar.npz", **parts)


def measure(config: Config, run: Path, args: argparse.Namespace) -> tuple[float, float, float, float]:
    """Return the speed of the program and of the bare loop (images/s), and the share by wall and CPU time (percent)."""
    training = Training(config, run, "")
    times = Alternating(training.train, Bare(config, training.accelerator.device), args.block, args.blocks, args.warmup)
    training.train = times  # type: ignore[assignment]
    run.mkdir()
    records = Records(run, [])
    with Display(config.epochs, IMAGES) as display:
        record = {"epoch": 1, **training.train_epoch(1, display), "images_per_second": 1.0, "seconds": 1.0}
        display.epoch(record)
        records.add([record])
    epoch_end = (times.now() - times.ended) * args.block / (IMAGES // config.batch_size)
    records.board.close()
    full, alone = np.stack(times.full) + epoch_end, np.stack(times.alone)
    images, share = config.batch_size * args.block, 100 * np.median(alone / full, axis=0)
    return images / np.median(full[:, 0]), images / np.median(alone[:, 0]), *share


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="cifar100_resnet18_cutmix", help="[cifar100_resnet18_cutmix]")
    parser.add_argument("--model", help="another network")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--modes", nargs="+", choices=MODES, help="[all on CUDA, else float32]")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads [torch's default]")
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--block", type=int, help="steps between two clock readings [CUDA 20, else 1]")
    parser.add_argument("--blocks", type=int, default=20, help="timed blocks [20]")
    parser.add_argument("--warmup", type=int, default=2, help="blocks before these [2]")
    args = parser.parse_args()
    cuda = torch.device(args.device).type == "cuda"
    args.block = args.block or (20 if cuda else 1)
    base = replace(RECIPES[args.recipe](), batch_size=args.batch_size, device=args.device, threads=args.threads)
    base = replace(base, model=args.model or base.model)
    with tempfile.TemporaryDirectory() as folder:
        noise(Path(folder), min(IMAGES, args.batch_size * args.block * (args.blocks + args.warmup)))
        rows = []
        for name in args.modes or (MODES if cuda else ["float32"]):
            torch.compiler.reset()
            changes = {**MODES[name], "data": folder}
            rows.append((name, *measure(replace(base, **changes), Path(folder, f"run{len(rows)}"), args)))
    place = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads"
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"torch {torch.__version__}, {place}, {load}; {args.recipe}, {base.model}, batch {args.batch_size}")
    print(f"{'':<31}{'program':>10}{'bare':>10}{'share':>10}{'by CPU time':>14}   (images/s)")
    for name, full, alone, wall, cpu in rows:
        print(f"{name:<31}{full:>10.1f}{alone:>10.1f}{wall:>8.1f} %{cpu:>12.1f} %")


if __name__ == "__main__":
    main()
