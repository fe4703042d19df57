"""What a mix block has learned so far, as a picture, and the block at the end of a run, as a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mixwell import LearnedMask, Pairs, SharePlan
from mixwell.mixers.maskfile import packed
from mixwell.mixers.predictor import Seer
from mixwell.train import checkpoint, samples
from mixwell.train.config import Config
from mixwell.train.data import DataSet
from mixwell.train.loader import Loader
from mixwell.train.picture import FAINT, Canvas, png
from mixwell.train.samples import Images, Sample
from mixwell.train.show import GAP, block

RATIOS = (0.25, 0.5, 0.75)  # of the anchor
PAIRS = 3
SMALLEST, LARGEST = 96, 112  # side of an image (pixels)
ABOUT = (
    "The mask: whose pixel it is, in the colours of the labels.  lam: the wanted share of the anchor;",
    "beside it its least and its largest share of a pixel, below the share that each source has on average.",
)


def keep(run: Path, epoch: int, seer: Seer, loader: Loader, classes: list[str]) -> Image.Image | None:
    """Write ``masks/epoch_003.png`` of a run: the same few images every epoch, mixed by what the block knows now.

    Nothing random is drawn and nothing that trains is touched, so that a training is the same with pictures or without.

    Args:
        run: Its directory.
        epoch: Epochs done.
        seer: The method's.
        loader: Its first image of some classes is taken, as it is before augmentation.
        classes: Name of each class.

    Returns:
        The picture; None where the block knows no number any more.
    """
    count = max(PAIRS, seer.sources)
    size = loader.config.image_size
    images = samples.from_split(loader.split, classes, count, size)
    if max(images.pixels.shape[2:]) != size:  # arrays that the network sees resized
        images = replace(images, pixels=F.interpolate(images.pixels, (size, size), mode="bicubic").clamp(0, 1))
    found = at_ratios(seer, images, loader)
    if not all(sample.share.isfinite().all() for row in found for sample in row):
        return None
    canvas, told = sheet(f"masks after epoch {epoch}", found)
    picture = canvas.image()
    folder = run / "masks"
    folder.mkdir(exist_ok=True)
    checkpoint.write(folder / f"epoch_{epoch:03d}.png", png(picture, told, limit=300_000))
    return picture


def at_ratios(seer: Seer, images: Images, loader: Loader) -> list[list[Sample]]:
    """Mix images by a block, each with those that follow it, at several ratios; what the anchor leaves is divided."""
    seen = loader.normalise(images.pixels.to(loader.place.device) * 255)
    rows = torch.arange(len(seen), device=seen.device)
    partner = torch.stack([rows.roll(-k) for k in range(1, seer.sources)], 1)
    size, found = (seen.shape[2], seen.shape[3]), []
    for ratio in RATIOS:
        lam = torch.full((len(seen), seer.sources), (1 - ratio) / (seer.sources - 1), device=seen.device)
        lam[:, 0] = ratio
        plan = SharePlan(Pairs(partner, lam[:, 0], size), seer.share(seen, partner, lam, size))
        found.append(samples.of_plan(plan.to("cpu"), images, range(min(PAIRS, len(seen)))))
    return found


def sheet(title: str, found: list[list[Sample]]) -> tuple[Canvas, str]:
    """Draw samples of several ratios, a block for each anchor.

    Returns:
        The picture, and the same in words.
    """
    canvas, told, y = Canvas(), [title], 80
    canvas.text(0, 0, title, 22, bold=True)
    for line, words in enumerate(ABOUT):
        canvas.text(0, 32 + 19 * line, words, 14, colour=FAINT)
    for row in zip(*found, strict=True):
        y += block(canvas, y, [_resized(sample) for sample in row], _range) + 2 * GAP
        told += [f"lam {sample.lam:.2f}: {sample}, anchor {_range(sample)}" for sample in row]
    return canvas, "\n".join(told)


def _range(sample: Sample) -> str:
    low, high = (f"{value:.2f}".lstrip("0") for value in sample.share[0].aminmax())
    return f"{low}–{high}"


def _resized(sample: Sample) -> Sample:
    """Draw each pixel of small images as a square, and large images smaller."""
    side = sample.mixed.shape[2]
    side = LARGEST if side > LARGEST else side * max(1, SMALLEST // side)

    def scaled(pixels: Tensor) -> Tensor:
        return F.interpolate(pixels, (side, side), mode="area")

    return replace(
        sample, sources=scaled(sample.sources), mixed=scaled(sample.mixed[None])[0], share=scaled(sample.share[None])[0]
    )


def export(run: Path, seer: Seer, config: Config, data: DataSet) -> LearnedMask:
    """Write what a block has learned to ``mask.safetensors`` of a run, and return it as a policy."""
    path, size = run / "mask.safetensors", (config.image_size, config.image_size)
    parts = seer.block, seer.encoder, seer.tap.name, config.model
    checkpoint.write(path, packed(*parts, size=size, mean=data.mean, std=data.std))
    return LearnedMask(str(path))


def newest(run: Path) -> Path | None:
    """Return the last picture of a run, if there is one."""
    return max((run / "masks").glob("epoch_*.png"), key=lambda path: (len(path.name), path.name), default=None)
