"""Where in a mixed image a classifier sees the class of each source."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

import mixwell as mw
from mixwell.report import samples
from mixwell.report.picture import SOURCES, rgb
from mixwell.report.samples import Images, Sample
from mixwell.train.network import Network


@dataclass(frozen=True)
class Seen:
    """Evidence in one mixed image.

    Attributes:
        sample: The mixed image.
        maps: One picture ``(3, H, W)`` for each source, in the colour of its label.
        probabilities: Probability of the class of each source.
    """

    sample: Sample
    maps: list[Tensor]
    probabilities: tuple[float, ...]


def evidence(network: Network, image: Tensor, pixels: Tensor, classes: Tensor) -> list[Tensor]:
    """Draw the class activation maps of one image, on one scale for all classes.

    Args:
        network: The classifier.
        image: Its input, shape ``(1, C, H, W)``.
        pixels: The same image in [0, 1], shape ``(3, H, W)`` or ``(1, H, W)``.
        classes: Class indices, shape ``(K,)``.

    Returns:
        Pictures ``(3, H, W)``; none where the classifier has no feature map.
    """
    for source in (mw.ClassActivation(), mw.ClassActivation(gradient=True)):
        try:
            maps = source(network.model, image.expand(len(classes), -1, -1, -1), classes)
        except ValueError:  # no linear classifier on the map, or no map
            continue
        maps = F.interpolate(maps[:, None], pixels.shape[1:], mode="bilinear")
        heat, grey = maps / maps.amax().clamp_min(1e-12), pixels.mean(0).expand(3, -1, -1)
        colours = [rgb(SOURCES[k % len(SOURCES)])[:, None, None] for k in range(len(classes))]
        return [torch.lerp(0.6 * grey, colour, h) for colour, h in zip(colours, heat, strict=True)]
    return []


@torch.no_grad()
def on_mixed(network: Network, images: Images, policy: mw.BatchPolicy, count: int, seed: int = 0) -> list[Seen]:
    """Mix images at equal shares, and draw the evidence in the first of them."""
    size = images.pixels.shape[2], images.pixels.shape[3]
    policy = samples.with_ratio(samples.in_order(policy), 0.5, size)
    found = []
    for sample in samples.mix(policy, images, seed, count):
        classes = torch.tensor([network.classes.index(name) for name in sample.names])
        image = network.inputs(sample.mixed.expand(3, -1, -1)[None])
        probabilities = network.model(image).float().softmax(1)[0, classes].tolist()
        found.append(Seen(sample, evidence(network, image, sample.mixed, classes), tuple(probabilities)))
    return found
