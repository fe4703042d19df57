"""Loads mutated CIFAR files, a hundred in each child process, and fails if one of the processes dies.

Run as ``python tests/fuzz_cifar.py COUNT``; started with ``PYTHONMALLOC=debug`` the allocator checks every block. The
mutations are drawn from fixed seeds, so every call tries the same files.
"""

from __future__ import annotations

import os
import pickle
import random
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

EACH = 100  # files in a child process
MEMORY = 2**30  # what a child may allocate beyond what it starts with (bytes)
SECONDS = 60  # time that a child may compute
OPCODES = [getattr(pickle, name) for name in pickle.__all__ if isinstance(getattr(pickle, name), bytes)]


def seeds() -> list[bytes]:
    """Return small, valid files as Python 2 and 3 write them with every protocol."""
    generator = np.random.default_rng(0)
    content = {
        "data": generator.integers(0, 256, (2, 3072), dtype=np.uint8), "labels": [3, 9], "fine_labels": [3, 99],
        "filenames": ["a.png", "b.png"], "batch_label": "testing batch 1 of 1",
    }  # fmt: skip
    encoded = {key.encode(): value for key, value in content.items()}
    return [pickle.dumps(each, protocol) for each in (content, encoded) for protocol in range(6)]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return content with a few random changes: bytes, opcodes, lengths, parts cut out, doubled or moved."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        # The opcodes are at both ends, the pixels between them.
        ends = [draw.randrange(min(300, len(data))), len(data) - 1 - draw.randrange(min(300, len(data)))]
        at = draw.choice([*ends, draw.randrange(len(data))])
        size = draw.choice((1, 1, 2, 4, 8, 40, 400))
        kind = draw.randrange(7)
        if kind == 0:
            data[at] = draw.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            opcode = draw.choice(OPCODES)
            data[at : at + draw.randrange(2)] = opcode
        elif kind == 3:
            number = draw.choice((0, 1, 2**7, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
            length = draw.choice((2, 4, 8))
            data[at : at + length] = (number % 2 ** (8 * length)).to_bytes(length, "little")
        elif kind == 4:
            del data[at : at + size]
        elif kind == 5:
            data[at:at] = data[at : at + size]
        else:
            other = draw.randrange(len(data))
            data[at:at] = data[other : other + size]
        if not data:
            data = bytearray(b".")
    return bytes(data)


def try_files(first: int, folder: Path) -> Counter[str]:
    """Load mutated files; count what becomes of them. Any exception but ``RunError`` ends the process."""
    from mixwell.train.config import Config
    from mixwell.train.data import load
    from mixwell.train.errors import RunError

    outcomes: Counter[str] = Counter()
    valid = seeds()
    for number in range(first, first + EACH):
        draw = random.Random(number)
        content = mutated(draw.choice(valid), draw)
        for name, config in (("test_batch", "cifar10"), ("test", "cifar100")):
            (folder / name).write_bytes(content)
            try:
                split = load(Config(dataset=config, data=str(folder)), only="test").test
            except RunError as error:
                outcomes[str(error).partition(": ")[2][:40] or str(error)[-40:]] += 1
            else:
                assert len(split.images) == len(split.labels) and int(split.labels.max()) < 100
                assert split.images.sum() >= 0  # reads every byte
                outcomes["loaded"] += 1
            (folder / name).unlink()
    return outcomes


def main(count: int) -> int:
    """Try ``count`` files; return the number of processes that died."""
    import mixwell.train.data  # noqa: F401  (so that the children have it)

    died = 0
    with tempfile.TemporaryDirectory() as folder:
        for first in range(0, count, EACH):
            child = os.fork()
            if child == 0:
                used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
                resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
                resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
                status = 1
                try:
                    outcomes = try_files(first, Path(folder))
                    status = 0
                    if first == 0:
                        print(outcomes)
                finally:
                    if status:
                        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
                    sys.stdout.flush()
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            if status:
                died += 1
                print(f"the process of files {first} to {first + EACH - 1} ended with status {status}")
    return died


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])) > 0)
