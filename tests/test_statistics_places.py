"""The laws of places: boxes, fields, centres. Seeds are fixed: a test passes always or never."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mixwell as mw
from laws import LIMIT, N, blank, distance, law_of, seeded, uniform
from mixwell import Constant, CutMix, Uniform
from mixwell.ops.fourier import isotropic_field, published_field


@pytest.mark.parametrize(
    ("policy", "side", "mean"),
    [
        (CutMix(scope="sample"), 224, 0.68),
        (CutMix(scope="sample"), 32, 0.71),
        (CutMix(scope="sample", alpha=0.2), 224, 0.70),
        (CutMix(scope="sample", box="inside"), 224, 0.50),
        (CutMix(scope="sample", alpha=0.2, box="inside"), 224, 0.50),
        (mw.ResizeMix(scope="sample"), 32, 0.769),
        (mw.ResizeMix(scope="sample", box="clip"), 32, 0.846),
        (mw.MixUp(scope="sample", alpha=0.2), 4, 0.5),
        (mw.FMix(scope="sample"), 4, 0.5),
    ],
    ids=repr,
)
def test_mean_weight_of_the_anchor(policy: mw.Policy, side: int, mean: float) -> None:
    """How much mixing is left after clipping, as measured on the published code."""
    plan = policy.draw(*blank(N, side, side), generator=seeded(5))
    assert abs(float(plan.weights[:, 0].mean()) - mean) < 0.01


def test_vanishing_boxes() -> None:
    """At alpha 0.2 eight boxes in a hundred are empty."""
    plan = CutMix(scope="sample", alpha=0.2).draw(*blank(N, 224, 224), generator=seeded(6))
    assert abs(float((plan.weights[:, 0] == 1).float().mean()) - 0.08) < 0.02


@pytest.mark.parametrize("box", ["clip", "inside"])
def test_boxes_lie_anywhere(box: str) -> None:
    """Places are uniform: centres over the image, or corners where the whole box fits."""
    plan = CutMix(alpha=Constant(0.99), box=box, scope="sample").draw(*blank(N, 1000, 500), generator=seeded(7))
    top, bottom, left, right = plan.boxes[:, 0].double().unbind(1)
    high, wide = (bottom - top).max(), (right - left).max()
    whole = (bottom - top == high) & (right - left == wide)
    assert bool(whole.all()) == (box == "inside")
    for room, start in ((1000 - high, top[whole]), (500 - wide, left[whole])):
        assert distance((start + 0.5) / (room + 1), law_of(Uniform())) < LIMIT + 3e-3
    assert abs(float(torch.corrcoef(torch.stack((top[whole], left[whole])))[0, 1])) < 0.03


def test_aspect() -> None:
    """Height over width is uniform on a log scale, and the area stays."""
    policy = CutMix(alpha=Constant(0.75), box="inside", aspect=(0.25, 4.0), scope="sample")
    plan = policy.draw(*blank(N, 4000, 2000), generator=seeded(8))
    top, bottom, left, right = plan.boxes[:, 0].double().unbind(1)
    stretch = (bottom - top) / (right - left) / 2
    assert distance((stretch / 0.25).log() / math.log(16), law_of(Uniform())) < LIMIT + 1e-3
    torch.testing.assert_close(plan.weights[:, 0], torch.full((N,), 0.75), rtol=0, atol=2e-3)


@pytest.mark.parametrize("spectrum", ["isotropic", "published"])
def test_fmix_counts_pixels(spectrum: str) -> None:
    """Exactly the drawn number of pixels, rounded up or down by the toss of a coin."""
    policy = mw.FMix(spectrum=spectrum, scope="sample")
    plan = policy.draw(*blank(500, 9, 14), generator=seeded(9))
    count, wanted = plan.share((9, 14))[:, 0].sum((1, 2)), plan.lam.double() * 9 * 14
    down, up = count == wanted.floor(), count == wanted.ceil()
    assert bool((down | up).all())
    assert 150 < int(down.sum()) < 350
    torch.testing.assert_close(plan.weights[:, 0], count / (9 * 14))
    assert len(plan.mask.unique(dim=0)) > 490  # some are all one


def test_fmix_is_isotropic() -> None:
    """Contours run as often down as across, also in an image that is not square; those of the published code lean."""
    ratios = {}
    for spectrum in ("isotropic", "published"):
        policy = mw.FMix(alpha=Constant(0.5), spectrum=spectrum, scope="sample")
        mask = policy.draw(*blank(1500, 32, 32), generator=seeded(10)).share((32, 32))[:, 0]
        ratios[spectrum] = float(mask.diff(dim=1).abs().mean() / mask.diff(dim=2).abs().mean())
    assert abs(ratios["isotropic"] - 1) < 0.05
    assert abs(ratios["published"] - 1) > 0.2
    policy = mw.FMix(alpha=Constant(0.5), scope="sample")
    lying, standing = (
        policy.draw(*blank(1500, *size), generator=seeded(11)).share(size)[:, 0] for size in ((24, 40), (40, 24))
    )
    for this, other in ((1, 2), (2, 1)):
        lengths = lying.diff(dim=this).abs().mean(), standing.diff(dim=other).abs().mean()
        torch.testing.assert_close(*lengths, rtol=0.05, atol=0)


def energy_across(field: Tensor) -> Tensor:
    """Return the share of the energy at every horizontal frequency."""
    spectrum = torch.fft.fft2(field.double()).abs().square().sum((0, 1))
    folded = spectrum[1 : field.shape[2] // 2] + spectrum.flip(0)[: field.shape[2] // 2 - 1]
    energy = torch.cat((spectrum[:1], folded))
    return energy / energy.sum()


def test_fmix_spectrum() -> None:
    """The field has all horizontal frequencies; the published code's has two."""
    noise = torch.randn(2000, 32, 17, 2, generator=seeded(12))
    field = isotropic_field(noise, (32, 32), 3.0)
    across, down = energy_across(field), energy_across(field.transpose(1, 2))
    torch.testing.assert_close(across[:6], down[:6], rtol=0.15, atol=0.0)
    assert bool((across[2:] > 1e-7).all())
    assert float(energy_across(published_field(noise, (32, 32), 3.0))[2:].sum()) < 1e-9


def test_centre_is_drawn_by_saliency() -> None:
    """With ``draw_centre`` every place is as likely as it is salient, and where nothing is, all are equally likely."""
    maps = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.5, 0.0]])
    policy = mw.SaliencyMix(alpha=Constant(0.99), draw_centre=True)
    for saliency, weights in ((maps, maps), (maps * 0, torch.ones(2, 3))):
        plan = policy.draw(*blank(N, 200, 300), saliency=saliency.expand(N, 2, 3), generator=seeded(17))
        rows, columns = plan.boxes[:, 0, 0] // 100, plan.boxes[:, 0, 2] // 100
        counts = (rows * 3 + columns).bincount(minlength=6)
        assert bool((counts[weights.flatten() == 0] == 0).all())
        assert uniform(counts[weights.flatten() > 0], weights.flatten()[weights.flatten() > 0])
