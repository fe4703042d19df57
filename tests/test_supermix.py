"""SuperMix: weights, targets, masks that sum to one, an objective that decreases, and when images are finished."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mixwell as mw
from mixwell.policies import supermix
from mixwell.policies.supermix import normalised, objective, recognised, soft_target

CLASSES, SIDE = 4, (12, 16)


class Colours(nn.Module):
    """Recognises the colour of most pixels: class k is channel k."""

    def __init__(self, scale: float = 8.0) -> None:
        super().__init__()
        self.scale, self.bias = scale, nn.Parameter(torch.zeros(CLASSES))
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.scale * images.square().mean((2, 3)) + self.bias


def scenes(rows: int = 8) -> tuple[Tensor, Tensor]:
    """Return images with an object in one channel, and their classes."""
    labels = torch.arange(rows) % CLASSES
    images = 0.05 * torch.rand(rows, CLASSES, *SIDE)
    for row, label in enumerate(labels.tolist()):
        top, left = 3 * (row % 2), 8 * (row // 2 % 2)
        images[row, label, top : top + 8, left : left + 8] = 1
    return images, labels


@pytest.mark.parametrize("sources", [2, 3, 4])
def test_masks_sum_to_one(sources: int) -> None:
    """So do the weights, which are those of the plan and of the labels."""
    images, labels = scenes()
    mixed = mw.SuperMix(sources=sources, cells=4, max_iter=4)(images, labels, model=Colours())
    share = mixed.plan.share(SIDE)
    assert mixed.weights.shape == (8, sources) and share.shape == (8, sources, *SIDE)
    torch.testing.assert_close(share.sum(1), torch.ones(8, *SIDE))
    torch.testing.assert_close(mixed.weights.sum(1), torch.ones(8))
    assert mixed.weights.equal(mixed.plan.ratios) and bool((share >= 0).all())
    assert mixed.plan.sources[0].tolist() == [0, 7, 6, 5][:sources]


@pytest.mark.parametrize("sources", [2, 3])
def test_weights_are_dirichlet(sources: int) -> None:
    """Every source has mean 1 / K and variance (K - 1) / (K^2 (3 K + 1)); ``scope="batch"`` draws once."""
    labels = torch.zeros(20_000, dtype=torch.int64)
    policy = mw.SuperMix(sources=sources, cells=1, max_iter=1)
    weights = policy.draw(torch.rand(20_000, 1, 1, 1), labels, model=nn.Flatten()).weights
    variance = (sources - 1) / sources**2 / (3 * sources + 1)
    torch.testing.assert_close(weights.mean(0), torch.full((sources,), 1 / sources), rtol=0, atol=0.005)
    torch.testing.assert_close(weights.var(0), torch.full((sources,), variance), rtol=0.05, atol=0)
    once = mw.SuperMix(sources=sources, scope="batch", max_iter=1).draw(*scenes(), model=Colours()).weights
    assert once.equal(once[:1].expand(8, -1)) and once[0].unique().numel() == sources


def values(policy: mw.SuperMix, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Return the objective of every step and image, where no image counts as finished."""
    seen: list[Tensor] = []

    def noted(*args: Tensor) -> Tensor:
        seen.append(objective(*args))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(supermix, "objective", noted)
    monkeypatch.setattr(supermix, "recognised", lambda predicted, target: torch.zeros(len(target), dtype=torch.bool))
    policy.draw(*scenes(), model=Colours(), generator=torch.Generator().manual_seed(0))
    return torch.stack(seen).detach()


@pytest.mark.parametrize("sources", [2, 3])
def test_objective_decreases(sources: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some steps it is lower for every image, with the penalty and without."""
    for sparsity in (0.0, 1.0, 25.0):
        found = values(mw.SuperMix(sources=sources, cells=4, sparsity=sparsity, max_iter=12), monkeypatch)
        assert bool((found[-1] < found[0]).all()), sparsity


def test_penalty_makes_masks_hard() -> None:
    """The heavier the penalty, the closer masks are to 0 and 1."""
    softness = []
    for sparsity in (0.0, 25.0):
        policy = mw.SuperMix(cells=4, sparsity=sparsity, max_iter=12)
        share = policy.draw(*scenes(), model=Colours(), generator=torch.Generator().manual_seed(0)).share(SIDE)
        softness.append(float((share * (1 - share)).mean()))
    assert softness[1] < softness[0]


@pytest.mark.parametrize("sources", [2, 3])
def test_one_source_is_the_image(sources: int) -> None:
    """A weight of one shows that source alone, bit for bit."""
    images, labels = scenes()
    mixed = mw.SuperMix(alpha=mw.Constant(1.0), sources=sources, max_iter=3)(images, labels, model=Colours())
    assert mixed.images.equal(images) and mixed.weights[:, 0].eq(1).all()
    other = mw.SuperMix(alpha=mw.Constant(0.0), max_iter=3)(images, labels, model=Colours())
    assert other.images.equal(images[other.plan.sources[:, 1]])


def test_step_is_newtons() -> None:
    """For a linear loss and no smoothing, one step makes the loss zero; steps have a largest and a smallest length."""
    policy = mw.SuperMix(cells=3, sigma=0.1)
    masks, slope = torch.randn(5, 2, 3, 3), torch.randn(5, 2, 3, 3)
    constant = (slope * masks).sum((1, 2, 3)).abs() + torch.rand(5)

    def loss(at: Tensor) -> Tensor:
        return (slope * at).sum((1, 2, 3)) + constant

    torch.testing.assert_close(loss(policy.newton_step(masks, slope, loss(masks))), torch.zeros(5), rtol=0, atol=1e-4)
    flat = torch.full_like(slope, 1e-6)
    torch.testing.assert_close(masks - policy.newton_step(masks, flat, loss(masks)), flat * 2000, rtol=1e-2, atol=1e-6)
    moved = policy.newton_step(masks, slope, torch.zeros(5))
    torch.testing.assert_close(masks - moved, 1e-4 * slope, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_smoothing_is_centred(sigma: float) -> None:
    """The gradient of one cell moves cells around it alike in all directions; the published kernel of 10 does not."""
    gradient = torch.zeros(1, 2, 15, 15)
    gradient[:, :, 7, 7] = 1.0
    moved = mw.SuperMix(cells=15, sigma=sigma).newton_step(torch.zeros_like(gradient), gradient, torch.ones(1))
    assert moved.flip(2).allclose(moved) and moved.flip(3).allclose(moved) and moved.transpose(2, 3).allclose(moved)
    assert moved[0, 0].abs().argmax() == 7 * 15 + 7


def test_finished_images_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image keeps the masks by which it was recognised, and the batch ends with its last image."""
    images, labels = scenes()
    policy = mw.SuperMix(cells=4, alpha=50.0)
    model = Colours()
    plan = policy.draw(images, labels, model=model, generator=torch.Generator().manual_seed(0))
    assert 2 < model.calls < policy.max_iter
    predicted = model(plan.apply(images))
    target = (plan.weights[..., None] * F.one_hot(labels[plan.sources], CLASSES)).sum(1)
    assert bool(recognised(predicted, target).all())
    monkeypatch.setattr(supermix, "on_host", lambda tensor: False)
    again = Colours()
    other = policy.draw(images, labels, model=again, generator=torch.Generator().manual_seed(0))
    assert again.calls == policy.max_iter + 1
    assert other.share(SIDE).equal(plan.share(SIDE))


def test_recognised() -> None:
    """As many classes as the target has, in any order: one where both sources have the same."""
    predicted = torch.tensor([[5.0, 4.0, 1.0, 0.0]]).expand(5, 4)
    target = torch.tensor([[0.2, 0.8, 0, 0], [0.5, 0, 0.5, 0], [1, 0, 0, 0], [0, 1.0, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    assert recognised(predicted, target).tolist() == [True, False, True, False, True]


def test_targets_are_predicted_classes() -> None:
    """The teacher's classes count, and not the labels; equal classes add up."""
    logits = torch.tensor([[0.0, 2.0], [3.0, 1.0], [4.0, 0.0]])
    found = soft_target(logits, [torch.tensor([1, 2, 0])], torch.tensor([[0.3, 0.7]]).expand(3, 2))
    torch.testing.assert_close(found, torch.tensor([[0.7, 0.3], [1.0, 0.0], [0.3, 0.7]]))
    images, labels = scenes()
    for other in (labels.flip(0), F.one_hot(labels, 9).float(), torch.full((8,), -100)):
        seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
        first = mw.SuperMix(cells=4, max_iter=3).draw(images, labels, model=Colours(), generator=seeds[0])
        second = mw.SuperMix(cells=4, max_iter=3).draw(images, other, model=Colours(), generator=seeds[1])
        assert first.share(SIDE).equal(second.share(SIDE))


def test_shares_are_sigmoids_over_their_sum() -> None:
    """Also where all sigmoids are zero in float32."""
    masks = torch.randn(2, 3, 4, 4)
    sigmoids = F.interpolate(masks, SIDE, mode="bilinear", align_corners=False).sigmoid()
    torch.testing.assert_close(normalised(masks, SIDE), sigmoids / sigmoids.sum(1, keepdim=True))
    assert normalised(masks - 500, SIDE).isfinite().all()


def test_teacher() -> None:
    """A teacher is used instead of the model, is left as it was, and shows in the repr."""
    images, labels = scenes()
    teacher, model = Colours().train(), Colours()
    policy = mw.SuperMix(teacher=teacher, cells=4, max_iter=2)
    assert repr(policy) == "SuperMix(teacher=<Colours>, cells=4, max_iter=2)"
    policy(images, labels, model=model)
    assert (teacher.calls, model.calls) == (3, 0)
    assert teacher.training and teacher.bias.requires_grad and teacher.bias.grad is None
    policy(images.double(), labels)
    policy(images.bfloat16(), labels)
    with pytest.raises(ValueError, match="needs a network: call the policy with model="):
        mw.SuperMix()(images, labels)
    with pytest.raises(TypeError, match="teacher of SuperMix must be a Module"):
        mw.SuperMix(teacher="resnet18")  # type: ignore[arg-type]


def test_bytes_are_normalized_for_the_teacher() -> None:
    """Bytes and normalized floats of the same pixels give the same masks."""
    pixels, labels = (scenes()[0] * 255).round(), scenes()[1]
    how, found = mw.Normalization(0.4, 0.2), []
    for images in (pixels.byte(), how.normalize(pixels / 255)):
        policy, generator = mw.SuperMix(cells=4, max_iter=3), torch.Generator().manual_seed(0)
        found.append(policy.draw(images, labels, model=Colours(), generator=generator, normalization=how).share(SIDE))
    torch.testing.assert_close(*found, rtol=0, atol=1e-3)
