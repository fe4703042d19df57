"""Pictures are composed of unchanged pixels, shortened text and bars of the right length."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from mixwell.report import picture
from mixwell.report.picture import SOURCES, bar, below, beside, fit, font, framed, label, png, text, tile
from mixwell.report.samples import Sample


def place(picture: np.ndarray, tile: np.ndarray) -> tuple[int, int]:
    """Return where a tile lies in a picture; it must be there, every pixel of it, but for the rounding of a half."""
    height, width = tile.shape[:2]
    picture, tile = picture.astype(int), tile.astype(int)
    for y, x in np.argwhere((abs(picture[: 1 - height, : 1 - width] - tile[0, 0]) <= 1).all(-1)):
        if (abs(picture[y : y + height, x : x + width] - tile) <= 1).all():
            return int(y), int(x)
    pytest.fail("the picture does not hold this tile")


def as_bytes(image: torch.Tensor) -> np.ndarray:
    return (image * 255).round().byte().permute(1, 2, 0).numpy()


def test_few_colours_keep_white() -> None:
    """A picture that must be small has 256 colours, and white stays white."""
    pixels = tile(torch.rand(3, 64, 64))
    noise = framed(pixels, 8)
    small = png(noise, limit=9_000)
    assert len(small) < len(png(noise)) / 2
    with Image.open(BytesIO(small)) as image:
        reduced = np.asarray(image.convert("RGB")).astype(float)
    assert (reduced[:8] == 255).all() and (reduced[:, 72:] == 255).all()
    assert abs(reduced[8:72, 8:72] - np.asarray(pixels)).mean() < 20
    assert abs(reduced.mean() - np.asarray(noise).mean()) < 3


def test_parts_are_placed_beside_and_below_each_other() -> None:
    """Gaps are white, and a picture is as large as its parts need."""
    red, blue = Image.new("RGB", (4, 3), "red"), Image.new("RGB", (2, 5), "blue")
    across, down = np.asarray(beside(red, blue, gap=1)), np.asarray(below(red, blue, gap=2))
    assert across.shape == (5, 7, 3) and down.shape == (10, 4, 3)
    assert (across[:3, :4] == [255, 0, 0]).all() and (across[:, 5:] == [0, 0, 255]).all()
    assert (down[:3] == [255, 0, 0]).all() and (down[5:, :2] == [0, 0, 255]).all()
    assert (across[3:, :4] == 255).all() and (across[:, 4] == 255).all() and (down[5:, 2:] == 255).all()


def test_tiles_are_enlarged_to_squares_and_reduced_to_means() -> None:
    """No pixel is invented: an enlarged image repeats each pixel, a reduced one averages whole squares."""
    pixels = torch.rand(3, 8, 8)
    large = pixels.repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert (np.asarray(tile(pixels, 24)) == as_bytes(large)).all()
    means = torch.nn.functional.avg_pool2d(pixels, 2)
    assert abs(np.asarray(tile(pixels, 4)).astype(int) - as_bytes(means)).max() <= 1
    assert (np.asarray(tile(pixels[:1])) == as_bytes(pixels[:1].expand(3, -1, -1))).all()


def test_a_row_has_an_image_for_each_source() -> None:
    """Three sources have three clean images, three colours in the mask and three lines in the label."""
    images, share = torch.rand(3, 3, 20, 20), torch.eye(3)[torch.arange(20) % 3].T[:, :, None].expand(3, 20, 20)
    sample = Sample(images, images[0], share, 0.3, ("a", "b", "c"), (0.35, 0.35, 0.3))
    image = np.asarray(picture.row([("lam 0.30", sample)]))
    for pixels in images:
        place(image, as_bytes(pixels))
    colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in SOURCES[:3]], np.uint8)
    place(image, colours[np.arange(20) % 3][:, None].repeat(20, 1))
    two = label(replace(sample, names=("a", "b"), weights=(0.5, 0.5)), 140)
    assert label(sample, 140).height - two.height == text("a").height + 3


def test_sources_without_weight_are_left_out() -> None:
    """Of more than two sources only those that the image shows have a line; of two, both."""
    blank = torch.zeros(3, 1, 8, 8)
    three = Sample(blank, blank[0], blank[:, 0], 0.3, ("a", "b", "c"), (0.4, 0.0, 0.6))
    two = replace(three, names=("a", "b"), weights=(1.0, 0.0))
    assert label(three, 140).height == label(two, 140).height
    assert (str(three), str(two)) == ("a 0.40, c 0.60", "a 1.00, b 0.00")


def test_long_words_are_shortened() -> None:
    """A name never runs into its neighbour."""
    short = fit("a very long name of a class " * 5, 120, 14)
    assert short.endswith("…")
    assert font(14).getlength(short) <= 120
    assert fit("cat", 120, 14) == "cat"
    assert text("a very long name of a class " * 5, width=120).width == text("cat", width=120).width == 120


def test_weights_below_one_leave_the_bar_open() -> None:
    """A label whose weights sum to one half fills half of its bar, and the rest is listed."""
    row = np.asarray(bar([0.3, 0.2], 100))[1]
    assert [(row == [int(c[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum() for c in SOURCES[:2]] == [30, 20]
    heights = []
    for weights in ((0.3, 0.2), (0.5, 0.5), (0.7, 0.6)):
        blank = torch.zeros(2, 1, 1, 1)
        heights.append(label(Sample(blank, blank[0], blank[:, 0], 0.3, ("a", "b"), weights), 140).height)
    assert heights[0] > heights[1] == heights[2]
