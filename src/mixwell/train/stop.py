"""Signals that stop a run, and the exit status of each."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any, ClassVar

import accelerate.utils


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a run as Ctrl-C does."""

    status: ClassVar = 143


class Requeued(KeyboardInterrupt):
    """SIGUSR1, which stops a run after the current epoch; a batch system should start it again."""

    status: ClassVar = 75  # EX_TEMPFAIL


_ASKED = threading.Event()


def install() -> None:
    """Set the handlers of SIGTERM and, where the system has it, SIGUSR1."""
    _ASKED.clear()
    with contextlib.suppress(ValueError, AttributeError):  # not in the main thread, or not on Windows
        signal.signal(signal.SIGTERM, _terminate)
        signal.signal(signal.SIGUSR1, lambda *_: _ASKED.set())


def asked() -> bool:
    """Return whether any process of the run was asked to stop after the current epoch."""
    return any(accelerate.utils.gather_object([_ASKED.is_set()]))


def _terminate(*_: Any) -> None:
    raise Terminated
