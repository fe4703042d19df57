"""Drawing with Pillow: tiles of pixels as they are, bars of weights, words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from mixwell.train.samples import Sample

# One colour per source, anchor first; told apart with any kind of colour vision (Okabe and Ito, 2008).
SOURCES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
GAP = 14  # between tiles (pixels)
NARROWEST = 132  # a column that still has room for a label (pixels)
INK, FAINT, PAPER, NOBODY = "#1a1a1a", "#666666", "#ffffff", "#e0e0e0"
LEGEND = (
    "share: whose pixel it is, in the colours of the labels.  lam: the share of the anchor that was drawn.",
    "bar: how much of each label the mixed image carries, which follows what it really shows;  grey: of neither.",
)


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return a typeface that has most of the world's letters; it ships with matplotlib."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def fitting(words: str, width: float, size: int, bold: bool = False) -> str:
    """Shorten words with an ellipsis until they are no wider than ``width`` pixels."""
    if font(size, bold).getlength(words) <= width:
        return words
    while words and font(size, bold).getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"


def bytes_of(pixels: Tensor) -> Tensor:
    """Turn images in [0, 1] into bytes, rounded to nearest.

    Example:
        >>> bytes_of(torch.tensor([0.0, 0.5, 1.0]))
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return (pixels * 255 + 0.5).floor().clamp(0, 255).byte()


def pillow(pixels: Tensor, scale: int = 1) -> Image.Image:
    """Turn an image ``(C, H, W)`` in [0, 1] into Pillow's, each pixel drawn as a square of ``scale`` pixels."""
    values = bytes_of(pixels.expand(3, -1, -1) if len(pixels) == 1 else pixels[:3])
    values = values.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def tinted(share: Tensor) -> Tensor:
    """Colour shares ``(K, H, W)``: each pixel blends the colours of its sources, as an image ``(3, H, W)``."""
    colours = torch.tensor([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in SOURCES])
    places = [k % len(SOURCES) for k in range(len(share))]
    return torch.einsum("khw,kc->chw", share.float().cpu(), colours[places]).clamp(0, 1)


class Canvas:
    """Notes what to draw where, and becomes as large as that needs."""

    def __init__(self) -> None:
        self.width = self.height = 0
        self.steps: list[Callable[[Image.Image, Any], object]] = []

    def _grow(self, right: float, bottom: float) -> None:
        self.width, self.height = max(self.width, int(right + 1)), max(self.height, int(bottom + 1))

    def tile(self, x: int, y: int, pixels: Tensor, scale: int = 1) -> None:
        """Draw an image ``(C, H, W)`` in [0, 1], its upper left corner at ``(x, y)``."""
        tile = pillow(pixels, scale)
        self.steps.append(lambda image, draw: image.paste(tile, (x, y)))
        self._grow(x + tile.width - 1, y + tile.height - 1)

    def text(self, x: float, y: float, words: str, size: int = 15, bold: bool = False, colour: str = INK) -> None:
        """Write words, the top of their line at ``(x, y)``."""
        face = font(size, bold)
        self.steps.append(lambda image, draw: draw.text((x, y), words, colour, face))
        self._grow(x + face.getlength(words), y + 1.3 * size)

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Fill a rectangle; one of no width is left out."""
        if width >= 1:
            corners = (round(x), round(y), round(x + width) - 1, round(y + height) - 1)
            self.steps.append(lambda image, draw: draw.rectangle(corners, colour))
            self._grow(corners[2], corners[3])

    def bar(self, x: int, y: int, width: int, height: int, weights: Sequence[float]) -> None:
        """Divide a bar by label weights; where they sum to less than one, the rest of it stays pale."""
        self.box(x, y, width, height, NOBODY)
        unit, left = width / max(1.0, sum(weights)), 0.0
        for k, weight in enumerate(weights):
            begin, left = left, left + weight
            self.box(
                x + round(begin * unit), y, round(left * unit) - round(begin * unit), height, SOURCES[k % len(SOURCES)]
            )

    def image(self, margin: int = 24) -> Image.Image:
        """Draw it all on white."""
        image = Image.new("RGB", (self.width, self.height), PAPER)
        draw = ImageDraw.Draw(image)
        for step in self.steps:
            step(image, draw)
        framed = Image.new("RGB", (self.width + 2 * margin, self.height + 2 * margin), PAPER)
        framed.paste(image, (margin, margin))
        return framed


def labelled(canvas: Canvas, x: int, y: int, width: int, sample: Sample, size: int = 14) -> int:
    """Draw the bar of a sample's label weights and the number of each below; return the height used.

    What weights that sum to less than one leave over is listed as well.
    """
    canvas.bar(x, y, width, 10, sample.weights)
    line, rest = round(1.45 * size), 1 - sum(sample.weights)
    lines = [
        (SOURCES[k % len(SOURCES)], *each) for k, each in enumerate(zip(sample.names, sample.weights, strict=True))
    ]
    lines += [(NOBODY, "neither", rest)] * (rest >= 0.005)
    for k, (colour, name, weight) in enumerate(lines):
        top, number = y + 17 + k * line, f"{weight:.2f}"
        room = width - font(size, True).getlength(number) - size - 12
        canvas.box(x, top + 0.22 * size, 0.75 * size, 0.75 * size, colour)
        canvas.text(x + size, top, fitting(name, room, size), size)
        canvas.text(x + width - font(size, True).getlength(number), top, number, size, bold=True)
    return 17 + line * len(lines)


def png(image: Image.Image, description: str = "", limit: int = 0) -> bytes:
    """Return a picture as PNG.

    Args:
        image: The picture.
        description: What is to be seen, for who cannot see it; kept in the file.
        limit: Make do with 256 colours where all of them would take more than this (bytes; 0 = keep every pixel).
    """
    info = PngInfo()
    if description:
        info.add_itxt("Description", description)
    file = BytesIO()
    image.save(file, "PNG", optimize=True, pnginfo=info)
    if limit and file.tell() > limit and image.mode != "P":
        return png(_few_colours(image), description)
    return file.getvalue()


def _few_colours(image: Image.Image) -> Image.Image:
    """Return a picture in 256 colours, dithered, its paper still white."""
    palette = image.quantize(255)  # Pillow dithers only towards a palette that is given
    palette.putpalette([*(palette.getpalette() or [])[: 3 * 255], 255, 255, 255])
    dithered = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    paper = (np.asarray(image) == 255).all(-1)  # Pillow looks colours up coarsely and would make it grey
    dithered.paste(255, mask=Image.fromarray(paper))
    return dithered
