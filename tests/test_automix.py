"""AutoMix and SAMix: who learns from what, what the teacher does, and what a step is worth."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from learned import Net, awake, grads, moved, terms_of
from mixwell import Constant, Given, MixUp, Roll
from mixwell.methods.automix import AutoMix
from mixwell.methods.samix import SAMix
from mixwell.mixers.masklosses import published
from mixwell.mixers.mixblock import PairAttention
from mixwell.models import mini_resnet
from steps import data, joint_step, second_process


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


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch about images with a graph
def test_compiled_agrees() -> None:
    """With the classifier compiled in place, as the training program does, and with everything in one."""
    x, y = data(size=32)
    # Nothing random: a compiler may make draws anew in the backward pass, and then draws others.
    method = awake(AutoMix(Net(), MixUp(alpha=Constant(0.3), pairing=Roll())))
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


def test_compiled_once() -> None:
    """Steps after the first, with the teacher moved between them, use the graphs of the first."""
    torch.compiler.reset()
    method, graphs, counts = awake(AutoMix(Net())), [], []
    step = torch.compile(method, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    for k in range(3):
        step(*data(size=32))["loss"].backward()
        method.after_step(k / 3)
        counts.append(len(graphs))
    assert counts == [counts[0]] * 3
    torch.compiler.reset()


def test_two_processes(tmp_path: Path) -> None:
    """Without batch norm, two halves of a batch that mix within themselves give the gradient of the whole."""
    x, y = data(size=32)
    pairs = MixUp(alpha=Constant(0.3), pairing=Given([1, 0, 3, 2]))
    method = awake(AutoMix(Net(), pairs))
    torch.save((method, x, y), tmp_path / "batch.pt")
    with second_process(joint_step, 1, str(tmp_path)):
        found = joint_step(0, str(tmp_path))
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
    policy = MixUp(alpha=2.0, scope="sample")
    settings = PairAttention(lam_concat=True)
    method = AutoMix(Net(norm=True), policy, block=settings, mask_weight=1.0, momentum=0.9, block_group={"lr": 0.1})
    optimizer = torch.optim.AdamW(method.param_groups(), lr=1e-2)
    errors = []
    for step in range(80):
        out = method(x, y)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        method.after_step(step / 80)
        errors.append(float(out["area_error"]))
    assert (method.model(x).argmax(1) == y).float().mean() > 0.95
    assert sum(errors[-10:]) / 10 < 0.1 < errors[0], errors
    with torch.no_grad():
        maps = method.tap.map(method.teacher, x)
        areas = [float(method.block(maps, maps.roll(1, 0), lam, (16, 16)).mean()) for lam in (0.2, 0.5, 0.8)]
    assert areas == sorted(areas) and areas[2] - areas[0] > 0.3, areas
