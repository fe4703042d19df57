"""Measure how far label weights are from what mixed images show, on birds with bounding boxes (CUB-200).

The plan moves the box of every bird exactly as the pixels. A label weight is compared with the visible fraction of the
anchor's bird, divided by the sum over both birds ("fraction"), and with the same in pixels ("area").

    python benchmarks/label_error.py --data DIR

DIR holds ``cub50.tar.gz``: test images of 50 classes, with a table ``cub50/cub50.csv`` that has the columns ``file``,
``split``, ``class_index`` and ``bbox_x``, ``bbox_y``, ``bbox_w``, ``bbox_h`` in pixels; and
``models/cub50_lite0.safetensors``, the weights of timm's ``tf_efficientnet_lite0`` trained on the other images.
"""

from __future__ import annotations

import argparse
import csv
import io
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import mixwell as mw
from mixwell.labels.objects import object_masks

SIDE, BATCH = 144, 64
POLICIES = (
    mw.CutMix(alpha=1.0, scope="sample"),
    mw.FMix(alpha=1.0, scope="sample"),
    mw.ResizeMix(scope="sample"),
    mw.GridMix(alpha=1.0, scope="sample"),
    mw.SaliencyMix(alpha=1.0, scope="sample"),
)
LABELS = (mw.PixelShare(), mw.ActivationShare(), mw.ObjectShare())


def birds(path: Path, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images in [-1, 1], labels, and boxes ``(x1, y1, x2, y2)`` in pixels of the scaled images."""
    images, labels, boxes = [], [], []
    with tarfile.open(path) as archive:

        def opened(name: str) -> io.BytesIO:
            found = archive.extractfile(f"cub50/{name}")
            if found is None:
                raise ValueError(f"{path} has no file cub50/{name}.")
            return io.BytesIO(found.read())

        rows = [row for row in csv.DictReader(io.TextIOWrapper(opened("cub50.csv"))) if row["split"] == "test"]
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]
        for row in (rows[index] for index in chosen.tolist()):
            picture = Image.open(opened(row["file"])).convert("RGB")
            pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            x, y, width, height = (float(row[f"bbox_{name}"]) for name in "xywh")
            scale = SIDE / torch.tensor([picture.width, picture.height] * 2)
            images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1)
            labels.append(int(row["class_index"]))
            boxes.append(torch.tensor([x, y, x + width, y + height]) * scale)
    return torch.stack(images), torch.tensor(labels), torch.stack(boxes)


@torch.no_grad()
def errors(data: Path, count: int, trained: bool) -> dict[str, Tensor]:
    """Return, for every label policy, the errors against both references, the mean over the sample policies."""
    images, labels, boxes = birds(data / "cub50.tar.gz", count)
    masks = object_masks(boxes, len(images), (SIDE, SIDE))
    network = timm.create_model("tf_efficientnet_lite0", num_classes=50)
    if trained:
        network.load_state_dict(load_file(data / "models" / "cub50_lite0.safetensors"))
    network.eval()
    features = torch.cat([network.forward_features(batch) for batch in images.split(BATCH)])
    found: dict[str, list[Tensor]] = defaultdict(list)
    for policy in POLICIES:
        parts: dict[str, list[Tensor]] = defaultdict(list)
        for start in range(0, len(images) - BATCH + 1, BATCH):
            rows = slice(start, start + BATCH)
            generator = torch.Generator().manual_seed(start)
            mixed = policy(images[rows], labels[rows], generator=generator, normalization=mw.Normalization(0.5, 0.5))
            view = mw.View(clean_features=features[rows], masks=masks[rows])
            references = mw.visible_objects(mixed.plan, masks[rows])
            for label in LABELS:
                parts[repr(label)].append(torch.stack((label(mixed, view)[:, 0], *references)))
        for name, batches in parts.items():
            weights, area, fraction = torch.cat(batches, 1)
            found[name].append(torch.stack([mw.label_error(weights, visible)["error"] for visible in (fraction, area)]))
    return {name: torch.stack(rows).mean(0) for name, rows in found.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of images and weights")
    parser.add_argument("--count", type=int, default=384, help="number of images, in batches of 64 [384]")
    parser.add_argument("--untrained", action="store_true", help="use random weights (seed 0)")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"{'label policy':20s} fraction  area")
    for name, (fraction, area) in errors(args.data, args.count, not args.untrained).items():
        print(f"{name:20s} {fraction:8.4f}  {area:.4f}")


if __name__ == "__main__":
    main()
