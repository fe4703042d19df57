"""Measure weakly supervised localization by class activation maps on birds with boxes (50 classes of CUB-200-2011).

    python benchmarks/localization.py --data DIR --weights FILE [--count 1389] [--held 500]

DIR holds images and ``cub50.csv``, with the columns ``file``, ``split``, ``class_index`` and ``bbox_x``, ``bbox_y``,
``bbox_w``, ``bbox_h``. FILE holds weights of timm's ``tf_efficientnet_lite0`` for these classes, trained at 144 pixels
with mean and standard deviation 0.5.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file

from mixwell import models
from mixwell.normalization import Normalization
from mixwell.train import suite_objects
from mixwell.train.config import Config
from mixwell.train.dataset import DataSet, Split
from mixwell.train.suite import Others, Subject

CLASSES = 50


def birds(folder: Path, weights: Path) -> Subject:
    """Return the network with the table of boxes; no images are read yet."""
    network = models.build("timm/tf_efficientnet_lite0", CLASSES, 3)
    network.load_state_dict(load_file(weights))
    network = network.eval().requires_grad_(False)
    empty = Split([], torch.zeros(0, dtype=torch.long))
    classes = [str(index) for index in range(CLASSES)]
    data = DataSet(empty, empty, empty, classes, 3, Normalization(0.5, 0.5))
    config = Config(dataset="folder", data=str(folder), image_size=144, batch_size=64)
    others = Others(boxes=folder / "cub50.csv")
    return Subject(network, empty, None, config, data, torch.device("cpu"), nullcontext, others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1389, help="test images, chosen at random")
    parser.add_argument("--held", type=int, default=500, help="training images to choose the threshold on")
    args = parser.parse_args()
    suite_objects.MEASURED, suite_objects.HELD = args.count, args.held
    began = time.process_time()
    for name, figure in suite_objects.localization(birds(args.data, args.weights)):
        if not isinstance(figure.value, dict):
            print(f"{name:<20} {figure.value:6.2f} {figure.unit}  {figure.how}")
    print(f"{time.process_time() - began:.0f} CPU seconds")


if __name__ == "__main__":
    main()
