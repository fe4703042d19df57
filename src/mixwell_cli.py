"""The command ``mixwell``: prints help and version without importing torch, and leaves the rest to ``mixwell.train``.

It is a module of its own because importing anything from the package ``mixwell`` imports torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata

HELP = """\
usage: mixwell COMMAND ...

mixwell trains image classifiers by mixing samples and labels.

commands:
  train    train a recipe, or resume a run
  sweep    train every combination of settings and seeds in a file, and compare them
  eval     evaluate a trained run
  list     list policies, methods, models and parts of recipes
  recipes  list recipes with published accuracies, or print one
  show     draw what a policy does to images
  report   write one HTML page about several runs
  play     open a local web page that mixes two pictures
  check    read every image of a data set once, before training
  labels   measure label weights against what is visible, on images with boxes
  demo     compare plain training, CutMix and CutMix + SUMix on handwritten digits

examples:
  mixwell train digits --policy "CutMix(alpha=1)" --method SUMix     takes seconds
  mixwell train cifar100_resnet18 --data DIR --out runs/a            the recipe of the papers
  mixwell train --resume runs/a                                      resume an interrupted run
  mixwell eval runs/a                                                top-1, top-5, NLL, ECE
  torchrun --nproc-per-node 8 -m mixwell train RECIPE                several GPUs

'mixwell COMMAND --help' describes the arguments of a command; 'mixwell --version' prints the version."""


def answer(argv: Sequence[str]) -> str | None:
    """Return the help or the version if the arguments ask for it, or if there are none; otherwise None."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        return HELP
    if argv[0] in ("-V", "--version"):
        return f"mixwell {metadata.version('mixwell')}"
    return None


def answer_and_exit(argv: Sequence[str]) -> None:
    """End the process with the help or the version if the arguments ask for it."""
    if answer(argv) is not None:
        sys.exit(main(argv))


def open_streams() -> None:
    """Open the null device in place of closed standard streams, whose numbers the next opened files would get."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the system gives it the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))  # noqa: PTH123, SIM115


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    open_streams()
    text = answer(argv)
    try:
        if text is not None:
            print(text, flush=True)
            return 0
        from mixwell.train.cli import main as run

        return run(argv)
    except ModuleNotFoundError as error:
        if (error.name or "mixwell").partition(".")[0] == "mixwell":
            raise
        print(
            f"mixwell: the module {error.name} is missing: install the packages of the training program with "
            "pip install 'mixwell[train]', or from a clone with pip install '.[train]'",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:  # the reader of the help has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


if __name__ == "__main__":
    sys.exit(main())
