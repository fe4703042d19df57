"""Policies that change with progress, and the well-known random choices between policies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mixwell import (
    BatchPolicy,
    BlendPlan,
    BoxPlan,
    CutMix,
    FMix,
    GridMix,
    Mixing,
    MixUp,
    NoMix,
    OneOf,
    ResizeMix,
    Reverse,
    Sometimes,
    parse,
)
from mixwell.policies.schedule import ByProgress, Ramp, at, until
from mixwell.policies.switch import random_mix, switch_mix

NAMES: dict[str, type] = {"ByProgress": ByProgress, "Ramp": Ramp}


def batch(n: int = 8, side: int = 8) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 3, side, side), torch.arange(n)


def test_one_after_another() -> None:
    """Each policy mixes in its time; where nothing changes the very same object comes back, so nothing recompiles."""
    schedule = ByProgress([MixUp(), CutMix(), NoMix()], since=[0, 0.5, 0.9])
    kinds = {0.0: MixUp, 0.49: MixUp, 0.5: CutMix, 0.89: CutMix, 0.9: NoMix, 1.0: NoMix}
    for progress, kind in kinds.items():
        now = schedule.at(progress)
        assert isinstance(now.policies[now.stage], kind)
        assert now.at(progress) is now
    assert schedule.at(0.3) is schedule
    assert schedule.at(0.95).at(0.2) == schedule  # it can be set back
    assert isinstance(schedule.at(0.6).draw(*batch()), BoxPlan)


def test_even_by_default() -> None:
    """Without starts each policy gets the same share of the training."""
    schedule = ByProgress([MixUp(), CutMix(), NoMix(), FMix()])
    assert [schedule.at(k / 8).stage for k in range(9)] == [0, 0, 1, 1, 2, 2, 3, 3, 3]


def test_until() -> None:
    """After its end a policy leaves the images alone, bit for bit."""
    images, labels = batch()
    off = until(MixUp(), 0.9).at(0.9)(images, labels)
    assert off.images.equal(images) and off.weights[:, 0].eq(1).all()
    assert not until(MixUp(), 0.9).at(0.89)(images, labels).images.equal(images)


@pytest.mark.parametrize(("progress", "p"), [(0.0, 0.2), (0.25, 0.2), (0.5, 0.5), (0.75, 0.8), (1.0, 0.8)])
def test_ramp(progress: float, p: float) -> None:
    """A number moves in a straight line between its times and stays at its ends."""
    ramp = Ramp(Sometimes(MixUp()), "p", start=0.2, end=0.8, since=0.25, until=0.75)
    now = ramp.at(progress).current()
    assert isinstance(now, Sometimes) and now.p == pytest.approx(p)


def test_ramp_of_a_ratio() -> None:
    """The law of the ratio follows: alpha from almost nothing to a lot brings weights from the ends to the middle."""
    ramp = Ramp(MixUp(scope="sample"), "alpha", start=0.05, end=50.0)
    spread = [ramp.at(progress).draw(*batch(500, 2)).weights[:, 0].std() for progress in (0.0, 0.5, 1.0)]
    assert spread[0] > 0.4 and spread[1] < 0.1 and spread[2] < spread[1]


def test_schedules_inside_other_policies_move() -> None:
    """Whatever a policy is made of is moved; what holds no schedule is the same object afterwards."""
    inner = until(CutMix(), 0.5)
    nested = OneOf([Sometimes(inner, p=0.7), MixUp()], weights=[1, 2])
    moved = at(nested, 0.6)
    assert repr(moved) == repr(nested).replace("since=(0.0, 0.5)", "since=(0.0, 0.5), stage=1")
    assert at(moved, 0.1) == nested
    plain = OneOf([Sometimes(CutMix()), MixUp()])
    assert at(plain, 0.6) is plain
    in_turn = ByProgress([MixUp(), Ramp(Sometimes(CutMix()), "p")])
    assert in_turn.at(0.75).policies[1] == Ramp(Sometimes(CutMix()), "p", progress=0.75)
    assert at(print, 0.5) is print  # any callable may take a policy's place


def test_follow() -> None:
    """A method's policy is put where training stands, and a resumed one starts there."""
    images, labels = batch()
    method = Mixing(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8)), until(MixUp(), 0.5))
    losses = []
    for progress in (0.4, 0.6):
        method.follow(progress)
        torch.manual_seed(0)
        losses.append(method(images, labels)["loss"])
    plain = nn.functional.cross_entropy(method.model(images), labels)
    assert losses[1].allclose(plain) and not losses[0].allclose(plain)
    before = method.policy
    method.follow(0.7)
    assert method.policy is before


def test_compiled() -> None:
    """A ramp that moves at every step does not compile anew at every step."""
    images, labels = batch()
    method = Mixing(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8)), Ramp(MixUp(), "alpha", start=0.1, end=2.0))
    torch.compiler.reset()
    graphs = []
    step = torch.compile(method, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    counts = []
    for k in range(8):
        method.follow(k / 8)
        step(images, labels)
        counts.append(len(graphs))
    assert counts[2:] == [counts[2]] * 6
    torch.compiler.reset()


@pytest.mark.parametrize(
    "schedule",
    [
        until(CutMix(alpha=0.2), 0.9),
        ByProgress([MixUp(), CutMix(), NoMix()]).at(0.5),
        Ramp(Sometimes(CutMix()), "p", start=0.25, until=0.5, progress=0.75),
        OneOf([until(MixUp(), 0.5), NoMix()]),
    ],
    ids=repr,
)
def test_reads_back(schedule: BatchPolicy) -> None:
    """The repr is the name."""
    assert parse(repr(schedule), NAMES) == schedule


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ByProgress([]), "list of policies"),
        (lambda: ByProgress([MixUp(), CutMix()], since=[0, math.nan]), "rise from 0"),
        (lambda: ByProgress([MixUp(), CutMix()], since=[0.1, 0.5]), "rise from 0"),
        (lambda: ByProgress([MixUp(), CutMix()], since=[0, 1.0]), "stay below 1"),
        (lambda: ByProgress([MixUp(), CutMix()], since=[0]), "one number for each of 2"),
        (lambda: ByProgress([MixUp()], stage=1), "stage must be one of the 1"),
        (lambda: until(MixUp(), 0.0), "rise from 0"),
        (lambda: Ramp(CutMix(), "alfa"), "has no setting 'alfa'; it has alpha"),
        (lambda: Ramp(Sometimes(CutMix()), "p", end=2.0), "probability"),
        (lambda: Ramp(CutMix(), "alpha", start=0.0, end=1.0), "must be a positive finite number"),
        (lambda: Ramp(CutMix(), "alpha", start=0.5, since=0.5, until=0.5), "since < until"),
        (lambda: switch_mix(mode="half"), "mode must be one of batch, pair, elem"),
        (lambda: switch_mix(0, 0), "for no mixing use NoMix"),
        (lambda: switch_mix(switch_prob=2.0), "switch_prob"),
        (lambda: switch_mix(prob=1.5), "probability"),
    ],
)
def test_bad_settings(make, message: str) -> None:
    """What cannot be is refused where it is written."""
    with pytest.raises(ValueError, match=message):
        make()


def test_switch_is_made_of_known_parts() -> None:
    """Batch and element modes are values that name every part."""
    assert switch_mix(0.8, 0) == MixUp(alpha=0.8, pairing=Reverse())
    assert switch_mix(0, 1.0, prob=0.5, mode="elem") == Sometimes(
        CutMix(alpha=1.0, pairing=Reverse(), scope="sample", odd="exact"), p=0.5, scope="sample"
    )
    assert parse(repr(switch_mix(cutmix_minmax=(0.2, 0.8), prob=0.3))) == switch_mix(cutmix_minmax=(0.2, 0.8), prob=0.3)


MODES = ["batch", "elem", "pair"]


def kinds(policy: BatchPolicy, rows: int, draws: int) -> tuple[Tensor, Tensor]:
    """Return which rows of many batches were cut (not blended) and which were left alone, shape ``(draws, rows)``."""
    ramp = torch.arange(rows, dtype=torch.float64)[:, None, None, None].expand(rows, 1, 8, 8).contiguous()
    cut, alone = [], []
    for _ in range(draws):
        mixed = policy(ramp, torch.arange(rows)).images.flatten(1)
        alone.append((mixed == ramp.flatten(1)).all(1))
        cut.append(((mixed == ramp.flatten(1)) | (mixed == ramp.flip(0).flatten(1))).all(1) & ~alone[-1])
    return torch.stack(cut), torch.stack(alone)


@pytest.mark.parametrize("mode", MODES)
def test_frequencies(mode: str) -> None:
    """Kinds come as often as asked, once per batch, per pair or per image."""
    rows, draws = (4, 500) if mode == "batch" else (100, 20)
    policy = switch_mix(cutmix_minmax=(0.3, 0.7), prob=0.8, switch_prob=0.25, mode=mode)
    cut, alone = kinds(policy, rows, draws)
    assert cut.float().mean() == pytest.approx(0.8 * 0.25, abs=0.06)
    assert alone.float().mean() == pytest.approx(0.2, abs=0.06)
    for kind in (cut, alone):
        same = kind == kind[:, :1]
        pairs = (kind == kind.flip(1)).float().mean()
        assert bool(same.all()) == (mode == "batch")
        assert (pairs == 1) == (mode != "elem")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("settings", [{}, {"cutmix_minmax": (0.2, 0.7)}, {"correct_lam": False, "prob": 0.6}], ids=repr)
def test_weights_have_timms_law(mode: str, settings: dict) -> None:
    """Label weights are distributed as timm's, told by the distance of the two empirical laws."""
    theirs = pytest.importorskip("timm.data.mixup", reason="timm is not installed").Mixup
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    rows, draws = (2, 800) if mode == "batch" else (400, 4)
    images = torch.zeros(rows, 1, 90, 70)
    labels = torch.cat((torch.zeros(rows // 2), torch.ones(rows // 2))).long()  # partners are of another class
    mixup = theirs(mixup_alpha=0.8, cutmix_alpha=1.0, mode=mode, label_smoothing=0.0, num_classes=2, **settings)
    policy = switch_mix(mode=mode, **settings)
    ours, other = [], []
    for _ in range(draws):
        pick = slice(None, None, rows) if mode == "batch" else slice(None, rows // 2)
        ours.append(policy(images, labels).weights[pick, 0])
        other.append(mixup(images.clone(), labels)[1][range(rows), labels][pick])
    assert stats.ks_2samp(torch.cat(ours), torch.cat(other)).statistic < 0.09


def test_pairs_swap() -> None:
    """In pair mode an image and its partner share ratio, kind and box: together they still show all of both."""
    images, labels = torch.rand(64, 3, 9, 9), torch.arange(64)
    mixed = switch_mix(mode="pair", prob=0.7)(images, labels)
    assert (mixed.images + mixed.images.flip(0)).allclose(images + images.flip(0), atol=1e-6)
    assert mixed.weights.equal(mixed.weights.flip(0))


def test_odd_batches() -> None:
    """Which timm refuses; here the middle image is left alone."""
    images, labels = batch(5)
    for mode in MODES:
        assert switch_mix(mode=mode)(images, labels).images[2].allclose(images[2], atol=1e-6)


def test_random_mix() -> None:
    """MixUp in half of the batches, the others in a sixth each."""
    policy = random_mix()
    chosen = [policy.draw(*batch(2)) for _ in range(600)]
    blends = sum(isinstance(plan, BlendPlan) for plan in chosen)
    scaled = sum(plan.moves_pixels for plan in chosen)
    assert blends == pytest.approx(300, abs=50) and scaled == pytest.approx(100, abs=35)
    assert isinstance(policy.policies[3], ResizeMix)
    assert random_mix(scope="sample")(*batch()).weights.shape == (8, 2)


def test_a_ramp_counts_in_whole_numbers() -> None:
    """Where its setting does; a probability written as a whole number still moves smoothly."""
    ramp = Ramp(GridMix(), "cells", start=2, end=8)
    assert [ramp.at(p).current().cells for p in (0.0, 0.4, 1.0)] == [2, 4, 8]
    assert Ramp(Sometimes(CutMix(), p=1), "p", start=0, end=1).at(0.25).current().p == 0.25
