"""Mixing tokens and maps of unlike architectures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixwell import BatchPolicy, Constant, CutMix, Derangement, FMix, MixUp, OneOf, PuzzleMix, ResizeMix
from mixwell.features.mixing import channels_come_last, grid_of, mix_features
from mixwell.methods.hiddenmix import HiddenMix

PUZZLES = [
    PuzzleMix(alpha=Constant(0.5), blocks=8, pairing=Derangement()),
    OneOf([PuzzleMix(alpha=Constant(0.5), blocks=8), CutMix()], scope="sample", pairing=Derangement()),
]


def test_weights_follow_the_features(device: torch.device) -> None:
    """The mean share of the places is the label weight, for any policy that moves no pixels."""
    images, labels = torch.rand(6, 3, 16, 16, device=device), torch.arange(6, device=device)
    for policy in (CutMix(scope="sample"), FMix(scope="sample", soft=0.1), MixUp(), CutMix(box="inside")):
        plan = policy.draw(images, labels)
        mine = torch.zeros(6, 6, 4, 4, device=images.device)
        mine[range(6), range(6)] = 1  # channel i is image i
        mixed = mix_features(plan, mine)
        found = torch.zeros(6, 6, device=images.device)
        for k in range(2):
            found.scatter_add_(1, plan.sources[:, k, None], plan.weights[:, k, None])
        assert mixed.mean((2, 3)).allclose(found, atol=1e-5)


@pytest.mark.parametrize("loose", [0, 1, 5])
@pytest.mark.parametrize("policy", [MixUp(scope="sample"), CutMix(scope="sample"), ResizeMix()], ids=repr)
def test_tokens(policy: BatchPolicy, loose: int, device: torch.device) -> None:
    """Tokens are mixed as the map that they are; what lies in no grid is blended by the label weights."""
    images = torch.rand(4, 3, 16, 32, device=device)
    plan = policy.draw(images, torch.arange(4, device=device))
    maps, extra = torch.rand(4, 5, 4, 8, device=device), torch.rand(4, loose, 5, device=device)
    mixed = mix_features(plan, torch.cat((extra, maps.flatten(2).transpose(1, 2)), 1))
    expected = mix_features(plan, maps).flatten(2).transpose(1, 2)
    assert mixed[:, loose:].allclose(expected, atol=1e-6)
    blended = sum(plan.weights[:, k, None, None] * extra[plan.sources[:, k]] for k in range(2))
    assert mixed[:, :loose].allclose(blended, atol=1e-6)
    last = mix_features(plan, maps.permute(0, 2, 3, 1))
    assert last.permute(0, 3, 1, 2).allclose(mix_features(plan, maps), atol=1e-6)


def test_grids() -> None:
    """The largest grid of the right proportions; too many left over is no grid."""
    assert grid_of(4, (8, 8)) == (2, 2) and grid_of(261, (224, 224)) == (16, 16) and grid_of(32, (16, 32)) == (4, 8)
    with pytest.raises(ValueError, match="77 tokens do not form a grid for images of 30 x 50"):
        grid_of(77, (30, 50))


@pytest.mark.parametrize(
    ("name", "size"),
    [("vit_tiny_patch16_224", 224), ("convnext_atto", 64), ("resnet10t", 64), ("swin_tiny_patch4_window7_224", 224)],
)
def test_timm_models(name: str, size: int) -> None:
    """Stages are found in unlike architectures, and cutting works in each."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model(name, num_classes=5)
    method = HiddenMix(model, CutMix(alpha=Constant(0.4), box="inside"), layers=HiddenMix(model).layers[1:])
    assert len(method.layers) == 2
    with torch.no_grad():
        assert method(torch.rand(2, 3, size, size), torch.arange(2))["loss"].isfinite()


@pytest.mark.parametrize("policy", PUZZLES, ids=repr)
def test_cells_that_cannot_move_stay(policy: BatchPolicy) -> None:
    """A map with too few places for the cells of PuzzleMix is mixed by the shares, any other as an image is."""
    images, saliency = torch.rand(4, 3, 32, 32), torch.rand(4, 32, 32)
    plan = policy.draw(images, torch.arange(4), saliency=saliency)
    coarse, fine = torch.rand(4, 5, 4, 4), torch.rand(4, 5, 16, 16)
    share = F.adaptive_avg_pool2d(plan.share((32, 32)), 4)
    expected = sum(share[:, k, None] * coarse[plan.sources[:, k]] for k in range(2))
    assert mix_features(plan, coarse).allclose(expected, atol=1e-6)
    assert mix_features(plan, fine).equal(plan.apply(fine)) and not mix_features(plan, fine).equal(fine)
    assert mix_features(plan, coarse).mean((2, 3)).isfinite().all()


def test_puzzlemix_at_every_layer() -> None:
    """Whatever grid is drawn, training goes on."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 4, 2, 2), nn.Flatten(), nn.Linear(16, 4))
    method = HiddenMix(model, PuzzleMix(), layers=("input", "0", "1"))
    for _ in range(20):
        assert method(torch.rand(2, 3, 16, 16), torch.arange(2))["loss"].isfinite()


@pytest.mark.parametrize(
    ("shape", "size", "last"),
    [
        ((2, 7, 10, 768), (224, 300), True),  # Swin at 224 x 300, which pads
        ((2, 768, 7, 10), (224, 300), False),
        ((2, 10, 7, 96), (300, 224), True),
        ((2, 56, 75, 96), (224, 300), True),
        ((2, 7, 7, 8), (224, 224), True),
        ((2, 8, 7, 7), (224, 224), False),
        ((2, 8, 8, 8), (64, 64), False),
    ],
)
def test_where_channels_are(shape: tuple[int, ...], size: tuple[int, int], last: bool) -> None:
    """Told by the images' proportions, exactly or up to a place where a network pads."""
    assert channels_come_last(torch.zeros(shape), size) is last


def test_padded_maps() -> None:
    """A map of a network that pads is mixed place by place, whichever way its channels lie."""
    plan = CutMix(alpha=Constant(0.4)).draw(torch.rand(2, 3, 224, 300), torch.arange(2))
    maps = torch.rand(2, 64, 7, 10)
    mixed = mix_features(plan, maps)
    assert mix_features(plan, maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).equal(mixed)
    share = F.adaptive_avg_pool2d(plan.share((224, 300)), (7, 10))
    assert mixed.allclose(sum(share[:, k, None] * maps[plan.sources[:, k]] for k in range(2)), atol=1e-6)
