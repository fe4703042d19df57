"""Training steps of several methods on a device: how they are built and compiled, and what they cost."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from gpu_measure import Host, Rotation, short_syncs, timed
from gpu_record import Record, table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mixwell as mw
from mixwell import models

Make = Callable[[nn.Module, int], mw.Method]  # classifier and number of classes to method

CUTMIX = mw.CutMix(alpha=0.2)
METHODS: dict[str, Make] = {
    "plain": lambda model, n: mw.Mixing(model, num_classes=n),
    "CutMix": lambda model, n: mw.Mixing(model, CUTMIX, num_classes=n),
    "CutMix + SUMix": lambda model, n: mw.SUMix(model, CUTMIX, num_classes=n),
    "AutoMix": lambda model, n: mw.AutoMix(model, mw.MixUp(alpha=2.0), num_classes=n),
    "SAMix": lambda model, n: mw.SAMix(model, mw.MixUp(alpha=2.0), num_classes=n),
    "AdAutoMix": lambda model, n: mw.AdAutoMix(model, mw.MixUp(alpha=1.0), num_classes=n),
    "PuzzleMix": lambda model, n: mw.Mixing(model, mw.PuzzleMix(), num_classes=n),
}


@dataclass(frozen=True)
class Mode:
    """How much of a step ``torch.compile`` gets.

    Args:
        name: What tables call it.
        networks: Compile the classifier and its copies, such as a teacher.
        whole: Compile the method, with everything that its forward pass calls.
        graphs: Replay CUDA graphs.
        backend: Of ``torch.compile``.
    """

    name: str
    networks: bool = False
    whole: bool = False
    graphs: bool = False
    backend: str = "inductor"

    def prepare(self, method: mw.Method) -> None:
        """Compile a method in place."""
        options: dict[str, Any] = {"backend": self.backend}
        if self.graphs and self.backend == "inductor":
            options["mode"] = "reduce-overhead"
        if self.whole:
            method.compile(**options)
        if self.networks:
            kind = type(method.model)
            for module in method.modules():
                if isinstance(module, kind):
                    module.compile(**options)

    def begin_step(self) -> None:
        """Tell CUDA graphs that results of the last step may be overwritten."""
        if self.graphs and self.backend == "inductor":
            torch.compiler.cudagraph_mark_step_begin()


MODES = {
    "eager": Mode("eager"),
    "networks": Mode("networks", networks=True),
    "whole": Mode("whole", whole=True),
    "graphs": Mode("graphs", networks=True, graphs=True),
}


@dataclass
class Step:
    """One step of training in bfloat16 with channels-last images: forward, backward, SGD, ``after_step``.

    Args:
        method: The method, moved to the device and compiled here.
        on: The device.
        mode: What is compiled.
        lr: Learning rate.
        weight_decay: Of all parameters.
    """

    method: mw.Method
    on: Host
    mode: Mode
    lr: float = 0.01
    weight_decay: float = 1e-4
    optimizer: torch.optim.SGD = field(init=False)

    def __post_init__(self) -> None:
        self.method.to(self.on.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            self.method.param_groups(), self.lr, momentum=0.9, weight_decay=self.weight_decay, fused=True
        )
        self.mode.prepare(self.method)

    def autocast(self) -> AbstractContextManager[object]:
        """Run in bfloat16 what is safe in bfloat16."""
        return torch.autocast(self.on.device.type, dtype=torch.bfloat16)

    def __call__(self, images: Tensor, labels: Tensor, progress: float = 0.5) -> Tensor:
        """Take a step and return the loss, without waiting for the device."""
        self.mode.begin_step()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.method(images, labels)["loss"]
        loss.backward()
        self.optimizer.step()
        self.method.after_step(progress)
        return loss.detach()


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        model: Name of the classifier.
        classes: Number of classes.
        shape: Of a batch, ``(B, C, H, W)``.
        mode: What is compiled.
        methods: Names in ``METHODS``, in the order in which they are measured.
        seconds: Length of one timed series.
    """

    model: str
    classes: int
    shape: tuple[int, int, int, int]
    mode: Mode
    methods: Sequence[str] = tuple(METHODS)
    seconds: float = 0.5

    def title(self) -> dict[str, str]:
        """Return what tells this setting's rows from those of others."""
        return {"model": self.model, "batch": "x".join(map(str, self.shape)), "mode": self.mode.name}


def flops(run: Callable[[], object], times: int = 2) -> float | None:
    """Count the operations of a step, the mean over several where not every step does the same.

    None where torch cannot count them: it cannot in steps that call ``torch.autograd.grad``, as PuzzleMix does.
    """
    try:
        with FlopCounterMode(display=False) as counter:
            for _ in range(times):
                run()
    except RuntimeError:
        return None
    return counter.get_total_flops() / times


def measure(on: Host, record: Record, setting: Setting) -> None:
    """Measure the step of each method; a method that fails is written to the record and left out.

    The first method is measured again at the end, so that a change of the machine in between is seen.
    """
    torch.manual_seed(0)
    model = models.build(setting.model, setting.classes)
    inputs = Rotation(on, setting.shape, torch.float32, setting.classes, memory_format=torch.channels_last)
    repeated = [(setting.methods[0], True)] if len(setting.methods) > 1 else []
    for name, again in [*((name, False) for name in setting.methods), *repeated]:
        what = " ".join([name, *setting.title().values()])
        with record.listed(what):
            method = METHODS[name](copy.deepcopy(model), setting.classes)
            row = one(on, Step(method, on, setting.mode), inputs, setting)
            record.write("step", method=name, again=again, **setting.title(), **row)
        method = None
        torch.compiler.reset()
        on.free()


def one(on: Host, step: Step, inputs: Rotation, setting: Setting) -> dict[str, Any]:
    """Measure one step: time, memory, synchronisations and, where nothing is compiled, operations."""
    count = itertools.count()

    def run() -> Tensor:
        return step(*inputs.next(), next(count) % 1000 / 1000)  # a step that compiles anew as training goes on is seen

    start = on.laps(run, 3)  # the first call compiles
    counted = flops(run) if setting.mode.name == "eager" else None
    on.reset_peak()
    timing = timed(on, run, seconds=setting.seconds, refresh=inputs.refresh)
    peak, syncs = on.peak_bytes(), on.syncs(run)
    if not bool(run().isfinite()):
        raise ValueError("the loss is NaN or Inf")
    rate = 1e3 * setting.shape[0] / timing.ms
    return {
        **vars(timing),
        "images_per_second": rate,
        "first_call_s": start[0] / 1e3,
        "peak_bytes": peak,
        "syncs": short_syncs(syncs),
        "flops": counted,
    }


def report(record: Record, matmul_rate: float) -> str:
    """Return a table for each classifier; modes stand side by side, and eager is compared with plain."""
    parts = []
    for model, batch in dict.fromkeys((row["model"], row["batch"]) for row in record.of("step")):
        of = partial(record.of, "step", model=model, batch=batch)
        modes = list(dict.fromkeys(row["mode"] for row in of()))
        rows = [
            [f"{model} {batch}", *(f"{mode} ms" for mode in modes), "x plain", "spread", "GB", "syncs", "of matmul"]
        ]
        for name, again in dict.fromkeys((row["method"], row["again"]) for row in of()):
            cells = {row["mode"]: row for row in of(method=name, again=again)}
            plain = {row["mode"]: row["ms"] for row in of(method="plain", again=False)}
            rows.append(
                [
                    f"{name}, again" if again else name,
                    *(f"{cells[mode]['ms']:.2f}" if mode in cells else "-" for mode in modes),
                    " / ".join(f"{cells[m]['ms'] / plain[m]:.2f}" if m in cells and m in plain else "-" for m in modes),
                    " / ".join(f"{cells[m]['spread']:.1%}" if m in cells else "-" for m in modes),
                    " / ".join(_gigabytes(cells.get(m)) for m in modes),
                    " / ".join(_syncs(cells.get(m)) for m in modes),
                    _share(list(cells.values()), of(method=name, mode="eager"), matmul_rate),
                ]
            )
        parts.append(table(rows))
    return "\n\n".join(parts)


def _gigabytes(row: dict[str, Any] | None) -> str:
    return f"{row['peak_bytes'] / 1e9:.1f}" if row and row["peak_bytes"] else "-"


def _syncs(row: dict[str, Any] | None) -> str:
    return str(row["syncs"]["count"]) if row and row["syncs"] else "-"


def _share(cells: list[dict[str, Any]], eager: list[dict[str, Any]], matmul_rate: float) -> str:
    """Return how near the fastest mode comes to the rate of a large matrix product."""
    if not cells or not eager or not eager[0]["flops"]:
        return "-"
    fastest = min(row["ms"] for row in cells)
    return f"{eager[0]['flops'] / (fastest / 1e3) / matmul_rate:.0%}"
