"""Mixing tokens and maps of unlike architectures, and finding their stages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixwell import BatchPolicy, Constant, CutMix, FMix, MixUp, ResizeMix, models
from mixwell.methods.gates import grid_of, mix_features, stages_of
from mixwell.methods.hiddenmix import HiddenMix


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
    with pytest.raises(ValueError, match="77 tokens make no grid for images of 30 x 50"):
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


def test_stages() -> None:
    """In the order of their numbers; ours are found as timm's are."""
    assert stages_of(models.build("mini_resnet", 10))[:2] == ["layer1", "layer2"]
    many = nn.Module()
    for k in (10, 2, 1):
        many.add_module(f"stage{k}", nn.ReLU())
    assert stages_of(many) == ["stage1", "stage2", "stage10"]
    assert stages_of(nn.Linear(1, 1)) == []
