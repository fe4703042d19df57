"""The training program. ``run`` trains; ``mixwell train RECIPE`` is the same from the command line."""

from __future__ import annotations

from pathlib import Path

from mixwell.train.config import Config
from mixwell.train.summary import Summary

__all__ = ["Config", "Summary", "run"]


def run(config: Config, out: Path | str, *, resume: bool = False, command: str = "", budget: float = 0.0) -> Summary:
    """Train, and return the results, which are also written to ``summary.json`` in the run directory.

    Args:
        config: The settings.
        out: Run directory, created if it is missing.
        resume: Continue the run in ``out`` from its newest checkpoint; without one, start at the first epoch.
        command: Command line for the summary; by default an equivalent one.
        budget: End the run in so many minutes, with fewer epochs than ``config`` has; 0 for no limit.

    Raises:
        RunError: A setting, the data or the run directory cannot be used; the message says what to do.
        KeyboardInterrupt: The run was stopped; the message says how to resume it.

    Example:
        >>> from mixwell.train.recipes import RECIPES
        >>> config = RECIPES["digits"]()  # run(config, "runs/digits").test["top1"] is the accuracy in percent
    """
    from mixwell.train.launch import train  # imports Accelerate, torchvision and others

    return train(config, Path(out).expanduser(), resume=resume, command=command, minutes=budget)
