"""The 32-pixel networks against torchvision's, published sizes and the laws of their initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixwell import models

torchvision = pytest.importorskip("torchvision")


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_same_function_as_torchvision_with_a_small_stem(name):
    ours, theirs = models.build(name, 100), getattr(torchvision.models, name)(num_classes=100)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    ours.load_state_dict(theirs.state_dict())  # strict: the same names and shapes
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize(
    ("name", "classes", "size"),
    [
        ("resnet18", 100, 11_220_132),  # OpenMixup and weiaicunzai/pytorch-cifar100 state 11.2 M
        ("resnext50_32x4d", 100, 23_177_124),  # torchvision's 25,028,904 with 100 classes and the small stem
        ("wide_resnet28_8", 10, 23_354_842),  # 23.4 M in the paper's table 4
    ],
)
def test_published_size(name, classes, size):
    assert parameters(models.build(name, classes)) == size


@pytest.mark.parametrize("name", models.NAMES)
@pytest.mark.parametrize("chans", [1, 3])
def test_parts(name, chans):
    model = models.build(name, 7, in_chans=chans)
    images = torch.randn(2, chans, 8, 8)
    assert model.get_classifier() is model.fc
    assert model.forward_features(images).shape[:2] == (2, model.num_features)
    stages = [n for n, _ in model.named_children() if n.startswith("layer")]
    assert stages == [f"layer{i + 1}" for i in range(len(stages))] and len(stages) >= 3
    model(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    compiled = torch.compile(model.eval(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))


def test_kaiming_initialisation_keeps_the_scale():
    torch.manual_seed(0)
    model = models.resnet18(10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert 0.1 < model(torch.randn(32, 3, 32, 32)).std() < 10


def test_timm_by_name_and_wrong_names():
    pytest.importorskip("timm")
    assert models.build("timm/resnet10t", 5, in_chans=1)(torch.zeros(2, 1, 64, 64)).shape == (2, 5)
    with pytest.raises(ValueError, match="There is no model 'resnet19': did you mean resnet18"):
        models.build("resnet19", 5)
    with pytest.raises(ValueError, match="timm has no model 'resnet19': did you mean"):
        models.build("timm/resnet19", 5)


def test_settings_of_timm_models():
    pytest.importorskip("timm")
    model = models.build("timm/vit_tiny_patch16_224(img_size=32, depth=2, drop_path_rate=0.5)", 5)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5) and len(model.blocks) == 2
    assert model.blocks[1].drop_path1.drop_prob == 0.5
    for text, sentence in [
        ("convnext_tiny", r"There is no model 'convnext_tiny': did you mean timm/convnext_tiny\?"),
        ("timm/resnet18(checkpoint_path='weights.pth')", "timm/resnet18 does not take checkpoint_path, which reads a"),
        ("timm/resnet18(pretrained=True)", "timm/resnet18 does not take pretrained"),
        ("timm/resnet18(depth=3)", "timm cannot create resnet18 with {'depth': 3}: .*unexpected"),
        ("timm/resnet18(__import__('os'))", "Expected timm/NAME"),
        ("timm/resnet18(a=__import__('os'))", "Expected timm/NAME"),
        ("timm/resnet18(a=1", "Expected timm/NAME"),
        ("timm/resnet18(a=1)(b=2)", "Expected timm/NAME"),
        ("timm/resnet18().fc", "Expected timm/NAME"),
        ("timm/resnet19(a=1)", "timm has no model 'resnet19': did you mean"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            models.build(text, 5)
