"""The picture of ``mixwell show --label``: share, evidence map and label weights of label policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

import mixwell as mw
from mixwell.report import picture, samples
from mixwell.report.gallery import parts, without_model
from mixwell.report.picture import GAP, GREY, MIN_COLUMN, below, beside, text
from mixwell.report.samples import Images, Sample
from mixwell.train.errors import RunError, mistakes
from mixwell.train.network import Network

NOTES = (
    "Top: the mask, the mixed image, and the labels by area.  Below, for each label policy: its evidence map, brighter",
    "where it counts more, in the colours of the sources, and its label weights.  lam: the drawn share of the anchor.",
)


def sheet(
    policy: mw.BatchPolicy,
    labels: Mapping[str, mw.LabelPolicy],
    network: Network | None,
    images: Images,
    ratios: Sequence[float],
    seed: int,
    count: int,
) -> tuple[Image.Image, str]:
    """Draw a policy at several ratios, with the evidence and the weights of each label policy.

    Args:
        policy: The sample policy.
        labels: Label policies by name.
        network: The classifier that label policies read; None if none does.
        images: Clean images.
        ratios: Shares of the anchor.
        seed: Seed of all random draws.
        count: Mixed images per ratio.

    Returns:
        The picture, and the same in words.

    Raises:
        RunError: A label policy needs a network or one of another kind.
    """
    if network is None and (reading := [name for name, label in labels.items() if label.needs]):
        raise RunError(f"{reading[0]} reads a network: name one with --network, such as a run directory")
    rows, words = [], [repr(policy)]
    for part, when in parts(policy):
        plans = samples.plans_at_ratios(without_model(part), images, ratios, seed)
        shown = [_by_label(plan, labels, network, images) for plan in plans]
        rows += [text(when, 17, bold=True)] if len(parts(policy)) > 1 else []
        for row in range(min(count, len(images.pixels))):
            drawn = [_column(plan, by_label, images, row) for plan, by_label in zip(plans, shown, strict=True)]
            first = samples.of_plan(plans[0], images, [row])[0]
            rows.append(beside(picture.sources(first), *[column for column, _ in drawn]))
            words += [line for _, lines in drawn for line in lines]
    title = below(text(repr(policy), 22, bold=True), *(text(note, colour=GREY) for note in NOTES))
    return picture.framed(below(title, *rows, gap=2 * GAP)), "\n".join(words)


@torch.no_grad()
def _by_label(
    plan: mw.Plan, labels: Mapping[str, mw.LabelPolicy], network: Network | None, images: Images
) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return weights ``(B, K)`` and the evidence ``(B, H, W)``, if there is any, of each label policy."""
    pixels = images.pixels if network is None else network.normalization.normalize(images.pixels)
    mixed = mw.MixedBatch(plan.apply(pixels), plan.source_labels(images.labels), plan.weights, plan)
    view = mw.View(images=pixels, labels=images.labels)
    with mistakes():
        if network is not None:
            needs = {need for label in labels.values() for need in label.needs}
            view = network.view(mixed, pixels, images.labels, needs)
        return {name: (label(mixed, view), label.evidence(mixed, view)) for name, label in labels.items()}


def _column(
    plan: mw.Plan, by_label: Mapping[str, tuple[Tensor, Tensor | None]], images: Images, row: int
) -> tuple[Image.Image, list[str]]:
    """Draw one mixed image with its labels by every label policy, and say the same in words."""
    sample = samples.of_plan(plan, images, [row])[0]
    width = max(sample.mixed.shape[2], MIN_COLUMN)
    caption = f"lam {sample.lam:.2f}"
    parts = [picture.tile(picture.coloured(sample.share)), picture.tile(sample.mixed)]
    parts += [text("by area", bold=True, width=width), picture.label(sample, width)]
    words = [f"{caption}, by area: {sample}"]
    for name, (weights, evidence) in by_label.items():
        weighted = replace(sample, weights=tuple(weights[row].tolist()))
        title, bracket, settings = name.partition("(")
        parts.append(text(title, bold=True, width=width))
        if settings.strip(")"):
            parts.append(text(bracket + settings, 11, colour=GREY, width=width))
        if evidence is not None:
            parts.append(picture.tile(_lit(evidence[row], sample)))
        parts.append(picture.label(weighted, width))
        words.append(f"{caption}, {name}: {weighted}")
    return below(text(caption, colour=GREY, width=width), below(*parts, gap=6)), words


def _lit(evidence: Tensor, sample: Sample) -> Tensor:
    """Return the colours of the sources, dark where the evidence is small, shape ``(3, H, W)``."""
    size = sample.mixed.shape[1:]
    large = torch.nn.functional.interpolate(evidence.float()[None, None], size, mode="nearest")[0]
    return picture.coloured(sample.share) * (large / large.max().clamp_min(1e-12)).sqrt()
