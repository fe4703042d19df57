"""AutoMix and SAMix: the step against plain loops, which loss trains what, and the teacher."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learned import Net, awake, grads, moved, terms_of
from mixwell import (
    BinaryCrossEntropy,
    Constant,
    CrossEntropy,
    Given,
    MixedBatch,
    MixUp,
    PixelShare,
    RatioShare,
    Roll,
    SemanticShare,
)
from mixwell.methods.automix import AutoMix
from mixwell.methods.samix import SAMix
from mixwell.mixers.mixblock import PairAttention
from mixwell.models import mini_resnet
from steps import data, joint_step, second_process


@pytest.mark.parametrize("make", [AutoMix, SAMix])
def test_gradient_claims(make: type[AutoMix]) -> None:
    method = awake(make(Net(), MixUp(alpha=Constant(0.4))))
    terms = terms_of(method, *data(size=32))
    learnt = terms["mixed_loss"] + terms["clean_loss"]
    taught = terms["block_loss"] + terms["mask_loss"]
    assert not any(grads(learnt, method.block)) and all(grads(learnt, method.model))
    assert not any(grads(taught, method.model)) and not any(grads(taught, method.heads))
    assert any(grads(terms["block_loss"], method.block)), "the gradient passes through the teacher"
    terms["loss"].backward()
    assert all(p.grad is None for p in method.teacher.parameters())
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
    assert not any(n.startswith("teacher.") for n in changed)
    method.after_step(0.1)
    for name, parameter in method.teacher.named_parameters():
        torch.testing.assert_close(parameter, 0.9 * before[f"teacher.{name}"] + 0.1 * after[name])


LABELS = {
    "ratio": RatioShare(),
    "pixel": PixelShare(),
    "semantic": SemanticShare(),
}
LOSSES = {"ce": CrossEntropy(smoothing=0.1), "bce": BinaryCrossEntropy()}


def label_weights(
    name: str, share: Tensor, lam: float, logits: Tensor, clean: Tensor, rows: Tensor, partner: Tensor
) -> Tensor:
    """Return the anchor's weight ``(B,)`` of a label policy, from its published formula."""
    if name == "ratio":
        return torch.full((len(share),), lam)
    area = share.mean((1, 2, 3)).detach()
    if name == "pixel":
        return area
    mixed, seen = logits.detach().softmax(1), clean.detach().softmax(1)
    own, other = ((mixed - seen[source]).norm(dim=1) for source in (rows, partner))
    return torch.sigmoid(torch.logit(area) + 0.5 * (other - own))  # kappa is 0.5


def loss_by_hand(name: str, logits: Tensor, own: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Return the loss of dense targets that are built here."""
    target = weight[:, None] * F.one_hot(own, 10) + (1 - weight[:, None]) * F.one_hot(other, 10)
    if name == "ce":
        return F.cross_entropy(logits, 0.9 * target + 0.01)
    return F.binary_cross_entropy_with_logits(logits, target)


@pytest.mark.parametrize("head", ["clean", "both"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("make", [AutoMix, SAMix])
def test_step_by_hand(make: type[AutoMix], label: str, loss: str, head: str) -> None:
    """The whole step once more, as a plain loop."""
    lam, policy = 0.3, MixUp(alpha=Constant(0.3), pairing=Roll())
    method = awake(make(Net(), policy, head=head, label=LABELS[label], loss=LOSSES[loss]))
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.mul_(1.1)
    x, y = data(size=32)
    rows, partner = torch.arange(8), torch.arange(8).roll(1)

    def logits_by_hand(network: Net, last: nn.Module, images: Tensor) -> Tensor:
        return last(network.layer3(network.layer2(network.layer1(network.stem(images)))).relu().mean((2, 3)))

    net, teacher = method.model, method.teacher.model
    lasts = [m.fc if head == "both" else h.layer for m, h in ((net, method.heads), (teacher, method.teacher.heads))]
    maps = teacher.layer2(teacher.layer1(teacher.stem(x)))
    with torch.random.fork_rng():
        share = method.block(maps, maps[partner], lam, (32, 32))
        fixed = method.block(maps, maps[partner], lam, (32, 32)).detach()
    mixed, mixed_fixed = (m * x + (1 - m) * x[partner] for m in (share, fixed))
    clean, teacher_clean = logits_by_hand(net, net.fc, x), logits_by_hand(teacher, lasts[1], x)
    own, seen = logits_by_hand(net, lasts[0], mixed_fixed), logits_by_hand(teacher, lasts[1], mixed)
    own_weight = label_weights(label, fixed, lam, own, clean, rows, partner)
    seen_weight = label_weights(label, share, lam, seen, teacher_clean, rows, partner)
    areas = share.mean((1, 2, 3))
    mask_loss = ((areas - lam).abs() - 0.1).clamp_min(0).mean()
    if make is SAMix:
        mask_loss = mask_loss + 2 * (0.1 - share.flatten(1).var(1, correction=0)).clamp_min(0).mean()
    expected = loss_by_hand(loss, own, y, y[partner], own_weight)
    expected = expected + loss_by_hand(loss, clean, y, y, torch.ones(8))
    expected = expected + loss_by_hand(loss, seen, y, y[partner], seen_weight) + 0.1 * mask_loss
    trained = [p for p in method.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(expected, trained)
    got = method(x, y)["loss"]
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, trained), wanted, rtol=1e-4, atol=1e-6)


def test_multi_label() -> None:
    """Multi-hot labels train with BCE."""
    x, y = data(size=32)[0], (torch.rand(8, 10) < 0.3).float()
    method = awake(AutoMix(Net(), MixUp(alpha=Constant(0.3), pairing=Roll()), loss=BinaryCrossEntropy()))
    out = method(x, y)
    target = 0.3 * y + 0.7 * y.roll(1, 0)
    torch.testing.assert_close(out["mixed_loss"], F.binary_cross_entropy_with_logits(out["output"], target).detach())


def test_any_callable_is_a_loss() -> None:
    seen: list[Tensor] = []

    def loss(logits: Tensor, mixed: MixedBatch) -> Tensor:
        seen.append(mixed.weights)
        return logits.square().mean()

    AutoMix(Net(), MixUp(alpha=Constant(0.3)), loss=loss)(*data(size=32))["loss"].backward()
    assert [weights[0].tolist() for weights in seen] == [pytest.approx(w) for w in ([0.3, 0.7], [0.3, 0.7], [1, 0])]


def test_margin_is_plain_mixup() -> None:
    seen: list[Tensor] = []
    for lam, even in ((0.05, True), (0.5, False)):
        method = awake(AutoMix(Net(), MixUp(alpha=Constant(lam), pairing=Roll())))
        method.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        x, y = data(size=32)
        method(x, y)
        plain = lam * x + (1 - lam) * x.roll(1, 0)
        assert torch.allclose(seen[-1], plain, atol=1e-5) is even


@pytest.mark.parametrize("buffers", ["keep", "average", "copy"])
def test_teacher_statistics(buffers: str) -> None:
    method = AutoMix(Net(norm=True), buffers=buffers, momentum=0.5)
    start = {n: b.clone() for n, b in method.teacher.model.named_buffers() if "running" in n}
    method(*data(size=32))["loss"].backward()
    own = dict(method.teacher.model.named_buffers())
    assert all(torch.equal(own[n], start[n]) is (buffers != "keep") for n in start)
    kept = {n: own[n].clone() for n in start}
    method.after_step(0.5)
    theirs = dict(method.model.named_buffers())
    for name in start:
        expected = {"keep": kept[name], "copy": theirs[name], "average": (start[name] + theirs[name]) / 2}[buffers]
        torch.testing.assert_close(own[name], expected)


def test_bfloat16_is_stable() -> None:
    method = awake(SAMix(mini_resnet(10)))
    optimizer = torch.optim.SGD(method.param_groups(), lr=0.05, momentum=0.9)
    x, y = data(size=32)
    for step in range(5):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = method(x, y)
        assert out["loss"].isfinite()
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        method.after_step(step / 5)
    assert all(p.isfinite().all() for p in method.parameters())


@pytest.mark.slow  # test_compiled.py has a smaller network
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch about images with a graph
def test_compiled_agrees() -> None:
    """With the classifier compiled in place, as the training program does, and with everything in one."""
    x, y = data(size=32)
    # Nothing random: a compiler may make draws anew in the backward pass, and then draws others.
    method = awake(AutoMix(Net(), MixUp(alpha=Constant(0.3), pairing=Roll())))
    others = [copy.deepcopy(method) for _ in range(2)]
    others[0].model.compile(backend="aot_eager")
    others[0].teacher.model.compile(backend="aot_eager")
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
    """Steps after the second compile nothing, with the teacher moved in between; the first checks the last layer."""
    torch.compiler.reset()
    method, graphs, counts = awake(AutoMix(Net())), [], []
    step = torch.compile(method, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    for k in range(4):
        step(*data(size=32))["loss"].backward()
        method.after_step(k / 4)
        counts.append(len(graphs))
    assert counts[1:] == [counts[1]] * 3
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
    """The classifier fits 64 images, and the area of the masks grows with the ratio."""
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
        maps = method.teacher.features(x)
        areas = [float(method.block(maps, maps.roll(1, 0), lam, (16, 16)).mean()) for lam in (0.2, 0.5, 0.8)]
    assert areas == sorted(areas) and areas[2] - areas[0] > 0.3, areas
