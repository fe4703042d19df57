"""Mixed images with their sources, shares and labels, from photographs, folders and data sets."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

import mixwell as mw
from mixwell.train import images as files
from mixwell.train.dataset import Split
from mixwell.train.errors import RunError, check_memory


@dataclass(frozen=True)
class Images:
    """Clean images and their classes.

    Attributes:
        pixels: Shape ``(B, C, H, W)``, float32 in [0, 1].
        labels: Index of each image's class in ``names``, shape ``(B,)``, int64.
        names: Names of the classes.
    """

    pixels: Tensor
    labels: Tensor
    names: list[str]


@dataclass(frozen=True)
class Sample:
    """One mixed image and its sources.

    Attributes:
        sources: Clean images, the anchor first, shape ``(K, C, H, W)``, float32 in [0, 1].
        mixed: The mixed image, shape ``(C, H, W)``.
        share: Share of each source in each pixel, shape ``(K, H, W)``.
        lam: Mixing ratio that the plan was drawn with.
        names: Class of each source.
        weights: Weight of each source's label.
    """

    sources: Tensor
    mixed: Tensor
    share: Tensor
    lam: float
    names: tuple[str, ...]
    weights: tuple[float, ...]

    def __str__(self) -> str:
        """Return the label as text; weights of the same class are added, and of many classes only those that occur.

        Example:
            >>> blank = torch.zeros(2, 1, 1, 1)
            >>> print(Sample(blank, blank[0], blank[:, 0], 0.3, ("cat", "dog"), (0.3, 0.7)))
            cat 0.30, dog 0.70
        """
        total = dict.fromkeys(self.names, 0.0)
        for name, weight in zip(self.names, self.weights, strict=True):
            total[name] += weight
        return ", ".join(f"{name} {weight:.2f}" for name, weight in total.items() if weight or len(total) < 3)


@cache
def photographs(size: int) -> Images:
    """Return the two sample photographs that ship with scikit-learn, a temple in China and a flower."""
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    pixels = [square(Image.fromarray(photo), size) for photo in found.images]
    return Images(torch.stack(pixels), torch.arange(len(pixels)), [Path(name).stem for name in found.filenames])


def from_folder(folder: Path, count: int, size: int, seed: int = 0) -> Images:
    """Return random images of a folder, from as many different classes as possible.

    The class of an image is the name of its folder. If all images are in one folder, each image is a class of its own.

    Args:
        folder: Searched with its subfolders.
        count: Number of images; all of them if the folder has fewer.
        size: Side of the square that is cut from the centre of each image (pixels).
        seed: Seed of the choice.

    Raises:
        RunError: the folder does not exist, has fewer than two images, or an image cannot be read.
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
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    chosen = [path for turn in zip_longest(*folders.values()) for path in turn if path][:count]
    classes = [path.parent.name if len(folders) > 1 else path.stem for path in chosen]
    names = sorted(set(classes))
    check_memory(len(chosen), size)
    pixels = torch.stack([square(files.read(path), size) for path in chosen])
    return Images(pixels, torch.tensor([names.index(name) for name in classes]), names)


def from_split(split: Split, classes: list[str], count: int, largest: int) -> Images:
    """Return the first readable image of each of some classes of a data set, no larger than ``largest`` pixels."""
    rows, pixels, split = [], [], split.head()
    labels, names = split.one_label(classes)
    for label in labels.unique()[:count].tolist():
        row, image = _first((labels == label).nonzero()[:, 0].tolist(), split, largest)
        rows.append(row)
        pixels.append(image)
    return Images(torch.stack(pixels), labels[rows], names)


def _first(rows: Sequence[int], split: Split, largest: int) -> tuple[int, Tensor]:
    """Return the first of some rows whose image can be read, and the image; fail with the error of the last."""
    for row in rows:
        if isinstance(split.images, Tensor):
            return row, split.images[row].float() / 255
        try:
            return row, square(files.read(split.images[row]), largest)
        except files.BadImageError:
            if row == rows[-1]:
                raise
    raise RunError("no images to show")


def square(image: Image.Image, size: int) -> Tensor:
    """Cut a square out of the centre of an image and resize it: shape ``(3, size, size)``, float32 in [0, 1]."""
    square = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
    return torch.from_numpy(square.copy()).permute(2, 0, 1) / 255


def mix(policy: mw.BatchPolicy, images: Images, seed: int, count: int | None = None) -> list[Sample]:
    """Mix images by a policy.

    Args:
        policy: The policy.
        images: Clean images.
        seed: Seed of all random draws.
        count: Number of mixed images; ``None`` means one for each clean image.

    Raises:
        RunError: the policy needs something that is not available here, such as a model.
    """
    return of_plan(draw(policy, images, seed), images, range(len(images.pixels))[:count])


def draw(policy: mw.BatchPolicy, images: Images, seed: int) -> mw.Plan:
    """Draw the plan of :func:`mix`."""
    pixels, generator = images.pixels, torch.Generator().manual_seed(seed)
    if getattr(policy, "looks_as_trained", False):
        pixels = (pixels * 255).round().byte()
    try:
        return policy.draw(pixels, images.labels, generator=generator)
    except (TypeError, ValueError) as error:
        raise RunError(str(error)) from None


def of_plan(plan: mw.Plan, images: Images, rows: Iterable[int]) -> list[Sample]:
    """Apply a plan to clean images, and return the samples of some rows."""
    mixed, shares = plan.apply(images.pixels), plan.share((images.pixels.shape[2], images.pixels.shape[3]))
    found = []
    for row in rows:
        sources, weights = plan.sources[row], tuple(plan.weights[row].tolist())
        names = tuple(images.names[label] for label in images.labels[sources].tolist())
        found.append(Sample(images.pixels[sources], mixed[row], shares[row], float(plan.lam[row]), names, weights))
    return found


def members(policy: mw.BatchPolicy, chance: float = 1.0) -> list[tuple[mw.BatchPolicy, float]]:
    """Return the policies that a random choice draws from, each with its probability; or the policy itself.

    Example:
        >>> members(mw.Sometimes(mw.OneOf([mw.MixUp(), mw.CutMix()], weights=[1, 3]), p=0.8))
        [(MixUp(), 0.2), (CutMix(), 0.6...), (NoMix(), 0.2)]
    """
    if isinstance(policy, mw.Sometimes):
        policy = mw.OneOf((policy.policy, mw.NoMix()), weights=(policy.p, round(1 - policy.p, 12)))
    if not isinstance(policy, mw.OneOf):
        return [(policy, chance)]
    weights = policy.weights or (1.0,) * len(policy.policies)
    parts = zip(policy.policies, weights, strict=True)
    return [found for part, weight in parts if weight for found in members(part, chance * weight / sum(weights))]


def at_ratios(
    policy: mw.BatchPolicy, images: Images, ratios: Sequence[float], seed: int, count: int
) -> list[list[Sample]]:
    """Mix the same images at several ratios.

    All other random draws are the same for all ratios. A policy whose ratio cannot be set is drawn with another seed
    for each ratio instead. Random pairings are replaced by :class:`mixwell.Roll`, so that no image is its own partner.

    Args:
        policy: The policy; not a choice of policies, see :func:`members`.
        images: Clean images.
        ratios: Shares of the anchor, in [0, 1].
        seed: Seed of all other random draws.
        count: Mixed images per ratio.

    Returns:
        Samples of each ratio; their ``lam`` is that of the plan.
    """
    rows = range(len(images.pixels))[:count]
    return [of_plan(plan, images, rows) for plan in plans_at_ratios(policy, images, ratios, seed)]


def plans_at_ratios(policy: mw.BatchPolicy, images: Images, ratios: Sequence[float], seed: int) -> list[mw.Plan]:
    """Draw the plans of :func:`at_ratios`."""
    policy = in_order(policy)
    size = images.pixels.shape[2], images.pixels.shape[3]
    if not all(abs(_lam(with_ratio(policy, ratio, size), size) - ratio) < 0.1 for ratio in (0.25, 0.75)):
        return [draw(policy, images, seed + turn) for turn in range(len(ratios))]
    return [draw(with_ratio(policy, ratio, size), images, seed) for ratio in ratios]


def in_order(policy: mw.BatchPolicy) -> mw.BatchPolicy:
    """Return the policy with each image's successor as its partner, if it draws partners at random."""
    if isinstance(getattr(policy, "pairing", None), mw.Permutation | mw.Derangement):
        return dataclasses.replace(policy, pairing=mw.Roll())
    return policy


def with_ratio(policy: mw.BatchPolicy, ratio: float, size: tuple[int, int]) -> mw.BatchPolicy:
    """Set ``alpha`` to the constant whose plans have this ``lam``: the ratio itself, or the side of a box."""
    try:
        made = [dataclasses.replace(policy, alpha=mw.Constant(value)) for value in (ratio, math.sqrt(1 - ratio))]
    except (TypeError, ValueError):  # the policy has no such setting, or it must be a number
        return policy
    return min(made, key=lambda each: abs(_lam(each, size) - ratio))


def _lam(policy: mw.BatchPolicy, size: tuple[int, int]) -> float:
    """Return the ``lam`` of a plan drawn for blank images, or infinity if none can be drawn."""
    pixels, labels, maps = torch.zeros(2, 3, *size), torch.arange(2), torch.ones(2, *size)
    try:
        return float(policy.draw(pixels, labels, saliency=maps, generator=torch.Generator().manual_seed(0)).lam[0])
    except ValueError:
        return math.inf
