"""The contract that every policy keeps: labels, weights, shares and pixels."""

from __future__ import annotations

import pytest
import torch
from cases import CLASSES, FLOAT, SOME_CASES, Case, each_case, fixed_classifier, follows_pixels, mix, with_settings
from catalogue import LABELS, METHODS, PAIRINGS, POLICIES, RATIOS, SALIENCIES
from torch import Tensor

import mixwell as mw
from mixwell import BatchPolicy, MixedBatch

every_policy = pytest.mark.parametrize("policy", POLICIES, ids=repr)
ROUNDING = {torch.float64: 1e-7, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.uint8: 0.501}


def share_of(mixed: MixedBatch) -> Tensor:
    """Return the share of every source at the size of the images."""
    return mixed.plan.share((mixed.images.shape[2], mixed.images.shape[3]))


def sources_of(mixed: MixedBatch, images: Tensor) -> Tensor:
    """Return the clean images that went into every mixed one, (B, K, C, H, W)."""
    return images[mixed.plan.sources]


def check_weights(mixed: MixedBatch, policy: BatchPolicy) -> None:
    """Weights are a distribution over the sources, and the mean of their shares."""
    weights, share = mixed.weights, share_of(mixed)
    assert weights.shape == mixed.plan.sources.shape
    assert weights.dtype == share.dtype == torch.float32
    assert bool(((weights >= 0) & (weights <= 1)).all())
    torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]), rtol=0, atol=1e-6)
    assert bool(((share >= 0) & (share <= 1)).all())
    torch.testing.assert_close(share.sum(1), torch.ones_like(share[:, 0]), rtol=0, atol=1e-6)
    if follows_pixels(policy):
        torch.testing.assert_close(share.mean((2, 3)), weights, rtol=0, atol=2e-6)
    else:
        assert weights[:, 0].equal(mixed.plan.lam)


def check_pixels(mixed: MixedBatch, images: Tensor) -> None:
    """Every pixel is what the share says of its sources, bit for bit where one source has it alone."""
    share, sources = share_of(mixed)[:, :, None], sources_of(mixed, images)
    kept = (share[:, 0] == 1).expand_as(images)
    assert mixed.images[kept].equal(images[kept])
    low, high = sources.double().amin(1), sources.double().amax(1)
    if mixed.plan.moves_pixels:  # pixels of the partner stand elsewhere: see the slow reference
        low, high = low.amin((2, 3), keepdim=True), high.amax((2, 3), keepdim=True)
    else:
        pasted = (share[:, 0] == 0).expand_as(images) & (share[:, 1] == 1)
        assert mixed.images[pasted].equal(sources[:, 1][pasted])
        expected = (share.double() * sources.double()).sum(1)
        slack = ROUNDING[images.dtype] * (1 + sources.double().abs().amax(1) * images.is_floating_point())
        assert bool(((mixed.images.double() - expected).abs() <= slack).all())
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
        pytest.skip("labels by the drawn ratio, as asked")
    for case in cases:
        images = case.images(device)
        values = torch.arange(len(images), device=device) * 10.0 + 3  # at most 53
        mixed = mix(policy, values[:, None, None, None].to(images.dtype).expand_as(images).contiguous())
        expected = (mixed.weights * values[mixed.plan.sources]).sum(1)
        found = mixed.images.double().mean((1, 2, 3)).float()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=ROUNDING[images.dtype] * 60)


@pytest.mark.parametrize("lam", [0.0, 1.0])
@pytest.mark.parametrize("case", SOME_CASES, ids=str)
@every_policy
def test_ends_of_the_ratio(policy: BatchPolicy, case: Case, lam: float, device: torch.device) -> None:
    """Ratio 1 gives the anchor and ratio 0 the partner, bit for bit and with its label."""
    side = 1 - lam if isinstance(policy, mw.ResizeMix) else lam  # its law is that of the partner's side
    at_end = with_settings(policy, alpha=mw.Constant(side))
    if at_end is None or getattr(policy, "minmax", None):
        pytest.skip("has no ratio of its own")
    images = case.images(device)
    if len(images) == 1:
        pytest.skip("nobody to mix with")
    mixed = mix(at_end, images)
    source = 0 if lam else 1
    if source and getattr(policy, "box", None) == "clip":
        pytest.skip("a box as large as the image is clipped")
    if source and getattr(policy, "aspect", (1, 1)) != (1, 1):
        pytest.skip("a stretched box never covers the image")
    assert mixed.images.equal(images[mixed.plan.sources[:, source]])
    assert mixed.weights[:, source].eq(1).all()


@every_policy
def test_same_generator_same_result(policy: BatchPolicy, device: torch.device) -> None:
    """A seed decides everything, torch's own included; another seed gives another result."""
    images = FLOAT.images(device)
    first, second = mix(policy, images, seed=5), mix(policy, images, seed=5)
    assert first.images.equal(second.images) and first.weights.equal(second.weights)
    assert first.plan.sources.equal(second.plan.sources)
    others = [mix(policy, images, seed=seed) for seed in range(6, 26)]
    assert isinstance(policy, mw.NoMix) or any(not first.images.equal(other.images) for other in others)
    by_default = []
    for _ in range(2):
        torch.manual_seed(9)
        by_default.append(policy(images, FLOAT.labels(device), model=fixed_classifier(device)))
    assert by_default[0].images.equal(by_default[1].images)


@every_policy
def test_other_rows_do_not_matter(policy: BatchPolicy, device: torch.device) -> None:
    """A mixed image depends on its own sources alone."""
    if isinstance(policy, mw.SaliencyMix) and policy.scope == "batch":
        pytest.skip("one box for all follows the first image, as asked")
    images = Case((6, 3, 12, 10), torch.float32, "contiguous").images(device)
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
    for dtype in (torch.float32, torch.uint8):
        images = Case((1, 3, 9, 8), dtype, "contiguous").images(device)
        for seed in range(4):
            mixed = mix(policy, images, seed=seed)
            assert mixed.images.equal(images)
            assert mixed.plan.sources.tolist() == [[0, 0]]
            assert mixed.weights[0, 0] == 1 or mixed.weights.sum() == 1 and not follows_pixels(policy)


@pytest.mark.parametrize("pairing", PAIRINGS, ids=repr)
@every_policy
def test_every_pairing(policy: BatchPolicy, pairing: mw.Pairing, device: torch.device) -> None:
    """Any policy works with any pairing, and mixes whom the pairing says."""
    paired = with_settings(policy, pairing=pairing)
    if paired is None:
        pytest.skip("pairs on its own, or needs partners that choose each other")
    images = Case((5, 3, 12, 10), torch.float32, "contiguous").images(device)
    mixed = mix(paired, images)
    check_weights(mixed, paired)
    check_pixels(mixed, images)
    if isinstance(pairing, mw.Given) and not (isinstance(policy, mw.OneOf) and policy.scope == "batch"):
        assert mixed.plan.sources[:, 1].tolist() == list(pairing.partner)


@pytest.mark.parametrize("ratio", RATIOS, ids=repr)
@every_policy
def test_every_ratio(policy: BatchPolicy, ratio: mw.Ratio, device: torch.device) -> None:
    """Any policy works with any law of its ratio."""
    drawn = with_settings(policy, alpha=ratio)
    if drawn is None:
        pytest.skip("has no ratio of its own, or derives its law from a number")
    images = FLOAT.images(device)
    mixed = mix(drawn, images)
    check_weights(mixed, drawn)
    check_pixels(mixed, images)


@pytest.mark.parametrize("source", SALIENCIES, ids=repr)
@every_policy
def test_every_saliency(policy: BatchPolicy, source: mw.Saliency, device: torch.device) -> None:
    """Any policy that looks at saliency works with any source, and with maps that are known beforehand."""
    seeing = with_settings(policy, saliency=source)
    if seeing is None:
        pytest.skip("does not look at saliency")
    images = Case((5, 3, 12, 10), torch.float32, "contiguous").images(device)
    mixed = mix(seeing, images)
    check_weights(mixed, seeing)
    check_pixels(mixed, images)
    maps = source(fixed_classifier(device), images, torch.arange(5, device=device) % CLASSES)
    assert mix(with_settings(policy, saliency=None), images, saliency=maps).images.equal(mixed.images)


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
    mixed = mix(policy, FLOAT.images(device))
    logits, clean = torch.randn(2, len(mixed), CLASSES, device=device)
    weights = label(mixed, mw.View(logits, clean_logits=clean))
    assert weights.shape == mixed.weights.shape and weights.dtype == torch.float32
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))


@pytest.mark.parametrize("make", METHODS, ids=lambda make: f"{make.func.__name__}({make.keywords})")
@every_policy
def test_every_method(policy: BatchPolicy, make: object, device: torch.device) -> None:
    """Any method trains on any policy: a finite loss, a gradient for every parameter, scalars to log."""
    method = make(fixed_classifier(device), policy)  # type: ignore[operator]
    torch.manual_seed(1)
    result = method(FLOAT.images(device), FLOAT.labels(device))
    assert result["output"].shape == (FLOAT.shape[0], CLASSES)
    assert all(value.dim() == 0 and bool(value.isfinite()) for name, value in result.items() if name != "output")
    result["loss"].backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in method.parameters())
    method.after_step(0.5)
