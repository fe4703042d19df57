"""Many runs at once, through Ray: on this machine, or on a cluster. The only file that imports Ray."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from mixwell.train import run
from mixwell.train.config import Config
from mixwell.train.errors import RunError, first_line
from mixwell.train.lock import LockedError
from mixwell.train.runs import command, read_config

PATIENCE = 120.0  # seconds to wait for the process of an earlier, killed sweep that still holds a run directory
REFRESH = 0.5  # seconds
ATTEMPTS = 5


@dataclass(frozen=True)
class Trial:
    """One run of several.

    Attributes:
        name: Name in the output.
        config: Settings.
        run: Run directory. On a cluster it lies on a file system that all nodes share.
    """

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
        """Whether the run is complete."""
        return (self.run / "summary.json").is_file()

    @property
    def command(self) -> str:
        """The command that trains this run alone."""
        return command(self.config, self.run)

    @property
    def top1(self) -> float | None:
        """Newest validation accuracy (percent)."""
        with contextlib.suppress(OSError, ValueError):
            for line in reversed((self.run / "metrics.jsonl").read_text().splitlines()):
                if value := json.loads(line).get("val_top1"):
                    return value
        return None

    def check(self, advice: str) -> None:
        """Raise ``RunError`` if the run directory holds a run with other settings."""
        if (self.run / "config.json").exists() and (changed := read_config(self.run).fixed_differences(self.config)):
            raise RunError(f"in {self.run} {changed[0]}: {advice}")


@dataclass(frozen=True)
class Resources:
    """What each trial receives.

    Attributes:
        cpus: CPU cores of a trial.
        gpus: GPUs of a trial; 0.5 lets two trials share one.
        retries: How often a trial is started again after its process or node was lost; it resumes from its checkpoint.
        address: Address of a running Ray cluster (``"auto"``: the one of this machine); by default Ray is started here
            for these trials alone.
    """

    cpus: float = 1
    gpus: float = 0
    retries: int = 3
    address: str | None = None


class Board:
    """Shows how many trials are done: a live table in a terminal, elsewhere a line for every trial that ends.

    Args:
        trials: All trials, those of an earlier sweep included.
    """

    ROWS = 20

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials, self.failed = trials, dict[str, str]()
        self.began, self.before = time.monotonic(), sum(trial.epochs_done for trial in trials)
        self.live = Live(refresh_per_second=2) if sys.stdout.isatty() else None

    def ended(self, trial: Trial, seconds: float, error: str) -> None:
        """Note that a trial has ended."""
        if error:
            self.failed[trial.name] = error
        if not self.live:
            print(f"{trial.name}: {error or f'{seconds:.1f} s'}", flush=True)

    def update(self) -> None:
        """Draw the table again, from the run directories."""
        if not self.live:
            return
        epochs = [trial.epochs_done for trial in self.trials]
        total, now = sum(trial.config.epochs for trial in self.trials), sum(epochs)
        speed = (now - self.before) / (time.monotonic() - self.began)
        left = f", about {(total - now) / speed / 60:.0f} min left" if speed else ""
        done = sum(trial.done for trial in self.trials)
        table = Table(title=f"{done} of {len(self.trials)} trials done, {len(self.failed)} failed{left}")
        for title in ("trial", "epochs", "top-1 (%)"):
            table.add_column(title, justify="left" if title == "trial" else "right")
        active = [pair for pair in zip(self.trials, epochs, strict=True) if pair[1] and not pair[0].done]
        for trial, count in (active or [*zip(self.trials, epochs, strict=True)])[: self.ROWS]:
            top1 = trial.top1
            table.add_row(trial.name, f"{count} of {trial.config.epochs}", "" if top1 is None else f"{top1:.2f}")
        self.live.update(table)

    def __enter__(self) -> Board:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        if self.live:
            self.live.stop()


def train_all(trials: Sequence[Trial], resources: Resources = Resources()) -> dict[str, str]:
    """Train what is not finished, as many trials at a time as there are cores and GPUs.

    Returns:
        The error of each trial that failed, by name. A failed trial does not end the others.

    Raises:
        RunError: Ray is not installed, cannot be reached, has stopped, or has too few cores or GPUs for a trial.
        KeyboardInterrupt: The sweep was stopped.
    """
    todo = [trial for trial in trials if not trial.done]
    if not todo:
        return {}
    with _ray(resources) as ray, Board(trials) as board:
        remote = ray.remote(_train).options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=resources.retries
        )
        waiting = {remote.remote(trial.config.json(), str(trial.run.absolute())): trial for trial in todo}
        while waiting:
            for ref in ray.wait([*waiting], timeout=REFRESH)[0]:
                board.ended(waiting.pop(ref), *_result(ray, ref))
            board.update()
    return board.failed


def _train(config: str, folder: str) -> tuple[float, str]:
    """Do one training, or the rest of it, in a process of Ray; return its seconds and its error."""
    began = time.monotonic()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123  (no file to have a path)
        while True:
            try:
                run(Config.read(config), folder, resume=True)
                return time.monotonic() - began, ""
            except LockedError as error:
                if time.monotonic() - began > PATIENCE:
                    return 0.0, str(error)
                time.sleep(1)
            except RunError as error:
                return 0.0, str(error)
            except Exception as error:  # inside a model of the user, for example
                file = Path(folder, "error.txt")
                file.write_text(traceback.format_exc())
                return 0.0, f"{first_line(error)} (traceback in {file})"


def _result(ray: Any, ref: Any) -> tuple[float, str]:
    """Return seconds and error of a trial; its process may have been lost more often than it is retried."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        return 0.0, first_line(error)


@contextlib.contextmanager
def _ray(resources: Resources) -> Iterator[Any]:
    """Start Ray here, or connect to a cluster; at the end stop what was started."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if resources.address and (Path.home() / ".ray" / "auth_token").is_file():  # Ray reads it only if asked to
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
        from ray.exceptions import RayError
    except ModuleNotFoundError:
        raise RunError("training several runs at once needs Ray: pip install 'mixwell[train,sweep]'") from None
    _connect(ray, resources.address)
    try:
        there = ray.cluster_resources()
        for name, wanted in (("CPU", resources.cpus), ("GPU", resources.gpus)):
            if wanted > there.get(name, 0):
                raise RunError(f"a trial needs {wanted:g} {name}s, but Ray has {there.get(name, 0):g}")
        yield ray
    except RayError as error:
        raise RunError(f"Ray has stopped: {first_line(error)}; repeat the command to continue") from None
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    """Start Ray or connect to it; a busy machine may need more time than Ray waits for its own processes."""
    dashboard = False if address is None else None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises plain exceptions, too
            ray.shutdown()
            if address or attempt == ATTEMPTS:
                where = f"reach Ray at {address}" if address else "start Ray"
                raise RunError(f"cannot {where}: {first_line(error)}") from error
        else:
            return
