"""Every corruption at every severity and both sizes against slow versions; order of strength; randomness; mCE."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("cv2")
pytest.importorskip("scipy")
import slow_corruptions
from mixwell.evaluation.corruptions import (
    FUNCTIONS,
    FURTHER,
    SEVERITIES,
    STANDARD,
    corrupt,
    digital,
    mean_corruption_error,
)
from mixwell.evaluation.corruptions.draws import Draws
from mixwell.evaluation.corruptions.severity import LARGE, SMALL

# The published settings of these are of several kinds: more rounds, mud instead of drops, less and more saturation.
KINDS = {
    32: {"glass_blur": ((1, 2, 3), (4, 5)), "spatter": ((1, 2, 3), (4, 5)), "saturate": ((1, 2), (3, 4, 5))},
    224: {"saturate": ((1, 2), (3, 4, 5))},
}
LOOSE = {"jpeg_compression": 2.5}  # integer arithmetic of libjpeg against floats: mean difference in 1/255


def photographs(side: int, count: int = 2) -> Tensor:
    """Return two photographs of scikit-learn as uint8 images in [0, 1]."""
    datasets = pytest.importorskip("sklearn.datasets")
    images = [torch.from_numpy(np.array(datasets.load_sample_image(n))) for n in ("flower.jpg", "china.jpg")]
    large = torch.stack(images).movedim(-1, 1)[:, :, :420, 100:520].float()
    small = F.interpolate(large, size=(side, side), mode="bilinear", antialias=True)
    return (small.round().clamp(0, 255) / 255)[:count]


def slow(pixels: Tensor, name: str, severity: int) -> np.ndarray[Any, Any]:
    """Corrupt image by image with the numbers that the fast version draws."""
    settings = (SMALL if pixels.shape[-1] <= 64 else LARGE)[name][severity - 1]
    results = []
    for row, image in enumerate(pixels.double().numpy()):
        draws = Draws(torch.tensor([row]), 0, name)
        changed = getattr(slow_corruptions, name)(
            image.copy(), lambda *shape, draws=draws: draws.uniform(*shape)[0].double().numpy(), *settings
        )
        results.append(np.floor(changed.clip(0, 1) * 255 + 1e-3) / 255)
    return np.stack(results)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_small_images_equal_slow_versions(name: str, severity: int) -> None:
    compare(photographs(32), name, severity)


@pytest.mark.slow
@pytest.mark.parametrize("severity", [1, 3, 4, 5])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_large_images_equal_slow_versions(name: str, severity: int) -> None:
    compare(photographs(224, 1), name, severity)


def compare(pixels: Tensor, name: str, severity: int) -> None:
    """Nearly all values are the same byte; a rounding edge may move one by 1/255, a cell edge a few by more."""
    ours = corrupt(pixels, name, severity).double().numpy()
    difference = np.abs(ours - slow(pixels, name, severity)) * 255
    if name in LOOSE:
        assert difference.mean() < LOOSE[name]
        assert difference.mean() < 0.25 * np.abs(ours - pixels.numpy()).mean() * 255
    else:
        assert (difference > 0.5).mean() < 0.02, difference.max()
        assert (difference > 1.5).mean() < 0.002, difference.max()


def mean_change(changed: Tensor, pixels: Tensor) -> float:
    return (changed - pixels).abs().mean().item()


def lost_likeness(changed: Tensor, pixels: Tensor) -> float:
    """One minus the correlation of pixels: unlike the mean change, it does not depend on brightness."""
    pairs = zip(changed.flatten(1), pixels.flatten(1), strict=True)
    return 1 - float(np.mean([torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in pairs]))


def lost_detail(changed: Tensor, pixels: Tensor) -> float:
    """One minus the ratio of the mean differences of neighbours."""
    after, before = (part.diff(dim=3).abs().mean() + part.diff(dim=2).abs().mean() for part in (changed, pixels))
    return 1 - (after / before).item()


MEASURES = {"frost": lost_likeness, "glass_blur": lost_detail}


def crops() -> Tensor:
    """Return twelve crops of 32 pixels of the photographs."""
    datasets = pytest.importorskip("sklearn.datasets")
    images = [torch.from_numpy(np.array(datasets.load_sample_image(n))) for n in ("flower.jpg", "china.jpg")]
    parts = [
        image[top : top + 210, left : left + 210] for image in images for top in (0, 210) for left in (0, 210, 420)
    ]
    small = F.interpolate(torch.stack(parts).movedim(-1, 1).float(), size=(32, 32), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255) / 255


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"elastic_transform"}))
def test_strength_grows(name: str, side: int) -> None:
    """The change grows with severity; within each kind where the published settings are of several kinds."""
    pixels = crops() if side == 32 else photographs(side, 1)
    for kind in KINDS[side].get(name, (SEVERITIES,)):
        change = [MEASURES.get(name, mean_change)(corrupt(pixels, name, severity), pixels) for severity in kind]
        assert all(low < high + 2e-4 for low, high in itertools.pairwise(change)), change
        assert change[0] < change[-1]


@pytest.mark.parametrize("side", [32, 224])
def test_strength_of_elastic_transform_grows(side: int) -> None:
    """The field that is added to an affine map is rougher at every severity, while that map moves points less.

    The field is read from ramps, images whose pixels are their own places; the affine map is fitted and taken away.
    """
    inner = slice(side // 4, side // 4 + side // 2)  # no border moves in here
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    ramps = torch.stack([x, y, x])[None].expand(6, -1, -1, -1)
    plane = torch.stack([x, y, torch.ones_like(x)], 2)[inner, inner].flatten(0, 1)
    rough = []
    for amount, sigma, shift in (SMALL if side == 32 else LARGE)["elastic_transform"]:
        draws = Draws(torch.arange(6), 0, "elastic_transform")
        found = digital.elastic_transform(ramps, draws, amount, sigma, shift)[:, :2, inner, inner].flatten(2)
        rest = (
            found.transpose(1, 2) - plane @ torch.linalg.lstsq(plane.expand(6, -1, -1), found.transpose(1, 2)).solution
        )
        grid = rest.transpose(1, 2).unflatten(2, (side // 2, side // 2))
        rough.append((grid[..., 1:] - grid[..., :-1]).abs().mean().item())
    assert all(low < high for low, high in itertools.pairwise(rough)), rough


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_do_not_depend_on_the_batch(name: str, channels: int, device: torch.device) -> None:
    """The result of an image depends on its row and the seed; shape and range are kept; other sides work."""
    pixels = torch.rand(3, channels, 20, 28, device=device)
    given = pixels.clone()
    whole = corrupt(pixels, name, 3, seed=7)
    assert whole.shape == pixels.shape and whole.min() >= 0 and whole.max() <= 1 and pixels.equal(given)
    part = corrupt(pixels[1:], name, 3, rows=torch.tensor([1, 2], device=device), seed=7)
    torch.testing.assert_close(part, whole[1:], atol=1.1 / 255, rtol=0)
    assert ((part - whole[1:]).abs() > 1e-6).float().mean() < 1e-3
    if "noise" in name:
        assert not corrupt(pixels, name, 3, seed=8).equal(whole)


def test_numbers_are_uniform_and_normal() -> None:
    draws = Draws(torch.arange(200), 0, "x")
    numbers = draws.uniform(1000)
    counts = torch.histc(numbers, 20, 0, 1) / 10_000
    assert numbers.min() > 0 and numbers.max() < 1 and (counts - 1).abs().max() < 0.05
    normal = draws.normal(1000)
    assert normal.mean().abs() < 0.01 and (normal.std() - 1).abs() < 0.01
    assert torch.corrcoef(numbers[:50]).fill_diagonal_(0).abs().max() < 0.2
    assert torch.corrcoef(numbers[:, :50].T).fill_diagonal_(0).abs().max() < 0.4


def test_names_and_errors() -> None:
    assert len(STANDARD) == 15 and len(FURTHER) == 4 and set(SMALL) == set(LARGE) == set(FUNCTIONS)
    with pytest.raises(ValueError, match="there is no corruption 'rain'"):
        corrupt(torch.zeros(1, 3, 8, 8), "rain", 1)
    with pytest.raises(ValueError, match="severity must be a whole number from 1 to 5"):
        corrupt(torch.zeros(1, 3, 8, 8), "fog", 6)
    with pytest.raises(ValueError, match="expected the same corruptions"):
        mean_corruption_error({"fog": 1.0}, {"snow": 1.0})
    with pytest.raises(ValueError, match="the baseline has no errors on fog"):
        mean_corruption_error({"fog": 1.0}, {"fog": 0.0})
