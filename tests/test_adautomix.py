"""AdAutoMix: any number of sources, and a block that works against the classifier every other step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from learned import Net, awake, grads, terms_of
from mixwell import Constant, MixUp, Roll
from mixwell.methods.adautomix import AdAutoMix, adversarial, normalised, source_cosine
from mixwell.mixers.adaptivemask import SourceAttention
from steps import data


@pytest.mark.parametrize("sources", [2, 3, 5])
def test_gradient_claims(sources: int) -> None:
    method = awake(AdAutoMix(Net(), sources=sources))
    terms = terms_of(method, *data(size=32))
    learnt = terms["mixed_loss"] + terms["clean_loss"] + terms.get("plain_loss", 0)
    assert not any(grads(learnt, method.block)) and all(grads(learnt, method.student))
    assert not any(grads(terms["block_loss"], method.student)) and any(grads(terms["block_loss"], method.block))
    terms["loss"].backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert ("plain_loss" in terms) is (sources > 2)


def test_signs_alternate() -> None:
    method = awake(AdAutoMix(Net(), sources=2, beta=1.0))
    batch = data(size=32)
    for step, sign in enumerate((-1, 1, -1)):
        out = method(*batch)
        torch.testing.assert_close(out["block_loss"], sign * out["generator_loss"])
        method.after_step(step / 10)
    never = awake(AdAutoMix(Net(), sources=2, interval=0))(*batch)
    torch.testing.assert_close(never["block_loss"], never["generator_loss"])


def test_step_of_two_by_hand() -> None:
    lam, beta = 0.3, 0.4
    policy = MixUp(alpha=Constant(lam), pairing=Roll())
    method = awake(AdAutoMix(Net(), policy, sources=2, beta=beta, head="both"))
    x, y = data(size=32)
    teacher, partner = method.teacher, torch.arange(8).roll(1)
    maps = teacher.layer2(teacher.layer1(teacher.stem(x)))
    weights = torch.tensor([[lam, 1 - lam]])
    shares = method.block(torch.stack((maps, maps[partner]), 1), weights, (32, 32))
    mixed = shares[:, :1] * x + shares[:, 1:] * x[partner]
    said, clean = teacher(mixed), teacher(x).detach()
    judged = lam * F.cross_entropy(said, y) + (1 - lam) * F.cross_entropy(said, y[partner])
    close = [F.cosine_similarity(said, clean[rows], dim=1).mean() for rows in (torch.arange(8), partner)]
    cosine = lam * close[0] + (1 - lam) * close[1]
    logits = method.model(mixed.detach())
    learnt = lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, y[partner])
    expected = learnt + F.cross_entropy(method.model(x), y) - beta * judged - (1 - beta) * cosine
    trained = [p for p in method.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(expected, trained, allow_unused=True)
    out = method(x, y)
    torch.testing.assert_close(out["loss"], expected)
    got = torch.autograd.grad(out["loss"], trained, allow_unused=True)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)


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
    torch.testing.assert_close(normalised(torch.rand(6, 4)).sum(1), torch.ones(6))
    assert normalised(torch.zeros(1, 3)).isfinite().all()
    x, y = data()
    method = AdAutoMix(Net(), sources=4)
    pairs, lam = method._drawn(x, y, 4)
    assert pairs.partner.shape == (8, 3) and lam.shape == (8, 4)
    torch.testing.assert_close(lam.sum(1), torch.ones(8))


def test_random_number_of_sources() -> None:
    method = AdAutoMix(Net(), sources=4, random_sources=True)
    assert {method._several(8) for _ in range(60)} == {2, 3, 4}
    for _ in range(3):
        method(*data(size=32))["loss"].backward()


def test_margin_is_plain_mixup() -> None:
    seen: list[torch.Tensor] = []
    for lam, even in ((0.02, True), (0.5, False)):
        method = awake(AdAutoMix(Net(), MixUp(alpha=Constant(lam), pairing=Roll()), sources=2))
        method.student.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        x, y = data(size=32)
        method(x, y)
        assert torch.allclose(seen[-1], lam * x + (1 - lam) * x.roll(1, 0), atol=1e-5) is even


def test_skipped_generator_still_has_gradients() -> None:
    method = awake(AdAutoMix(Net(), sources=2, generator_every=2))
    method.after_step(0.1)
    out = method(*data(size=32))
    out["loss"].backward()
    assert "generator_loss" not in out and all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_one_clean_pass_of_the_teacher() -> None:
    method = AdAutoMix(Net(), sources=3)
    rows: list[int] = []
    method.teacher.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    method(*data(size=32))
    assert len(rows) == 2  # one clean, one mixed


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
        ({"beta": 1.5}, r"\[0, 1\]"),
        ({"plain": -0.1}, r"\[0, 1\]"),
        ({"layer": "nowhere"}, "nowhere"),
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
