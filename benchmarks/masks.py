"""How closely the masks of finished runs follow the ratio, and how much they vary inside.

Run ``python benchmarks/masks.py RUN ...`` with runs that have a ``mask.safetensors``; masks are those of the first
1,000 test images, each with the one before it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import mixwell
from mixwell.train.config import Config
from mixwell.train.data import load
from mixwell.train.loader import ProcessInfo, loaders

RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9)
IMAGES = 1000


def images_of(run: Path) -> torch.Tensor:
    """Return the first test images of a run, normalised as in training."""
    config = Config.read((run / "config.json").read_text())
    test = loaders(config, load(config), ProcessInfo(torch.device("cpu")))[2]
    found, count = [], 0
    for images, _ in test:
        found.append(images)
        count += len(images)
        if count >= IMAGES:
            break
    return torch.cat(found)[:IMAGES]


def main() -> None:
    """Print a line for each run and ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    print(f"{'run':30} {'lam':>5} {'area error':>11} {'deviation inside':>17} {'range inside':>13}")
    for run in parser.parse_args().runs:
        images = images_of(run)
        labels = torch.zeros(len(images), dtype=torch.int64)
        for lam in RATIOS:
            path, law = str(run / "mask.safetensors"), mixwell.Constant(lam)
            policy = mixwell.LearnedMask(path, alpha=law, pairing=mixwell.Roll(), margin=0.0)
            share = policy.draw(images, labels).share((images.shape[2], images.shape[3]))[:, 0].flatten(1)
            error, deviation = (share.mean(1) - lam).abs().mean(), share.std(1).mean()
            extent = (share.amax(1) - share.amin(1)).mean()
            print(f"{run.name:30} {lam:5.2f} {error:11.3f} {deviation:17.3f} {extent:13.3f}")


if __name__ == "__main__":
    main()
