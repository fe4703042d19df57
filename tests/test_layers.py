"""Finding stages and the last map in models of unlike make, wrapped or not, and mixing all that goes by there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mixwell import Constant, CutMix, MixUp, Roll, models
from mixwell.features.layers import last_map, middle_layer, stages_of
from mixwell.features.passes import FeatureHook
from mixwell.methods.alignmix import AlignMix
from mixwell.methods.hiddenmix import HiddenMix
from steps import process_group


class Block(nn.Module):
    """A residual block, inside which a convolution is no map of the whole."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.around = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.around(x) + self.conv(x).relu()


class Net(nn.Module):
    """Two stages and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2)
        self.layer1, self.layer2 = Block(4), Block(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


class Wrapped(nn.Module):
    """A model in a model."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x) * self.scale


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


WRAPPERS: list[tuple[Callable[[nn.Module], nn.Module], str]] = [
    (lambda model: model, ""),
    (Wrapped, "backbone."),
    (nn.DataParallel, ""),
    (compiled, ""),
    (lambda model: Wrapped(compiled(model)), "backbone._orig_mod."),
    (lambda model: nn.Sequential(nn.BatchNorm2d(3), model), "1."),
]


def mixes_all(model: nn.Module, size: int, layer: str | None = None) -> str:
    """Align at lam = 0, which must show the model the partner alone; return the layer."""
    method = AlignMix(model.eval(), MixUp(alpha=Constant(0.0), pairing=Roll()), p=1.0, layer=layer)
    images, labels = torch.randn(2, 3, size, size), torch.arange(2)
    with torch.no_grad():
        plain = model(images)
        plan = method.policy.draw(images, labels)
        with method.hook.changed(method.alignment(plan, torch.tensor([True]))):
            mixed = model(images)
    assert (plain[0] - plain[1]).abs().max() > 1e-4  # or nothing could be told
    torch.testing.assert_close(mixed, plain.flip(0), rtol=1e-3, atol=1e-4 * float(plain.abs().max()))
    return method.hook.name


@pytest.mark.parametrize(("wrap", "prefix"), WRAPPERS)
def test_wrapped_models(wrap: Callable[[nn.Module], nn.Module], prefix: str) -> None:
    """However a model is wrapped, its stages are found and all that goes by there is mixed."""
    torch.compiler.reset()
    model = wrap(Net())
    assert stages_of(model) == [f"{prefix}layer1", f"{prefix}layer2"]
    assert mixes_all(model, 16) == f"{prefix}layer2"
    method = HiddenMix(model, CutMix(alpha=Constant(0.5)))
    assert method.layers == ("input", f"{prefix}layer1")
    for _ in range(4):
        assert method(torch.rand(2, 3, 16, 16), torch.arange(2))["loss"].isfinite()
    torch.compiler.reset()


def test_distributed(tmp_path) -> None:
    """The same inside DistributedDataParallel, gradients included."""
    with process_group(str(tmp_path / "meet"), 0, 1):
        model = nn.parallel.DistributedDataParallel(Net())
        assert mixes_all(model, 16) == "layer2"
        method = HiddenMix(model.train(), layers=("layer1",))
        method(torch.rand(2, 3, 16, 16), torch.arange(2))["loss"].backward()
        assert all(p.grad is not None for p in model.parameters())


def test_names_inside_and_outside_a_wrapper() -> None:
    """Names are those of the model inside; those of the wrapper do as well."""
    model = nn.DataParallel(Net())
    assert FeatureHook(model, "layer1").name == "layer1" and FeatureHook(model, "module.layer1").name == "module.layer1"
    with pytest.raises(ValueError, match="no module 'layer3'"):
        FeatureHook(model, "layer3")


@pytest.mark.parametrize(
    ("name", "size", "wrapped", "expected"),
    [
        ("resnet10t", 64, True, "backbone.layer4"),
        ("densenet121", 64, False, "features.norm5"),
        ("regnetx_002", 64, True, "backbone.s4"),
        ("vgg11", 64, False, "features.20"),
        ("vit_tiny_patch16_224", 224, False, "blocks.11"),
    ],
)
def test_timm_models(name: str, size: int, wrapped: bool, expected: str) -> None:
    """A timm model says where its last map is, where it has no stages."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model(name, num_classes=5)
    for linear in (m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 5):
        nn.init.normal_(linear.weight)
    assert mixes_all(Wrapped(model) if wrapped else model, size) == expected


def test_torchvision_models() -> None:
    """Blocks of a transformer are found in its encoder; where there are no stages a layer must be named."""
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    vit = torchvision.models.VisionTransformer(32, 8, 3, 4, 16, 32, num_classes=5)
    nn.init.normal_(vit.heads.head.weight)
    assert mixes_all(vit, 32) == "encoder.layers.encoder_layer_2"
    swin = torchvision.models.swin_t(num_classes=5)
    with pytest.raises(ValueError, match=r"last feature map of SwinTransformer: name a layer"):
        AlignMix(swin)
    assert mixes_all(swin, 64, layer="features.7") == "features.7"


def test_last_maps() -> None:
    """The last stage, or the last part of a plain sequence that has a convolution; never one inside a block."""
    assert last_map(models.build("mini_resnet", 10)).startswith("layer")
    assert last_map(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten())) == "1"
    residual = nn.Sequential(nn.Conv2d(3, 4, 3), Block(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    assert mixes_all(residual, 16) == "1"
    with pytest.raises(ValueError, match="Could not infer the last feature map of Linear: name a layer"):
        AlignMix(nn.Linear(12, 5))
    with pytest.raises(ValueError, match="feature map of Block"):
        AlignMix(Block(3))
    assert last_map(Block(3), bypassed=True) == "around" and last_map(nn.DataParallel(Net())) == "layer2"


def test_two_models_in_one() -> None:
    """Where two parts have stages, none is taken."""
    both = nn.ModuleDict({"left": Net(), "right": Net()})
    assert stages_of(both) == []
    with pytest.raises(ValueError, match="feature map of ModuleDict"):
        last_map(both)


def test_stages() -> None:
    """In the order of their numbers; ours are found as timm's are."""
    assert stages_of(models.build("mini_resnet", 10))[:2] == ["layer1", "layer2"]
    many = nn.Module()
    for k in (10, 2, 1):
        many.add_module(f"stage{k}", nn.ReLU())
    assert stages_of(many) == ["stage1", "stage2", "stage10"]
    assert stages_of(nn.Linear(1, 1)) == []


def test_middle_layer() -> None:
    """The middle block of a transformer, wrapped too, and the last stage but one of anything else."""
    blocks = nn.Module()
    blocks.blocks = nn.Sequential(*(nn.ReLU() for _ in range(4)))
    assert middle_layer(blocks) == "blocks.1" and middle_layer(nn.DataParallel(blocks)) == "blocks.1"
    assert middle_layer(nn.Sequential(blocks)) == "0.blocks.1"
    encoder = nn.Module()
    encoder.layers = nn.ModuleList(nn.ReLU() for _ in range(12))
    assert middle_layer(nn.Sequential(encoder)) == "0.layers.5" and middle_layer(Net()) == "layer1"
