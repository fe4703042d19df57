"""Measure the cost of each policy and method for its page: milliseconds, and extra passes of the model.

Policies have their defaults, or the settings of the gallery if they combine others. They take turns; a time is the mean
over batches, mixed into a reused buffer. Passes of the model are counted by hooks, in whole batches; those of another
network of the same class count too.

    python benchmarks/costs.py                writes docs/policies/costs.json, in about five minutes on two cores
    python benchmarks/costs.py --cpu-time     for a busy machine: processor time, which others disturb less
    python benchmarks/costs.py --only SMMix   measures one policy or method, and keeps the other entries of the file
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

import mixwell as mw
from mixwell import models
from mixwell.report.gallery import EXAMPLES

OUT = Path(__file__).resolve().parents[1] / "docs" / "policies" / "costs.json"
SHAPES = (((128, 3, 32, 32), "mini_resnet"), ((64, 3, 224, 224), "timm/resnet18"))
METHODS = ("HiddenMix", "AlignMix", "AugMix", "GridLoss", "PerturbedMixing", "RegMixup", "RegionLoss")
CLASSES = 100
VARYING = {"SuperMix"}  # policies whose number of passes depends on the images and on how well the model knows them
LEAST = 2  # rounds, however slow

Call = Callable[[], object]
Clock = Callable[[], float]


class Runs:
    """How many batches a model was run on, and how often a gradient came back through it."""

    forwards = backwards = 0.0


@contextmanager
def counted(kind: type[nn.Module], rows: int) -> Iterator[Runs]:
    """Count the runs of all networks of a kind, in batches of so many rows."""
    runs = Runs()

    def before(network: nn.Module, args: tuple[Any, ...]) -> None:  # a pass that stops half-way never comes out
        runs.forwards += len(args[0]) / rows * isinstance(network, kind)

    def after(network: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if isinstance(network, kind) and isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(lambda gradient: back(len(gradient)))

    def back(passed: int) -> None:
        runs.backwards += passed / rows

    handles = hooks.register_module_forward_pre_hook(before), hooks.register_module_forward_hook(after)
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


def policies(model: nn.Module, name: str, side: int, folder: Path) -> dict[str, mw.BatchPolicy]:
    """Make one of every policy that can mix images of a size; a mix block costs the same before it is trained."""
    path = folder / "mask.safetensors"
    finished = mw.SAMix(copy.deepcopy(model))
    mw.save_mask(path, finished.block, finished.teacher.model, finished.teacher.layer, name)
    special = {
        type(policy).__name__: policy for policy in (*EXAMPLES, mw.LearnedMask(str(path)), mw.MaskMix(patch=side // 4))
    }
    made: dict[str, mw.BatchPolicy] = {}
    for each in sorted(set(mw.names("policy")) - VARYING):
        try:
            policy = special.get(each) or mw.parse(each)
            policy.draw(torch.rand(2, 3, side, side), torch.arange(2), model=model)
        except ValueError as error:
            print(f"left out {each}: {error}")
        else:
            made[each] = policy
    return made


def measure(calls: dict[str, Call], budget: float, clock: Clock) -> dict[str, float]:
    """Time calls in turn, each for so many seconds or a few rounds, and return the mean of each (milliseconds)."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    todo = dict(calls)
    while todo:
        for name, call in list(todo.items()):
            start = clock()
            call()
            times[name].append(clock() - start)
            if len(times[name]) >= LEAST and sum(times[name]) >= budget:
                del todo[name]
    return {name: float(f"{1e3 * statistics.fmean(found):.3g}") for name, found in times.items()}


def runs_of(made: dict[str, mw.BatchPolicy], model: nn.Module, rows: int = 8) -> dict[str, dict[str, Any]]:
    """Count the runs of the model for every policy, on a few small images: they do not depend on the size."""
    images, labels, counts = torch.rand(rows, 3, 32, 32), torch.arange(rows), {}
    for key, policy in made.items():
        with counted(type(model), rows) as runs:
            policy(images, labels, model=model)
        written = {"LearnedMask": "LearnedMask(path)", "MaskMix": "MaskMix(patch=side // 4)"}
        shown = written.get(key, repr(policy))
        counts[key] = {"policy": shown, "forwards": runs.forwards, "backwards": runs.backwards, "batches": []}
    return counts


def of_policies(
    made: dict[str, mw.BatchPolicy], model: nn.Module, shape: tuple[int, ...], budget: float, clock: Clock
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Time a plain copy of a batch of one shape, and every policy on it, in milliseconds."""
    images, labels = torch.rand(shape), torch.arange(shape[0]) % CLASSES
    buffer = torch.empty_like(images)
    calls: dict[str, Call] = {"batch copy_ms": lambda: buffer.copy_(images)}
    for key, policy in made.items():
        calls[f"{key} ms"] = lambda policy=policy: policy(images, labels, model=model, out=buffer)
        if getattr(policy, "uses_saliency", False):
            few = policy.saliency(model, images[:2], labels[:2])  # tells the size of a map
            maps = torch.rand(shape[0], *few.shape[1:])
            calls[f"{key} given_ms"] = lambda policy=policy, maps=maps: policy(
                images, labels, saliency=maps, out=buffer
            )
    found: dict[str, dict[str, float]] = {}
    for call, value in measure(calls, budget, clock).items():
        key, what = call.split()
        found.setdefault(key, {})[what] = value
    return found.pop("batch"), found


def steps(
    model: Callable[[], nn.Module], shape: tuple[int, ...], only: Sequence[str]
) -> dict[str, tuple[nn.Module, Call]]:
    """Make a model and a training step, forward and backward, for every method, and for plain mixing."""
    images, labels = torch.rand(shape), torch.arange(shape[0]) % CLASSES
    made: dict[str, tuple[nn.Module, Call]] = {}
    for key in ("Mixing", *chosen(dict.fromkeys(METHODS), only)):
        own = model()
        method = getattr(mw, key)(own, num_classes=CLASSES)
        made[key] = own, lambda method=method: method(images, labels)["loss"].backward()
    return made


def runs_of_methods(name: str, only: Sequence[str], rows: int = 8) -> dict[str, dict[str, Any]]:
    """Count the runs of the model beyond those of plain mixing for every method, on a few small images."""
    counts = {}
    for key, (model, call) in steps(lambda: models.build(name, CLASSES), (rows, 3, 32, 32), only).items():
        with counted(type(model), rows) as runs:
            call()
        counts[key] = {"forwards": runs.forwards - 1, "backwards": runs.backwards - 1, "batches": []}
    counts.pop("Mixing")
    return counts


def of_methods(
    name: str, shape: tuple[int, ...], budget: float, clock: Clock, only: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Time a step of each method on batches of one shape, and a plain one, in milliseconds."""
    calls = {key: call for key, (_, call) in steps(lambda: models.build(name, CLASSES), shape, only).items()}
    times = measure(calls, budget, clock)
    plain = times.pop("Mixing")
    return {key: {"ms": value, "plain_ms": plain} for key, value in times.items()}


def chosen(made: dict[str, Any], only: Sequence[str]) -> dict[str, Any]:
    """Return the entries with some names; all if no name is given."""
    return {key: value for key, value in made.items() if not only or key in only}


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the old costs with the new entries, each of which says what it was measured on."""
    for kind in ("policies", "methods"):
        found = {key: {**cost, "machine": new["machine"]} for key, cost in new[kind].items()}
        old[kind] = dict(sorted((old[kind] | found).items()))
    return old


def machine(args: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Say what was measured on, without naming the machine itself."""
    import timm

    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
    return {
        "cpu": cpu or platform.processor() or platform.machine(),
        "threads": threads,
        "torch": torch.__version__.split("+")[0],
        "timm": timm.__version__,
        "load": round(os.getloadavg()[0], 1),
        "date": date.today().isoformat(),
        "clock": "processor time" if args.cpu_time else "wall time",
        "command": f"python benchmarks/costs.py{' --cpu-time' * args.cpu_time}{' --only ' * bool(args.only)}"
        + " ".join(args.only),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=0.7, help="seconds for each call of each shape [0.7]")
    parser.add_argument("--threads", type=int, default=2, help="cores to use [2]")
    parser.add_argument("--cpu-time", action="store_true", help="count processor seconds, on one thread, not wall time")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="some policies and methods [all]")
    parser.add_argument("--out", type=Path, default=OUT, help="where to write [docs/policies/costs.json]")
    args = parser.parse_args()
    clock, threads = (process_time, 1) if args.cpu_time else (perf_counter, args.threads)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    content: dict[str, Any] = {"machine": machine(args, threads), "batches": [], "policies": {}}
    methods = runs_of_methods(SHAPES[0][1], args.only)
    for shape, name in SHAPES:
        model = models.build(name, CLASSES)
        with tempfile.TemporaryDirectory() as folder:
            made = chosen(policies(model, name, shape[-1], Path(folder)), args.only)
        content["policies"] = content["policies"] or runs_of(made, model)
        batch, found = of_policies(made, model, shape, args.budget, clock)
        content["batches"].append({"shape": shape, "model": name, **batch})
        for key, cost in content["policies"].items():
            cost["batches"] += [found[key]] if key in found else []
        for key, times in of_methods(name, shape, args.budget, clock, args.only).items():
            methods[key]["batches"].append(times)
    whole = {key: cost for key, cost in content["policies"].items() if len(cost["batches"]) == len(SHAPES)}
    content["policies"], content["methods"] = whole, methods
    if args.only:
        content = merged(json.loads(args.out.read_text(encoding="utf-8")), content)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
