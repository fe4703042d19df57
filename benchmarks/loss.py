"""What the loss of a mixed batch costs, beside dense targets: ``python benchmarks/loss.py``.

Forward and backward from the same logits and labels. ``mixwell`` is ``mw.cross_entropy`` of the labels and their
weights; ``torch`` builds dense targets and calls ``F.cross_entropy``; ``timm`` builds them as timm's ``Mixup`` does and
calls ``SoftTargetCrossEntropy``. The calls take turns; a row is the least mean time of five calls, which other
programs on the machine disturb least, and the peak of new memory while the loss is computed. The last rows are whole
steps: mixing, loss and backward of 128 x 3 x 32 x 32 images, 100 classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup, mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch.profiler import ProfilerActivity, profile

import mixwell as mw

Call = Callable[[], object]
BATCH = 128


def losses(classes: int, smoothing: float) -> dict[str, Call]:
    """Return the three losses, forward and backward."""
    logits = torch.randn(BATCH, classes, requires_grad=True)
    labels = torch.randint(classes, (BATCH,))
    mixed = mw.MixUp(pairing=mw.Reverse())(torch.rand(BATCH, 1, 2, 2), labels)
    lam, theirs = float(mixed.weights[0, 0]), SoftTargetCrossEntropy()

    def ours() -> None:
        torch.autograd.grad(mw.cross_entropy(logits, mixed, smoothing), logits)

    def dense() -> None:
        targets = torch.zeros(BATCH, classes).scatter_add_(1, mixed.labels, mixed.weights)
        torch.autograd.grad(F.cross_entropy(logits, targets, label_smoothing=smoothing), logits)

    def soft() -> None:
        targets = mixup_target(labels, classes, lam, smoothing)
        torch.autograd.grad(theirs(logits, targets), logits)

    return {"mixwell": ours, "torch": dense, "timm": soft}


def steps(kind: str, smoothing: float) -> dict[str, Call]:
    """Return mixing, loss and backward, given the logits; all of them overwrite the batch."""
    images, labels = torch.rand(BATCH, 3, 32, 32), torch.randint(100, (BATCH,))
    logits = torch.randn(BATCH, 100, requires_grad=True)
    policy = mw.MixUp() if kind == "MixUp" else mw.CutMix()
    alphas = (1.0, 0.0) if kind == "MixUp" else (0.0, 1.0)
    mixup, theirs = Mixup(*alphas, label_smoothing=smoothing, num_classes=100), SoftTargetCrossEntropy()

    def ours() -> None:
        mixed = policy(images, labels, out=images)
        torch.autograd.grad(mw.cross_entropy(logits, mixed, smoothing), logits)

    def soft() -> None:
        _, targets = mixup(images, labels)
        torch.autograd.grad(theirs(logits, targets), logits)

    return {"mixwell": ours, "timm": soft}


def measure(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Return the least time of each call in milliseconds; calls take turns for this long."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = perf_counter() + seconds
    while perf_counter() < end or len(times["mixwell"]) < 10:
        for name, call in calls.items():
            call()  # the first call of a turn is not counted
            start = perf_counter()
            for _ in range(5):
                call()
            times[name].append((perf_counter() - start) / 5)
    return {name: 1e3 * min(each) for name, each in times.items()}


def peak(call: Call) -> float:
    """Return the most memory in MB that torch holds at one time during a call, beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    held = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 1e6


def report(title: str, calls: dict[str, Call], seconds: float) -> None:
    """Print a row for every call, as a ratio to ours."""
    found = measure(calls, seconds)
    for name, call in calls.items():
        ratio = found[name] / found["mixwell"]
        print(f"{title:34}{name:10}{found[name]:10.3f}{ratio:8.2f}{peak(call):10.2f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", nargs="+", type=int, default=[100, 1000, 20000])
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1])
    parser.add_argument("--smoothing", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row")
    args = parser.parse_args()
    print(f"{'':34}{'':10}{'ms':>10}{'x ours':>8}{'peak MB':>10}")
    for threads in args.threads:
        torch.set_num_threads(threads)
        for classes in args.classes:
            report(f"{classes} classes, {threads} threads", losses(classes, args.smoothing), args.seconds)
        for kind in ("MixUp", "CutMix"):
            report(f"{kind} step, {threads} threads", steps(kind, args.smoothing), args.seconds)


if __name__ == "__main__":
    main()
