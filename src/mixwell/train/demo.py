"""``mixwell demo``: a sweep that compares plain training, CutMix and CutMix + SUMix on handwritten digits."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from mixwell.train.errors import Parser
from mixwell.train.paths import expand
from mixwell.train.recipes import RECIPES
from mixwell.train.sweep import Sweep, train_and_report
from mixwell.train.trials import Resources, Trial

POLICY = "CutMix(alpha=0.2)"
ROWS = {"plain": {}, "cutmix": {"policy": POLICY}, "cutmix-sumix": {"policy": POLICY, "method": "SUMix"}}


def trials(out: Path, epochs: int, seeds: Sequence[int]) -> list[Trial]:
    """List the trainings of the demo."""
    settings = {"epochs": epochs, "device": "cpu", "threads": 1, "warmup": min(2.0, epochs / 2), "save_every": 5}
    rows = {f"{name}-{epochs}-epochs": changes for name, changes in ROWS.items()}
    return Sweep(recipes=["digits"], seeds=list(dict.fromkeys(seeds)), settings=settings, rows=rows).trials(out)


def main(argv: Sequence[str]) -> None:
    """Run the demo; finished runs of an earlier demo are used again, stopped ones are resumed.

    Raises:
        RunError: The folder holds runs with other settings, or cannot be written; the message says what to do.
    """
    about, epochs = (
        "Compare plain training, CutMix and CutMix + SUMix on handwritten digits.",
        RECIPES["digits"]().epochs,
    )
    parser = Parser("mixwell demo", description=about)
    parser.add_argument("--out", type=expand, default=Path("demo"), help="folder for runs, table and report [demo]")
    parser.add_argument("--epochs", type=int, default=epochs, metavar="N", help=f"epochs of each run [{epochs}]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of each training [0 1 2]")
    parser.add_argument("--fresh", action="store_true", help="start over instead of using finished runs in the folder")
    args = parser.parse_args(argv)
    began, todo = time.perf_counter(), trials(args.out, args.epochs, args.seeds)
    if args.fresh:
        for trial in todo:
            shutil.rmtree(trial.run, ignore_errors=True)
    again = shlex.join(["mixwell", "demo", *(word for word in argv if word != "--fresh")])
    train_and_report(todo, args.out, Resources(), again, "add --fresh to start over, or choose another --out")
    print(f"{time.perf_counter() - began:.0f} s")
