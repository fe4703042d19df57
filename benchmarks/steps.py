"""Measure what a training step of each method costs beside the plain step of the same network.

All steps are timed in turn in one run, forward, backward, SGD update and ``after_step``. A ratio is that of the fastest
rounds, because other processes only ever slow a round down. Operations are counted as well, which do not depend on the
load of the machine.

    python benchmarks/steps.py                  ResNet-18, 100 images of 32 pixels, and DeiT-T, 16 images of 224 pixels
    python benchmarks/steps.py --net resnet18   one of them
    python benchmarks/steps.py --quick          small networks, for a smoke test
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
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

PLAIN = "plain"
# The most a step may cost, and the step of the same run that it is compared with.
BARS = {
    "ActivationShare": (1.4, PLAIN),
    "SUMix over CutMix": (1.35, PLAIN),
    "SUMix, ActivationShare": (1.02, "SUMix over CutMix"),
    "AutoMix": (3.0, PLAIN),
    "AdAutoMix, K = 2": (3.2, PLAIN),
    "SAMix, pretrained": (2.4, PLAIN),
    "TransMix": (1.1, PLAIN),
    "SMMix": (1.5, PLAIN),
}
CLASSES = 100

Make = Callable[[nn.Module], mw.Method]


@dataclass(frozen=True)
class Net:
    """A network and its batches.

    Attributes:
        model: Name of the network.
        small: Name of a small one of the same kind, for a smoke test.
        shape: Images, and their side in pixels.
        quick: The same for the smoke test.
        methods: Name the methods to measure.
    """

    model: str
    small: str
    shape: tuple[int, int]
    quick: tuple[int, int]
    methods: Callable[[nn.Module, str, Path], dict[str, Make]]


def convolutional(model: nn.Module, name: str, folder: Path) -> dict[str, Make]:
    """Name the methods to measure with a convolutional network."""
    finished, path = SAMix(copy.deepcopy(model)), folder / "block.safetensors"
    save_mask(path, finished.block, finished.teacher.model, finished.teacher.layer, name)
    policies = (mw.MixUp(), mw.CutMix(), mw.FMix(), mw.SaliencyMix())
    seen = mw.ActivationShare()
    return {
        **{repr(policy): lambda m, policy=policy: mw.Mixing(m, policy) for policy in policies},
        "ActivationShare": lambda m: mw.Mixing(m, mw.CutMix(), label=seen),
        "SUMix over CutMix": lambda m: mw.SUMix(m, mw.CutMix(), num_classes=CLASSES),
        "SUMix, ActivationShare": lambda m: mw.SUMix(m, mw.CutMix(), num_classes=CLASSES, label=seen),
        "SUMix over a finished block": lambda m: mw.SUMix(m, LearnedMask(str(path)), num_classes=CLASSES),
        "AutoMix": AutoMix,
        "AutoMix, block_p=0.5": lambda m: AutoMix(m, block_p=0.5),
        "AutoMix, no clean images": lambda m: AutoMix(m, clean_weight=0.0, head="both"),
        "SAMix": SAMix,
        "SAMix, pretrained": lambda m: SAMixPretrained(m, LearnedMask(str(path))),
        "AdAutoMix, K = 2": lambda m: AdAutoMix(m, sources=2),
        "AdAutoMix, K = 3": lambda m: AdAutoMix(m, sources=3),
    }


def transformer(model: nn.Module, name: str, folder: Path) -> dict[str, Make]:
    """Name the methods to measure with a transformer."""
    regions = mw.SMMix(saliency=mw.Attention(by_patches=True))
    return {
        "CutMix()": lambda m: mw.Mixing(m, mw.CutMix()),
        "TransMix": lambda m: mw.Mixing(m, mw.CutMix(), label=mw.AttentionShare()),
        "ProgressiveAttentionShare": lambda m: mw.Mixing(m, mw.CutMix(), label=mw.ProgressiveAttentionShare()),
        "TL-Align": lambda m: mw.Mixing(m, mw.CutMix(), label=mw.TokenLabelAlignment()),
        "ActivationShare": lambda m: mw.Mixing(m, mw.CutMix(), label=mw.ActivationShare()),
        "SMMix": lambda m: mw.RegionLoss(m, regions, num_classes=CLASSES),
    }


DEIT = "timm/deit_tiny_patch16_224"
NETS = {
    "resnet18": Net("resnet18", "mini_resnet", (100, 32), (32, 32), convolutional),
    "deit": Net(DEIT, f"{DEIT}(depth=2)", (16, 224), (4, 224), transformer),
}


def step(method: mw.Method, shape: tuple[int, int], device: str) -> Callable[[], None]:
    """Return one step of training, the optimiser's included, on so many images of a side in pixels."""
    rows, side = shape
    images = torch.rand(rows, 3, side, side, device=device)
    labels = torch.randint(CLASSES, (rows,), device=device)
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


def measure(net: Net, args: argparse.Namespace, clock: Callable[[], float]) -> int:
    """Print the table of a network; return how many bars were missed."""
    name, shape = (net.small, net.quick) if args.quick else (net.model, net.shape)
    model = models.build(name, CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        makes: dict[str, Make] = {PLAIN: mw.Mixing, **net.methods(model, name, Path(folder))}
        kept = {PLAIN, *(args.only or makes)}
        kept |= {BARS[key][1] for key in kept & BARS.keys()}
        runs = {key: step(make(copy.deepcopy(model)), shape, args.device) for key, make in makes.items() if key in kept}
    counted = {key: flops(run) for key, run in runs.items()}
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(args.repeats):
        for key, run in runs.items():
            times[key].append(seconds(run, args.device, clock))
    best = {key: min(measured) for key, measured in times.items()}
    print(f"{name}, {shape[0]} images of {shape[1]} pixels, {args.device}, {torch.get_num_threads()} threads")
    print(f"{'step':32}{'ms':>9}{'x plain':>9}{'GFLOP':>10}{'x plain':>9}   bar")
    missed = 0
    for key in runs:
        verdict = ""
        if key in BARS:
            bar, reference = BARS[key]
            ratio = best[key] / best[reference]
            missed += ratio > bar
            verdict = f"{ratio:.3f} x {reference}, at most {bar}: {'kept' if ratio <= bar else 'MISSED'}"
        work = f"{counted[key] / 1e9:10.1f}{counted[key] / counted[PLAIN]:9.3f}"
        print(f"{key:32}{best[key] * 1e3:9.0f}{best[key] / best[PLAIN]:9.2f}{work}   {verdict}", flush=True)
    return missed


def main() -> int:
    """Print the tables; return how many bars were missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", choices=NETS, help="one network [all]")
    parser.add_argument("--quick", action="store_true", help="small networks, few images")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds [7]")
    parser.add_argument("--threads", type=int, default=2, help="cores to use [2]")
    parser.add_argument("--cpu-time", action="store_true", help="count processor seconds, on one thread, not wall time")
    parser.add_argument("--only", nargs="*", help="names of some methods")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(1 if args.cpu_time else args.threads)
    torch.manual_seed(0)
    return sum(measure(NETS[name], args, clock) for name in ([args.net] if args.net else NETS))


if __name__ == "__main__":
    raise SystemExit(main())
