"""Count what a reader of one step passes through: files, functions, and changes from one file to another.

Counted by ``sys.setprofile`` over one call of a policy, and over one training step of each method on ``mini_resnet``:
forward, backward and ``after_step``. Only Python files of mixwell count; creating the objects is not counted. The
first call of each is not counted either, because it fills caches.

    python benchmarks/path.py            the table
    python benchmarks/path.py CutMix     the functions that one row passes through, in order of their first call
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import ne
from pathlib import Path
from types import FrameType

import torch

import mixwell as mw
from mixwell import models

SOURCE = str(Path(mw.__file__).parent)
LIMITS = {"CutMix": (8, 38, 26), "SUMix": (14, 62, 50), "AutoMix": (18, 75, 80)}
LIMITS |= {"SAMix": (18, 78, 80), "AdAutoMix": (19, 78, 120)}


@dataclass
class Trace:
    """The calls that one step made, in order."""

    calls: list[tuple[str, str]] = field(default_factory=list)  # file and function

    def counts(self) -> tuple[int, int, int]:
        """Return the number of files, of functions, and of calls that follow one in another file."""
        files = [file for file, _ in self.calls]
        return len(set(files)), len(set(self.calls)), sum(map(ne, files, files[1:]))


@contextmanager
def traced() -> Iterator[Trace]:
    """Record every call of a function of mixwell."""
    trace = Trace()

    def record(frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            trace.calls.append((frame.f_code.co_filename[len(SOURCE) + 1 :], frame.f_code.co_qualname))

    sys.setprofile(record)
    try:
        yield trace
    finally:
        sys.setprofile(None)


def call(name: str) -> Callable[[], object]:
    """Return what is followed."""
    images, labels = torch.rand(8, 3, 32, 32), torch.randint(10, (8,))
    if name == "CutMix":
        policy = mw.CutMix()
        return lambda: policy(images, labels)
    settings = {"policy": mw.CutMix()} if name == "SUMix" else {}
    method = getattr(mw, name)(models.mini_resnet(10), num_classes=10, **settings)

    def step() -> None:
        method(images, labels)["loss"].backward()
        method.after_step(0.5)

    return step


def main() -> None:
    """Print the table, or one path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=LIMITS, help="print the functions of one row")
    name = parser.parse_args().name
    if name is None:
        print(f"{'':<10} {'files':>12} {'functions':>12} {'changes':>12}   (count / limit)")
    for row in LIMITS if name is None else [name]:
        step = call(row)
        step()
        with traced() as trace:
            step()
        if name is None:
            pairs = zip(trace.counts(), LIMITS[row], strict=True)
            print(f"{row:<10} " + " ".join(f"{count:>6} / {limit:>3}" for count, limit in pairs))
        else:
            print("\n".join(dict.fromkeys(f"{file}: {function}" for file, function in trace.calls)))


if __name__ == "__main__":
    main()
