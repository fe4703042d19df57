"""Saliency maps, grids and models that do not fit the images get one clear sentence."""

from __future__ import annotations

import pytest
import torch

import mixwell as mw
from test_errors import IMAGES, LABELS, refused


@pytest.mark.parametrize("policy", [mw.SaliencyMix(), mw.GuidedMix(), mw.AttentiveMix(), mw.SnapMix()], ids=repr)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_saliency_that_is_no_number_is_refused(policy: mw.BatchPolicy, bad: float) -> None:
    """One such value in one map, whoever made it."""
    maps = torch.rand(4, 7, 7)
    maps[2, 3, 3] = bad
    with pytest.raises(ValueError, match="finite"):
        policy(torch.rand(4, 3, 16, 16), torch.arange(4), saliency=maps)


LOOKING = [mw.SaliencyMix(), mw.GuidedMix(), mw.AttentiveMix(), mw.SnapMix(), mw.PuzzleMix(blocks=2), mw.CoMixup()]


@pytest.mark.parametrize("policy", LOOKING, ids=repr)
@pytest.mark.parametrize("size", [(7, 9), (16, 32), (64, 64), (33, 32), (4, 1), (0, 0)])
def test_saliency_of_another_size_is_refused(policy: mw.BatchPolicy, size: tuple[int, int]) -> None:
    """Maps of other proportions than the images, or finer ones, are of other images."""
    images = torch.rand(4, 3, 32, 32)
    refused(
        lambda: policy(images, LABELS, saliency=torch.rand(4, *size)), ValueError, "32 x 32", "{} x {}".format(*size)
    )


@pytest.mark.parametrize("policy", LOOKING, ids=repr)
def test_coarse_saliency_is_welcome(policy: mw.BatchPolicy) -> None:
    """In the images' proportions, also where a network rounded the sides up or down or a source reduced the image."""
    for size, maps in (
        ((32, 64), (4, 8)),
        ((34, 46), (5, 6)),
        ((34, 46), (4, 5)),
        ((30, 50), (10, 17)),
        ((32, 32), (1, 1)),
    ):
        mixed = policy(torch.rand(4, 3, *size), LABELS, saliency=torch.rand(4, *maps))
        assert bool(mixed.images.isfinite().all())


@pytest.mark.parametrize(
    ("policy", "side"),
    [
        (mw.GridMix(cells=9), 9),
        (mw.AttentiveMix(cells=9), 9),
        (mw.PuzzleMix(blocks=16), 16),
        (mw.GridMixup(count=(2, 12)), 12),
    ],
    ids=repr,
)
def test_grids_finer_than_the_image(policy: mw.BatchPolicy, side: int) -> None:
    """Every cell needs a pixel."""
    words = type(policy).__name__, f"at least {side} pixels per side", "8 x 8"
    refused(lambda: policy(IMAGES, LABELS, saliency=torch.rand(4, 8, 8)), ValueError, *words)


def test_models_without_maps() -> None:
    """Sources that read maps say so, and how to go on."""
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
    for policy in (mw.AttentiveMix(cells=4), mw.SnapMix()):
        refused(lambda p=policy: p(IMAGES, LABELS, model=flat), ValueError, "no map", "name another layer", "saliency=")


def test_another_device() -> None:
    """Labels, maps and plans that are not where the images are."""
    away, plan = torch.zeros(4, dtype=torch.int64, device="meta"), mw.CutMix().draw(IMAGES, LABELS)
    refused(lambda: mw.CutMix()(IMAGES, away), ValueError, "labels", "device, cpu", "on meta")
    refused(lambda: mw.GuidedMix()(IMAGES, LABELS, saliency=IMAGES[:, 0].to("meta")), ValueError, "maps", "on meta")
    refused(lambda: plan.apply(IMAGES.to("meta")), ValueError, "plan is on cpu", "on meta", "plan.to")


def test_what_is_no_tensor() -> None:
    """Nor a generator."""
    refused(lambda: mw.CutMix()(IMAGES, LABELS, generator=3), TypeError, "generator", "torch.Generator", "3")
    refused(lambda: mw.CutMix()(IMAGES, LABELS, out=IMAGES.numpy()), TypeError, "out", "tensor", "ndarray")
    refused(lambda: mw.CutMix()(IMAGES, LABELS).targets(0), ValueError, "num_classes", "at least 1")
