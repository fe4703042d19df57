"""AdAutoMix: the step against plain loops, any number of sources, and steps against the classifier."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from learned import Net, awake, grads, terms_of
from mixwell import (
    Batch,
    BinaryCrossEntropy,
    Constant,
    CrossEntropy,
    MixUp,
    PixelShare,
    Plan,
    RatioShare,
    Roll,
    SemanticShare,
)
from mixwell.methods.adautomix import AdAutoMix, adversarial, source_cosine
from mixwell.mixers.adaptivemask import SourceAttention
from steps import data


@pytest.mark.parametrize("sources", [2, 3, 5])
def test_gradient_claims(sources: int) -> None:
    method = awake(AdAutoMix(Net(), sources=sources))
    terms = terms_of(method, *data(size=32))
    learnt = terms["mixed_loss"] + terms["clean_loss"] + terms.get("plain_loss", 0)
    assert not any(grads(learnt, method.block)) and all(grads(learnt, method.model))
    assert not any(grads(terms["block_loss"], method.model)) and any(grads(terms["block_loss"], method.block))
    terms["loss"].backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert ("plain_loss" in terms) is (sources > 2)


def test_signs_alternate() -> None:
    method = awake(AdAutoMix(Net(), sources=2, beta=1.0))
    batch = data(size=32)
    for step, sign in enumerate((-1, 1, -1)):
        out = method(*batch)
        torch.testing.assert_close(out["block_loss"], sign * out["teacher_loss"])
        method.after_step(step / 10)
    never = awake(AdAutoMix(Net(), sources=2, interval=0))(*batch)
    torch.testing.assert_close(never["block_loss"], never["teacher_loss"])


LABELS = {"ratio": RatioShare(), "pixel": PixelShare(), "semantic": SemanticShare()}
LOSSES = {"ce": CrossEntropy(), "bce": BinaryCrossEntropy()}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("sources", [2, 3])
def test_step_by_hand(sources: int, label: str, loss: str) -> None:
    """The whole adversarial step once more, as a plain loop."""
    if sources == 3 and label == "semantic":
        pytest.skip("refused when built")
    beta, policy = 0.4, MixUp(alpha=Constant(0.3), pairing=Roll())
    settings = {"label": LABELS[label], "loss": LOSSES[loss], "head": "both", "beta": beta}
    method = awake(AdAutoMix(Net(), policy, sources=sources, **settings))
    x, y = data(size=32)
    teacher, rolled = method.teacher.model, torch.arange(8).roll(1)
    rows = torch.stack([torch.arange(8), rolled, rolled][:sources], 1)  # every draw is the same permutation
    lam = torch.tensor([0.3, 0.7]) if sources == 2 else torch.full((3,), 1 / 3)

    maps = teacher.layer2(teacher.layer1(teacher.stem(x)))
    shares = method.block(maps[rows], lam.expand(8, -1), (32, 32))
    mixed = sum(shares[:, k : k + 1] * x[rows[:, k]] for k in range(sources))
    plain = sum(lam[k] * x[rows[:, k]] for k in range(sources))

    def weights_of(logits: Tensor, clean: Tensor) -> Tensor:
        areas = shares.mean((2, 3)).detach()
        if label != "semantic":
            return areas if label == "pixel" else lam.expand(8, -1)
        away = (logits.softmax(1)[:, None] - clean.softmax(1)[rows]).norm(dim=2).detach()
        return (areas.log() - away).softmax(1)

    def loss_of(logits: Tensor, weights: Tensor, sources: Tensor = rows) -> Tensor:
        target = (weights[:, :, None] * F.one_hot(y[sources], 10)).sum(1)
        return F.cross_entropy(logits, target) if loss == "ce" else F.binary_cross_entropy_with_logits(logits, target)

    judged, said = teacher(mixed), teacher(x).detach()
    cosine = sum(lam[k] * F.cosine_similarity(judged, said[rows[:, k]], dim=1).mean() for k in range(sources))
    logits, clean = method.model(mixed.detach()), method.model(x)
    clean_loss = loss_of(clean, torch.ones(8, 1), rows[:, :1])
    expected = loss_of(logits, weights_of(logits, clean)) - (1 - beta) * cosine
    expected = expected - beta * loss_of(judged, weights_of(judged, said))
    if sources == 2:
        expected = expected + clean_loss
    else:
        expected = expected + 0.5 * clean_loss + 0.5 * loss_of(method.model(plain), lam.expand(8, -1))
    trained = [p for p in method.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(expected, trained, allow_unused=True)
    out = method(x, y)
    torch.testing.assert_close(out["loss"], expected)
    got = torch.autograd.grad(out["loss"], trained, allow_unused=True)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


def test_plan_can_be_saved() -> None:
    plans: list[Plan] = []
    method = AdAutoMix(Net(), sources=3, loss=lambda logits, mixed: plans.append(mixed.plan) or logits.sum())
    method(*data(size=32))
    again = Plan.from_state_dict(plans[0].state_dict())
    torch.testing.assert_close(again.ratios, plans[0].ratios)
    torch.testing.assert_close(again.ratios.sum(1), torch.ones(8))


def test_steps_survive_a_break() -> None:
    method = AdAutoMix(Net(), sources=2)
    for step in range(3):
        method.after_step((step + 1) / 10)
    again = AdAutoMix(Net(), sources=2)
    again.load_state_dict(method.state_dict())
    assert (again.progress, again.steps, again.against) == (0.3, 3, False)


def test_cosine_sign() -> None:
    """By default what is said of mixed images is drawn to what is said of their sources; as released, away from it."""
    for sign in (-1, 1):
        logits, clean = torch.randn(4, 5, requires_grad=True), torch.randn(4, 2, 5)
        lam = torch.full((4, 2), 0.5)
        before = source_cosine(logits, clean, lam)
        (gradient,) = torch.autograd.grad(adversarial(torch.zeros(()), before, 0.0, sign), logits)
        after = source_cosine(logits - 0.1 * gradient, clean, lam)
        assert (after > before) is (sign < 0) or bool((after > before) == (sign < 0))


def test_ratios_sum_to_one() -> None:
    never = AdAutoMix(Net(), MixUp(alpha=Constant(0.0)), sources=3)
    assert never._draw(Batch(*data()), 3)[1].isfinite().all()
    method = AdAutoMix(Net(), sources=4)
    pairs, lam = method._draw(Batch(*data()), 4)
    assert pairs.partner.shape == (8, 3) and lam.shape == (8, 4)
    torch.testing.assert_close(lam.sum(1), torch.ones(8))


def test_random_number_of_sources() -> None:
    method = AdAutoMix(Net(), sources=4, random_sources=True)
    assert {method._count(8) for _ in range(60)} == {2, 3, 4}
    for _ in range(3):
        method(*data(size=32))["loss"].backward()


def test_margin_is_plain_mixup() -> None:
    seen: list[torch.Tensor] = []
    for lam, even in ((0.02, True), (0.5, False)):
        method = awake(AdAutoMix(Net(), MixUp(alpha=Constant(lam), pairing=Roll()), sources=2))
        method.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        x, y = data(size=32)
        method(x, y)
        assert torch.allclose(seen[-1], lam * x + (1 - lam) * x.roll(1, 0), atol=1e-5) is even


def test_skipped_generator_still_has_gradients() -> None:
    method = awake(AdAutoMix(Net(), sources=2, block_p=0.0))
    out = method(*data(size=32))
    out["loss"].backward()
    assert out["block_loss"] == 0 and all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_one_clean_pass_of_the_teacher() -> None:
    method = AdAutoMix(Net(), sources=3)
    rows: list[int] = []
    method.teacher.model.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    method(*data(size=32))
    assert len(rows) == 2  # one clean, one mixed


@pytest.mark.slow  # test_compiled.py has a smaller network
def test_compiled_agrees() -> None:
    x, y = data(size=32)
    found = []
    for compiled in (False, True):
        torch.manual_seed(5)
        # Nothing random: a compiler may drop draws that are not used, and then draws others.
        method = awake(AdAutoMix(Net(), MixUp(alpha=Constant(0.3), pairing=Roll()), sources=3))
        if compiled:
            method.compile(backend="aot_eager")
        torch.manual_seed(3)
        out = method(x, y)
        out["loss"].backward()
        found.append([out["loss"].detach(), *(p.grad for p in method.parameters() if p.requires_grad)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": 1}, "at least 2"),
        ({"cosine_sign": 0}, "cosine_sign"),
        ({"beta": 1.5}, r"beta must lie in \[0, 1\]"),
        ({"plain": -0.1}, r"\[0, 1\]"),
        ({"layer": "nowhere"}, "nowhere"),
        ({"label": SemanticShare()}, "needs two sources"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdAutoMix(Net(), **settings)


def test_more_sources_than_images() -> None:
    with pytest.raises(ValueError, match="9 sources, but the batch has only 8"):
        AdAutoMix(Net(), sources=9)(*data(size=32))
    with pytest.raises(TypeError, match="SourceAttention"):
        AdAutoMix(Net(), block=object())


def test_batch_norm_on_queries() -> None:
    method = AdAutoMix(Net(), sources=2, block=SourceAttention(lam_concat=True, norm="batch"))
    method(*data(size=32))["loss"].backward()
