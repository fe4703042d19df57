"""AutoMix and SAMix: who learns from what, what the teacher does, and what a step is worth."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell import BlendPlan, Constant, CutMix, Given, MixUp, OneOf, Roll
from mixwell.methods.automix import AutoMix
from mixwell.methods.encoder import MapTap, channels_of, middle_layer
from mixwell.methods.masklosses import published
from mixwell.methods.mixblock import PairAttention
from mixwell.methods.momentum import Cosine
from mixwell.methods.samix import SAMix, SAMixPretrained
from mixwell.models import build, mini_resnet
from steps import data, joint_step


class Net(nn.Module):
    """Three stages, of which the second is tapped."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8) if norm else nn.Identity())
        self.layer2 = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1))
        self.layer3 = nn.Sequential(
            nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1), nn.BatchNorm2d(16) if norm else nn.Identity()
        )
        self.drop, self.fc = nn.Dropout(0.0), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.layer3(self.layer2(self.layer1(self.stem(x)))).relu().mean((2, 3))))


def awake(method: AutoMix) -> AutoMix:
    """Give the block weights with which masks differ from a half."""
    with torch.no_grad():
        for parameter in method.block.parameters():
            parameter.normal_(std=0.3)
    return method


def moved(method: AutoMix) -> dict[str, bool]:
    """Tell which parameters have a gradient."""
    return {n: p.grad is not None and bool(p.grad.any()) for n, p in method.named_parameters()}


def terms_of(method: AutoMix, *batch: Tensor) -> dict[str, Tensor]:
    """Return the losses of a step with their graphs."""
    found: dict[str, Tensor] = {}
    keep = method.safe
    method.safe = lambda terms: keep(found.setdefault("all", terms) and terms)  # type: ignore[method-assign]
    method(*batch)
    return found["all"]  # type: ignore[return-value]


def grads(loss: Tensor, module: nn.Module) -> list[bool]:
    """Tell which trainable parameters a loss reaches."""
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained or not loss.requires_grad:
        return [False] * len(trained)
    return [
        g is not None and bool(g.any())
        for g in torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
    ]


@pytest.mark.parametrize("make", [AutoMix, SAMix])
def test_gradient_claims(make: type[AutoMix]) -> None:
    method = awake(make(Net(), MixUp(alpha=Constant(0.4))))
    terms = terms_of(method, *data(size=32))
    learnt = terms["mixed_loss"] + terms["clean_loss"]
    taught = terms["generator_loss"] + terms["area_loss"]
    assert not any(grads(learnt, method.block)) and all(grads(learnt, method.student))
    assert not any(grads(taught, method.student)) and not any(grads(taught, method.second))
    assert any(grads(terms["generator_loss"], method.block)), "the gradient passes through the teacher"
    terms["loss"].backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is None for p in method.teacher_second.parameters())
    assert all(moved(method)[f"block.{n}"] for n, _ in method.block.named_parameters() if "value.bias" not in n)


def test_step_moves_block_and_not_teacher() -> None:
    method = awake(AutoMix(Net(), momentum=0.9))
    optimizer = torch.optim.SGD(method.param_groups(), lr=0.1)
    before = copy.deepcopy(method.state_dict())
    method(*data(size=32))["loss"].backward()
    optimizer.step()
    after = method.state_dict()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert any(n.startswith("block.") for n in changed) and any(n.startswith("model.") for n in changed)
    assert not any(n.startswith(("other.", "teacher_second.")) for n in changed)
    method.after_step(0.1)
    for name, parameter in method.teacher.named_parameters():
        torch.testing.assert_close(parameter, 0.9 * before[f"other.{name}"] + 0.1 * after[f"model.{name}"])
    torch.testing.assert_close(
        method.teacher_second.layer.weight,
        0.9 * before["teacher_second.layer.weight"] + 0.1 * after["second.layer.weight"],
    )


def test_step_by_hand() -> None:
    """The whole step again, in plain words."""
    method = awake(AutoMix(Net(), MixUp(alpha=Constant(0.3), pairing=Roll()), head="both", mask_loss=published("L1")))
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.mul_(1.1)
    x, y = data(size=32)
    net, teacher, partner = method.model, method.teacher, torch.arange(8).roll(1)
    maps = teacher.layer2(teacher.layer1(teacher.stem(x)))
    share = method.block(maps, maps[partner], 0.3, (32, 32))
    mixed = share * x + (1 - share) * x[partner]

    def cost(logits: Tensor) -> Tensor:
        return 0.3 * F.cross_entropy(logits, y) + 0.7 * F.cross_entropy(logits, y[partner])

    area = ((share.mean() - 0.3).abs() - 0.1).clamp_min(0)
    expected = cost(net(mixed.detach())) + F.cross_entropy(net(x), y) + cost(teacher(mixed)) + 0.1 * area
    trained = [p for p in method.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(expected, trained)
    got = method(x, y)["loss"]
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, trained), wanted, rtol=1e-4, atol=1e-6)


def test_margin_is_plain_mixup() -> None:
    seen: list[Tensor] = []
    for lam, even in ((0.05, True), (0.5, False)):
        method = awake(AutoMix(Net(), MixUp(alpha=Constant(lam), pairing=Roll())))
        method.student.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        x, y = data(size=32)
        method(x, y)
        plain = lam * x + (1 - lam) * x.roll(1, 0)
        assert torch.allclose(seen[-1], plain, atol=1e-5) is even


def test_labels_follow_the_area() -> None:
    policy = MixUp(alpha=Constant(0.5), pairing=Roll())
    x, y = data(size=32)
    for label in ("nominal", "area"):
        method = awake(AutoMix(Net(), policy, label=label, head="both"))
        maps = method.tap.map(method.teacher, x)
        share = method.block(maps, maps.roll(1, 0), 0.5, (32, 32)).mean((1, 2, 3))
        weight = share if label == "area" else torch.full((8,), 0.5)
        logits = (out := method(x, y))["output"]
        each = [F.cross_entropy(logits, target, reduction="none") for target in (y, y.roll(1))]
        torch.testing.assert_close(out["mixed_loss"], (weight * each[0] + (1 - weight) * each[1]).mean().detach())


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


@pytest.mark.parametrize("buffers", ["keep", "average", "copy"])
def test_teacher_statistics(buffers: str) -> None:
    method = AutoMix(Net(norm=True), buffers=buffers, momentum=0.5)
    start = {n: b.clone() for n, b in method.teacher.named_buffers() if "running" in n}
    method(*data(size=32))["loss"].backward()
    own = dict(method.teacher.named_buffers())
    assert all(torch.equal(own[n], start[n]) is (buffers != "keep") for n in start)
    kept = {n: own[n].clone() for n in start}
    method.after_step(0.5)
    theirs = dict(method.student.named_buffers())
    for name in start:
        expected = {"keep": kept[name], "copy": theirs[name], "average": (start[name] + theirs[name]) / 2}[buffers]
        torch.testing.assert_close(own[name], expected)


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


def test_step_that_is_no_number_is_skipped(device: torch.device) -> None:
    method = awake(AutoMix(Net())).to(device)
    x, y = (t.to(device) for t in data(size=32))
    method(x, y)["loss"].backward()
    method.zero_grad()
    poisoned = x.clone()
    poisoned[0] = math.inf
    out = method(poisoned, y)
    assert out["skipped"] == 1 and out["loss"] == 0
    out["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())
    other = copy.deepcopy(method)
    other(poisoned, y)["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in other.parameters()), "copies are guarded too"
    method(x, y)["loss"].backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)


def test_bfloat16_is_stable() -> None:
    method = awake(SAMix(mini_resnet(10)))
    optimizer = torch.optim.SGD(method.param_groups(), lr=0.05, momentum=0.9)
    x, y = data(size=32)
    for step in range(5):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = method(x, y)
        assert out["loss"].isfinite() and not out["skipped"]
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        method.after_step(step / 5)
    assert all(p.isfinite().all() for p in method.parameters())


def test_compiled_agrees() -> None:
    """With the classifier compiled in place, as the training program does, and with everything in one."""
    x, y = data(size=32)
    method = awake(AutoMix(Net()))
    others = [copy.deepcopy(method) for _ in range(2)]
    others[0].student.compile(backend="aot_eager")
    others[0].teacher.compile(backend="aot_eager")
    others[1].compile(backend="aot_eager")
    expected = None
    for candidate in (method, *others):
        torch.manual_seed(3)
        out = candidate(x, y)
        out["loss"].backward()
        found = [out["loss"].detach(), *(p.grad for p in candidate.parameters() if p.requires_grad)]
        expected = expected or found
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


def test_two_processes(tmp_path: Path) -> None:
    """Without batch norm, two halves of a batch that mix within themselves give the gradient of the whole."""
    x, y = data(size=32)
    pairs = MixUp(alpha=Constant(0.3), pairing=Given([1, 0, 3, 2]))
    method = awake(AutoMix(Net(), pairs))
    torch.save((method, x, y), tmp_path / "batch.pt")
    context = torch.multiprocessing.spawn(joint_step, (str(tmp_path), 1), nprocs=1, join=False)
    found = joint_step(0, str(tmp_path), 0)
    context.join()
    whole = copy.deepcopy(method)
    whole.policy = MixUp(alpha=Constant(0.3), pairing=Given([1, 0, 3, 2, 5, 4, 7, 6]))
    whole(x, y)["loss"].backward()
    for name, parameter in whole.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_learns() -> None:
    """On 64 images the student learns them by heart, and masks grow with the ratio that is wanted."""
    torch.manual_seed(1)
    x, y = torch.randn(64, 3, 16, 16), torch.randint(10, (64,))
    method = AutoMix(Net(norm=True), block=PairAttention(lam_concat=True), mask_weight=1.0, momentum=0.9)
    optimizer = torch.optim.AdamW(method.param_groups(), lr=1e-2)
    for step in range(150):
        out = method(x, y)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        method.after_step(step / 150)
    with torch.no_grad():
        assert (method.model(x).argmax(1) == y).float().mean() > 0.95
        maps = method.tap.map(method.teacher, x)
        for lam in (0.2, 0.5, 0.8):
            area = method.block(maps, maps.roll(1, 0), lam, (16, 16)).mean((1, 2, 3))
            assert (area - lam).abs().mean() < 0.15, lam


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
    with pytest.raises(TypeError, match="block must be settings"):
        AutoMix(Net(), block=8)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        AutoMix("resnet18")


def test_any_two_source_policy_draws() -> None:
    x, y = data(size=32)
    for policy in (CutMix(), OneOf([MixUp(), CutMix()]), MixUp(scope="sample")):
        AutoMix(Net(), policy)(x, y)["loss"].backward()
    assert isinstance(AutoMix(Net()).policy.draw(x, y), BlendPlan)
