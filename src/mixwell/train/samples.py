"""Mixed images with everything a picture says about them, from photographs, folders and data sets."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixwell import (
    BatchPolicy,
    Constant,
    Derangement,
    NoMix,
    OneOf,
    Permutation,
    Plan,
    Roll,
    Sometimes,
)
from mixwell.train import images as files
from mixwell.train.dataset import Split
from mixwell.train.errors import RunError


@dataclass(frozen=True)
class Images:
    """Clean images and what is on them.

    Attributes:
        pixels: Shape ``(B, C, H, W)``, float32 in [0, 1].
        labels: Place of each image's class in ``names``, shape ``(B,)``, int64.
        names: Names of the classes.
    """

    pixels: Tensor
    labels: Tensor
    names: list[str]


@dataclass(frozen=True)
class Sample:
    """One mixed image and where it comes from.

    Attributes:
        sources: Clean images, the anchor first, shape ``(K, C, H, W)``, float32 in [0, 1].
        mixed: The mixed image, shape ``(C, H, W)``.
        share: Share of each source in each pixel, shape ``(K, H, W)``.
        lam: Nominal ratio that the plan was drawn with.
        names: Class of each source.
        weights: How much of each label the image carries.
    """

    sources: Tensor
    mixed: Tensor
    share: Tensor
    lam: float
    names: tuple[str, ...]
    weights: tuple[float, ...]

    def __str__(self) -> str:
        """Say which labels the image carries, equal classes added up.

        Example:
            >>> blank = torch.zeros(2, 1, 1, 1)
            >>> print(Sample(blank, blank[0], blank[:, 0], 0.3, ("cat", "dog"), (0.3, 0.7)))
            cat 0.30, dog 0.70
        """
        return ", ".join(f"{name} {weight:.2f}" for name, weight in self.label().items())

    def label(self) -> dict[str, float]:
        """Return the weight of each class, equal classes added up."""
        total: dict[str, float] = {}
        for name, weight in zip(self.names, self.weights, strict=True):
            total[name] = total.get(name, 0.0) + weight
        return total


def photographs(size: int) -> Images:
    """Return the two sample photographs that ship with scikit-learn, a temple in China and a flower."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    pixels = [_square(Image.fromarray(photo), size) for photo in found.images]
    return Images(torch.stack(pixels), torch.arange(len(pixels)), [Path(name).stem for name in found.filenames])


def from_folder(folder: Path, count: int, size: int, seed: int = 0) -> Images:
    """Return some images of a folder, of different classes as far as that goes.

    A class is the folder that an image lies in; where all lie in the same one, every image is its own.

    Args:
        folder: Searched with its subfolders.
        count: How many images; fewer where there are fewer.
        size: Side of the square that is cut from the middle of each (pixels).
        seed: Which ones.

    Raises:
        RunError: there is no such folder, fewer than two images in it, or one that cannot be read.
    """
    if not folder.is_dir():
        raise RunError(f"no folder {folder}: --images names a folder with images in it")
    found = files.find(folder)
    paths = found.paths
    if len(paths) < 2:
        others = files.summary(found.skipped)
        raise RunError(
            f"{len(paths) or 'no'} images in {folder}, expected two or more{f': {others}' if others else ''}"
        )
    random.Random(seed).shuffle(paths)
    seen: Counter[Path] = Counter()
    turn = {}  # how many images of the same class come before this one
    for path in paths:
        turn[path] = seen[path.parent]
        seen[path.parent] += 1
    chosen = sorted(paths, key=turn.__getitem__)[:count]
    classes = [path.parent.name if len(seen) > 1 else path.stem for path in chosen]
    names = sorted(set(classes))
    pixels = torch.stack([_square(files.read(path), size) for path in chosen])
    return Images(pixels, torch.tensor([names.index(name) for name in classes]), names)


def from_split(split: Split, classes: list[str], count: int, largest: int) -> Images:
    """Return the first readable image of each of some classes of a data set, no larger than ``largest`` pixels."""
    rows, pixels = [], []
    for label in split.labels.unique()[:count].tolist():
        row, image = _first((split.labels == label).nonzero()[:, 0].tolist(), split, largest)
        rows.append(row)
        pixels.append(image)
    return Images(torch.stack(pixels), split.labels[rows], classes)


def _first(rows: Sequence[int], split: Split, largest: int) -> tuple[int, Tensor]:
    """Return the first of some rows whose image can be read, and the image; fail with the error of the last."""
    for row in rows:
        if isinstance(split.images, Tensor):
            return row, split.images[row].float() / 255
        try:
            return row, _square(files.read(split.images[row]), largest)
        except files.BadImageError:
            if row == rows[-1]:
                raise
    raise RunError("no images to show")


def _square(image: Any, size: int) -> Tensor:
    from PIL import Image, ImageOps

    square = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
    return torch.from_numpy(square.copy()).permute(2, 0, 1) / 255


def mix(policy: BatchPolicy, images: Images, seed: int, count: int | None = None) -> list[Sample]:
    """Mix images as a policy does, and keep what a picture needs.

    Args:
        policy: What goes where.
        images: Clean images.
        seed: Of everything random.
        count: How many mixed images; ``None`` means as many as there are clean ones.

    Raises:
        RunError: the policy needs something that a picture has not, such as a model.
    """
    pixels, generator = images.pixels, torch.Generator().manual_seed(seed)
    if getattr(policy, "looks_as_trained", False):
        pixels = (pixels * 255).round().byte()
    try:
        plan = policy.draw(pixels, images.labels, generator=generator)
    except (TypeError, ValueError) as error:
        raise RunError(str(error)) from None
    return of_plan(plan, images, range(len(pixels) if count is None else min(count, len(pixels))))


def of_plan(plan: Plan, images: Images, rows: Iterable[int]) -> list[Sample]:
    """Mix images by a plan, and keep what a picture of some of them needs."""
    mixed, shares = plan.apply(images.pixels), plan.share((images.pixels.shape[2], images.pixels.shape[3]))
    return [
        Sample(
            sources=images.pixels[plan.sources[row]],
            mixed=mixed[row],
            share=shares[row],
            lam=float(plan.lam[row]),
            names=tuple(images.names[label] for label in images.labels[plan.sources[row]].tolist()),
            weights=tuple(plan.weights[row].tolist()),
        )
        for row in rows
    ]


def members(policy: BatchPolicy, chance: float = 1.0) -> list[tuple[BatchPolicy, float]]:
    """Take a choice of policies apart: every policy that may be drawn, and how often it is.

    Example:
        >>> from mixwell import CutMix, MixUp
        >>> members(Sometimes(OneOf([MixUp(), CutMix()], weights=[1, 3]), p=0.8))
        [(MixUp(), 0.2), (CutMix(), 0.6...), (NoMix(), 0.2)]
    """
    if isinstance(policy, Sometimes):
        policy = OneOf((policy.policy, NoMix()), weights=(policy.p, round(1 - policy.p, 12)))
    if not isinstance(policy, OneOf):
        return [(policy, chance)]
    weights = policy.weights or (1.0,) * len(policy.policies)
    parts = zip(policy.policies, weights, strict=True)
    return [found for part, weight in parts if weight for found in members(part, chance * weight / sum(weights))]


def at_ratios(
    policy: BatchPolicy, images: Images, ratios: Sequence[float], seed: int, count: int
) -> list[list[Sample]]:
    """Mix the same images at several ratios.

    Everything else is drawn alike for all ratios; a policy whose ratio cannot be set is drawn anew for each instead.
    Partners are those of :class:`mixwell.Roll` where they would be random, so that no image is mixed with itself.

    Args:
        policy: What goes where; one policy, not a choice of them.
        images: Clean images.
        ratios: Shares of the anchor, in [0, 1].
        seed: Of everything else that is random.
        count: Mixed images per ratio.

    Returns:
        Samples of each ratio; their ``lam`` tells what the plan made of it.
    """
    if isinstance(getattr(policy, "pairing", None), Permutation | Derangement):
        policy = dataclasses.replace(policy, pairing=Roll())
    size = images.pixels.shape[2], images.pixels.shape[3]
    if not all(abs(_nominal(_with_ratio(policy, ratio, size), size) - ratio) < 0.1 for ratio in (0.25, 0.75)):
        return [mix(policy, images, seed + turn, count) for turn in range(len(ratios))]
    return [mix(_with_ratio(policy, ratio, size), images, seed, count) for ratio in ratios]


def _with_ratio(policy: BatchPolicy, ratio: float, size: tuple[int, int]) -> BatchPolicy:
    """Replace the policy's law by the constant that makes plans of this ``lam``: the ratio itself, or a box's side."""
    try:
        made = [dataclasses.replace(policy, alpha=Constant(value)) for value in (ratio, math.sqrt(1 - ratio))]
    except (TypeError, ValueError):  # there is no such setting, or it must stay a number
        return policy
    return min(made, key=lambda each: abs(_nominal(each, size) - ratio))


def _nominal(policy: BatchPolicy, size: tuple[int, int]) -> float:
    """Return the ``lam`` of a trial plan, or what no ratio is near where there is none."""
    pixels, labels, maps = torch.zeros(2, 3, *size), torch.arange(2), torch.ones(2, *size)
    try:
        return float(policy.draw(pixels, labels, saliency=maps, generator=torch.Generator().manual_seed(0)).lam[0])
    except ValueError:
        return math.inf
