"""Learned masks: a picture after every epoch of a run, and the mix block at its end as a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch.nn import functional as F

from mixwell import LearnedMask, Pairs, SharePlan, save_mask
from mixwell.mixers.predictor import MaskPredictor
from mixwell.report import picture, samples
from mixwell.report.samples import Images, Sample
from mixwell.train.config import Config
from mixwell.train.dataset import DataSet
from mixwell.train.files import write

if TYPE_CHECKING:
    from mixwell.train.loader import Loader

RATIOS = (0.25, 0.5, 0.75)  # of the anchor
PAIRS = 3
SMALLEST, LARGEST = 96, 112  # side of an image (pixels)
NOTES = (
    "Top: the learned mask, in the colours of the labels.  Bottom: the mixed image.",
    "lam: the requested share of the anchor, then its smallest and largest pixel.",
    "Bar: the mean share of each source.",
)


def keep(run: Path, epoch: int, predictor: MaskPredictor, loader: Loader, classes: list[str]) -> Image.Image | None:
    """Write ``masks/epoch_003.png`` of a run: the same images after every epoch, mixed by the current mix block.

    Draws nothing at random and changes no state, so training is the same with and without pictures.

    Args:
        run: Run directory.
        epoch: Number of completed epochs.
        predictor: Predicts the masks.
        loader: Provides the first image of several classes, without augmentation.
        classes: Name of each class.

    Returns:
        The picture, or None if a mask has NaN or Inf.
    """
    images = samples.from_split(loader.split, classes, max(PAIRS, predictor.sources), size := loader.config.image_size)
    if max(images.pixels.shape[2:]) != size:  # arrays, which the loader resizes
        images = replace(images, pixels=F.interpolate(images.pixels, (size, size), mode="bicubic").clamp(0, 1))
    found = at_ratios(predictor, images, loader)
    if not all(sample.share.isfinite().all() for row in found for sample in row):
        return None
    drawn, description = sheet(f"masks after epoch {epoch}", found)
    folder = run / "masks"
    folder.mkdir(exist_ok=True)
    write(folder / f"epoch_{epoch:03d}.png", picture.png(drawn, description, limit=300_000))
    return drawn


def at_ratios(predictor: MaskPredictor, images: Images, loader: Loader) -> list[list[Sample]]:
    """Mix each image with those that follow it, at several ratios; the other sources get equal shares."""
    inputs = loader.normalise(images.pixels.to(loader.device) * 255)
    rows = torch.arange(len(inputs), device=inputs.device)
    partner = torch.stack([rows.roll(-k) for k in range(1, predictor.sources)], 1)
    size, found = (inputs.shape[2], inputs.shape[3]), []
    for ratio in RATIOS:
        lam = torch.full((len(inputs), predictor.sources), (1 - ratio) / (predictor.sources - 1), device=inputs.device)
        lam[:, 0] = ratio
        plan = SharePlan(Pairs(partner, lam[:, 0], size), predictor.share(inputs, partner, lam, size))
        found.append(samples.of_plan(plan.to("cpu"), images, range(min(PAIRS, len(inputs)))))
    return found


def sheet(title: str, found: list[list[Sample]]) -> tuple[Image.Image, str]:
    """Draw samples of several ratios, one row for each anchor.

    Returns:
        The picture, and the same in words.
    """
    side = found[0][0].mixed.shape[2]
    side = LARGEST if side > LARGEST else side * max(1, SMALLEST // side)
    rows = [("", [(_caption(sample), sample) for sample in row]) for row in zip(*found, strict=True)]
    return picture.sheet(title, NOTES, rows, side)


def _caption(sample: Sample) -> str:
    low, high = (f"{value:.2f}".lstrip("0") for value in sample.share[0].aminmax())
    return f"lam {sample.lam:.2f}, {low}–{high}"


def export(run: Path, predictor: MaskPredictor, config: Config, data: DataSet) -> LearnedMask:
    """Write the mix block and its encoder to ``mask.safetensors`` of a run, and return them as a policy."""
    path, size = run / "mask.safetensors", (config.image_size, config.image_size)
    modules = predictor.block, predictor.encoder, predictor.hook.name, config.model
    save_mask(path, *modules, size=size, normalization=data.normalization)
    return LearnedMask(str(path))


def newest(run: Path) -> Path | None:
    """Return the last picture of a run, or None if there is none."""
    return max((run / "masks").glob("epoch_*.png"), key=lambda path: (len(path.name), path.name), default=None)
