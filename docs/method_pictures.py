"""What a method shows its network, as a picture: found out by giving it a network that keeps what it is shown."""

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
LOUDER = 12  # noise is drawn so many times as strong, or nobody would see it
INSIDE = "No picture: what it does happens to maps inside the network, where there is nothing to see."
Drawn = tuple[Image.Image, str]  # a picture, and the same in words
Tile = tuple[str, Tensor, Sample | None]  # words above, pixels, and whose label to write below


class Keeper(nn.Module):
    """A small untrained network that keeps the last batch it was shown."""

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
    """Return what a method showed its network last, and leave torch's random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Keeper(len(images.names))
        method = make(model)
        torch.manual_seed(SEED)
        method(images.pixels, images.labels)
    return model.seen


def drawn_by(policy: BatchPolicy, images: Images) -> list[Sample]:
    """Mix images as the policy of a method does in :func:`shown`, where it draws first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        plan = policy.draw(images.pixels, images.labels)
    return samples.of_plan(plan, images, range(len(images.pixels)))


def augmix(images: Images) -> Drawn:
    """Draw photographs and both views of each."""
    three = shown(AugMix, images).chunk(3)
    tiles: list[Tile] = []
    told = []
    for row, name in enumerate(images.names):
        tiles += [(words, batch[row], None) for words, batch in zip((name, "a view", "a view"), three, strict=True)]
        change = [float((view[row] - three[0][row]).abs().mean()) for view in three[1:]]
        told.append(f"{name}, and two views that differ from it by {change[0]:.3f} and {change[1]:.3f} per pixel")
    return _side_by_side(tiles), "; ".join(told)


def regmixup(images: Images) -> Drawn:
    """Draw the batch: images as they are, and mixed."""
    policy = replace(RegMixup(Keeper()).policy, pairing=Roll())
    batch = shown(partial(RegMixup, policy=policy), images)
    rows = [*drawn_by(NoMix(), images), *drawn_by(policy, images)]
    words = ["unmixed"] * len(images.pixels) + ["mixed"] * len(images.pixels)
    told = "; ".join(f"{word}: {sample}" for word, sample in zip(words, rows, strict=True))
    labels = [None if word == "unmixed" else row for word, row in zip(words, rows, strict=True)]
    return _side_by_side(list(zip(words, batch, labels, strict=True))), told


def perturbed(images: Images) -> Drawn:
    """Draw an image, the noise that it gets, and what comes of mixing it afterwards."""
    clean, policy = images.pixels[0], CutMix(alpha=Constant(0.6), pairing=Roll())
    noisy = shown(partial(PerturbedMixing, policy=NoMix(), p=1.0), images)[0]
    mixed = shown(partial(PerturbedMixing, policy=policy, p=1.0), images)[0]
    noise = noisy - clean
    tiles: list[Tile] = [(images.names[0], clean, None)]
    tiles += [(f"its noise, {LOUDER} times", (0.5 + LOUDER * noise).clamp(0, 1), None), ("with noise", noisy, None)]
    tiles.append(("mixed", mixed, None))
    told = f"{images.names[0]}, its noise of at most {float(noise.abs().max()) * 255:.1f} levels, both together, mixed"
    return _side_by_side(tiles), told


def gridloss(images: Images) -> Drawn:
    """Draw mixed images, and the label of every cell of each."""
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
    """Draw cells with white lines between them."""
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


# What is drawn of each method, and the sentence below it; or why nothing is.
PICTURES: dict[str, tuple[Callable[[Images], Drawn], str]] = {
    "AugMix": (augmix, "Two photographs, and two views of each as `AugMixViews()` makes them."),
    "GridLoss": (
        gridloss,
        "A mixed image, and the label that each cell of its last map is asked for: with `GridMix` every cell has one, "
        "with `CutMix` cells at the box's border have two.",
    ),
    "PerturbedMixing": (
        perturbed,
        f"An image, the noise that its gradient makes, drawn {LOUDER} times as strong, both together, and what "
        "`CutMix` makes of that. The picture's network is untrained, so that the noise deceives nobody.",
    ),
    "RegMixup": (
        regmixup,
        "The batch that the network sees, of two images: as they are, and mixed in ratios near 0.5.",
    ),
}
NO_PICTURE = dict.fromkeys(("AlignMix", "HiddenMix"), INSIDE)
