"""A small classifier and a batch, and one training step on them."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mixwell import Constant, Given, MixUp, Policy


class Net(nn.Module):
    """A small classifier without batch norm, so that images do not see each other."""

    def __init__(self, classes: int = 10, norm: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.stem(x)).relu().mean((2, 3)))


def data(rows: int = 8, size: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 3, size, size), torch.randint(10, (rows,))


def seeded(method: nn.Module, *batch: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return method(*batch)


def gradients(method: nn.Module, *batch: Tensor) -> dict[str, Tensor]:
    method.zero_grad()
    seeded(method, *batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def fixed(rows: int, lam: float = 0.3) -> Policy:
    """Pair rows in twos."""
    return MixUp(alpha=Constant(lam), pairing=Given([i + 1 - 2 * (i % 2) for i in range(rows)]))


def joint_step(rank: int, folder: str) -> dict[str, Tensor | None]:
    """Run one step on this process's half of a saved batch, and return the gradients of both processes together."""
    torch.set_num_threads(1)
    with process_group(f"{folder}/meet", rank, 2):
        method, images, labels = torch.load(f"{folder}/batch.pt", weights_only=False)
        parallel = nn.parallel.DistributedDataParallel(method)
        parallel(images.chunk(2)[rank], labels.chunk(2)[rank])["loss"].backward()
        torch.distributed.barrier()
        return {name: p.grad for name, p in method.named_parameters()}


def free_port() -> int:
    """Return a port of this machine that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def process_group(meet: str, rank: int, world: int) -> Iterator[None]:
    """Meet other processes at a file, for as long as the context lasts; give up on them after two minutes."""
    patience = datetime.timedelta(minutes=2)
    torch.distributed.init_process_group("gloo", f"file://{meet}", patience, world, rank)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def second_process(function: Callable[..., object], *arguments: object) -> Iterator[None]:
    """Run a function in another process beside the body; its error becomes the body's."""
    process = torch.multiprocessing.spawn(_run_and_leave, (function, *arguments), join=False)
    try:
        yield
    finally:
        while not process.join():
            pass


def _run_and_leave(_: int, function: Callable[..., object], *arguments: object) -> None:
    """Leave at once: gloo's threads outlive DistributedDataParallel, and abort if Python is taken down around them."""
    function(*arguments)
    os._exit(0)
