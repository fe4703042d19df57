"""Settings of AutoMix and SAMix, the feature maps they find, and their errors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from learned import Net, awake, grads, moved, terms_of
from mixwell import (
    AdAutoMix,
    BinaryCrossEntropy,
    Cosine,
    CrossEntropy,
    CutMix,
    Linear,
    Method,
    MixUp,
    OneOf,
    PixelShare,
    RatioShare,
    SemanticShare,
)
from mixwell.features.layers import channels_of, middle_layer
from mixwell.features.passes import MapHook
from mixwell.methods.automix import AutoMix
from mixwell.methods.samix import SAMix, SAMixPretrained
from mixwell.models import build
from steps import data


def test_truncated_pass_is_the_full_pass() -> None:
    network, x = Net().eval(), torch.randn(2, 3, 32, 32)
    ran: list[int] = []
    network.layer3.register_forward_hook(lambda *_: ran.append(1))
    hook = MapHook(network)
    assert hook.name == "layer2" and channels_of(network, "layer2") == 12
    short = hook.map(network, x)
    assert not ran
    with hook:
        network(x)
    assert ran and torch.equal(hook.taken(x), short)


def test_block_probability() -> None:
    method = awake(AutoMix(Net(), block_p=0.5))
    on = []
    for _ in range(40):
        out = method(*data(size=32))
        on.append("block_loss" in out)
        method.after_step(0.1)
    assert 8 < sum(on) < 32
    out["loss"].backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    assert "block_loss" not in AutoMix(Net(), block_p=0.0)(*data(size=32))


def test_heads() -> None:
    one = AutoMix(Net(), head="both", clean_weight=0.0)
    assert one.heads.layer is None and "clean_loss" not in one(*data(size=32))
    mixed = AutoMix(Net(), head="mixed")
    found = terms_of(mixed, *data(size=32))
    assert all(grads(found["mixed_loss"], mixed.model.fc)) and not any(grads(found["mixed_loss"], mixed.heads))


class LastLinearIsAnother(nn.Module):
    """A classifier behind which stands another linear layer."""

    def __init__(self, other: int) -> None:
        super().__init__()
        self.net, self.projector = Net(), nn.Linear(16, other)

    def forward(self, x: Tensor) -> Tensor:
        self.projector(torch.zeros(1, 16))
        return self.net(x)


@pytest.mark.parametrize("other", [7, 10])
def test_guessed_layer_is_verified(other: int) -> None:
    x, y = data(size=32)
    with pytest.raises(ValueError, match=r"'projector' .*classifier="):
        AutoMix(LastLinearIsAnother(other), layer="net.layer2")(x, y)
    AutoMix(LastLinearIsAnother(other), layer="net.layer2", classifier="net.fc")(x, y)["loss"].backward()
    if other != 10:
        AutoMix(LastLinearIsAnother(other), layer="net.layer2", num_classes=10)(x, y)["loss"].backward()


@pytest.mark.parametrize("kind", ["dict", "object"])
@pytest.mark.parametrize("make", [AutoMix, AdAutoMix, SAMixPretrained])
def test_outputs_of_hugging_face(make: type[Method], kind: str) -> None:
    class Wrapped(Net):
        def forward(self, x: Tensor) -> object:
            logits = super().forward(x)
            return {"logits": logits} if kind == "dict" else SimpleNamespace(logits=logits)

    make(Wrapped(), MixUp())(*data(size=32))["loss"].backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [AutoMix, SAMix, AdAutoMix])
def test_parts_follow_the_dtype_of_the_model(make: type[Method], dtype: torch.dtype) -> None:
    method = make(Net().to(dtype))
    assert {p.dtype for p in method.parameters()} == {dtype}
    images, labels = data(size=32)
    method(images.to(dtype), labels)["loss"].backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_schedules() -> None:
    """Any float setting takes a schedule; after_step moves it, and a restored method continues it."""
    method = AutoMix(
        Net(),
        MixUp(alpha=Linear(0.5, 2.0)),
        mask_weight=Cosine(0.1, 0.0),
        loss=CrossEntropy(smoothing=Linear(0.0, 0.2)),
    )
    assert (method.mask_weight, method.policy, method.loss) == (0.1, MixUp(alpha=0.5), CrossEntropy())
    method.after_step(0.5)
    assert method.mask_weight == pytest.approx(0.05) and method.policy == MixUp(alpha=1.25)
    assert method.loss == CrossEntropy(smoothing=0.1) == method.block_loss
    again = AutoMix(Net(), MixUp(alpha=Linear(0.5, 2.0)), mask_weight=Cosine(0.1, 0.0))
    again.load_state_dict(method.state_dict())
    assert again.mask_weight == pytest.approx(0.05) and again.progress == 0.5


def test_param_groups() -> None:
    method = AutoMix(Net(), block_group={"lr": 0.01, "momentum": 0.0})
    classifier, block = method.param_groups()
    assert (
        block["lr"] == 0.01
        and block["name"] == "block"
        and {id(p) for p in block["params"]} == {id(p) for p in method.block.parameters()}
    )
    assert {id(p) for p in classifier["params"]} == {
        id(p) for m in (method.model, method.heads) for p in m.parameters()
    }
    torch.optim.SGD(method.param_groups(), lr=0.1)
    decays = {(group.get("name"), group["weight_decay"], len(group["params"])) for group in method.param_groups(0.05)}
    assert decays == {(None, 0.05, 6), (None, 0.0, 6), ("block", 0.05, 2), ("block", 0.0, 2)}


@pytest.mark.parametrize(
    ("name", "layer", "size", "shape"),
    [
        ("resnet18", "layer3", 32, (256, 8, 8)),
        ("mini_resnet", "layer2", 32, (64, 16, 16)),
        ("timm/resnet18", "layer3", 64, (256, 4, 4)),
        ("timm/convnext_atto", "stages.2", 64, (160, 4, 4)),
        ("timm/vit_tiny_patch16_224", "blocks.5", 224, (192, 14, 14)),
        ("timm/swin_tiny_patch4_window7_224", "layers.2", 224, (384, 14, 14)),
    ],
)
def test_maps_of_networks(name: str, layer: str, size: int, shape: tuple[int, int, int]) -> None:
    pytest.importorskip("timm")
    network = build(name, 10).eval()
    assert middle_layer(network) == layer and channels_of(network, layer) == shape[0]
    with torch.no_grad():
        assert MapHook(network).map(network, torch.randn(1, 3, size, size)).shape == (1, *shape)


def test_block_loss() -> None:
    loss = BinaryCrossEntropy(classes="sum", negative_weight=0.5)
    method = awake(AutoMix(Net(), block_loss=loss))
    out = method(*data(size=32))
    out["loss"].backward()
    assert out["block_loss"] > 3 and any(moved(method)[f"block.{n}"] for n, _ in method.block.named_parameters())


def test_pretrained_learns_from_any_policy() -> None:
    x, y = data(size=32)
    for label in (RatioShare(), PixelShare(), SemanticShare()):
        method = SAMixPretrained(Net(), CutMix(), label=label)
        method(x, y)["loss"].backward()
        assert all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "layer9"}, "layer9"),
        ({"margin": 0.6}, "margin"),
        ({"buffers": "none"}, "keep, average, copy"),
        ({"block_p": 1.5}, "block_p"),
        ({"momentum": Linear(0.9, 1.1)}, "momentum"),
        ({"block_group": {"lr_min": 0.1}}, "block_lr_min"),
        ({"block_group": {"lr": -0.1}}, "lr=-0.1"),
        ({"num_classes": 7}, "num_classes"),
        ({"head": "first"}, "clean, mixed, both"),
        ({"clean_weight": 0.0}, 'head="both"'),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoMix(Net(), **settings)


def test_wrong_maps_and_policies() -> None:
    x, y = data(size=32)
    with pytest.raises(ValueError, match="Sequential"):
        AutoMix(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)))
    with pytest.raises(ValueError, match=r"'fc' outputs \(8, 10\)"):
        AutoMix(Net(), layer="fc", head="both")(x, y)
    with pytest.raises(ValueError, match=r"made for maps \(B, 5, h, w\)"):
        AutoMix(Net(), channels=5)(x, y)
    with pytest.raises(TypeError, match="policy must be an object such as CutMix"):
        AutoMix(Net(), CutMix)
    with pytest.raises(TypeError, match="block of AutoMix must be a PairAttention or None"):
        AutoMix(Net(), block=8)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        AutoMix("resnet18")


def test_any_two_source_policy_draws() -> None:
    x, y = data(size=32)
    for policy in (CutMix(), OneOf([MixUp(), CutMix()]), MixUp(scope="sample")):
        AutoMix(Net(), policy)(x, y)["loss"].backward()
