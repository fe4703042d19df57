"""One run writes into a run directory at a time."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mixwell.train.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class LockedError(RunError):
    """Another process writes into the run directory."""


_held: set[int] = set()  # file descriptors of locks


def _close_in_child() -> None:
    """Close inherited locks, so that a data-loader worker that outlives its run does not keep them."""
    for handle in _held:
        os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the lock of a run directory; the system releases it when the process ends, however it ends.

    File systems without locks, and Windows, are not protected.

    Raises:
        LockedError: Another process holds it.
    """
    path = run / "lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _held.add(handle)
    try:
        _take(handle, run)
        with contextlib.suppress(OSError):  # a full disk
            os.truncate(handle, 0)
            os.write(handle, f"{os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        _held.discard(handle)
        os.close(handle)


def _take(handle: int, run: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 100).decode(errors="replace")
        raise LockedError(f"process {holder} is training in {run}: wait for its end, or choose another --out") from None
    except OSError:  # a file system without locks
        return
