"""Many runs at once, through Ray: on this machine, or on a cluster. The only file that imports Ray."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from mixwell.train import run
from mixwell.train.config import Config
from mixwell.train.errors import RunError, first_line
from mixwell.train.lock import LockedError
from mixwell.train.runs import STOPPED, command, read_config

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
    def records(self) -> list[dict[str, Any]]:
        """The records of its epochs so far."""
        with contextlib.suppress(OSError, ValueError):
            return [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        return []

    @property
    def done(self) -> bool:
        """Whether the run is complete."""
        return (self.run / "summary.json").is_file()

    @property
    def stopped(self) -> str:
        """Why the run was stopped early; empty for any other run."""
        with contextlib.suppress(OSError):
            return "" if self.done else (self.run / STOPPED).read_text().strip()
        return ""

    @property
    def command(self) -> str:
        """The command that trains this run alone."""
        return command(self.config, self.run)

    def value(self, epoch: int) -> float | None:
        """Return the accuracy or mAP of the first validated epoch from the given one on; None if there is none yet."""
        found = (measured(record) for record in self.records if record["epoch"] >= epoch)
        return next((value for _, value in filter(None, found)), None)

    def check(self, advice: str) -> None:
        """Raise ``RunError`` if the run directory holds a run with other settings."""
        if (self.run / "config.json").exists() and (changed := read_config(self.run).fixed_differences(self.config)):
            raise RunError(f"in {self.run} {changed[0]}: {advice}")


def measured(record: dict[str, Any]) -> tuple[str, float] | None:
    """Return name and value (percent) of the main measure of an epoch; None if it was not validated.

    Example:
        >>> measured({"epoch": 1, "val_loss": 0.5, "val_map": 70.0})
        ('mAP', 70.0)
    """
    names = (("top-1", "val_top1"), ("mAP", "val_map"))
    return next(((name, record[key]) for name, key in names if key in record), None)


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
        self.began, self.before = time.monotonic(), sum(len(trial.records) for trial in trials)
        self.live = Live(refresh_per_second=2) if sys.stdout.isatty() else None

    def ended(self, trial: Trial, seconds: float, error: str) -> None:
        """Note that a trial has ended."""
        if trial.stopped:
            outcome = f"stopped early, {trial.stopped}"
        elif error:
            outcome = self.failed[trial.name] = error
        else:
            outcome = f"{seconds:.1f} s"
        if not self.live:
            print(f"{trial.name}: {outcome}", flush=True)

    def update(self) -> None:
        """Draw the table again, from the run directories."""
        if not self.live:
            return
        records = {trial: trial.records for trial in self.trials}
        done, stopped = sum(t.done for t in self.trials), sum(t.stopped != "" for t in self.trials)
        left = [trial for trial in self.trials if not trial.done and not trial.stopped]
        epochs = sum(trial.config.epochs - len(records[trial]) for trial in left)
        speed = (sum(map(len, records.values())) - self.before) / (time.monotonic() - self.began)
        time_left = f", about {epochs / speed / 60:.0f} min left" if speed > 0 else ""
        counts = f"{f'{stopped} stopped, ' if stopped else ''}{len(self.failed)} failed{time_left}"
        table = Table(title=f"{done} of {len(self.trials)} trials done, {counts}")
        for name in ("trial", "epochs", "validation (%)"):
            table.add_column(name, justify="left" if name == "trial" else "right")
        for trial in ([trial for trial in left if records[trial]] or self.trials)[: self.ROWS]:
            newest = next(filter(None, map(measured, reversed(records[trial]))), None)
            value = f"{newest[0]} {newest[1]:.2f}" if newest else ""
            table.add_row(trial.name, f"{len(records[trial])} of {trial.config.epochs}", value)
        self.live.update(table)

    def __enter__(self) -> Board:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()
        if self.live:
            self.live.stop()


def train_all(
    trials: Sequence[Trial], resources: Resources = Resources(), losers: Callable[[], dict[Trial, str]] | None = None
) -> dict[str, str]:
    """Train what is not finished, as many trials at a time as there are cores and GPUs.

    Args:
        trials: The trials.
        resources: What each of them receives.
        losers: Returns the trials to stop early, each with the reason; those stopped before are not trained. None
            stops none, and continues those stopped before.

    Returns:
        The error of each trial that failed, by name. A failed trial does not end the others.

    Raises:
        RunError: Ray is not installed, cannot be reached, has stopped, or has too few cores or GPUs for a trial.
        KeyboardInterrupt: The sweep was stopped.
    """
    todo = [trial for trial in trials if not trial.done and not (losers and trial.stopped)]
    if not todo:
        return {}
    for trial in todo:
        (trial.run / STOPPED).unlink(missing_ok=True)
    with _ray(resources) as ray, Board(trials) as board:
        remote = ray.remote(_train).options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=resources.retries
        )
        waiting = {remote.remote(trial.config.json(), str(trial.run.absolute())): trial for trial in todo}
        while waiting:
            for ref in ray.wait([*waiting], timeout=REFRESH)[0]:
                board.ended(waiting.pop(ref), *_result(ray, ref))
            for trial, reason in losers().items() if losers else ():
                for ref in [ref for ref, other in waiting.items() if other is trial]:
                    (trial.run / STOPPED).write_text(f"{reason}\n")
                    ray.cancel(ref)
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
