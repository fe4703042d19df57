"""Signals and volumes: what is drawn, against slow references; the contract is in test_contract_shapes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import mixwell as mw
from mixwell.ops.boxes import fitted
from mixwell.ops.fourier import isotropic_field

SPACES = [(50,), (37,), (6, 9, 8), (2, 17, 5), (1, 4, 4), (3, 4, 5, 6)]


def slices_of(pasted: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box around what is pasted, or None where nothing is."""
    where = np.nonzero(pasted)
    return tuple(slice(int(w.min()), int(w.max()) + 1) for w in where) if len(where[0]) else None


@pytest.mark.parametrize("settings", [{}, {"box": "inside"}, {"minmax": (0.2, 0.7)}], ids=str)
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_cutmix_pastes_one_box(space: tuple[int, ...], settings: dict) -> None:
    """Whole boxes, of the drawn volume within half a slice, that lie everywhere; clipping only makes them smaller."""
    mix = mw.AnyShape(mw.CutMix(scope="sample", pairing=mw.Roll(), **settings), dims=len(space))
    inputs = torch.arange(40.0).view(-1, 1, *[1] * len(space)).expand(40, 2, *space)
    reached = np.zeros(space, dtype=bool)
    for _ in range(8):
        mixed = mix(inputs, torch.arange(40))
        assert mixed.images[:, 0].equal(mixed.images[:, 1])
        for row in range(40):
            pasted = mixed.images[row, 0].numpy() != row
            reached |= pasted
            box, wanted = slices_of(pasted), 1 - float(mixed.plan.lam[row])
            sides = [part.stop - part.start for part in box] if box else [0] * len(space)
            assert math.prod(sides) == pasted.sum()
            share = pasted.mean()
            assert float(mixed.weights[row, 1]) == pytest.approx(share, abs=1e-6)
            half = 0.5 * math.prod(sides[:-1] if box else space[:-1]) / math.prod(space) + 1e-6
            if settings.get("box") == "inside":
                assert abs(share - wanted) <= half
            elif not settings:
                assert share <= wanted + half
            elif box:
                low, high = settings["minmax"]
                assert all(int(low * n) <= side <= max(1, int(high * n)) for side, n in zip(sides, space, strict=True))
    assert reached.all() or "minmax" in settings


def test_boxes_have_the_drawn_volume() -> None:
    """Within half a slice, of a side that has its share of the first dimension within one element."""
    for space in SPACES:
        for lam in torch.linspace(0, 1, 41).split(1):
            sides = (fitted(space, lam) * torch.tensor(space)).long()[0].tolist()
            share = float(1 - lam) ** (1 / len(space))
            assert all(0 <= side <= n for side, n in zip(sides, space, strict=True))
            assert abs(sides[0] - share * space[0]) <= 1
            assert abs(math.prod(sides) - math.prod(space) * float(1 - lam)) <= 0.5 * math.prod(sides[:-1]) + 1e-3


@pytest.mark.parametrize("space", [(5,), (6,), (3, 4, 5), (2, 3, 4)], ids=str)
def test_field_is_a_sum_of_waves(space: tuple[int, ...]) -> None:
    """The field of FMix in any number of dimensions, one wave after the other in NumPy."""
    columns, decay = space[-1] // 2 + 1, 1.7
    noise = torch.randn(1, *space[:-1], columns, 2, dtype=torch.float64)
    spectrum = np.zeros(space, dtype=complex)
    for index in itertools.product(*(range(n) for n in space[:-1]), range(columns)):
        folded = [k if k <= n // 2 else k - n for k, n in zip(index, space, strict=True)]
        frequency = max(math.sqrt(sum((k / n) ** 2 for k, n in zip(folded, space, strict=True))), 1 / max(space))
        alone = index[-1] == 0 or 2 * index[-1] == space[-1]  # its own mirror image
        value = complex(*noise[0][index].tolist()) * frequency**-decay * (math.sqrt(2) if alone else 1)
        mirror = tuple(-k % n for k, n in zip(index, space, strict=True))
        spectrum[index] += value / 2
        spectrum[mirror] += np.conj(value) / 2
        if not alone:
            spectrum[index] += value / 2
            spectrum[mirror] += np.conj(value) / 2
    field = np.zeros(space)
    for place in itertools.product(*map(range, space)):
        for index in itertools.product(*map(range, space)):
            turn = 2j * math.pi * sum(k * x / n for k, x, n in zip(index, place, space, strict=True))
            field[place] += (spectrum[index] * np.exp(turn)).real / math.prod(space)
    np.testing.assert_allclose(isotropic_field(noise, space, decay)[0].numpy(), field, atol=1e-12)


def test_fmix_has_a_depth() -> None:
    """The share is the drawn one, slices differ, and neighbours agree alike along depth, height and width."""
    mix = mw.AnyShape(mw.FMix(scope="sample", pairing=mw.Roll(), alpha=mw.Constant(0.5)), dims=3)
    inputs = torch.arange(64.0).view(-1, 1, 1, 1, 1).expand(64, 1, 12, 12, 12)
    kept = mix(inputs, torch.arange(64)).images[:, 0] == torch.arange(64.0).view(-1, 1, 1, 1)
    assert kept.sum((1, 2, 3)).eq(864).all()
    agree = [float((kept == kept.roll(1, axis)).float().mean()) for axis in (1, 2, 3)]
    assert min(agree) > 0.8 and max(agree) - min(agree) < 0.03
    assert not kept[:, 0].equal(kept[:, 6])


def test_video_has_one_mask() -> None:
    """With two dimensions all frames are mixed alike, whatever the order of channels and frames is."""
    labels = torch.arange(4)
    for shape in ((4, 8, 3, 9, 10), (4, 3, 8, 9, 10)):
        clips = labels.view(-1, 1, 1, 1, 1).float().expand(shape)
        policy = mw.CutMix(alpha=mw.Constant(0.5), box="inside", pairing=mw.Roll())
        mixed = mw.AnyShape(policy, dims=2)(clips, labels).images
        assert mixed.equal(mixed[:, :1, :1].expand(shape)) and mixed[:, 0, 0].flatten(1).std(1).min() > 0


def test_masks_of_volumes() -> None:
    """The plan mixes segmentation masks of a volume as it mixes the volume."""
    masks = torch.randint(5, (6, 4, 8, 9))
    mixed = mw.AnyShape(mw.FMix(), dims=3)(masks[:, None].float(), torch.arange(6))
    assert mixed.plan.apply_segmentation(masks.view(6, 32, 9)).view(6, 4, 8, 9).equal(mixed.images[:, 0].long())


def test_what_cannot_be_mixed() -> None:
    """One sentence when built, or when the inputs are too small for the mask."""
    for policy, dims, words in (
        (mw.ResizeMix(), 1, "a height and a width: use MixUp"),
        (mw.Sometimes(mw.GridMix()), 3, "or dims=2 for one mask for all slices"),
        (mw.CutMix(aspect=(0.5, 2.0)), 3, "aspect is the shape of a box"),
        (mw.FMix(spectrum="published"), 1, 'spectrum="published"'),
        (mw.SaliencyMix(), 2, "computes masks from images"),
        (mw.MixUp(), 0, "dims must be at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            mw.AnyShape(policy, dims=dims)
    with pytest.raises(ValueError, match=r"\(B, \.\.\.\) with 3 dimensions for masks, but got shape \(2, 8, 8\)"):
        mw.AnyShape(mw.MixUp(), dims=3)(torch.rand(2, 8, 8), torch.arange(2))
    with pytest.raises(ValueError, match="but got list"):
        mw.AnyShape(mw.MixUp(), dims=1)([1.0], torch.arange(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="policy of AnyShape must be a BatchPolicy"):
        mw.AnyShape(mw.CutMix, dims=1)  # type: ignore[arg-type]


def test_methods_and_schedules() -> None:
    """A method takes it as its policy and moves its schedules on; ``MixTargets`` takes it too."""
    labels = torch.arange(4)
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3), torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten())
    mix = mw.AnyShape(mw.CutMix(alpha=mw.Linear(0.1, 1.0)), dims=1)
    method = mw.Mixing(model, mix)  # type: ignore[arg-type]  # any callable is a policy
    method(torch.rand(4, 2, 30), labels)["loss"].backward()
    assert model[0].weight.grad is not None
    method.after_step(1.0)
    assert method.policy.policy.alpha == 1.0
    signals, targets = mw.MixTargets(mix, num_classes=4)(torch.rand(4, 2, 30), labels)  # type: ignore[arg-type]
    assert signals.shape == (4, 2, 30) and targets.sum(1).allclose(torch.ones(4))
