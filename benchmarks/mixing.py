"""How long mixing takes, beside other libraries, in one run: ``make bench``.

Every call is timed alone, the libraries take turns, a few calls each, and the batch is restored (untimed) before each
call, so that those that overwrite it, as timm does, may. ``/elem`` draws for every sample; ``/buffer`` writes to a
reused buffer and leaves the batch alone; ``/fresh`` allocates. :func:`factory` gives our rows to any harness that calls
``fn(x, y)``. ``x peer`` is how many times as long the fastest of the others takes for the same work: timm, which
overwrites the batch, does not count beside a buffer or a fresh result. ``--keep-memory`` has glibc keep what is freed,
as CUDA's allocator does. Before that, images of 2 x 2 pixels and one thread show what plan, labels and objects cost by
themselves.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

import mixwell as mw

Call = Callable[[Tensor, Tensor], object]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}
TURN = 25  # timed calls of one library before the next has its turn
KEEP = {"MALLOC_MMAP_THRESHOLD_": "8589934592", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}


def factory(num_classes: int, size: int, dtype: torch.dtype) -> dict[str, Call]:
    """Name every policy as ``policy[/variant]``."""
    policies: dict[str, mw.BatchPolicy] = {
        "mixup": mw.MixUp(),
        "mixup/elem": mw.MixUp(scope="sample"),
        "cutmix": mw.CutMix(),
        "cutmix/elem": mw.CutMix(scope="sample"),
    }
    calls: dict[str, Call] = {}
    for name, policy in policies.items():
        calls[name] = _in_place(policy)
        calls[f"{name}/buffer"] = _buffered(policy)
        calls[f"{name}/fresh"] = policy
    for name, policy in {
        "resizemix/elem": mw.ResizeMix(scope="sample"),
        "fmix": mw.FMix(),
        "fmix/elem": mw.FMix(scope="sample"),
        "saliencymix/elem": mw.SaliencyMix(),
        "smoothmix/elem": mw.SmoothMix(scope="sample"),
        "gridmix/elem": mw.GridMix(scope="sample"),
        "guidedmix": mw.GuidedMix(),
    }.items():
        calls[name] = _buffered(policy)
    return calls


def peers(num_classes: int, dtype: torch.dtype) -> dict[str, Call]:
    """Name what is installed of torchvision, timm and kornia; a peer that refuses a type has no figure."""
    from timm.data import Mixup
    from torchvision.transforms import v2

    calls: dict[str, Call] = {
        "torchvision mixup": v2.MixUp(alpha=1.0, num_classes=num_classes),
        "torchvision cutmix": v2.CutMix(alpha=1.0, num_classes=num_classes),
    }
    for mode, suffix in (("batch", ""), ("elem", "/elem")):
        for name, alphas in (("mixup", (1.0, 0.0)), ("cutmix", (0.0, 1.0))):
            calls[f"timm {name}{suffix}"] = Mixup(*alphas, mode=mode, num_classes=num_classes)
    try:
        import kornia.augmentation as K
    except ImportError:
        return calls
    keys = {"p": 1.0, "data_keys": ["input", "class"]}
    calls["kornia mixup/elem"] = K.RandomMixUpV2(**keys)
    calls["kornia cutmix/elem"] = K.RandomCutMixV2(**keys, use_correct_lambda=True)
    return calls


def _in_place(policy: mw.BatchPolicy) -> Call:
    return lambda x, y: policy(x, y, out=x)


def _buffered(policy: mw.BatchPolicy) -> Call:
    buffer: list[Tensor] = []

    def call(x: Tensor, y: Tensor) -> object:
        if not buffer:
            buffer.append(torch.empty_like(x))
        return policy(x, y, out=buffer[0])

    return call


def measure(calls: dict[str, Call], images: Tensor, labels: Tensor, rounds: int) -> dict[str, float]:
    """Return the median time of every call that does not raise (milliseconds)."""
    batch, times = images.clone(), {name: [] for name in calls}
    turn = min(TURN, rounds)
    for _ in range(-(-rounds // turn)):
        for name, call in calls.items():
            for k in range(-5, turn):  # the first calls find their code and memory again after the others
                batch.copy_(images)
                start = perf_counter()
                try:
                    call(batch, labels)
                except (RuntimeError, TypeError, ValueError):  # a peer that does not take this type
                    break
                if k >= 0:
                    times[name].append(perf_counter() - start)
    return {name: 1e3 * statistics.median(t) for name, t in times.items() if t}


def against_peers(name: str, found: dict[str, float]) -> str:
    """Say how many times as long the fastest peer takes for the same work; nothing where there is none."""
    policy = name.removeprefix("mixwell ").removesuffix("/buffer").removesuffix("/fresh")
    overwrites = name == f"mixwell {policy}"
    same = [t for peer, t in found.items() if peer.split()[1:] == [policy] and not peer.startswith("mixwell")]
    if not overwrites:
        same = [t for peer, t in found.items() if peer in (f"torchvision {policy}", f"kornia {policy}")]
    return f"{min(same) / found[name]:9.2f}" if name.startswith("mixwell") and same else ""


def overhead(rounds: int) -> None:
    """Print what a policy costs beside its pixels: microseconds for a batch of 128 images of 2 x 2 pixels."""
    images, labels, maps = torch.rand(128, 3, 2, 2), torch.arange(128) % 100, torch.rand(128, 2, 2)
    buffer = torch.empty_like(images)
    print(f"saliency given, 128 x 3 x 2 x 2 float32, one thread, us\n{'':34}{'plan and labels':>17}{'with mixing':>13}")
    for scope in ("batch", "sample"):
        for policy in (mw.MixUp, mw.CutMix, mw.ResizeMix, mw.FMix, mw.SaliencyMix):
            mix, planned, mixed = policy(scope=scope), [], []
            for _ in range(20 * rounds):
                start = perf_counter()
                plan = mix.draw(images, labels, saliency=maps)
                mw.MixedBatch(images, plan.source_labels(labels), plan.weights, plan)
                between = perf_counter()
                mix(images, labels, saliency=maps, out=buffer)
                planned.append(1e6 * (between - start))
                mixed.append(1e6 * (perf_counter() - between))
            name = policy.__name__ + "/elem" * (scope == "sample")
            print(f"{name:34}{statistics.median(planned):17.0f}{statistics.median(mixed):13.0f}")


def main() -> None:
    """Print the overhead, and for each shape and type milliseconds per batch, also as a ratio to a plain copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["128x32", "64x224"], metavar="BxS", help="batch x side")
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100, help="timed calls; boxes differ, so CutMix needs hundreds")
    parser.add_argument("--only", nargs="+", metavar="POLICY", help="such as mixup cutmix")
    parser.add_argument("--keep-memory", action="store_true", help="start again with an allocator that keeps memory")
    args = parser.parse_args()
    if args.keep_memory and not KEEP.keys() <= os.environ.keys():  # read once, when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP)
    torch.set_num_threads(1)
    overhead(args.rounds)
    torch.set_num_threads(args.threads)
    for shape in args.shapes:
        n, side = map(int, shape.split("x"))
        for name in args.dtypes:
            images = (torch.rand(n, 3, side, side) * 255).to(DTYPES[name])
            labels, classes = torch.arange(n) % 100, 100
            calls = {"copy": lambda x, y: x.clone(), **peers(classes, DTYPES[name])}
            calls |= {f"mixwell {key}": call for key, call in factory(classes, side, DTYPES[name]).items()}
            if args.only:
                calls = {k: call for k, call in calls.items() if k.split()[-1].split("/")[0] in ["copy", *args.only]}
            found = measure(calls, images, labels, args.rounds)
            print(f"\n{n} x 3 x {side} x {side} {name}, {args.threads} threads")
            print(f"{'':34}{'ms':>9}{'x copy':>9}{'x peer':>9}")
            for key, value in sorted(found.items(), key=lambda item: (item[0].split()[-1].split("/")[0], item[1])):
                print(f"{key:34}{value:9.3f}{value / found['copy']:9.1f}{against_peers(key, found)}")


if __name__ == "__main__":
    main()
