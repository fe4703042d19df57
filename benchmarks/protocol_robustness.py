"""Corruption and occlusion for the networks that Protocol B has kept.

Measures every compared run whose network is still in the weights folder on the first 2,000 test images, changed in five
ways that are the same for all networks, and appends one line per run to ``results/protocol_b_robustness.jsonl``::

    python benchmarks/protocol_robustness.py --data DIR

Source of the corruptions: the kinds of Hendrycks and Dietterich, *Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations*, ICLR 2019, one strength each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from few_images import read
from measures import predict
from paired import load
from protocol_b import ROOT, Settings, finished, key_of, network
from torch import Tensor

import mixwell as mw

IMAGES = 2000
HOLE = 16


def changed(images: Tensor) -> dict[str, Tensor]:
    """Return noisy, blurred, faded, pixelated and occluded copies of images in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    count, channels, height, width = images.shape
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = (line[:, None] * line).expand(channels, 1, 5, 5)
    mean = images.mean((1, 2, 3), keepdim=True)
    small = F.avg_pool2d(images, 2)
    top = torch.randint(0, height - HOLE + 1, (count, 1, 1, 1), generator=generator)
    left = torch.randint(0, width - HOLE + 1, (count, 1, 1, 1), generator=generator)
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width)
    hole = (rows >= top) & (rows < top + HOLE) & (columns >= left) & (columns < left + HOLE)
    return {
        "noise": (images + 0.06 * torch.randn(images.shape, generator=generator)).clamp(0, 1),
        "blur": F.conv2d(F.pad(images, (2,) * 4, mode="reflect"), kernel, groups=channels),
        "contrast": mean + 0.4 * (images - mean),
        "pixelate": F.interpolate(small, scale_factor=2.0, mode="nearest"),
        "occlusion": images.masked_fill(hole, 0.5),
    }


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds cifar-100-python")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "protocol_b.jsonl")
    parser.add_argument("--weights", type=Path, default=ROOT / "runs" / "protocol_b")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.results.with_name(f"{args.results.stem}_robustness.jsonl")
    done = finished(out)
    images, labels = (part[:IMAGES] for part in read(args.data, 100, 100).test)
    views = changed(images)
    for record in load(args.results):
        path = args.weights / record["weights"]
        if record["tune"] or key_of(record) in done or not path.exists():
            continue
        settings = Settings(**record["settings"])
        model = network(settings)
        model.load_state_dict(torch.load(path, weights_only=True))
        tops = {
            name: round(mw.top_k_accuracy(predict(model.eval(), view, settings.precision), labels).item(), 2)
            for name, view in views.items()
        }
        line = {name: record[name] for name in ("method", "seed", "tune", "settings", "source")}
        with out.open("a") as file:
            file.write(json.dumps({**line, **tops}) + "\n")


if __name__ == "__main__":
    main()
