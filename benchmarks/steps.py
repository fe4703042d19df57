"""Measure what a training step of each method costs beside the plain step of the same network.

All steps are timed in turn in one run, forward, backward, SGD update and ``after_step``, so that a busy machine slows
all alike; a ratio is the median over the rounds of each round's own ratio. Operations are counted as well, which no
load can disturb.

    python benchmarks/steps.py            ResNet-18, batches of 100 images of 32 pixels
    python benchmarks/steps.py --quick    a small network, for a smoke test
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mixwell as mw
from mixwell import models
from mixwell.methods.adautomix import AdAutoMix
from mixwell.methods.automix import AutoMix
from mixwell.methods.samix import SAMix, SAMixPretrained
from mixwell.mixers.learnedmask import LearnedMask
from mixwell.mixers.maskfile import save_mask

# The most a step may cost, in plain steps of the same run.
BARS = {"AutoMix": 3.0, "AdAutoMix, K = 2": 3.2, "SAMix, pretrained": 2.4}

Make = Callable[[nn.Module], mw.Method]


def methods(model: nn.Module, name: str, folder: Path) -> dict[str, Make]:
    """Name the methods to measure; the plain step comes first."""
    finished, path = SAMix(copy.deepcopy(model)), folder / "block.safetensors"
    save_mask(path, finished.block, finished.teacher.model, finished.teacher.layer, name)
    policies = (mw.MixUp(), mw.CutMix(), mw.FMix(), mw.SaliencyMix())
    return {
        "plain": mw.Mixing,
        **{repr(policy): lambda m, policy=policy: mw.Mixing(m, policy) for policy in policies},
        "SUMix over CutMix": lambda m: mw.SUMix(m, mw.CutMix(), num_classes=100),
        "SUMix over a finished block": lambda m: mw.SUMix(m, LearnedMask(str(path)), num_classes=100),
        "AutoMix": AutoMix,
        "AutoMix, block_p=0.5": lambda m: AutoMix(m, block_p=0.5),
        "AutoMix, no clean images": lambda m: AutoMix(m, clean_weight=0.0, head="both"),
        "SAMix": SAMix,
        "SAMix, pretrained": lambda m: SAMixPretrained(m, LearnedMask(str(path))),
        "AdAutoMix, K = 2": lambda m: AdAutoMix(m, sources=2),
        "AdAutoMix, K = 3": lambda m: AdAutoMix(m, sources=3),
    }


def step(method: mw.Method, rows: int, device: str) -> Callable[[], None]:
    """Return one step of training, the optimiser's included."""
    images, labels = torch.randn(rows, 3, 32, 32, device=device), torch.randint(100, (rows,), device=device)
    method.to(device)
    optimizer = torch.optim.SGD(method.param_groups(), lr=0.01, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        method(images, labels)["loss"].backward()
        optimizer.step()
        method.after_step(0.5)

    return run


def seconds(run: Callable[[], None], device: str, clock: Callable[[], float]) -> float:
    """Time one step, the device's work included."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    start = clock()
    run()
    wait()
    return clock() - start


def flops(run: Callable[[], None], times: int = 2) -> float:
    """Count the operations of a step, the mean over several where not every step does the same."""
    with FlopCounterMode(display=False) as counter:
        for _ in range(times):
            run()
    return counter.get_total_flops() / times


def main() -> int:
    """Print the table; return how many bars were missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small network, few images")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds [7]")
    parser.add_argument("--threads", type=int, default=2, help="cores to use [2]")
    parser.add_argument("--cpu-time", action="store_true", help="count processor seconds, on one thread, not wall time")
    parser.add_argument("--only", nargs="*", help="names of some methods")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    threads = 1 if args.cpu_time else args.threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    name, rows = ("mini_resnet", 32) if args.quick else ("resnet18", 100)
    model = models.build(name, 100)
    with tempfile.TemporaryDirectory() as folder:
        makes = methods(model, name, Path(folder))
        kept = ("plain", *(args.only or makes))
        runs = {key: step(make(copy.deepcopy(model)), rows, args.device) for key, make in makes.items() if key in kept}
    counted = {key: flops(run) for key, run in runs.items()}
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(args.repeats):
        for key, run in runs.items():
            times[key].append(seconds(run, args.device, clock))
    print(f"{name}, {rows} images of 32 pixels, {args.device}, {threads} threads, {args.repeats} rounds")
    print(f"{'step':32}{'ms':>9}{'x plain':>9}{'GFLOP':>10}{'x plain':>9}   bar")
    missed = 0
    for key, measured in times.items():
        ratio = statistics.median(t / plain for t, plain in zip(measured, times["plain"], strict=True))
        bar = BARS.get(key)
        missed += bar is not None and ratio > bar
        verdict = "" if bar is None else f"{bar} {'kept' if ratio <= bar else 'MISSED'}"
        work = f"{counted[key] / 1e9:10.1f}{counted[key] / counted['plain']:9.2f}"
        print(f"{key:32}{statistics.median(measured) * 1e3:9.0f}{ratio:9.2f}{work}   {verdict}")
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
