"""The processes and the device of a run: Accelerate, random seeds, and the facts about the machine in its summary."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import get_available_trackers

from mixwell.train.config import Config
from mixwell.train.errors import RunError, first_line

PACKAGES = ("mixwell", "torch", "torchvision", "timm", "accelerate", "numpy", "scikit-learn")
PATIENCE = 60.0  # how long a process tries to reach the first one, which may start later (seconds)
QUIET = 3.0  # how long it does so before it prints that it waits (seconds)


def check_device(name: str) -> None:
    """Check that torch can use a device.

    Raises:
        RunError: It cannot start, or the device does not exist.
    """
    if name == "auto":
        return
    try:
        if torch.empty(1, device=name).device.type not in ("cpu", "cuda", "mps"):
            raise ValueError
    except (RuntimeError, AssertionError, NotImplementedError, ValueError):
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        known = ", ".join(["auto", "cpu", *gpus, *["mps"] * torch.backends.mps.is_available()])
        raise RunError(f"device {name!r} is not available: torch can use {known}") from None
    if name.startswith("cuda:") and os.environ.get("WORLD_SIZE", "1") != "1":
        raise RunError(f"every process has a GPU of its own: use --device auto instead of {name}")


def check_tracker(name: str) -> None:
    """Check that an experiment tracker is installed; Accelerate would ignore one that is not.

    Raises:
        RunError: It is not installed.
    """
    if name and name not in map(str, get_available_trackers()):
        raise RunError(f"the tracker {name} is not installed: pip install {name}, or leave --tracker out")


def check_meeting_place() -> None:
    """Check that the processes of a run can connect; torch would wait for half an hour and ignore Ctrl-C.

    Raises:
        RunError: ``MASTER_ADDR`` or ``MASTER_PORT`` is not valid, or no process answers there.
    """
    counts = {name: os.environ.get(name, default) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0"))}
    for name, text in counts.items():
        if not text.isdecimal():
            raise RunError(f"{name} must be a whole number, but is {text!r}: unset it, or start with torchrun")
    if int(counts["WORLD_SIZE"]) == 1:
        return
    host, port = (os.environ.get(f"MASTER_{name}", "") for name in ("ADDR", "PORT"))
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise RunError(
            f"several processes need MASTER_ADDR and MASTER_PORT, a host and a port below 65536, but these are "
            f"{host!r} and {port!r}: set them, or start with torchrun"
        )
    if int(counts["RANK"]) == 0:  # the first process is the one that answers
        return
    deadline, printed = monotonic() + PATIENCE, False
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=max(deadline - monotonic(), 1)).close()
            return
        except OSError as error:
            if monotonic() > deadline:
                raise RunError(_unreachable(error.strerror or str(error))) from None
            if not printed and deadline - monotonic() < PATIENCE - QUIET:
                print(f"mixwell: waiting up to {PATIENCE:.0f} s for {host}:{port}", file=sys.stderr, flush=True)
                printed = True
        sleep(0.2)


def _unreachable(reason: str) -> str:
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return f"the processes cannot connect at {where} (MASTER_ADDR:MASTER_PORT): {reason}"


def start(config: Config) -> Accelerator:
    """Return the ``Accelerator`` of a config, in the processes that ``torchrun`` or ``accelerate launch`` started.

    Raises:
        RunError: The device or precision is not available, or the processes cannot connect.
    """
    check_device(config.device)
    if config.precision == "fp16" and (config.device == "cpu" or not torch.cuda.is_available()):
        raise RunError("precision fp16 needs a CUDA GPU: use bf16 or fp32 here")
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.device.startswith("cuda:"):
        torch.cuda.set_device(config.device)
    torch.backends.cudnn.benchmark = True
    # Accelerate keeps its settings in singletons, so a second run in one process would inherit those of the first.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    check_meeting_place()
    try:
        return Accelerator(
            mixed_precision="no" if config.precision == "fp32" else config.precision,
            gradient_accumulation_steps=config.accumulate,
            cpu=config.device == "cpu",
            log_with=config.tracker or None,
        )
    except torch.distributed.DistError as error:
        raise RunError(_unreachable(first_line(error))) from None


def start_tracker(accelerator: Accelerator, config: Config, run: Path) -> None:
    """Start the tracker of a run, if it has one; the run has the name of its directory there."""
    if config.tracker:
        named = {"run_name" if config.tracker == "mlflow" else "name": run.resolve().name}
        accelerator.init_trackers("mixwell", asdict(config), {config.tracker: named})


def is_first() -> bool:
    """Return whether this is the first process of a launch; ``torchrun`` and others set ``RANK``."""
    return os.environ.get("RANK", "0") == "0"


def launch() -> tuple[str, str]:
    """Return a prefix that names this process in a message, and one that starts a command in as many processes.

    Both are empty for a single process.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    if world == "1":
        return "", ""
    each = int(world) // int(os.environ.get("GROUP_WORLD_SIZE", "1"))  # torchrun counts the machines there
    return f"rank {os.environ.get('RANK', '0')} of {world}: ", f"torchrun --nproc-per-node {each} -m "


@contextlib.contextmanager
def unbroken(advice: Callable[[], str]) -> Iterator[None]:
    """Turn the failure of a collective operation because another process has ended into one sentence with advice."""
    try:
        yield
    except (RuntimeError, torch.distributed.DistError) as error:
        if not lost_process(error):
            raise
        raise RunError(f"{launch()[0]}another process has ended: {advice()}") from None


def lost_process(error: Exception) -> bool:
    """Return whether a collective operation failed because another process of the launch has ended."""
    pattern = "gloo|nccl|broken pipe|socket|connection (closed|reset|refused)"
    return torch.distributed.is_initialized() and re.search(pattern, str(error), re.IGNORECASE) is not None


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's random numbers, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (libraries that we call may draw from it)
    torch.manual_seed(seed)


def environment(accelerator: Accelerator) -> dict[str, Any]:
    """Return the facts about machine and code that belong to a result."""
    device = accelerator.device
    return {
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := _version(name))},
        "commit": _commit(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": accelerator.num_processes,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the sources; None for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
