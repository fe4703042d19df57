"""The contract for signals, volumes and video: the laws of images, for every policy that can mix them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import mixwell as mw
import test_contract as laws
from cases import Case, follows_pixels, mix, sees
from catalogue import POLICIES
from test_contract_replay import NoWaitingCopies, dirichlet_without_numbers

KINDS = {"signals": 1, "volumes": 3}
SIGNALS = [
    Case((5, 2, 37), torch.float32, "contiguous"),
    Case((4, 1, 64), torch.uint8, "contiguous"),
    Case((6, 12, 20), torch.bfloat16, "strided"),
    Case((1, 3, 9), torch.float64, "contiguous"),
    Case((3, 2, 9000), torch.float32, "contiguous"),  # larger than LARGE_IMAGE
]
VOLUMES = [
    Case((5, 2, 4, 12, 9), torch.float32, "contiguous"),
    Case((4, 3, 5, 8, 10), torch.bfloat16, "channels_last"),
    Case((3, 1, 6, 8, 8), torch.uint8, "contiguous"),
    Case((6, 12, 3, 7, 6), torch.float16, "strided"),
    Case((1, 2, 3, 8, 8), torch.float64, "contiguous"),
    Case((2, 1, 20, 32, 32), torch.float32, "channels_last"),
]


def usable(policy: mw.BatchPolicy, dims: int) -> mw.AnyShape | None:
    """Return a policy for inputs of this kind, or None where it is refused."""
    try:
        return mw.AnyShape(policy, dims=dims)
    except ValueError:
        return None


MIXES = [(kind, made) for kind, dims in KINDS.items() for policy in POLICIES if (made := usable(policy, dims))]
every_mix = pytest.mark.parametrize(("kind", "mix_"), MIXES, ids=str)


def cases_of(kind: str) -> list[Case]:
    """Return inputs of this kind."""
    return SIGNALS if kind == "signals" else VOLUMES


@pytest.mark.parametrize(
    "law",
    [
        laws.test_weights_are_shares,
        laws.test_pixels_come_from_their_sources,
        laws.test_images_stay_what_they_are,
        laws.test_constant_images,
    ],
    ids=lambda law: law.__name__,
)
@every_mix
def test_law(kind: str, mix_: mw.AnyShape, law: Callable[..., None], device: torch.device) -> None:
    """Weights, pixels, types, layouts and the caller's tensors are as the contract says."""
    law(mix_, cases_of(kind), device)


@every_mix
def test_draws(kind: str, mix_: mw.AnyShape, device: torch.device) -> None:
    """A seed decides everything, other rows do not matter, and one input stays alone."""
    first = cases_of(kind)[0]
    laws.check_seeds(mix_, first, device)
    laws.check_other_rows(mix_, first._replace(shape=(6, *first.shape[1:])), device)
    laws.check_alone(mix_, (1, *first.shape[1:]), device)


LED_BY_RATIO = [(kind, made) for kind, made in MIXES if isinstance(made.policy, laws.LED_BY_RATIO)]


@pytest.mark.parametrize("lam", [0.0, 1.0])
@pytest.mark.parametrize(("kind", "mix_"), LED_BY_RATIO, ids=str)
def test_ends_of_the_ratio(kind: str, mix_: mw.AnyShape, lam: float, device: torch.device) -> None:
    """Ratio 1 gives the anchor and ratio 0 the partner."""
    policy = laws.with_settings(mix_.policy, alpha=mw.Constant(lam))
    if policy is None:
        pytest.skip("derives its ratio from a number")
    laws.check_ends(policy, replace(mix_, policy=policy), cases_of(kind), device)


@every_mix
def test_nothing_waits_for_the_device(kind: str, mix_: mw.AnyShape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing and applying read no tensor on the host."""
    monkeypatch.setattr(torch, "_sample_dirichlet", dirichlet_without_numbers)
    first = cases_of(kind)[0]
    with NoWaitingCopies():
        mixed = mix_(first.images().to("meta"), first.labels().to("meta"))
    assert mixed.images.shape == first.shape and mixed.images.device.type == "meta"


@pytest.mark.parametrize("kind", KINDS)
def test_policies_are_used_or_refused_when_built(kind: str) -> None:
    """Every policy of the catalogue that cannot mix a kind is refused in one sentence, also inside a composition."""
    taken = {repr(made.policy) for name, made in MIXES if name == kind}
    for policy in POLICIES:
        salient = sees(policy)
        if repr(policy) in taken:
            assert not salient
            continue
        words = "computes masks from images|a height and a width" if salient else "a height and a width"
        for given in (policy, mw.OneOf([mw.MixUp(), policy]), mw.Switch({0.0: mw.MixUp(), 0.5: policy})):
            with pytest.raises(ValueError, match=words) as caught:
                mw.AnyShape(given, dims=KINDS[kind])
            assert str(caught.value).count(". ") == 0
    assert {type(policy) for policy in (made.policy for name, made in MIXES if name == kind)} >= {mw.MixUp, mw.FMix}


BLIND = [policy for policy in POLICIES if not sees(policy)]


@pytest.mark.parametrize("policy", BLIND, ids=repr)
def test_one_mask_for_all_slices(policy: mw.BatchPolicy) -> None:
    """With two dimensions, slices and frames are channels, so that the contract of images holds."""
    for case in (VOLUMES[1], VOLUMES[2], Case((4, 1, 9, 14), torch.float32, "contiguous")):
        inputs = case.images()
        mixed, images = mix(mw.AnyShape(policy, dims=2), inputs), inputs.reshape(len(inputs), -1, *inputs.shape[-2:])
        expected = policy(images, case.labels(), generator=torch.Generator().manual_seed(0))
        assert mixed.images.equal(expected.images.view(inputs.shape)) and mixed.images.stride() == inputs.stride()
        assert mixed.weights.equal(expected.weights)


@pytest.mark.parametrize("policy", [p for p in POLICIES if getattr(p, "uses_saliency", False)], ids=repr)
def test_what_looks_at_images_does_not_look_at_slices(policy: mw.BatchPolicy) -> None:
    """Salient regions of images with slices as channels would mean nothing."""
    with pytest.raises(ValueError, match="computes masks from images"):
        mw.AnyShape(policy, dims=2)


@pytest.mark.parametrize("dims", [1, 3])
def test_weights_of_a_setting(dims: int) -> None:
    """``correct_lam=False`` keeps the drawn ratio as the label weight."""
    mixed = mix(mw.AnyShape(mw.CutMix(correct_lam=False, scope="sample"), dims=dims), torch.rand(5, 2, *[7] * dims))
    assert mixed.weights[:, 0].equal(mixed.plan.lam) and not follows_pixels(mw.CutMix(correct_lam=False))
