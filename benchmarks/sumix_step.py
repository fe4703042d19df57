"""Measure what a SUMix step costs beside the plain CutMix step of the same network.

Both steps, and the released form of SUMix, are timed in turn in one run, forward, backward and SGD update, so that a
busy machine slows all alike. Operations are counted as well, which no load can disturb.

    python benchmarks/sumix_step.py            ResNet-18, batches of 100 images of 32 pixels
    python benchmarks/sumix_step.py --quick    a small network, for a smoke test
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mixwell as mw
from mixwell import models

BAR = 1.5


def steps(name: str, batch: int, size: int, device: str) -> dict[str, Callable[[], None]]:
    """Return one training step per method, on copies of one network and the same images."""
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(100, (batch,), device=device)
    model, policy = models.build(name, 100), mw.CutMix(alpha=0.2)

    def step(make: Callable[[nn.Module], mw.Method]) -> Callable[[], None]:
        method = make(copy.deepcopy(model)).to(device)
        optimizer = torch.optim.SGD(method.param_groups(), lr=0.01, momentum=0.9)

        def run() -> None:
            optimizer.zero_grad()
            method(images, labels)["loss"].backward()
            optimizer.step()

        return run

    return {
        "CutMix": step(lambda m: mw.Mixing(m, policy)),
        "CutMix + SUMix": step(lambda m: mw.SUMix(m, policy, num_classes=100)),
        "CutMix + SUMix as released": step(lambda m: mw.SUMix(m, policy, num_classes=100, reference_compat=True)),
    }


def seconds(step: Callable[[], None], device: str) -> float:
    """Time one step, the device's work included."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def flops(step: Callable[[], None]) -> int:
    """Count the operations of one step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def main() -> None:
    """Print time and operations per step, and how they relate to plain CutMix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small network, few images")
    parser.add_argument("--repeats", type=int, default=9, help="timed rounds [9]")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    made = steps("mini_resnet" if args.quick else "resnet18", 32 if args.quick else 100, 32, args.device)
    for step in made.values():
        step()  # warm-up
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(args.repeats):
        for name, step in made.items():
            times[name].append(seconds(step, args.device))
    counted = {name: flops(step) for name, step in made.items()}
    median = {name: statistics.median(values) for name, values in times.items()}
    # The ratio of each round, not of the medians: what slows a whole round cancels out.
    ratio = {n: statistics.median(a / b for a, b in zip(v, times["CutMix"], strict=True)) for n, v in times.items()}
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, {args.repeats} rounds")
    print(f"{'step':<28}{'ms':>9}{'x CutMix':>10}{'GFLOP':>9}{'x CutMix':>10}")
    for name in made:
        counts = f"{counted[name] / 1e9:>9.1f}{counted[name] / counted['CutMix']:>10.3f}"
        print(f"{name:<28}{1e3 * median[name]:>9.1f}{ratio[name]:>10.2f}{counts}")
    verdict = "kept" if ratio["CutMix + SUMix"] <= BAR else "MISSED"
    print(f"bar: CutMix + SUMix at most {BAR} x CutMix: {verdict} ({ratio['CutMix + SUMix']:.2f})")


if __name__ == "__main__":
    main()
