"""Runs that are killed with SIGKILL at random moments, and resumed: all methods, in one process and in two.

``KILLS=200 pytest -m slow tests/test_train_kills.py`` kills more often than 50 times.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate")
import mixwell
from mixwell.train import checkpoint, display, files, loop
from mixwell.train.cli import main
from steps import free_port
from test_train_resume import EPOCHS, OPERATIONS, TINY, same

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads the CPU time of other processes"),
]
CASES = [(name, world) for name in mixwell.names("method") for world in (1, 2)]
KILLS = -(-int(os.environ.get("KILLS", "50")) // len(CASES))  # of each case, rounded up
PATIENCE = 600  # seconds until a process that should end is a failure
ARGS = ["digits", "--epochs", str(EPOCHS), *TINY, "--policy", "CutMix(alpha=1)", "--ema", "0.5", "--subset", "40"]


class Processes:
    """The processes of a run; they write what they say, and what they do, into files in a folder."""

    def __init__(self, run: Path, args: list[str], world: int, seed: int = 0, fatal: int = 0) -> None:
        self.run, self.notes = run, run.with_name(f"{run.name}-notes")
        shutil.rmtree(self.notes, ignore_errors=True)
        self.notes.mkdir(parents=True)
        resumed = (run / "config.json").exists()
        command = ["train", "--resume", str(run)] if resumed else ["train", *args, "--out", str(run)]
        place, fork = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}, get_context("fork")
        self.ranks = [
            fork.Process(
                target=train, args=(command, self.notes, place | {"RANK": rank, "LOCAL_RANK": rank}, fatal, seed)
            )
            for rank in range(world)
        ]
        for process in self.ranks:
            process.start()

    def kill_after(self, seconds: float, rank: int) -> None:
        """Kill a process once it has used some seconds of CPU time, which a busy machine does not change."""
        victim = self.ranks[rank]
        clock = (~(victim.pid or 0) << 3) | 2  # how Linux numbers the CPU clocks of other processes
        while victim.is_alive() and time.clock_gettime(clock) < seconds:
            time.sleep(0.001)
        victim.kill()

    def ended(self) -> bool:
        """Wait for all processes; return whether none was killed.

        If one was killed during training, the others end by themselves, with a sentence that says how to resume.
        """
        deadline = time.monotonic() + PATIENCE
        while all(process.is_alive() for process in self.ranks):
            time.sleep(0.005)
        connected = len([*self.notes.glob("training*")]) == len(self.ranks)
        for process in self.ranks:
            if not connected and any(other.exitcode == -signal.SIGKILL for other in self.ranks):
                process.kill()  # what a launcher does
            process.join(max(deadline - time.monotonic(), 0))
            assert not process.is_alive(), "a process waits for one that was killed"
        codes = [process.exitcode for process in self.ranks]
        killed = -signal.SIGKILL in codes
        for rank, code in enumerate(codes):
            said = (self.notes / f"stderr{rank}").read_text() if code != -signal.SIGKILL else ""
            assert code in (0, -signal.SIGKILL) or (killed and code == 2), said
            if code == 2:
                last = said.splitlines()[-1]
                assert f"rank {rank} of 2: another process has ended: " in last and "Traceback" not in said, said
                assert last.endswith(f"resume with: torchrun --nproc-per-node 2 -m mixwell train --resume {self.run}")
        return not killed

    def note(self, name: str) -> str:
        """Return what the first process has written into a file."""
        path = self.notes / f"{name}0"
        return path.read_text() if path.exists() else ""


def train(command: list[str], notes: Path, place: dict[str, Any], fatal: int, seed: int) -> None:
    """Train in a process of a run, with few images to evaluate; end before the file operation of the given number."""
    os.environ.update({name: str(value) for name, value in place.items()})
    rank, load, began, epoch = place["RANK"], loop.load, loop.Training.__call__, display.Display.epoch
    sys.stdout, sys.stderr = ((notes / f"{name}{rank}").open("w", buffering=1) for name in ("stdout", "stderr"))

    def note(name: str, text: str) -> None:
        with (notes / f"{name}{rank}").open("a") as file:
            file.write(text)

    def few(config: Any) -> Any:
        data = load(config)
        rows = data.test.take(torch.arange(21))  # an odd number: the last batches of two processes differ in size
        return replace(data, val=rows, test=rows)

    def start(self: loop.Training) -> Any:
        note("training", "")
        return began(self)

    def end(self: display.Display, record: dict[str, Any]) -> None:
        note("epochs", f"{record['epoch']} ")
        epoch(self, record)

    loop.load, loop.Training.__call__, display.Display.epoch = few, start, end
    die_at(fatal, random.Random(seed), lambda: note("operations", "x"))
    code = main(command)
    os._exit(code)  # gloo's threads outlive DistributedDataParallel, and abort if Python is taken down around them


def die_at(fatal: int, draw: random.Random, count: Callable[[], None]) -> None:
    """Kill this process before the file operation of the given number, or in the middle of a write."""
    done = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            count()
            if done == fatal:
                if real is files_written:
                    args[0].write_bytes(args[1][: draw.randrange(len(args[1]))])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return operation

    files_written = files.write_through
    files.write_through = checkpoint.write_through = counted(files_written)
    for owner, name in OPERATIONS:
        if name != "open":  # that is how notes are written
            setattr(owner, name, counted(getattr(owner, name)))


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import once, before forking, what a run imports."""
    run = tmp_path_factory.mktemp("imported") / "run"
    assert main(["train", *ARGS, "--epochs", "1", "--method", "AutoMix", "--out", str(run)]) == 0


@pytest.mark.parametrize(("method", "world"), CASES)
def test_killed_runs_end_as_undisturbed_ones(method: str, world: int, tmp_path: Path) -> None:
    """No epoch of a checkpoint is trained again, and the end is the same, bit for bit."""
    seed = CASES.index((method, world))
    args, whole, run = [*ARGS, "--method", method], tmp_path / "whole", tmp_path / "run"
    draw, saved, kills, tries = random.Random(seed), 0, 0, 0
    began = sum(os.times()[2:4])  # CPU time of processes that have ended
    undisturbed = Processes(whole, args, world)
    assert undisturbed.ended(), undisturbed.note("stderr")
    operations, seconds = len(undisturbed.note("operations")), (sum(os.times()[2:4]) - began) / world
    while kills < KILLS:
        tries += 1
        assert tries < 20 * KILLS, "runs end before they are killed"
        left = max(1 - saved / EPOCHS, 0.2)  # share of the run, of its end at least
        fatal = draw.randint(1, round(operations * left)) if kills % 2 else 0  # in turn: any moment, file operations
        processes = Processes(run, args, world, seed + tries, fatal)
        if not fatal:
            processes.kill_after(draw.uniform(0, seconds * left), draw.randrange(world))
        if processes.ended():
            same(run, whole)
            shutil.rmtree(run)
            saved = 0
            continue
        kills += 1
        saved = check_progress(run, processes, saved)
    last = Processes(run, args, world)
    assert last.ended()
    check_progress(run, last, saved)
    same(run, whole)


def check_progress(run: Path, processes: Processes, saved: int) -> int:
    """Check that a run started after the epoch that was saved; return which one is saved now."""
    epochs = [int(epoch) for epoch in processes.note("epochs").split()]
    assert epochs == [*range(saved + 1, saved + 1 + len(epochs))]
    folder = checkpoint.latest(run)
    now = checkpoint.epochs(folder) if folder else 0
    assert now in {saved + len(epochs), max(saved, saved + len(epochs) - 1)}
    return now
