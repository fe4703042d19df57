"""Pictures made of smaller pictures: image tiles, text and label bars, placed beside or below each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from mixwell.report.samples import Sample

# One colour per source, anchor first. People with any form of colour blindness can tell them apart (Okabe & Ito, 2008).
SOURCES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")
BLACK, GREY, WHITE, UNLABELLED = "#1a1a1a", "#666666", "#ffffff", "#e0e0e0"
GAP = 14  # between columns (pixels)
MIN_COLUMN = 132  # width that a class name and its weight need (pixels)
LEGEND = (
    "Top: the mask, in the colours of the labels.  Bottom: the mixed image.  lam: the drawn share of the anchor.",
    "Bar: the weight of each label, which follows the visible pixels.  Grey: weight that no label gets.",
)
Column = tuple[str, Sample]  # a caption of one or more lines, and the sample below it


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which covers most scripts and ships with matplotlib."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def fit(words: str, width: float, size: int, bold: bool = False) -> str:
    """Shorten text with an ellipsis until it is at most ``width`` pixels wide."""
    if font(size, bold).getlength(words) <= width:
        return words
    while words and font(size, bold).getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"


def text(words: str, size: int = 14, bold: bool = False, colour: str = BLACK, width: int = 0) -> Image.Image:
    """Draw one line of text; with ``width`` the line is exactly that wide (pixels) and the text is shortened to fit."""
    face, words = font(size, bold), fit(words, width, size, bold) if width else words
    line = Image.new("RGB", (width or int(face.getlength(words)) + 1, round(1.4 * size)), WHITE)
    ImageDraw.Draw(line).text((0, 0), words, colour, face)
    return line


def beside(*parts: Image.Image, gap: int = GAP) -> Image.Image:
    """Place pictures in a row, aligned at the top."""
    return _joined(parts, gap, 0)


def below(*parts: Image.Image, gap: int = 0) -> Image.Image:
    """Place pictures in a column, aligned at the left."""
    return _joined(parts, gap, 1)


def _joined(parts: Sequence[Image.Image], gap: int, axis: int) -> Image.Image:
    size = [max(part.size[side] for part in parts) for side in (0, 1)]
    size[axis] = sum(part.size[axis] + gap for part in parts) - gap
    joined, corner = Image.new("RGB", (size[0], size[1]), WHITE), [0, 0]
    for part in parts:
        joined.paste(part, (corner[0], corner[1]))
        corner[axis] += part.size[axis] + gap
    return joined


def tile(pixels: Tensor, side: int = 0) -> Image.Image:
    """Convert an image ``(C, H, W)`` in [0, 1] to Pillow, resized to ``side`` pixels (0 = as it is).

    Enlarged pixels become squares; reduced images are averaged.
    """
    values = (pixels.expand(3, -1, -1) * 255 + 0.5).floor().clamp(0, 255).byte()
    image = Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())
    return (
        image.resize((side, side), Image.Resampling.NEAREST if side > image.width else Image.Resampling.BOX)
        if side
        else image
    )


def rgb(colour: str) -> Tensor:
    """Return the red, green and blue of a colour such as ``"#0072b2"``, in [0, 1], shape ``(3,)``."""
    return torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def coloured(share: Tensor) -> Tensor:
    """Blend the colours of the sources by their shares ``(K, H, W)`` into an image ``(3, H, W)``."""
    colours = torch.stack([rgb(colour) for colour in SOURCES])
    used = [k % len(SOURCES) for k in range(len(share))]
    return torch.einsum("khw,kc->chw", share.float().cpu(), colours[used]).clamp(0, 1)


def bar(weights: Sequence[float], width: int, height: int = 10) -> Image.Image:
    """Draw label weights as a bar; weights that sum to less than one leave its end grey."""
    image, unit = Image.new("RGB", (width, height), UNLABELLED), width / max(1.0, sum(weights))
    ends = [round(unit * end) for end in itertools.accumulate(weights, initial=0.0)]
    for colour, (left, right) in zip(itertools.cycle(SOURCES), itertools.pairwise(ends), strict=False):
        image.paste(colour, (left, 0, right, height))
    return image


def label(sample: Sample, width: int, size: int = 14) -> Image.Image:
    """Draw the label of a sample: the bar of its weights, and one line for each source (and for weight left over)."""
    rest = 1 - sum(sample.weights)
    rows = [
        row
        for row in zip(itertools.cycle(SOURCES), sample.names, sample.weights, strict=False)
        if row[2] or len(sample.names) == 2  # of many sources, most are not in the image
    ]
    rows += [(UNLABELLED, "no label", rest)] * (rest >= 0.005)
    lines = [bar(sample.weights, width)]
    for colour, name, weight in rows:
        number = text(f"{weight:.2f}", size, bold=True)
        lines.append(beside(_named(colour, name, width - number.width - 4, size), number, gap=4))
    return below(*lines, gap=3)


def _named(colour: str, name: str, width: int, size: int) -> Image.Image:
    square = text("■", size, colour=colour)
    return beside(square, text(name, size, width=width - square.width - 3), gap=3)


def row(columns: Sequence[Column], side: int = 0, clean: bool = True, size: int = 14) -> Image.Image:
    """Draw mixed samples side by side: caption, mask, mixed image and label of each.

    Args:
        columns: Captions and samples; the samples have the same sources.
        side: Side of each image (pixels; 0 = as it is).
        clean: Draw the clean images of the first sample on the left.
        size: Font size (pixels).
    """
    sample = columns[0][1]
    width = max(side or sample.mixed.shape[2], MIN_COLUMN)
    lines = 1 + max(caption.count("\n") for caption, _ in columns)
    parts = [sources(sample, lines, side, size)] if clean else []
    for caption, sample in columns:
        captions = [
            text(line, size, colour=GREY, width=width)
            for line in [*[""] * (lines - caption.count("\n") - 1), *caption.split("\n")]
        ]
        tiles = tile(coloured(sample.share), side), tile(sample.mixed, side)
        parts.append(below(*captions, below(*tiles, label(sample, width, size), gap=6)))
    return beside(*parts)


def sources(sample: Sample, lines: int = 1, side: int = 0, size: int = 14) -> Image.Image:
    """Draw the clean images of a sample below each other, with a caption of that many lines above the first."""
    width = max(side or sample.mixed.shape[2], MIN_COLUMN)
    parts = []
    for k, (pixels, name) in enumerate(zip(sample.sources, sample.names, strict=True)):
        caption = _named(SOURCES[k % len(SOURCES)], f"{'partner' if k else 'anchor'}: {name}", width, size)
        parts.append(below(caption, tile(pixels, side)))
    return below(*[text("", size)] * (lines - 1), below(*parts, gap=6))


def sheet(
    title: str, notes: Iterable[str], rows: Iterable[tuple[str, Sequence[Column]]], side: int = 0
) -> tuple[Image.Image, str]:
    """Draw a titled page of rows.

    Args:
        title: First line, in large type.
        notes: Lines below it, in grey.
        rows: A heading (may be empty) and the columns of each row.
        side: See :func:`row`.

    Returns:
        The picture, and the same in words.
    """
    parts, description = [below(text(title, 22, bold=True), *(text(note, colour=GREY) for note in notes))], [title]
    for heading, columns in rows:
        parts += [text(heading, 17, bold=True)] if heading else []
        parts.append(row(columns, side))
        description += [f"{caption}: {sample}" for caption, sample in columns]
    return framed(below(*parts, gap=2 * GAP)), "\n".join(description)


def framed(image: Image.Image, margin: int = 24) -> Image.Image:
    """Add a white border."""
    return ImageOps.expand(image, margin, WHITE)


def png(image: Image.Image, description: str = "", limit: int = 0) -> bytes:
    """Encode a picture as PNG.

    Args:
        image: The picture.
        description: Text alternative, stored in the file.
        limit: Reduce the picture to 256 colours if it would be larger than this (bytes; 0 = never).
    """
    info, file = PngInfo(), BytesIO()
    info.add_itxt("Description", description)
    image.save(file, "PNG", optimize=True, pnginfo=info)
    if limit and file.tell() > limit:
        file = BytesIO()
        image.quantize(256, kmeans=1).save(file, "PNG", optimize=True, pnginfo=info)
    return file.getvalue()


def description(path: Path) -> str:
    """Return the text alternative that :func:`png` stored in a file."""
    with Image.open(path) as image:
        return image.info.get("Description", "")
