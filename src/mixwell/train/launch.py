"""Start of a run: checks, then the run directory, then the training loop."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import accelerate.utils

from mixwell.train import accelerator as processes
from mixwell.train import budget, build, checkpoint
from mixwell.train.config import Config
from mixwell.train.errors import RunError, enough_memory, full_disk, one_line
from mixwell.train.files import write
from mixwell.train.lock import locked
from mixwell.train.loop import Training
from mixwell.train.runs import STOPPED, read_config
from mixwell.train.runs import command as command_of
from mixwell.train.summary import Summary


def train(config: Config, run: Path, *, resume: bool = False, command: str = "", minutes: float = 0.0) -> Summary:
    """Train; see ``mixwell.train.run``."""
    if (run / "config.json").exists() and processes.is_first():
        if not resume:
            raise RunError(_exists(run))
        if changed := read_config(run).fixed_differences(config):
            raise RunError(f"a resumed run keeps its settings, and in {run} {changed[0]}: start a new run with --out")
    build.check_expressions(config)
    processes.check_tracker(config.tracker)
    with enough_memory(), _stopped(run):
        if minutes:
            config, command = _within(config, run, minutes), ""
        training = Training(config, run, command or command_of(config, run))  # checks before anything is written
        with _owned(run, config, training.main, resume):
            return training()


def _within(config: Config, run: Path, minutes: float) -> Config:
    """Return the config with as many epochs as the time allows, and print the choice."""
    began = perf_counter()
    training = Training(config, run, "")
    cost = budget.measure(training, began)
    chosen = budget.fitted(config, cost, minutes)
    if training.main:
        print(budget.describe(config, chosen, cost, minutes), flush=True)
    return chosen


def _exists(run: Path) -> str:
    return f"{run} already holds a run: continue it with --resume {run}, or choose another --out"


@contextlib.contextmanager
def _owned(run: Path, config: Config, main: bool, resume: bool) -> Iterator[None]:
    """Create and lock the run directory in the main process; if that fails, raise in all processes."""
    with contextlib.ExitStack() as stack:
        failure = ""
        if main:
            try:
                str(run.absolute()).encode()  # TensorBoard needs a name that is text
                run.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(run))
                if not resume and (run / "config.json").exists():  # since the first look
                    raise RunError(_exists(run))
                write(run / "config.json", config.json().encode())
                (run / STOPPED).unlink(missing_ok=True)
            except OSError as error:
                failure = f"cannot start a run in {run}: {error.strerror}"
            except UnicodeEncodeError:
                failure = f"cannot start a run in {one_line(run)}: its name is not UTF-8"
            except RunError as error:
                failure = str(error)
        failure = accelerate.utils.gather_object([failure])[0]
        if failure:
            raise RunError(failure)
        yield


@contextlib.contextmanager
def _stopped(run: Path) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM, a full disk and a lost process into a sentence that says how to resume the run."""

    def saved() -> str:
        if not (run / "config.json").exists():
            return "nothing is saved yet"
        folder = checkpoint.latest(run)
        epochs = f"epoch {checkpoint.epochs(folder)} is saved" if folder else "no epoch is saved yet"
        return f"{epochs}; resume with: {launcher}mixwell train --resume {shlex.quote(str(run))}"

    name, launcher = processes.launch()
    try:
        with processes.unbroken(saved):
            yield
    except KeyboardInterrupt as error:
        raise type(error)(f"{name}stopped: {saved()}") from None
    except OSError as error:
        if full_disk(error):
            raise RunError(f"no space left to write {error.filename or run}: free some; {saved()}") from None
        if run not in Path(str(error.filename)).parents:
            raise
        raise RunError(f"cannot write {error.filename}: {error.strerror}; {saved()}") from None
