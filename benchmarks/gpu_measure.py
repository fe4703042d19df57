"""Measure work on a device: time by events, peak memory, host synchronisations, and two ceilings of the hardware."""

from __future__ import annotations

import gc
import platform
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], object]
SYNC = "called a synchronizing CUDA operation"  # what torch warns of in sync debug mode


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call.

    Args:
        ms: Median over both series.
        spread: Difference between the medians of the two series, as a share of the smaller one.
        host_ms: Time until the call returned, mean over both series; the device may still be working then.
        calls: Timed calls of both series together.
    """

    ms: float
    spread: float
    host_ms: float
    calls: int


class Host:
    """A CPU: the work is done when the call returns."""

    def __init__(self, name: str = "cpu") -> None:
        self.device = torch.device(name)

    def name(self) -> str:
        """Name the hardware."""
        return platform.processor() or platform.machine()

    def wait(self) -> None:
        """Wait until all work is done."""

    def laps(self, call: Call, count: int) -> list[float]:
        """Return the time of each of ``count`` calls in a row (milliseconds)."""
        marks = [time.perf_counter()]
        for _ in range(count):
            call()
            marks.append(time.perf_counter())
        return [1e3 * (end - start) for start, end in pairwise(marks)]

    def reset_peak(self) -> None:
        """Start to watch memory."""

    def peak_bytes(self) -> int | None:
        """Return the most memory that was allocated since :meth:`reset_peak` (bytes), None where it is not known."""

    def syncs(self, call: Call) -> Counter[str] | None:
        """Make a call and count by file and line where the host waited for the device, None on a CPU."""
        call()

    def free(self) -> None:
        """Return unused memory."""
        gc.collect()


class Cuda(Host):
    """A CUDA device: work is queued, and events on the queue tell when it was done."""

    def name(self) -> str:
        return torch.cuda.get_device_name(self.device)

    def wait(self) -> None:
        torch.cuda.synchronize(self.device)

    def laps(self, call: Call, count: int) -> list[float]:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        self.wait()
        events[0].record()
        for event in events[1:]:
            call()
            event.record()
        self.wait()
        return [start.elapsed_time(end) for start, end in pairwise(events)]

    def reset_peak(self) -> None:
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int | None:
        self.wait()
        return torch.cuda.max_memory_allocated(self.device)

    def syncs(self, call: Call) -> Counter[str] | None:
        self.wait()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = (f"{w.filename}:{w.lineno}" for w in caught if SYNC in str(w.message))
        return Counter("/".join(place.split("/")[-2:]) for place in places)

    def free(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()


def hardware(name: str) -> Host:
    """Return what measures on a device of torch.

    Raises:
        SystemExit: torch cannot use the device.
    """
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SystemExit(f"torch cannot use device {name!r}: {str(error).splitlines()[0]}") from None
    if torch.device(name).type != "cuda":
        return Host(name)
    index = torch.device(name).index or 0
    torch.cuda.set_device(index)
    return Cuda(f"cuda:{index}")


def timed(on: Host, call: Call, *, seconds: float, least: int = 5, refresh: Call = lambda: None) -> Timing:
    """Time a call twice, in two series of about ``seconds`` each.

    Args:
        on: The device.
        call: What to time; it should take another input at each call.
        seconds: Length of one series.
        least: Fewest calls in a series.
        refresh: Draws new inputs before each series, outside the timed region.
    """
    on.laps(call, 2)  # loads kernels, creates handles
    count = max(least, min(1000, round(1e3 * seconds / max(min(on.laps(call, 2)), 1e-3))))
    medians, host = [], 0.0
    for _ in range(2):
        refresh()
        on.wait()
        returned: list[float] = []

        def submit(returned: list[float] = returned) -> None:
            start = time.perf_counter()
            call()
            returned.append(time.perf_counter() - start)

        medians.append(statistics.median(on.laps(submit, count)))
        host += 1e3 * sum(returned)
    spread = abs(medians[0] - medians[1]) / min(medians)
    return Timing(statistics.mean(medians), spread, host / (2 * count), 2 * count)


class Rotation:
    """Random images and labels in several sets, so that no call finds the last one's input in a cache.

    Args:
        on: The device.
        shape: Of one set, ``(B, C, H, W)``.
        dtype: Of the images.
        classes: Labels are below this number.
        total: Bytes that all sets take together, at least; there are never fewer than three sets.
        memory_format: Of the images.
    """

    def __init__(
        self,
        on: Host,
        shape: tuple[int, int, int, int],
        dtype: torch.dtype,
        classes: int,
        total: int = 0,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        rows, *rest = shape
        self.bytes = torch.Size(shape).numel() * dtype.itemsize
        count = max(3, -(-total // self.bytes))
        self.pool = torch.empty(count * rows, *rest, dtype=dtype, device=on.device, memory_format=memory_format)
        labels = torch.randint(classes, (count * rows,), device=on.device)
        self.sets = list(zip(self.pool.split(rows), labels.split(rows), strict=True))
        self.turn = 0
        self.refresh()

    def refresh(self) -> None:
        """Draw all images anew."""
        if self.pool.dtype == torch.uint8:
            self.pool.random_(0, 256)
        else:
            self.pool.uniform_()

    def next(self) -> tuple[Tensor, Tensor]:
        """Return the next set."""
        self.turn = (self.turn + 1) % len(self.sets)
        return self.sets[self.turn]


def short_syncs(places: Counter[str] | None) -> dict[str, Any] | None:
    """Return the number of synchronisations and the five places with the most, for a record."""
    return None if places is None else {"count": places.total(), "places": dict(places.most_common(5))}


def copy_rate(on: Host, size: int, seconds: float) -> tuple[float, Timing]:
    """Measure copying ``size`` bytes on the device: bytes read and written per second, and the time."""
    buffers = [torch.empty(size, dtype=torch.uint8, device=on.device).random_(0, 256) for _ in range(4)]
    state = {"turn": 0}

    def copy() -> None:
        state["turn"] += 1
        buffers[state["turn"] % 2].copy_(buffers[2 + state["turn"] % 2])

    timing = timed(on, copy, seconds=seconds)
    return 2 * size / (timing.ms / 1e3), timing


def matmul_rate(on: Host, side: int, seconds: float) -> tuple[float, Timing]:
    """Measure the product of two random bfloat16 matrices: operations per second, and the time."""
    left, right = (torch.randn(side, side, device=on.device).to(torch.bfloat16) for _ in range(2))
    timing = timed(on, lambda: left @ right, seconds=seconds)
    return 2 * side**3 / (timing.ms / 1e3), timing
