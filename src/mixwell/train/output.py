"""Output streams whose loss does not end a run."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any


class SafeStream:
    """A text stream that discards what can no longer be written: its reader has gone, or the disk is full.

    Args:
        stream: The stream; None, as Python sets it for a closed one, discards everything.
    """

    def __init__(self, stream: Any) -> None:
        self.stream: Any = stream if stream is not None else open(os.devnull, "w")  # noqa: PTH123, SIM115
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write text; return its length."""
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            self.write(text.encode("ascii", "backslashreplace").decode())
        except OSError as error:
            self._discard(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self.stream.flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        """Send the rest to the null device, and with it what is buffered, which would fail again at exit."""
        self.error = error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.stream.fileno())
        os.close(null)

    @property
    def incomplete(self) -> bool:
        """Whether output was lost although somebody may still read it."""
        return self.error is not None and self.error.errno != errno.EPIPE

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def safe_output() -> Iterator[SafeStream]:
    """Replace stdout and stderr by streams that cannot fail; yield stdout."""
    before = sys.stdout, sys.stderr
    out, err = SafeStream(sys.stdout), SafeStream(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
