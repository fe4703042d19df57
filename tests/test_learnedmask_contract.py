"""A trained block keeps the contract of all policies."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixwell as mw
import test_contract as contract
import test_contract_replay as replay
from cases import SOME_CASES
from catalogue import LABELS, METHODS, PAIRINGS, RATIOS
from mixwell.mixers.adaptivemask import SourceAttention
from mixwell.models import mini_resnet

LAWS: list[Callable[..., None]] = [
    contract.test_weights_are_shares,
    contract.test_pixels_come_from_their_sources,
    contract.test_images_stay_what_they_are,
    contract.test_constant_images,
    contract.test_same_generator_same_result,
    contract.test_other_rows_do_not_matter,
    contract.test_one_image_stays_alone,
    contract.test_model_is_left_alone,
    replay.test_nothing_waits_for_a_gpu,  # not for tensors without numbers, where torch has no autocast
    replay.test_generator_on_the_host_gives_the_same_plan_everywhere,
]
BLOCKS = {
    "pair": mw.PairAttention(lam_concat=True),
    "neck": mw.PairAttention(lam_multiply=1.0, pair=True, neck=True, upsampling="bilinear"),
    "sources": SourceAttention(lam_concat=True, norm="batch"),
}


class Grey(nn.Module):
    """Looks at images of any number of channels, with everything that may be disturbed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        return self.head(self.layer(images.mean(1, keepdim=True)).mean((2, 3)))


@pytest.fixture(scope="module", params=["pair", "sources", pytest.param("neck", marks=pytest.mark.slow)])
def policy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> mw.LearnedMask:
    """Return a policy over a block whose masks differ from a half."""
    pytest.importorskip("safetensors")
    torch.manual_seed(0)
    block, path = BLOCKS[request.param].build(8), tmp_path_factory.mktemp("blocks") / "mask.safetensors"
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.7)
    mw.save_mask(path, block, Grey(), "layer")
    return mw.LearnedMask(str(path), encoder=Grey())


def keep(law: Callable[..., None], policy: mw.LearnedMask, **known: Any) -> None:
    """Call a law with what it asks for."""
    wanted = inspect.signature(law).parameters
    law(policy, **{name: value for name, value in known.items() if name in wanted})


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__.removeprefix("test_"))
def test_contract(
    law: Callable[..., None],
    policy: mw.LearnedMask,
    device: torch.device,
) -> None:
    """What holds for every policy holds here."""
    keep(law, replace(policy, scope="sample", margin=0.0), cases=SOME_CASES, device=device)


@pytest.mark.slow
def test_with_everything(policy: mw.LearnedMask, device: torch.device) -> None:
    """Any pairing, ratio, label policy and method goes with it, and the ends of the ratio are exact."""
    for pairing in PAIRINGS:
        if not isinstance(pairing, mw.Greedy):
            contract.test_every_pairing(replace(policy, pairing=pairing), device)
    for ratio in RATIOS:
        contract.test_every_ratio(replace(policy, alpha=ratio), device)
    for lam in (0.0, 1.0):
        contract.test_ends_of_the_ratio(replace(policy, alpha=mw.Constant(lam)), device)
    for label in LABELS:
        contract.test_every_label_policy(policy, label, device)
    for make in METHODS:  # the images of the contract are not in [0, 1]
        known = {"normalization": mw.Normalization(0.5, 2.0)} if make.func in (mw.AugMix, mw.PerturbedMixing) else {}
        contract.test_every_method(policy, partial(make, **known), device)


def test_masks_are_awake(policy: mw.LearnedMask) -> None:
    """The laws are tested on masks that say something: they vary in an image, and follow the ratio."""
    images = torch.randn(6, 3, 16, 16)
    plans = [
        replace(policy, alpha=mw.Constant(lam), pairing=mw.Roll()).draw(images, torch.arange(6)) for lam in (0.2, 0.8)
    ]
    shares = [plan.share((16, 16))[:, 0] for plan in plans]
    assert float(shares[0].std((1, 2)).min()) > 0.0005
    assert float((shares[0] - shares[1]).abs().mean()) > 0.01


def test_the_file_is_read_once(tmp_path: Path) -> None:
    """Settings change without reading it again; a file that has changed is read again, and nothing random is drawn."""
    pytest.importorskip("safetensors")
    path, method = tmp_path / "mask.safetensors", mw.AutoMix(mini_resnet(10))
    mw.save_mask(path, method.block, method.teacher.model, "layer2", "mini_resnet")
    before = torch.get_rng_state()
    first = mw.LearnedMask(str(path))
    assert torch.equal(torch.get_rng_state(), before)
    assert replace(first, alpha=0.3)._trained is first._trained
    with torch.no_grad():
        method.block.value.weight.add_(1)
    path.unlink()
    mw.save_mask(path, method.block, method.teacher.model, "layer2", "mini_resnet", size=(8, 8))
    assert mw.LearnedMask(str(path))._trained is not first._trained
