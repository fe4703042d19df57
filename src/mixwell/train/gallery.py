"""The gallery: what every policy makes of two images, all in one picture or each by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from mixwell import (
    BatchPolicy,
    ByProgress,
    CutMix,
    FineGrained,
    FMix,
    MixUp,
    NoMix,
    OneOf,
    Ramp,
    Sometimes,
    names,
    parse,
)
from mixwell.train import samples
from mixwell.train.errors import RunError
from mixwell.train.picture import FAINT, GAP, NARROWEST, Canvas, fitting, labelled, tinted
from mixwell.train.samples import Images, Sample

# How policies are shown that are nothing without others.
EXAMPLES: tuple[BatchPolicy, ...] = (
    ByProgress((MixUp(), CutMix(), NoMix())),
    OneOf((MixUp(), CutMix()), scope="sample"),
    Ramp(FMix(), "soft", end=0.5),
    Sometimes(CutMix(), p=0.5, scope="sample"),
)
PROGRESS = (0.0, 0.5, 1.0)  # where schedules are shown
RATIOS = (0.3, 0.5, 0.7)  # of the anchor
CAPTION = 18  # height of a line above the tiles (pixels)


def drawable(images: Images) -> tuple[list[BatchPolicy], list[str]]:
    """Make every policy that can be drawn by itself or by an example; say why the others are left out.

    One that looks at a model, of which a picture has none, looks at the images' contrast instead; its repr says so.
    """
    examples = {type(policy).__name__: policy for policy in EXAMPLES}
    made, left_out = [], []
    for name in names("policy"):
        try:
            made.append(_without_model(examples.get(name) or parse(name), images))
        except (ValueError, RunError) as error:
            left_out.append(f"{name}: {error}")
    return made, left_out


def _without_model(policy: BatchPolicy, images: Images) -> BatchPolicy:
    """Return the policy, with another saliency source where its own needs a model."""
    try:
        samples.mix(policy, images, 0)
    except RunError:
        if not hasattr(policy, "saliency"):
            raise
        policy = dataclasses.replace(policy, saliency=FineGrained())
        samples.mix(policy, images, 0)
    return policy


def parts(policy: BatchPolicy) -> list[tuple[BatchPolicy, str]]:
    """Take a policy made of others apart: each that it may become, with the words that say when; or itself alone.

    Example:
        >>> parts(Sometimes(CutMix(), p=0.2))
        [(CutMix(), 'CutMix(), 20 % of the time'), (NoMix(), 'NoMix(), 80 % of the time')]
    """
    if isinstance(policy, ByProgress | Ramp):
        found: dict[BatchPolicy, str] = {}
        for progress in PROGRESS:
            now = policy.at(progress).current()
            found.setdefault(now, f"{now!r} at progress {progress:.1g}")
        return list(found.items())
    return [(part, f"{part!r}, {100 * chance:.3g} % of the time") for part, chance in samples.members(policy)]


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
    several = parts(policy)
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
        policies: What to draw, a row for each.
        images: See :func:`columns`.
        ratios: See :func:`columns`.
        seed: See :func:`columns`.
        scale: Side of the square that each pixel becomes.
    """
    canvas, told, y = Canvas(), [], 0
    for policy in policies:
        row = columns(policy, images, ratios, seed)
        if not told:
            y = _clean(canvas, 0, row[0][1], scale) + 2 * GAP
        canvas.text(0, y, repr(policy), 16, bold=True)
        y += 24 + _row(canvas, 0, y + 24, row, scale) + 2 * GAP
        told.append(in_words(policy, row))
    return canvas, "\n".join(told)


def banner(policy: BatchPolicy, row: Sequence[tuple[str, Sample]]) -> tuple[Canvas, str]:
    """Draw one policy: the clean images on the left, its columns beside them.

    Args:
        policy: What is drawn.
        row: What :func:`columns` returned for it.
    """
    canvas, side = Canvas(), row[0][1].mixed.shape[2]
    _clean(canvas, CAPTION, row[0][1], 1)
    _row(canvas, 2 * side + 4 + 2 * GAP, 0, row, 1)
    return canvas, in_words(policy, row)


def in_words(policy: BatchPolicy, row: Sequence[tuple[str, Sample]]) -> str:
    """Say what a row shows."""
    return f"{policy!r}: " + "; ".join(f"{words}: {sample}" for words, sample in row)


def _row(canvas: Canvas, x: int, y: int, row: Sequence[tuple[str, Sample]], scale: int) -> int:
    """Draw columns side by side, each with its words above and its label below; return the height used."""
    used = 0
    for words, sample in row:
        side = sample.mixed.shape[2] * scale
        canvas.text(x, y, fitting(words, 2 * side + 4, 12), 12, colour=FAINT)
        canvas.tile(x, y + CAPTION, tinted(sample.share), scale)
        canvas.tile(x + side + 4, y + CAPTION, sample.mixed, scale)
        below = CAPTION + side + 6
        used = max(used, below + labelled(canvas, x, y + below, 2 * side + 4, sample, 13))
        x += 2 * side + 4 + 2 * GAP
    return used


def _clean(canvas: Canvas, y: int, sample: Sample, scale: int) -> int:
    """Draw the clean images of a sample side by side; return the height used."""
    side = sample.mixed.shape[2] * scale
    for k, (pixels, name) in enumerate(zip(sample.sources, sample.names, strict=True)):
        x = k * (side + 4)
        canvas.tile(x, y, pixels, scale)
        canvas.bar(x, y + side + 6, side, 10, [float(k == other) for other in range(len(sample.names))])
        canvas.text(x, y + side + 21, fitting(f"{'partner' if k else 'anchor'}: {name}", side, 13), 13)
    return side + 38


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
