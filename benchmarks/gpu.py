"""Measure and train on a GPU that is at hand for a quarter of an hour: two calls of at most nine minutes each.

    python benchmarks/gpu.py check      tests, mixing and training steps, with their times
    python benchmarks/gpu.py train      CIFAR-100, ResNet-18, as published; needs the files of benchmarks/gpu_data.py

Needs this repository, torch, timm, torchvision, numpy, Pillow and pytest; nothing is downloaded or installed. Every
measurement is written to OUT/check.jsonl or OUT/train.jsonl as it is made; a short table ends the output.
``--device cpu --tiny`` runs the same program in small, to see that it works.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # a lent machine has no mixwell installed; so it is imported after this line


def arguments(runs: Iterable[str], modes: Iterable[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("check", "train"))
    parser.add_argument("--device", default="cuda", help="device of torch [cuda]")
    parser.add_argument("--tiny", action="store_true", help="the same in small, with another network and random images")
    parser.add_argument("--seconds", type=float, default=530, help="time of the whole stage (seconds) [530]")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="folder of the results [runs/gpu]")
    parser.add_argument("--commit", help="commit of the sources, where git cannot tell")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="check: sections, such as tests mixing")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="train: folder of the data files [data]")
    parser.add_argument("--epochs", type=int, default=200, help="train: passes over the training images [200]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="train: one round of runs each [0 1]")
    parser.add_argument("--runs", nargs="+", choices=list(runs), help="train: some of the runs, in order")
    parser.add_argument("--mode", choices=list(modes), default="networks", help="train: what is compiled")
    return parser.parse_args()


def main() -> None:
    """Run a stage and print its table."""
    import gpu_check
    import gpu_train
    from gpu_measure import hardware
    from gpu_record import Record

    args = arguments(gpu_train.RUNS, gpu_train.MODES)
    on, record = hardware(args.device), Record(args.out / f"{args.stage}.jsonl")
    if args.stage == "check":
        plan = gpu_check.tiny() if args.tiny else gpu_check.full()
        text = gpu_check.run(on, record, plan, budget=args.seconds, only=args.only, commit=args.commit)
    else:
        text = gpu_train.run(on, record, gpu_train.plan(args), budget=args.seconds)
    print(text, flush=True)


if __name__ == "__main__":
    main()
