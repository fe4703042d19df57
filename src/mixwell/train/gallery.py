"""The gallery: what every policy makes of two images, all in one picture or each by itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mixwell import (
    Activation,
    AttentiveMix,
    BatchPolicy,
    ClassActivation,
    CutMix,
    InputGradient,
    MixUp,
    NoMix,
    OneOf,
    PuzzleMix,
    SaliencyMix,
    SmoothMix,
    Sometimes,
    SpectralResidual,
    Switch,
    names,
    parse,
)
from mixwell.train import samples
from mixwell.train.errors import RunError
from mixwell.train.picture import FAINT, GAP, LEGEND, NARROWEST, Canvas, fitting, font, labelled, tinted
from mixwell.train.samples import Images, Sample

# How policies are shown that are nothing without others.
EXAMPLES: tuple[BatchPolicy, ...] = (
    OneOf((MixUp(), CutMix()), scope="sample"),
    Sometimes(CutMix(), p=0.5, scope="sample"),
    Switch({0.0: MixUp(), 0.5: CutMix(), 0.9: NoMix()}),
)
# What stands in for a model's saliency where a picture has no model.
CONTRAST = SpectralResidual()
# With what settings policies are drawn whose own would not show, on two photographs, what they do.
SHOWN: tuple[BatchPolicy, ...] = (
    AttentiveMix(saliency=SpectralResidual(max_size=32)),  # about as coarse as a network's last map
    PuzzleMix(blocks=8, saliency=CONTRAST, transport_eps=0.05),  # such maps are flat: at 0.8 nothing would move
    SaliencyMix(saliency=CONTRAST),  # the peak of its own is the flower's edge
    SmoothMix(fit=True),  # its own law is one of widths, and not of ratios
)
PROGRESS = (0.0, 0.5, 1.0)  # where schedules are shown
RATIOS = (0.3, 0.5, 0.7)  # of the anchor
ACROSS = 9  # columns of the gallery
CAPTION = 16  # height of a line above the tiles (pixels)


def drawable(images: Images) -> tuple[list[BatchPolicy], list[str]]:
    """Make every policy that can be drawn by itself or by an example; say why the others are left out.

    One that looks at a model, of which a picture has none, looks at the images' contrast instead; its repr says so.
    """
    examples = {type(policy).__name__: policy for policy in (*EXAMPLES, *SHOWN)}
    made, left_out = [], []
    for name in names("policy"):
        try:
            made.append(without_model(examples.get(name) or parse(name)))
            samples.mix(made[-1], images, 0, 0)
        except (ValueError, RunError) as error:
            made = [policy for policy in made if type(policy).__name__ != name]
            left_out.append(f"{name}: {error}")
    return made, left_out


def without_model(policy: BatchPolicy) -> BatchPolicy:
    """Return the policy, with the images' contrast for saliency where its own needs a model.

    Example:
        >>> without_model(PuzzleMix(blocks=4))
        PuzzleMix(blocks=4, saliency=SpectralResidual())
        >>> without_model(CutMix())
        CutMix()
    """
    source = getattr(policy, "saliency", None)
    asks = isinstance(source, Activation | ClassActivation | InputGradient) and getattr(source, "teacher", None) is None
    return dataclasses.replace(policy, saliency=CONTRAST) if asks else policy


def parts(policy: BatchPolicy) -> list[tuple[BatchPolicy, str]]:
    """Take a policy made of others apart: each that it may become, with the words that say when; or itself alone.

    Example:
        >>> parts(Sometimes(CutMix(), p=0.2))
        [(CutMix(), '20 % of the time: CutMix()'), (NoMix(), '80 % of the time: NoMix()')]
    """
    if policy.at(0.0) is not policy:  # it holds schedules
        found: dict[BatchPolicy, str] = {}
        for progress in PROGRESS:
            now = policy.at(progress)
            found.setdefault(now, f"progress {progress:.1g}: {now!r}")
        return list(found.items())
    return [(part, f"{100 * chance:.3g} % of the time: {part!r}") for part, chance in samples.members(policy)]


def columns(policy: BatchPolicy, images: Images, ratios: Sequence[float], seed: int) -> list[tuple[str, Sample]]:
    """Mix one pair of images in every way that is worth a picture: at several ratios, or by each part of the policy.

    Args:
        policy: What goes where.
        images: Clean images; the first and the last are mixed, whatever a policy's pairing would choose.
        ratios: Shares of the anchor; a policy that they do not change is drawn once.
        seed: Of everything random.

    Returns:
        The mixed images, with the words to write above each.
    """
    pair = Images(images.pixels[[0, -1]], images.labels[[0, -1]], images.names)
    several = [(without_model(part), words) for part, words in parts(policy)]
    if len(several) > 1:
        middle = ratios[len(ratios) // 2]
        return [(words, samples.at_ratios(part, pair, [middle], seed, 1)[0][0]) for part, words in several]
    kept: list[Sample] = []
    for (sample,) in samples.at_ratios(several[0][0], pair, ratios, seed, 1):
        if not any(torch.equal(sample.mixed, other.mixed) for other in kept):
            kept.append(sample)
    return [(f"lam {sample.lam:.2f}", sample) for sample in kept]


def gallery(
    policies: Sequence[BatchPolicy], images: Images, ratios: Sequence[float], seed: int, scale: int = 1
) -> tuple[Canvas, str]:
    """Draw many policies on one pair of images: share, mixed image and label at every ratio.

    Args:
        policies: What to draw, in this order but where a later one fills a gap.
        images: See :func:`columns`.
        ratios: See :func:`columns`.
        seed: See :func:`columns`.
        scale: Side of the square that each pixel becomes.
    """
    rows = [columns(policy, images, ratios, seed) for policy in policies]
    canvas, y = Canvas(), 0
    for line in LEGEND:
        canvas.text(0, y, line, 13, colour=FAINT)
        y += 18
    unit = _width(rows[0], scale) + GAP
    widths = [1, *(max(len(row), _room(policy, unit)) for policy, row in zip(policies, rows, strict=True))]
    for shelf in shelves(widths, ACROSS):
        y, x, used = y + GAP, 0, 0
        for place in shelf:
            if place:
                height = _entry(canvas, x, y, policies[place - 1], rows[place - 1], scale)
            else:
                height = _sources(canvas, x, y + 38, rows[0][0][1], scale)
            x, used = x + unit * widths[place], max(used, height)
        y += used + GAP
    return canvas, "\n".join(in_words(policy, row) for policy, row in zip(policies, rows, strict=True))


def shelves(widths: Sequence[int], across: int) -> list[list[int]]:
    """Put things on shelves in order, each on the first that has room; return the places of those on each.

    Example:
        >>> shelves([2, 2, 3, 1], across=3)
        [[0, 3], [1], [2]]
    """
    found: list[list[int]] = []
    for place, width in enumerate(widths):
        for shelf in found:
            if sum(widths[other] for other in shelf) + width <= across:
                shelf.append(place)
                break
        else:
            found.append([place])
    return found


def banner(policy: BatchPolicy, row: Sequence[tuple[str, Sample]]) -> tuple[Canvas, str]:
    """Draw one policy: the clean images on the left, its columns beside them.

    Args:
        policy: What is drawn.
        row: What :func:`columns` returned for it.
    """
    canvas, side = Canvas(), row[0][1].mixed.shape[2]
    x, top = 2 * side + 4 + 2 * GAP, CAPTION * _lines(row)
    for k, (pixels, name) in enumerate(zip(row[0][1].sources, row[0][1].names, strict=True)):
        _source(canvas, k * (side + 4), top, pixels, name, k)
    for words, sample in row:
        _above(canvas, x, 0, words, 2 * side + 4)
        canvas.tile(x, top, tinted(sample.share))
        canvas.tile(x + side + 4, top, sample.mixed)
        labelled(canvas, x, top + side + 6, 2 * side + 4, sample, 13)
        x += 2 * side + 4 + 2 * GAP
    return canvas, in_words(policy, row)


def in_words(policy: BatchPolicy, row: Sequence[tuple[str, Sample]]) -> str:
    """Say what a row shows."""
    return f"{policy!r}: " + "; ".join(f"{words}: {sample}" for words, sample in row)


def _entry(canvas: Canvas, x: int, y: int, policy: BatchPolicy, row: Sequence[tuple[str, Sample]], scale: int) -> int:
    """Draw a policy of the gallery, its columns side by side; return the height used."""
    width, used, (name, settings) = _width(row, scale), 0, _named(policy)
    canvas.text(x, y, name, 15, bold=True)
    canvas.text(x, y + 20, settings, 11, colour=FAINT)
    for words, sample in row:
        side, top = sample.mixed.shape[2] * scale, y + 38 + CAPTION * _lines(row)
        _above(canvas, x, y + 38, words, width)
        canvas.tile(x, top, tinted(sample.share), scale)
        canvas.tile(x, top + side + 4, sample.mixed, scale)
        below = top + 2 * side + 10
        used, x = max(used, below - y + labelled(canvas, x, below, width, sample, 13)), x + width + GAP
    return used


def _sources(canvas: Canvas, x: int, y: int, sample: Sample, scale: int) -> int:
    """Draw the clean images of a sample, one below the other; return the height used."""
    step = sample.mixed.shape[2] * scale + 48
    for k, (pixels, name) in enumerate(zip(sample.sources, sample.names, strict=True)):
        _source(canvas, x, y + k * step, pixels, name, k, scale)
    return 38 + step * len(sample.names)


def _source(canvas: Canvas, x: int, y: int, pixels: Tensor, name: str, k: int, scale: int = 1) -> None:
    side = pixels.shape[2] * scale
    canvas.tile(x, y, pixels, scale)
    canvas.bar(x, y + side + 6, side, 10, [float(k == other) for other in range(k + 1)])
    canvas.text(x, y + side + 21, fitting(f"{'partner' if k else 'anchor'}: {name}", max(side, NARROWEST), 13), 13)


def _above(canvas: Canvas, x: int, y: int, words: str, width: int) -> None:
    """Write when, and what then, on a line each."""
    for line, part in enumerate(words.split(": ", 1)):
        canvas.text(x, y + CAPTION * line, fitting(part, width, 12), 12, colour=FAINT)


def _lines(row: Sequence[tuple[str, Sample]]) -> int:
    return 1 + max(": " in words for words, _ in row)


def _width(row: Sequence[tuple[str, Sample]], scale: int) -> int:
    return max(row[0][1].mixed.shape[2] * scale, NARROWEST)


def _named(policy: BatchPolicy) -> tuple[str, str]:
    """Return the policy's name and its settings."""
    name, settings = repr(policy).split("(", 1)
    return name, settings.removesuffix(")")


def _room(policy: BatchPolicy, unit: int) -> int:
    """Return how many columns the policy's name and settings need."""
    name, settings = _named(policy)
    return math.ceil((max(font(15, True).getlength(name), font(11).getlength(settings)) + GAP) / unit)


def strip(row: Sequence[tuple[str, Sample]], width: int = 7) -> tuple[Canvas, str]:
    """Draw a line of pictures: the clean images of the first sample, then every mixed one with its name and label.

    Args:
        row: Mixed samples, with the name to write above each.
        width: Pictures after which a new line begins.
    """
    canvas, clean = Canvas(), row[0][1]
    side = clean.mixed.shape[2]
    column = max(side, NARROWEST)

    def corner(place: int) -> tuple[int, int]:
        return place % width * (column + GAP), place // width * (side + 110)

    for k, (pixels, name) in enumerate(zip(clean.sources, clean.names, strict=True)):
        x, y = corner(k)
        canvas.text(x, y, "partner" if k else "anchor", 15, colour=FAINT)
        canvas.tile(x, y + 26, pixels)
        canvas.bar(x, y + 26 + side + 7, side, 10, [float(k == other) for other in range(len(clean.names))])
        canvas.text(x, y + 26 + side + 24, fitting(name, column, 14), 14)
    for place, (title, sample) in enumerate(row, start=len(clean.names)):
        x, y = corner(place)
        canvas.text(x, y, fitting(title, column, 15, bold=True), 15, bold=True)
        canvas.tile(x, y + 26, sample.mixed)
        labelled(canvas, x, y + 26 + side + 7, column, sample)
    return canvas, "\n".join(f"{title}: {sample}" for title, sample in row)
