"""What AutoMix and SAMix can be told, which maps they find, and how they complain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from learned import Net, awake, grads, moved, terms_of
from mixwell import BlendPlan, CutMix, MixUp, OneOf
from mixwell.features.maps import MapTap, channels_of, middle_layer
from mixwell.methods.automix import AutoMix
from mixwell.methods.samix import SAMixPretrained
from mixwell.mixers.teacher import Cosine
from mixwell.models import build
from steps import data


def test_truncated_pass_is_the_full_pass() -> None:
    network, x = Net().eval(), torch.randn(2, 3, 32, 32)
    ran: list[int] = []
    network.layer3.register_forward_hook(lambda *_: ran.append(1))
    tap = MapTap(network)
    assert tap.name == "layer2" and channels_of(network, "layer2") == 12
    short = tap.map(network, x)
    assert not ran
    network(x)
    assert ran and torch.equal(tap.taken(x), short)


def test_generator_switches() -> None:
    method = awake(AutoMix(Net(), generator_every=2))
    on = []
    for step in range(4):
        out = method(*data(size=32))
        out["loss"].backward()
        on.append("generator_loss" in out)
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
        method.after_step(step / 4)
    assert on == [True, False, True, False]
    method = AutoMix(Net(), switch_off=0.8)
    assert 0.6 < sum(method.generator_on() for _ in range(300)) / 300 < 0.95
    assert AutoMix(Net(), switch_off=1.0).generator_on() and AutoMix(Net()).generator_on()


def test_ship_and_heads() -> None:
    net = Net()
    method = AutoMix(net, ship="teacher")
    assert method.student is net and method.model is method.teacher and method.model is not net
    trained = {id(p) for group in method.param_groups() for p in group["params"]}
    assert {id(p) for p in net.parameters()} <= trained and not {id(p) for p in method.model.parameters()} & trained
    method(*data(size=32))["loss"].backward()
    one = AutoMix(Net(), head="both", clean_weight=0.0)
    assert one.second is None and "clean_loss" not in one(*data(size=32))
    mixed = AutoMix(Net(), head="mixed")
    found = terms_of(mixed, *data(size=32))
    assert all(grads(found["mixed_loss"], mixed.model.fc)) and not any(grads(found["mixed_loss"], mixed.second))


def test_param_groups() -> None:
    method = AutoMix(Net(), block_group={"lr": 0.01, "momentum": 0.0})
    student, block = method.param_groups()
    assert block["lr"] == 0.01 and {id(p) for p in block["params"]} == {id(p) for p in method.block.parameters()}
    assert {id(p) for p in student["params"]} == {id(p) for m in (method.model, method.second) for p in m.parameters()}
    torch.optim.SGD(method.param_groups(), lr=0.1)


def test_progress_survives_a_break() -> None:
    method = AutoMix(Net(), mask_weight=Cosine(0.1, 0.0))
    method(*data(size=32))
    for step in range(3):
        method.after_step((step + 1) / 10)
    again = AutoMix(Net())
    again.load_state_dict(method.state_dict())
    assert (again.progress, again.steps) == (0.3, 3)
    assert all(isinstance(value, Tensor) for value in method.state_dict().values())


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
        assert MapTap(network).map(network, torch.randn(1, 3, size, size)).shape == (1, *shape)


def test_teacher_dropout() -> None:
    awake_, still = AutoMix(Net()).train(), AutoMix(Net(), teacher_dropout=False).train()
    assert awake_.teacher.drop.training and not still.teacher.drop.training and still.student.drop.training


def test_bce_generator() -> None:
    method = awake(AutoMix(Net(), generator_loss="bce"))
    out = method(*data(size=32))
    out["loss"].backward()
    assert out["generator_loss"] > 0 and any(moved(method)[f"block.{n}"] for n, _ in method.block.named_parameters())


def test_pretrained_learns_from_any_policy() -> None:
    x, y = data(size=32)
    for label in ("nominal", "area"):
        method = SAMixPretrained(Net(), CutMix(), label=label)
        method(x, y)["loss"].backward()
        assert all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "layer9"}, "layer9"),
        ({"margin": 0.6}, "margin"),
        ({"label": "mask"}, "nominal, area"),
        ({"buffers": "none"}, "keep, average, copy"),
        ({"ship": "both"}, "student, teacher"),
        ({"generator_every": 0}, "at least 1"),
        ({"generator_loss": "mse"}, "ce or bce"),
        ({"head": "first"}, "clean, mixed, both"),
        ({"clean_weight": 0.0}, 'head="both"'),
        ({"smoothing": 1.0}, "smoothing"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoMix(Net(), **settings)


def test_wrong_maps_and_policies() -> None:
    x, y = data(size=32)
    with pytest.raises(ValueError, match="stages of Sequential cannot be told"):
        AutoMix(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)))
    with pytest.raises(ValueError, match=r"'fc' puts out \(8, 10\)"):
        AutoMix(Net(), layer="fc", head="both")(x, y)
    with pytest.raises(ValueError, match=r"made for maps \(B, 5, h, w\)"):
        AutoMix(Net(), channels=5)(x, y)
    with pytest.raises(TypeError, match="policy must be an object"):
        AutoMix(Net(), CutMix)
    with pytest.raises(TypeError, match="block of AutoMix must be a PairAttention"):
        AutoMix(Net(), block=8)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        AutoMix("resnet18")


def test_any_two_source_policy_draws() -> None:
    x, y = data(size=32)
    for policy in (CutMix(), OneOf([MixUp(), CutMix()]), MixUp(scope="sample")):
        AutoMix(Net(), policy)(x, y)["loss"].backward()
    assert isinstance(AutoMix(Net()).policy.draw(x, y), BlendPlan)
