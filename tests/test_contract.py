"""The contract that every policy keeps: labels, weights, shares and pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import mixwell as mw
from cases import (
    CLASSES,
    FLOAT,
    NOISE,
    SOME_CASES,
    Case,
    each_case,
    fixed_classifier,
    follows_pixels,
    looks,
    members,
    mix,
    sums_to_one,
    with_settings,
)
from catalogue import LABELS, METHODS, PAIRINGS, POLICIES, RATIOS, SALIENCIES
from mixwell import BatchPolicy, MixedBatch

every_policy = pytest.mark.parametrize("policy", POLICIES, ids=repr)


def slack(images: Tensor, size: float | Tensor = 1.0) -> float | Tensor:
    """Return how far off a blend of values of this size may be."""
    # The ratio itself is rounded to the images' type, and kept in float32.
    return 0.501 if images.dtype == torch.uint8 else size * max(4 * torch.finfo(images.dtype).eps, 1e-6)


def combined(name: str, settings: list, of: list | None = None) -> pytest.MarkDecorator:
    """Parametrise over every policy with every value of one of its settings, where it has that."""
    given = [with_settings(policy, **{name: value}) for policy in of or POLICIES for value in settings]
    usable = [each for each in given if each and (not looks(each) or getattr(each, "uses_saliency", False))]
    return pytest.mark.parametrize("policy", list(dict.fromkeys(usable)), ids=repr)


def share_of(mixed: MixedBatch) -> Tensor:
    """Return the share of every source at the size of the images, or of signals and volumes."""
    share, space = mixed.plan.share(mixed.plan.size).flatten(2), mixed.images.shape[2:]
    slices = space.numel() // share.shape[2]  # that have the same mask
    return share.repeat(1, 1, slices).view(*share.shape[:2], *space)


def sources_of(mixed: MixedBatch, images: Tensor) -> Tensor:
    """Return the clean images that went into every mixed one, (B, K, C, H, W)."""
    return images[mixed.plan.sources]


def check_weights(mixed: MixedBatch, policy: BatchPolicy) -> None:
    """Weights are a distribution over the sources, and the mean of their shares."""
    weights, share = mixed.weights, share_of(mixed)
    assert weights.shape == mixed.plan.sources.shape
    assert weights.dtype == share.dtype == torch.float32
    assert bool((weights >= 0).all())
    if sums_to_one(policy):
        torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]), rtol=0, atol=1e-6)
    assert bool(((share >= 0) & (share <= 1)).all())
    torch.testing.assert_close(share.sum(1), torch.ones_like(share[:, 0]), rtol=0, atol=1e-6)
    if follows_pixels(policy):
        torch.testing.assert_close(share.flatten(2).mean(2), weights, rtol=0, atol=2e-6)
    elif getattr(policy, "correct_lam", True) is False:
        assert weights[:, 0].equal(mixed.plan.lam)


def check_pixels(mixed: MixedBatch, images: Tensor) -> None:
    """Every pixel is what the share says of its sources, bit for bit where one source has it alone."""
    share, sources = share_of(mixed)[:, :, None], sources_of(mixed, images)
    kept = (share[:, 0] == 1).expand_as(images)
    assert mixed.images[kept].equal(images[kept])
    low, high = sources.double().amin(1), sources.double().amax(1)
    if mixed.plan.moves_pixels:  # pixels of the partner stand elsewhere: see the slow reference
        space = tuple(range(2, low.dim()))
        low, high = low.amin(space, keepdim=True), high.amax(space, keepdim=True)
    else:
        pasted = (share[:, 0] == 0).expand_as(images) & (share[:, 1] == 1)
        assert mixed.images[pasted].equal(sources[:, 1][pasted])
        expected = (share.double() * sources.double()).sum(1)
        far = slack(images, 1 + sources.double().abs().amax(1))
        assert bool(((mixed.images.double() - expected).abs() <= far).all())
    within = mixed.images.double().clamp(low, high)
    torch.testing.assert_close(mixed.images.double(), within, rtol=1e-6, atol=1e-6)


@each_case
@every_policy
def test_weights_are_shares(policy: BatchPolicy, cases: list[Case], device: torch.device) -> None:
    """Weights lie in [0, 1], sum to one, and are what the pixels say."""
    for case in cases:
        mixed = mix(policy, case.images(device), case.labels(device))
        check_weights(mixed, policy)
        assert mixed.labels.equal(case.labels(device)[mixed.plan.sources]), case


@each_case
@every_policy
def test_pixels_come_from_their_sources(policy: BatchPolicy, cases: list[Case], device: torch.device) -> None:
    """Kept and pasted pixels bit for bit, blended ones in the ratio of the shares, nothing outside their hull."""
    for case in cases:
        images = case.images(device)
        check_pixels(mix(policy, images), images)


@each_case
@every_policy
def test_images_stay_what_they_are(policy: BatchPolicy, cases: list[Case], device: torch.device) -> None:
    """Shape, type, device and order in memory are kept, and nothing of the caller is written."""
    for case in cases:
        images, labels = case.images(device), case.labels(device)
        before = images.clone(), labels.clone(), images._version
        mixed = mix(policy, images, labels)
        assert (mixed.images.shape, mixed.images.dtype) == (images.shape, images.dtype), case
        assert mixed.images.device == mixed.weights.device == mixed.labels.device == images.device, case
        if case.layout != "strided":
            assert mixed.images.stride() == images.stride(), case
        assert mixed.images.data_ptr() != images.data_ptr(), case
        assert images.equal(before[0]) and labels.equal(before[1]), case
        assert images._version == before[2], f"written and restored: {case}"


@each_case
@every_policy
def test_constant_images(policy: BatchPolicy, cases: list[Case], device: torch.device) -> None:
    """Where every image has one value, the mean of the mixed image is the weighted sum: labels are not swapped."""
    if not follows_pixels(policy):
        pytest.skip("labels by something else than pixels, as asked")
    for case in cases:
        images = case.images(device)
        values = torch.arange(len(images), device=device) * 10.0 + 3  # at most 53
        of_rows = values.view(-1, *[1] * (images.dim() - 1))
        mixed = mix(policy, of_rows.to(images.dtype).expand_as(images).contiguous())
        expected = (mixed.weights * values[mixed.plan.sources]).sum(1)
        found = mixed.images.double().flatten(1).mean(1).float()
        torch.testing.assert_close(found, expected, rtol=0, atol=slack(images, 53.0))


LED_BY_RATIO = mw.MixUp | mw.CutMix | mw.FMix | mw.ResizeMix | mw.SaliencyMix | mw.GridMix | mw.SnapMix


@combined("alpha", [mw.Constant(1.0), mw.Constant(0.0)], [p for p in POLICIES if isinstance(p, LED_BY_RATIO)])
def test_ends_of_the_ratio(policy: mw.Policy, device: torch.device) -> None:
    """Ratio 1 gives the anchor and ratio 0 the partner, bit for bit and with its label."""
    check_ends(policy, policy, SOME_CASES, device)


def check_ends(
    policy: mw.Policy, mixing: mw.BatchPolicy | mw.AnyShape, cases: list[Case], device: torch.device
) -> None:
    """Mix by a policy, or by one that holds it, with the ratio of the policy, which is constant."""
    lam = int(policy.alpha.value)  # type: ignore[union-attr]
    source = lam if isinstance(policy, mw.ResizeMix) else 1 - lam  # its law is that of the partner's side
    if getattr(policy, "minmax", None):
        pytest.skip("draws its sides from another law")
    if source and (
        isinstance(policy, mw.SnapMix)
        or getattr(policy, "box", "") == "clip"
        or getattr(policy, "aspect", (1, 1)) != (1, 1)
    ):
        pytest.skip("a box that is clipped or stretched does not cover the image")
    for case in cases:
        if case.shape[0] > 1:
            images = case.images(device)
            mixed = mix(mixing, images)
            assert mixed.images.equal(images[mixed.plan.sources[:, source]]), case
            assert bool((mixed.weights[:, source] == 1).all()), case


@every_policy
def test_same_generator_same_result(policy: BatchPolicy, device: torch.device) -> None:
    """A seed decides everything, torch's own included; another seed gives another result."""
    check_seeds(policy, FLOAT, device)


def check_seeds(policy: BatchPolicy | mw.AnyShape, case: Case, device: torch.device) -> None:
    """Mix with equal seeds and with others."""
    images = case.images(device)
    first, second = mix(policy, images, seed=5), mix(policy, images, seed=5)
    assert first.images.equal(second.images) and first.weights.equal(second.weights)
    assert first.plan.sources.equal(second.plan.sources)
    others = [mix(policy, images, seed=seed) for seed in range(6, 26)]
    certain = not members(policy) or (isinstance(policy, mw.GuidedMix) and looks(policy))
    assert certain == all(first.images.equal(other.images) for other in others)
    by_default = []
    for _ in range(2):
        torch.manual_seed(9)
        given = {"model": fixed_classifier(device), "normalization": NOISE}
        by_default.append(policy(images, case.labels(device), **given))
    assert by_default[0].images.equal(by_default[1].images)


@every_policy
def test_other_rows_do_not_matter(policy: BatchPolicy, device: torch.device) -> None:
    """A mixed image depends on its own sources alone."""
    if isinstance(policy, mw.SaliencyMix) and policy.scope == "batch":
        pytest.skip("one box for all follows the first image, as asked")
    if looks(policy):
        pytest.skip("pairs by what all images look like")
    check_other_rows(policy, Case((6, 3, 12, 10), torch.float32, "contiguous"), device)


def check_other_rows(policy: BatchPolicy | mw.AnyShape, case: Case, device: torch.device) -> None:
    """Change one row after the other."""
    images = case.images(device)
    for seed in range(3):
        mixed = mix(policy, images, seed=seed)
        for row in range(len(images)):
            changed = images.clone()
            changed[row] = torch.rand_like(changed[row])
            apart = (mixed.plan.sources != row).all(1)
            again = mix(policy, changed, seed=seed)
            assert again.images[apart].equal(mixed.images[apart])
            assert again.weights[apart].equal(mixed.weights[apart])


@every_policy
def test_one_image_stays_alone(policy: BatchPolicy, device: torch.device) -> None:
    """A batch of one comes back as it is, with weight one."""
    check_alone(policy, (1, 3, 9, 8), device)


def check_alone(policy: BatchPolicy | mw.AnyShape, shape: tuple[int, ...], device: torch.device) -> None:
    """Mix a batch of one."""
    for dtype in (torch.float32, torch.uint8):
        images = Case(shape, dtype, "contiguous").images(device)
        for seed in range(4):
            mixed = mix(policy, images, seed=seed)
            assert mixed.images.equal(images)
            assert mixed.plan.sources.tolist() == [[0, 0]]
            assert mixed.weights.tolist() == [[1.0, 0.0]]


@combined("pairing", PAIRINGS)
def test_every_pairing(policy: mw.Policy, device: torch.device) -> None:
    """Any policy works with any pairing, and mixes whom the pairing says."""
    images = Case((5, 3, 12, 10), torch.float32, "contiguous").images(device)
    mixed = mix(policy, images)
    check_weights(mixed, policy)
    check_pixels(mixed, images)
    if isinstance(policy.pairing, mw.Given) and not (isinstance(policy, mw.OneOf) and policy.scope == "batch"):
        assert mixed.plan.sources[:, 1].tolist() == list(policy.pairing.partner)


@combined("alpha", RATIOS)
def test_every_ratio(policy: mw.Policy, device: torch.device) -> None:
    """Any policy works with any law of its ratio."""
    images = FLOAT.images(device)
    mixed = mix(policy, images)
    check_weights(mixed, policy)
    check_pixels(mixed, images)


@combined("saliency", SALIENCIES)
def test_every_saliency(policy: mw.SaliencyMix, device: torch.device) -> None:
    """Any policy that looks at saliency works with any source, and with maps that are known beforehand."""
    images = Case((5, 3, 12, 10), torch.float32, "contiguous").images(device)
    mixed = mix(policy, images)
    check_weights(mixed, policy)
    check_pixels(mixed, images)
    assert policy.saliency is not None
    given = {"normalization": NOISE} if getattr(policy.saliency, "uses_normalization", False) else {}
    maps = policy.saliency(fixed_classifier(device), images, torch.arange(5, device=device) % CLASSES, **given)
    assert mix(replace(policy, saliency=None), images, saliency=maps).images.equal(mixed.images)


@every_policy
def test_model_is_left_alone(policy: BatchPolicy, device: torch.device) -> None:
    """Training flags, gradients, batch-norm statistics and the global random state are as before."""
    model = fixed_classifier(device).train()
    model.drop.eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.conv.bias.requires_grad_(False)

    def state() -> list[object]:
        flags = [(m.training, len(m._forward_hooks)) for m in model.modules()]
        grads = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()]
        return [flags, grads, [v.tolist() for v in model.state_dict().values()]]

    before = state()
    mix(policy, FLOAT.images(device), model=model)
    assert state() == before


@pytest.mark.parametrize("label", LABELS, ids=repr)
@every_policy
def test_every_label_policy(policy: BatchPolicy, label: mw.LabelPolicy, device: torch.device) -> None:
    """Any label policy reads any mixed batch, and returns a distribution over its sources."""
    images = FLOAT.images(device)
    mixed, rows = mix(policy, images), len(images)
    logits, clean = torch.randn(2, rows, CLASSES, device=device)
    tokens = 1 + images.shape[2] * images.shape[3]
    view = mw.View(
        logits,
        clean,
        torch.randn(rows, 4, 3, 3, device=device),
        torch.rand(rows, 4, 4, device=device),
        (torch.rand(rows, tokens, tokens, device=device).softmax(2),),
        images,
        FLOAT.labels(device),
        normalization=NOISE,
        boxes=torch.tensor([[0.0, 1.0, 6.0, 5.0]], device=device).expand(rows, 4),
    )
    if label.two_sources and mixed.weights.shape[1] != 2:
        with pytest.raises(ValueError, match=r"two sources|two-source"):
            label(mixed, view)
        return
    weights = label(mixed, view)
    assert weights.shape == mixed.weights.shape and weights.dtype == torch.float32
    assert bool((weights >= 0).all())
    if sums_to_one(policy):
        torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))


@pytest.mark.parametrize("make", METHODS, ids=lambda make: f"{make.func.__name__}({make.keywords})")
@every_policy
def test_every_method(policy: BatchPolicy, make: Callable[..., mw.Method], device: torch.device) -> None:
    """Any method trains on any policy: a finite loss, a gradient for every parameter, scalars to log."""
    if not policy.two_sources and (make.func.two_sources or make.keywords.get("label", mw.PixelShare()).two_sources):
        with pytest.raises(ValueError, match=r"needs images of two sources, but CoMixup.* mixes more: "):
            make(fixed_classifier(device), policy, normalization=NOISE)
        return
    method = make(fixed_classifier(device), policy, normalization=NOISE)
    torch.manual_seed(1)
    result = method(FLOAT.images(device), FLOAT.labels(device))
    assert result["output"].shape == (FLOAT.shape[0], CLASSES)
    assert all(value.dim() == 0 and bool(value.isfinite()) for name, value in result.items() if name != "output")
    result["loss"].backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in method.parameters())
    method.after_step(0.5)
