"""``mixwell demo``: compare plain training, CutMix and CutMix + SUMix on handwritten digits."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from mixwell.report import table
from mixwell.report.page import write
from mixwell.train import run
from mixwell.train.config import Config
from mixwell.train.errors import Parser, RunError
from mixwell.train.paths import expand
from mixwell.train.recipes import RECIPES
from mixwell.train.runs import groups, read, read_config

POLICY = "CutMix(alpha=0.2)"
TRAININGS = {"plain": ("none", "Mixing"), "cutmix": (POLICY, "Mixing"), "cutmix-sumix": (POLICY, "SUMix")}


@dataclass(frozen=True)
class Job:
    """One training of the demo.

    Attributes:
        order: Row in the table and seed.
        name: Name in the output.
        config: Settings.
        run: Run directory.
    """

    order: tuple[int, int]
    name: str
    config: Config
    run: Path

    @property
    def epochs_done(self) -> int:
        """Number of epochs in its metrics."""
        try:
            return (self.run / "metrics.jsonl").read_text().count("\n")
        except OSError:
            return 0

    @property
    def done(self) -> bool:
        """Whether the run is complete, from this demo or an earlier one."""
        return (self.run / "summary.json").is_file()

    def check(self) -> None:
        """Refuse to continue a run that has other settings."""
        if not (self.run / "config.json").exists():
            return
        if changed := read_config(self.run).fixed_differences(self.config):
            raise RunError(f"in {self.run} {changed[0]}: add --fresh to start over, or choose another --out")


def jobs(out: Path, epochs: int, seeds: Sequence[int]) -> list[Job]:
    """List the trainings of the demo, the longest first."""
    found = []
    for row, (name, (policy, method)) in enumerate(TRAININGS.items()):
        for seed in seeds:
            config = replace(
                RECIPES["digits"](), policy=policy, method=method, seed=seed, epochs=epochs, device="cpu", threads=1,
                warmup=min(2.0, epochs / 2), save_every=5,
            )  # fmt: skip
            folder = out / "runs" / f"{name}-{epochs}-epochs-seed{seed}"
            found.append(Job((row, seed), f"{name}, seed {seed}", config, folder))
    return found[::-1]


def _train(job: Job) -> float:
    """Do one training, or the rest of it, without output; return the seconds it took."""
    began = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123  (no file to have a path)
        run(job.config, job.run, resume=True)
    return time.perf_counter() - began


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes that train, each on one core, and end them at once after an error."""
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _leave_interrupts_to_parent)
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_all(todo: Sequence[Job]) -> None:
    """Train in parallel, one run for each core, with a progress bar in a terminal."""
    with _progress(todo) as refresh:
        if _cores() == 1:
            for job in todo:
                refresh(f"{job.name}: {_train(job):.1f} s")
            return
        with _workers(min(_cores(), len(todo))) as pool:
            waiting: dict[Future[float], Job] = {pool.submit(_train, job): job for job in todo}
            while waiting:
                for future in wait(waiting, timeout=0.3, return_when=FIRST_COMPLETED).done:
                    refresh(f"{waiting.pop(future).name}: {future.result():.1f} s")
                refresh(None)


@contextlib.contextmanager
def _progress(todo: Sequence[Job]) -> Iterator[Callable[[str | None], None]]:
    """Yield a function that updates the bar, and prints a line when a run is done."""
    if not sys.stdout.isatty():
        yield lambda line: print(line, flush=True) if line else None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("epochs"), TimeRemainingColumn()
    ) as bar:
        task = bar.add_task(f"training {len(todo)} runs", total=sum(job.config.epochs for job in todo))

        def refresh(line: str | None) -> None:
            bar.update(task, completed=sum(job.epochs_done for job in todo))
            if line:
                bar.print(line, highlight=False)

        yield refresh


def main(argv: Sequence[str]) -> None:
    """Run the demo; finished runs of an earlier demo are used again, stopped ones are resumed.

    Raises:
        RunError: The folder holds runs with other settings, or cannot be written; the message says what to do.
    """
    parser = Parser(
        "mixwell demo", description="Compare plain training, CutMix and CutMix + SUMix on handwritten digits."
    )
    parser.add_argument(
        "--out", type=expand, default=Path("demo"), metavar="FOLDER", help="folder for runs, table and report [demo]"
    )
    parser.add_argument(
        "--epochs", type=int, default=RECIPES["digits"]().epochs, metavar="N", help="epochs of each run [30]"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="seeds of each training [0 1 2]"
    )
    parser.add_argument("--fresh", action="store_true", help="start over instead of using finished runs in the folder")
    args = parser.parse_args(argv)
    began, everything = time.perf_counter(), jobs(args.out, args.epochs, list(dict.fromkeys(args.seeds)))
    for job in everything:
        if args.fresh:
            shutil.rmtree(job.run, ignore_errors=True)
        job.check()
    todo = [job for job in everything if not job.done]
    if len(todo) < len(everything):
        print(f"{len(everything) - len(todo)} of {len(everything)} runs in {args.out} are done (--fresh starts over)")
    again = shlex.join(["mixwell", "demo", *argv])
    try:
        if todo:
            train_all(todo)
    except KeyboardInterrupt as error:
        raise type(error)(f"stopped; resume with: {again.replace(' --fresh', '')}") from None
    runs = [read(job.run) for job in sorted(everything, key=lambda job: job.order)]
    files = write(args.out, runs, again)
    table.show(groups(runs))
    print(f"{', '.join(map(str, files))} ({time.perf_counter() - began:.0f} s)")
