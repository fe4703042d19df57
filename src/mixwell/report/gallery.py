"""The gallery: every policy applied to the same pair of images, in one picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from PIL import Image

import mixwell as mw
from mixwell.report import samples
from mixwell.report.picture import GAP, GREY, LEGEND, MIN_COLUMN, Column, below, beside, framed, row, sources, text
from mixwell.report.samples import Images, Sample
from mixwell.train.errors import RunError

# Policies that are made of others have no useful defaults.
EXAMPLES: tuple[mw.BatchPolicy, ...] = (
    mw.OneOf((mw.MixUp(), mw.CutMix()), scope="sample"),
    mw.Sometimes(mw.CutMix(), p=0.5, scope="sample"),
    mw.Switch({0.0: mw.MixUp(), 0.5: mw.CutMix(), 0.9: mw.NoMix()}),
)
# Stands in for saliency that needs a model, because pictures are drawn without one.
CONTRAST = mw.SpectralResidual()
# Settings for policies whose defaults would not show what they do on two photographs.
ILLUSTRATIVE: tuple[mw.BatchPolicy, ...] = (
    mw.AttentiveMix(saliency=mw.SpectralResidual(max_size=32)),  # about as coarse as the last map of a network
    mw.MergeMix(saliency=mw.SpectralResidual(max_size=16)),  # as coarse as the patches of a transformer
    mw.SMMix(saliency=CONTRAST, cells=8),
    mw.PuzzleMix(blocks=8, saliency=CONTRAST, transport_eps=0.05),  # contrast is spread out: 0.8 would move no block
    mw.CoMixup(saliency=CONTRAST, sweeps=1),  # a group of two images would be moved apart until they are unmixed
    mw.SaliencyMix(saliency=CONTRAST),  # the default saliency peaks at the edge of the flower
    mw.SmoothMix(fit=True),  # by default alpha sets the width of the mask and not the ratio
)
PROGRESS = (0.0, 0.5, 1.0)  # at which schedules are drawn
RATIOS = (0.3, 0.5, 0.7)
ACROSS = 10 * (MIN_COLUMN + GAP)  # width of the gallery (pixels)


def drawable(images: Images) -> tuple[list[mw.BatchPolicy], list[str]]:
    """Build every policy that can be drawn without a model or a file; return the reasons for the others as well."""
    examples = {type(policy).__name__: policy for policy in (*EXAMPLES, *ILLUSTRATIVE)}
    made, reasons = [], []
    for name in mw.names("policy"):
        try:
            policy = without_model(examples.get(name) or mw.parse(name))
            samples.mix(policy, images, 0, 0)
        except (ValueError, RunError) as error:
            reasons.append(f"{name}: {error}")
        else:
            made.append(policy)
    return made, reasons


def without_model(policy: mw.BatchPolicy) -> mw.BatchPolicy:
    """Return the policy, with image contrast as saliency if its own saliency needs a model.

    Example:
        >>> without_model(mw.PuzzleMix(blocks=4))
        PuzzleMix(blocks=4, saliency=SpectralResidual())
        >>> without_model(mw.CutMix())
        CutMix()
    """
    source = getattr(policy, "saliency", None)
    needs_model = isinstance(source, mw.Activation | mw.ClassActivation | mw.InputGradient)
    if not needs_model or getattr(source, "teacher", None) is not None:
        return policy
    return dataclasses.replace(policy, saliency=CONTRAST)


def parts(policy: mw.BatchPolicy) -> list[tuple[mw.BatchPolicy, str]]:
    """Return the policies that a schedule or a random choice stands for, each with when it is used; or itself.

    Example:
        >>> parts(mw.Sometimes(mw.CutMix(), p=0.2))
        [(CutMix(), '20 % of the time: CutMix()'), (NoMix(), '80 % of the time: NoMix()')]
    """
    if policy.at(0.0) is not policy:  # it holds schedules
        found: dict[mw.BatchPolicy, str] = {}
        for progress in PROGRESS:
            now = policy.at(progress)
            found.setdefault(now, f"progress {progress:.1g}: {now!r}")
        return list(found.items())
    return [(part, f"{100 * chance:.3g} % of the time: {part!r}") for part, chance in samples.members(policy)]


def columns(policy: mw.BatchPolicy, images: Images, ratios: Sequence[float], seed: int) -> list[Column]:
    """Mix one image with others at several ratios, or by each part of a policy that is made of others.

    Args:
        policy: The policy.
        images: Clean images; the first is the anchor, and the next one its partner unless the policy chooses.
        ratios: Shares of the anchor; a policy that ignores them is drawn once.
        seed: Seed of all random draws.

    Returns:
        Captions and samples, for :func:`~mixwell.report.picture.row`.
    """
    several = [(without_model(part), when) for part, when in parts(policy)]
    if len(several) > 1:
        middle = [ratios[len(ratios) // 2]]
        return [(when, samples.at_ratios(part, images, middle, seed, 1)[0][0]) for part, when in several]
    kept: list[Sample] = []
    for (sample,) in samples.at_ratios(several[0][0], images, ratios, seed, 1):
        if not any(torch.equal(sample.mixed, other.mixed) for other in kept):
            kept.append(sample)
    return [(f"lam {sample.lam:.2f}", sample) for sample in kept]


def gallery(
    policies: Sequence[mw.BatchPolicy], images: Images, ratios: Sequence[float], seed: int, side: int = 0
) -> tuple[Image.Image, str]:
    """Draw many policies on the same images.

    Args:
        policies: Drawn in this order, except that a later policy may fill a gap.
        images: See :func:`columns`.
        ratios: See :func:`columns`.
        seed: See :func:`columns`.
        side: Side of each image (pixels; 0 = as it is).

    Returns:
        The picture, and the same in words.
    """
    rows = [columns(policy, images, ratios, seed) for policy in policies]
    entries = [below(text("", 38), sources(rows[0][0][1], 1, side, 13))]
    for policy, drawn in zip(policies, rows, strict=True):
        name, settings = repr(policy).removesuffix(")").split("(", 1)
        captioned = [(caption.replace(": ", "\n", 1), sample) for caption, sample in drawn]
        title = text(name, 15, bold=True), text(settings, 11, colour=GREY)
        entries.append(below(*title, row(captioned, side, clean=False, size=13)))
    shelves = arranged([entry.width + GAP for entry in entries], ACROSS)
    lines = [text(line, 13, colour=GREY) for line in LEGEND]
    picture = below(below(*lines), *(beside(*(entries[k] for k in shelf)) for shelf in shelves), gap=2 * GAP)
    return framed(picture), "\n".join(in_words(policy, drawn) for policy, drawn in zip(policies, rows, strict=True))


def arranged(widths: Sequence[int], across: int) -> list[list[int]]:
    """Arrange entries in rows of a maximum width, each in the first row with room; return the indices in each row.

    Example:
        >>> arranged([2, 2, 3, 1], across=3)
        [[0, 3], [1], [2]]
    """
    found: list[list[int]] = []
    for index, width in enumerate(widths):
        for shelf in found:
            if sum(widths[other] for other in shelf) + width <= across:
                shelf.append(index)
                break
        else:
            found.append([index])
    return found


def in_words(policy: mw.BatchPolicy, drawn: Sequence[Column]) -> str:
    """Return the text alternative of one policy's pictures."""
    return f"{policy!r}: " + "; ".join(f"{caption}: {sample}" for caption, sample in drawn)
