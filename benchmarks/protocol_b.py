"""Protocol B: train a small network from scratch on few images, with a policy or method, over several seeds.

CIFAR-100 with its 20 superclasses as labels; 1,000 training images, 5,000 held-out images from the rest of the training
set, all 10,000 test images. Plain training reaches more than 99 % training accuracy here, which is the regime in which
mixing can help. Every finished run appends one JSON line to the results file; finished runs are skipped, so the command
may be interrupted and repeated, and several copies of it may share the work.

Examples::

    python benchmarks/protocol_b.py "CutMix(alpha=1.0)" --data DIR --seeds 0 1 2 3 4
    python benchmarks/protocol_b.py "SUMix(gamma=1.0) | CutMix(alpha=1.0)" "MixUp(alpha=1.0)" --data DIR
    python benchmarks/protocol_b.py --data DIR --tune --lr 0.05 0.1 0.2 --weight-decay 5e-4 1e-3 2e-3

``DIR`` holds ``cifar-100-python/train`` and ``test``, the files of https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import json
import math
import platform
import shlex
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from few_images import Data, Split, batches, read
from measures import autocast, evaluate
from torch import Tensor, nn

import mixwell as mw
from mixwell.models import mini_resnet

ROOT = Path(__file__).resolve().parent.parent
CLASSES = 20
CODE = tuple(f"benchmarks/{name}.py" for name in ("protocol_b", "few_images", "measures"))


@dataclass(frozen=True)
class Settings:
    """What all compared runs share."""

    train_images: int = 1000
    held_out_images: int = 5000
    epochs: int = 80
    batch_size: int = 50
    lr: float = 0.05
    weight_decay: float = 2e-3
    crop: int = 4
    precision: str = "bf16"
    stem_stride: int = 2


class Standardize:
    """A forward pre-hook: subtract the mean of CIFAR-100's channels and divide by their deviation.

    With this in the model, mixing and attacks see images in [0, 1].
    """

    mean = torch.tensor([0.5071, 0.4865, 0.4409]).view(3, 1, 1)
    std = torch.tensor([0.2673, 0.2564, 0.2762]).view(3, 1, 1)

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ((args[0] - self.mean) / self.std, *args[1:])


def method_of(text: str, model: nn.Module) -> nn.Module:
    """Build the training method from ``"POLICY"``, ``"METHOD"`` or ``"METHOD | POLICY"``."""
    first, _, second = (part.strip() for part in text.partition("|"))
    if not second:
        made = mw.parse(first)
        return made(model, num_classes=CLASSES) if is_method(first) else mw.Mixing(model, made, num_classes=CLASSES)
    return mw.parse(first)(model, mw.parse(second), num_classes=CLASSES)


def is_method(text: str) -> bool:
    """Say whether text names a method and not a policy."""
    return text.partition("(")[0].strip() in mw.names("method")


def network(settings: Settings) -> nn.Module:
    """Return a fresh network for images in [0, 1]."""
    model = mini_resnet(CLASSES).to(memory_format=torch.channels_last)
    model.conv1.stride = (settings.stem_stride,) * 2
    model.register_forward_pre_hook(Standardize())
    return model


def train(text: str, seed: int, split: Split, settings: Settings) -> nn.Module:
    """Train one network and return it.

    The seed fixes the initial weights, and with a generator of its own the order and the augmentation of the images:
    these are the same for all methods, so that runs of one seed form a pair.
    """
    torch.manual_seed(seed)
    model = network(settings)
    method = method_of(text, model).train()
    groups = [{"lr": settings.lr, "weight_decay": settings.weight_decay, **group} for group in method.param_groups()]
    optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True, fused=True)
    steps = settings.epochs * (len(split.labels) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    generator = torch.Generator().manual_seed(seed)
    done = 0
    for _ in range(settings.epochs):
        for images, labels in batches(split, settings.batch_size, settings.crop, generator):
            with autocast(settings.precision):
                loss = method(images, labels)["loss"]
            if not loss.isfinite():
                raise FloatingPointError(f"The loss of {text}, seed {seed}, is NaN or Inf after {done} steps.")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            method.after_step(done / steps)
    return method.model.eval()


def origin() -> dict[str, Any]:
    """Say which code, versions and processor make a run."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return {
        "commit": git("rev-parse", "HEAD"),
        "source": git("rev-parse", "HEAD:src"),
        "changed": git("status", "--porcelain", "--untracked-files=no", "src", *CODE),
        "versions": {"mixwell": mw.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "command": shlex.join(
            ["python", "benchmarks/protocol_b.py", *("DIR" if "/" in w else w for w in sys.argv[1:])]
        ),
    }


def key_of(record: dict[str, Any]) -> str:
    """Return what makes two runs the same run."""
    return json.dumps([record[name] for name in ("method", "seed", "tune", "settings")], sort_keys=True)


def finished(results: Path) -> set[str]:
    """Return the keys of the runs in a results file."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {key_of(json.loads(line)) for line in lines}


def run(wanted: dict[str, Any], settings: Settings, data: Data, made_by: dict[str, Any], args: Namespace) -> None:
    """Train and measure one network, and append its line; do nothing if that is done or under way elsewhere."""
    name = hashlib.sha256(key_of(wanted).encode()).hexdigest()[:16]
    with (args.weights / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends, however it ends
        except BlockingIOError:
            return
        if key_of(wanted) in finished(args.results):
            return
        began, cpu = time.perf_counter(), time.process_time()
        model = train(wanted["method"], wanted["seed"], data.train, settings)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
        measures = evaluate(model, data, settings.precision, wanted["tune"])
        record = {
            **wanted,
            **{key: round(value, 5) for key, value in measures.items()},
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights": f"{name}.pt",
            **made_by,
        }
        torch.save(model.state_dict(), args.weights / f"{name}.pt")
        with args.results.open("a") as file:
            file.write(json.dumps(record) + "\n")
    top1 = record.get("test_top1", record["held_out_top1"])
    print(f"{wanted['method']}, seed {wanted['seed']}: {top1:.2f} %, {seconds:.0f} s", flush=True)


def arguments() -> Namespace:
    """Read the command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=["NoMix()"], help='"POLICY", "METHOD" or "METHOD | POLICY"')
    parser.add_argument("--data", type=Path, required=True, help="folder that holds cifar-100-python")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "protocol_b.jsonl")
    parser.add_argument("--weights", type=Path, default=ROOT / "runs" / "protocol_b", help="where networks are kept")
    parser.add_argument("--tune", action="store_true", help="measure on held-out images only")
    parser.add_argument("--lr", type=float, nargs="+", default=[defaults.lr])
    parser.add_argument("--weight-decay", type=float, nargs="+", default=[defaults.weight_decay])
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--train-images", type=int, default=defaults.train_images)
    parser.add_argument("--held-out-images", type=int, default=defaults.held_out_images)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default=defaults.precision)
    parser.add_argument(
        "--stem-stride", type=int, default=defaults.stem_stride, help="2 makes a run three times as fast"
    )
    return parser.parse_args()


def check(args: Namespace) -> None:
    """Stop with one sentence if the data are missing or a method cannot be built."""
    if not (args.data / "cifar-100-python").is_dir():
        raise SystemExit(f"--data must hold the folder cifar-100-python, but {args.data} does not.")
    for text in args.methods:
        try:
            method_of(text, network(Settings()))
        except (TypeError, ValueError) as error:
            raise SystemExit(f"{text!r} is not a method: {error}") from error


def main() -> None:
    """Run what is not finished, seed by seed, so that results are complete pairs at any time."""
    args = arguments()
    check(args)
    torch.set_num_threads(1)
    shared = {
        name: getattr(args, name) for name in ("epochs", "train_images", "held_out_images", "batch_size", "stem_stride")
    }
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.weights.mkdir(parents=True, exist_ok=True)
    made_by = origin()  # now, because the files may change while this process runs
    data = read(args.data, args.train_images, args.held_out_images)
    for seed, lr, decay, text in itertools.product(args.seeds, args.lr, args.weight_decay, args.methods):
        settings = Settings(lr=lr, weight_decay=decay, precision=args.precision, **shared)
        wanted = {"method": text, "seed": seed, "tune": args.tune, "settings": asdict(settings)}
        try:
            run(wanted, settings, data, made_by, args)
        except FloatingPointError as error:
            print(error, flush=True)


if __name__ == "__main__":
    main()
