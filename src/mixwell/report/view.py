"""One view of the play page: two pictures mixed by a policy, the evidence in them, and the weights of their labels."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mixwell as mw
from mixwell.features.observer import Observer
from mixwell.report import samples
from mixwell.report.evidence import evidence
from mixwell.report.gallery import without_model
from mixwell.report.samples import Images, Sample
from mixwell.train import errors
from mixwell.train import images as files
from mixwell.train.errors import Kind, RunError, mistakes
from mixwell.train.network import Network

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MOST_PIXELS = 40_000_000  # of a picture
SIDES = (8, 512)  # smallest and largest side of the mixed image (pixels)
# The model is one for all users, and is hooked while it runs; warnings and random numbers belong to the process.
ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """An image file in memory."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Look:
    """What the page shows.

    Attributes:
        sample: The mixed image with its sources and the label weights of the chosen label policy.
        line: Python that computes the same mixed image as ``mixed``, shape ``(3, H, W)``.
        labels: For every label policy, the chosen one first: the weight of each source, or why it cannot be computed.
        evidence: Captions and pictures ``(3, H, W)`` of where the model sees each class; empty without a model.
        predicted: The model's most probable classes for the mixed image, and their probabilities.
        notes: What was replaced.
    """

    sample: Sample
    line: str
    labels: dict[str, tuple[float, ...] | str]
    evidence: list[tuple[str, Tensor]]
    predicted: list[tuple[str, float]]
    notes: list[str]


def pair(
    anchor: Picture | Path | str | None = None, partner: Picture | Path | str | None = None, *, side: int = 224
) -> Tensor:
    """Return two pictures, cut to squares, as a batch.

    Args:
        anchor: Image file; None for a photograph of a temple that ships with scikit-learn.
        partner: Image file; None for a photograph of a flower.
        side: Height and width (pixels).

    Returns:
        Shape ``(2, 3, side, side)``, float32 in [0, 1].

    Raises:
        RunError: A picture cannot be read.

    Example:
        >>> pair(side=8).shape
        torch.Size([2, 3, 8, 8])
    """
    pixels = []
    for place, given in enumerate((anchor, partner)):
        if given is None:
            pixels.append(samples.photographs(side).pixels[place])
        elif isinstance(given, Picture):
            pixels.append(samples.square(files.read(given.name, given.content, FORMATS, MOST_PIXELS), side))
        else:
            pixels.append(samples.square(files.read(given), side))
    return torch.stack(pixels)


def expression(text: str, kind: type[Kind]) -> Kind:
    """Return the policy that an expression describes.

    Raises:
        RunError: It does not describe one, or reads a file.
    """
    if "LearnedMask" in text:
        raise RunError("LearnedMask reads a file, so the page does not offer it: use mixwell show")
    return errors.expression(text, kind)


def fixed(policy: mw.BatchPolicy, lam: float, size: tuple[int, int], model: bool) -> mw.BatchPolicy:
    """Return a policy that mixes the first picture with the second at one ratio, as far as it lets one choose.

    Args:
        policy: The policy; parts of a random choice are fixed one by one.
        lam: Share of the anchor, in [0, 1].
        size: Height and width of the images.
        model: Whether there is a model; without one, saliency that needs a model is replaced by image contrast.
    """
    policy = policy.at(0.0)
    if isinstance(policy, mw.OneOf):
        return dataclasses.replace(policy, policies=tuple(fixed(part, lam, size, model) for part in policy.policies))
    if isinstance(policy, mw.Sometimes):
        return dataclasses.replace(policy, policy=fixed(policy.policy, lam, size, model))
    policy = samples.in_order(policy if model else without_model(policy))
    return samples.with_ratio(policy, lam, size)


def look(
    anchor: Picture | None, partner: Picture | None, policy: str, label: str, lam: float, seed: int, side: int,
    network: Network | None = None, source: str = "",
) -> Look:  # fmt: skip
    """Mix two pictures. The result depends on the arguments only.

    Args:
        anchor: See :func:`pair`.
        partner: See :func:`pair`.
        policy: Expression of the sample policy.
        label: Expression of the label policy.
        lam: Share of the anchor, in [0, 1].
        seed: Seed of all other random draws.
        side: Height and width of the images (pixels).
        network: The classifier, or None.
        source: Arguments that load the classifier, for the Python line.

    Raises:
        RunError: A picture or an expression cannot be used; the sentence says why.
    """
    chosen, labeller = expression(policy, mw.BatchPolicy), expression(label, mw.LabelPolicy)
    side = min(max(int(side), SIDES[0]), SIDES[1])
    seed, lam = int(seed) % 2**63, min(max(float(lam), 0.0), 1.0)
    pixels = pair(anchor, partner, side=side)
    with ONE_AT_A_TIME, mistakes(), warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for label policies that draw
        used = fixed(chosen, lam, (side, side), network is not None)
        if network is None:
            inputs, classes, given = pixels, torch.arange(2), {}
            names = [Path(p.name).stem if p else name for p, name in ((anchor, "china"), (partner, "flower"))]
        else:
            inputs, classes, names = network.inputs(pixels), network.predict(pixels), network.classes
            given: dict[str, Any] = {"model": network.model, "normalization": network.normalization}
        plan = used.draw(inputs, classes, generator=torch.Generator().manual_seed(seed), **given)
        (sample,) = samples.of_plan(plan, Images(pixels, classes, names), [0])
        mixed = mw.MixedBatch(plan.apply(inputs), plan.source_labels(classes), plan.weights, plan)
        said, logits = _weights(labeller, mixed, inputs, classes, network)
        weights = said[repr(labeller)]
        if not isinstance(weights, str):
            sample = dataclasses.replace(sample, weights=weights)
        maps = evidence(network, mixed.images[:1], sample.mixed, mixed.labels[0]) if network else []
        captioned = [(f"evidence for {name}", drawn) for name, drawn in zip(sample.names, maps, strict=False)]
    predicted: list[tuple[str, float]] = []
    if logits is not None:
        top = logits[0].softmax(0).topk(min(3, logits.shape[1]))
        predicted = [(names[k], p) for p, k in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
    notes = [] if isinstance(weights, tuple) else [f"{label}: {weights}. The bar shows the shares of the pixels."]
    if network is None and without_model(chosen) is not chosen:
        notes.append("Without a model, saliency is image contrast.")
    line = _line(used, anchor, partner, side, seed, source if network else "")
    return Look(sample, line, said, captioned, predicted, notes)


def _line(
    policy: mw.BatchPolicy, anchor: Picture | None, partner: Picture | None, side: int, seed: int, source: str
) -> str:
    """Return Python that repeats the mix; run it in the folder of the pictures."""
    code = re.sub(r"\b([A-Z]\w*)\(", r"mw.\1(", repr(policy))
    pictures = [repr(picture.name) if picture else "None" for picture in (anchor, partner)]
    load, inputs = "", "images, torch.arange(2)"
    if source:
        load = f"from mixwell.train.network import load; net = load({source}); "
        inputs = "net.inputs(images), net.predict(images), model=net.model, normalization=net.normalization"
    return (
        f"import torch, mixwell as mw; from mixwell.report.view import pair; {load}"
        f"images = pair({', '.join(pictures)}, side={side}); "
        f"mixed = {code}.draw({inputs}, generator=torch.Generator().manual_seed({seed})).apply(images)[0]"
    )


@torch.no_grad()
def _weights(
    chosen: mw.LabelPolicy, mixed: mw.MixedBatch, inputs: Tensor, labels: Tensor, network: Network | None
) -> tuple[dict[str, tuple[float, ...] | str], Tensor | None]:
    """Return what every label policy says of the first mixed image, and the logits of the mixed images."""
    others = [mw.parse(name) for name in mw.names("label") if name != "ObjectShare"]  # that needs boxes
    policies = {repr(policy): policy for policy in (chosen, *others)}
    said: dict[str, tuple[float, ...] | str] = {}
    view = mw.View(images=inputs, labels=labels)
    if network is not None:
        needs = set[str]()
        for policy in policies.values():
            with contextlib.suppress(ValueError):  # this kind of model does not have it
                Observer(network.model, policy.needs)
                needs |= policy.needs
        try:
            view = network.view(mixed, inputs, labels, needs)
        except ValueError:  # such as attention of patches that do not fill the images
            view = network.view(mixed, inputs, labels, ())
    for name, policy in policies.items():
        try:
            if network is not None:
                Observer(network.model, policy.needs)
            said[name] = tuple(policy(mixed, view)[0].tolist())
        except (ValueError, TypeError) as error:
            said[name] = "needs a model" if network is None and not isinstance(policy, mw.RatioShare) else str(error)
    return said, view.logits
