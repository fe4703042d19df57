"""Pictures of what a method passes to its network, drawn with a network that keeps its last input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mixwell import (
    AugMix,
    BatchPolicy,
    Constant,
    CutMix,
    GridLoss,
    GridMix,
    Method,
    NoMix,
    PerturbedMixing,
    RegMixup,
    Roll,
)
from mixwell.report import samples
from mixwell.report.picture import GREY, below, beside, coloured, label, text, tile
from mixwell.report.samples import Images, Sample

SEED = 4
CELLS = 4
GAIN = 12  # factor by which noise is amplified, so that it is visible
INSIDE = "No picture: this method mixes feature maps inside the network."
LEARNED = (
    "No picture: the masks depend on the trained block. `mixwell train` draws them after every epoch, into `masks/`."
)
Drawn = tuple[Image.Image, str]  # a picture and its text alternative
Tile = tuple[str, Tensor, Sample | None]  # caption, pixels, and the sample whose label weights are drawn below


class Keeper(nn.Module):
    """A small untrained network that keeps its last batch of images."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 7, stride=4, padding=3)
        self.classifier = nn.Linear(8, classes)
        self.seen = torch.empty(0)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape ``(B, classes)``."""
        self.seen = images.detach()
        return self.classifier(self.features(images).relu().mean((2, 3)))


def shown(make: Callable[[nn.Module], Method], images: Images) -> Tensor:
    """Return the last batch that a method passed to its network, without a change of torch's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Keeper(len(images.names))
        method = make(model)
        torch.manual_seed(SEED)
        method(images.pixels, images.labels)
    return model.seen


def drawn_by(policy: BatchPolicy, images: Images) -> list[Sample]:
    """Mix images with the same random draws as the policy of a method in :func:`shown`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        plan = policy.draw(images.pixels, images.labels)
    return samples.of_plan(plan, images, range(len(images.pixels)))


def augmix(images: Images) -> Drawn:
    """Draw photographs and two augmented views of each."""
    three = shown(AugMix, images).chunk(3)
    tiles: list[Tile] = []
    told = []
    for row, name in enumerate(images.names):
        tiles += [(words, batch[row], None) for words, batch in zip((name, "a view", "a view"), three, strict=True)]
        change = [float((view[row] - three[0][row]).abs().mean()) for view in three[1:]]
        told.append(f"{name}, and two views that differ from it by {change[0]:.3f} and {change[1]:.3f} per pixel")
    return _side_by_side(tiles), "; ".join(told)


def regmixup(images: Images) -> Drawn:
    """Draw the batch: unmixed and mixed images."""
    policy = replace(RegMixup(Keeper()).policy, pairing=Roll())
    batch = shown(partial(RegMixup, policy=policy), images)
    rows = [*drawn_by(NoMix(), images), *drawn_by(policy, images)]
    words = ["unmixed"] * len(images.pixels) + ["mixed"] * len(images.pixels)
    told = "; ".join(f"{word}: {sample}" for word, sample in zip(words, rows, strict=True))
    labels = [None if word == "unmixed" else row for word, row in zip(words, rows, strict=True)]
    return _side_by_side(list(zip(words, batch, labels, strict=True))), told


def perturbed(images: Images) -> Drawn:
    """Draw an image, its adversarial noise, the sum of both, and the mixed image."""
    clean, policy = images.pixels[0], CutMix(alpha=Constant(0.6), pairing=Roll())
    noisy = shown(partial(PerturbedMixing, policy=NoMix(), p=1.0), images)[0]
    mixed = shown(partial(PerturbedMixing, policy=policy, p=1.0), images)[0]
    noise = noisy - clean
    tiles: list[Tile] = [(images.names[0], clean, None)]
    tiles += [(f"noise times {GAIN}", (0.5 + GAIN * noise).clamp(0, 1), None), ("with noise", noisy, None)]
    tiles.append(("mixed", mixed, None))
    told = f"{images.names[0]}, its noise of at most {float(noise.abs().max()) * 255:.1f} levels, both together, mixed"
    return _side_by_side(tiles), told


def gridloss(images: Images) -> Drawn:
    """Draw mixed images and the label of each cell."""
    tiles: list[Tile] = []
    told = []
    for policy in (GridMix(pairing=Roll()), CutMix(pairing=Roll())):
        make = partial(GridLoss, policy=policy, num_classes=len(images.names))
        mixed, sample = shown(make, images)[0], drawn_by(policy, images)[0]
        cells = F.adaptive_avg_pool2d(sample.share, CELLS)
        name = type(policy).__name__
        tiles += [(name, mixed, sample), ("labels of its cells", _grid(coloured(cells), mixed.shape[2]), None)]
        told.append(f"{name}: {sample}, cells {' '.join(f'{share:.2f}' for share in cells[0].flatten().tolist())}")
    return _side_by_side(tiles), "; ".join(told)


def _grid(colours: Tensor, side: int) -> Tensor:
    """Draw cells separated by white lines."""
    picture = F.interpolate(colours[None], (side, side))[0]
    for line in range(1, CELLS):
        at = line * side // CELLS
        picture[:, at - 1 : at + 1] = picture[:, :, at - 1 : at + 1] = 1.0
    return picture


def _side_by_side(tiles: Sequence[Tile]) -> Image.Image:
    columns = []
    for words, pixels, sample in tiles:
        side = pixels.shape[2]
        parts = [text(words, 12, colour=GREY, width=side), tile(pixels)]
        columns.append(below(*parts, *([label(sample, side, 13)] if sample else []), gap=4))
    return beside(*columns)


# How each method is drawn and the sentence below its picture; or the reason why there is no picture.
PICTURES: dict[str, tuple[Callable[[Images], Drawn], str]] = {
    "AugMix": (augmix, "Two photographs, and two augmented views of each from `AugMixViews()`."),
    "GridLoss": (
        gridloss,
        "Mixed images, and the label of each cell of the last feature map: with `GridMix` every cell has one label, "
        "with `CutMix` cells at the border of the box have two.",
    ),
    "PerturbedMixing": (
        perturbed,
        f"An image, its adversarial noise (amplified {GAIN} times), the image with noise, and the mixed image of "
        "`CutMix`. The network of this picture is untrained.",
    ),
    "RegMixup": (
        regmixup,
        "The batch that the network receives for two images: unmixed, and mixed with ratios near 0.5.",
    ),
}
NO_PICTURE = {
    **dict.fromkeys(("AlignMix", "HiddenMix"), INSIDE),
    **dict.fromkeys(("AdAutoMix", "AutoMix", "SAMix", "SAMixPretrained"), LEARNED),
    **dict.fromkeys(
        ("Mixing", "RegionLoss", "SUMix"),
        "No picture: the images are those of the policy, see [policies](../policies/README.md).",
    ),
}
