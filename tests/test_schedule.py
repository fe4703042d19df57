"""Policies that change with progress, and the well-known random choices between policies."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any, get_args, get_origin

import pytest
import torch
from torch import Tensor, nn

from catalogue import LABELS, LOSSES, POLICIES, RATIOS, SALIENCIES
from mixwell import (
    BatchPolicy,
    Beta,
    BlendPlan,
    BoxPlan,
    Cosine,
    CutMix,
    GridMix,
    Linear,
    Mixing,
    MixUp,
    NoMix,
    OneOf,
    ResizeMix,
    Reverse,
    Sometimes,
    Step,
    Switch,
    Value,
    parse,
    random_mix,
    switch_mix,
    until,
)
from mixwell.typecheck import hints_of
from mixwell.value import at


def batch(n: int = 8, side: int = 8) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 3, side, side), torch.arange(n)


def test_one_after_another() -> None:
    """Each policy mixes in its stage; used directly, a switch is at its start."""
    switch = Switch({0.5: CutMix(), 0.0: MixUp(), 0.9: NoMix()})
    kinds = {0.0: MixUp, 0.49: MixUp, 0.5: CutMix, 0.89: CutMix, 0.9: NoMix, 1.0: NoMix}
    assert {progress: type(switch.at(progress)) for progress in kinds} == kinds
    assert isinstance(switch.draw(*batch()), BlendPlan) and isinstance(switch.at(0.6).draw(*batch()), BoxPlan)
    assert switch == Switch({0.0: MixUp(), 0.5: CutMix(), 0.9: NoMix()})
    assert hash(switch) == hash(Switch({0.0: MixUp(), 0.5: CutMix(), 0.9: NoMix()}))


def test_until() -> None:
    """After its end a policy leaves the images unchanged, bit for bit."""
    images, labels = batch()
    assert until(MixUp(), 0.9) == Switch({0.0: MixUp(), 0.9: NoMix()})
    off = until(MixUp(), 0.9).at(0.9)(images, labels)
    assert off.images.equal(images) and off.weights[:, 0].eq(1).all()
    assert not until(MixUp(), 0.9).at(0.89)(images, labels).images.equal(images)


@pytest.mark.parametrize(("progress", "p"), [(0.0, 0.2), (0.25, 0.2), (0.5, 0.5), (0.75, 0.8), (1.0, 0.8)])
def test_linear(progress: float, p: float) -> None:
    """A number moves in a straight line between its times and stays at its ends."""
    now = Sometimes(MixUp(), p=Linear(0.2, 0.8, since=0.25, until=0.75)).at(progress)
    assert isinstance(now, Sometimes) and now.p == pytest.approx(p)


def test_ratios_follow() -> None:
    """From a small alpha to a large one weights move from the ends to the middle, wherever the schedule stands."""
    for alpha in (Linear(0.05, 50.0), Beta(Linear(0.05, 50.0))):
        policy = MixUp(scope="sample", alpha=alpha)
        spread = [policy.at(progress).draw(*batch(500, 2)).weights[:, 0].std() for progress in (0.0, 0.5, 1.0)]
        assert spread[0] > 0.4 and spread[1] < 0.1 and spread[2] < spread[1]
        assert policy.draw(*batch(500, 2)).weights[:, 0].std() > 0.4  # used directly: the start


def leaves(kind: Any) -> set[Any]:
    """Return the types that an annotation joins, without those inside a tuple."""
    if get_origin(kind) is tuple or not get_args(kind):
        return {kind} if isinstance(kind, type) else set()
    return set().union(*map(leaves, get_args(kind)))


SETTINGS = [
    (value, f.name)
    for value in (*POLICIES, *RATIOS, *LABELS, *LOSSES, *SALIENCIES)
    for f in fields(value)
    if float in leaves(hints_of(type(value))[f.name]) and isinstance(getattr(value, f.name), float | int)
]


@pytest.mark.filterwarnings("ignore:kappa")
@pytest.mark.parametrize(("value", "name"), SETTINGS, ids=repr)
def test_every_number_takes_a_schedule(value: Value, name: str) -> None:
    """Any float setting takes a schedule, and ``at`` returns the same value with the number of that progress."""
    plain = getattr(value, name)
    for number in (plain, 0.9 * plain):
        try:
            expected = replace(value, **{name: number})
        except (ValueError, TypeError):  # sign=0.9, say
            continue
        moving = replace(value, **{name: Linear(plain, number)})
        assert moving.at(1.0) == expected and moving.at(0.0) == value
        assert parse(repr(moving)) == moving
        stepping = replace(value, **{name: Step({0.0: plain, 0.5: number})})
        assert stepping.at(0.7) == expected and stepping.at(0.2) == value


def test_schedules_inside_other_policies_move() -> None:
    """Schedules are resolved at any depth; a policy without schedules is returned as the same object."""
    nested = OneOf([Sometimes(until(CutMix(), 0.5), p=Linear(0.75, 0.25)), MixUp()], weights=[1, 2])
    assert nested.at(0.5) == OneOf([Sometimes(NoMix(), p=0.5), MixUp()], weights=[1, 2])
    assert nested.at(0.0) == OneOf([Sometimes(CutMix(), p=0.75), MixUp()], weights=[1, 2])
    plain = OneOf([Sometimes(CutMix()), MixUp()])
    assert plain.at(0.6) is plain
    inner = Switch({0.0: MixUp(), 0.5: Sometimes(CutMix(), p=Linear(0.0, 1.0))})
    assert inner.at(0.75) == Sometimes(CutMix(), p=0.75)
    assert at(print, 0.5) is print  # any callable may take a policy's place


def test_a_method_moves_its_policy() -> None:
    """A method mixes with the policy of its progress, also after it was restored."""
    images, labels = batch()
    method = Mixing(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8)), until(MixUp(), 0.5))
    losses = []
    for progress in (0.4, 0.6):
        method.after_step(progress)
        torch.manual_seed(0)
        losses.append(method(images, labels)["loss"])
    plain = nn.functional.cross_entropy(method.model(images), labels)
    assert losses[1].allclose(plain) and not losses[0].allclose(plain)
    resumed = Mixing(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8)), until(MixUp(), 0.5))
    resumed.load_state_dict(method.state_dict())
    assert resumed(images, labels)["loss"].allclose(plain)


def test_compiled() -> None:
    """A number that changes in every step does not cause a new compilation in every step."""
    images, labels = batch()
    method = Mixing(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 8)), MixUp(alpha=Linear(0.1, 2.0)))
    torch.compiler.reset()
    graphs = []
    step = torch.compile(method, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    counts = []
    for k in range(8):
        method.after_step(k / 8)
        step(images, labels)
        counts.append(len(graphs))
    assert counts[2:] == [counts[2]] * 6
    torch.compiler.reset()


@pytest.mark.parametrize(
    "policy",
    [
        until(CutMix(alpha=0.2), 0.9),
        Switch({0.0: MixUp(alpha=Cosine(1.0, 0.2)), 0.5: Sometimes(CutMix(), p=Step({0.0: 1.0, 0.9: 0.0}))}),
        Sometimes(CutMix(), p=Linear(0.25, 1.0, until=0.5)),
        OneOf([until(MixUp(), 0.5), NoMix()]),
    ],
    ids=repr,
)
def test_reads_back(policy: BatchPolicy) -> None:
    """The repr is the expression that creates the policy."""
    assert parse(repr(policy)) == policy


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Switch, "starting at 0.0"),
        (lambda: Switch({0.0: MixUp(), math.nan: CutMix()}), "starting at 0.0"),
        (lambda: Switch({0.1: MixUp(), 0.5: CutMix()}), "starting at 0.0"),
        (lambda: Switch({0.0: MixUp(), 1.0: CutMix()}), "a progress in .0, 1."),
        (lambda: Switch({0.0: 1.0}), "needs policies"),
        (lambda: Switch({"a": MixUp()}), "starting at 0.0"),
        (lambda: Switch({0.0: MixUp(), "a": MixUp()}), "starting at 0.0"),
        (lambda: until(MixUp(), 0.0), "in .0, 1."),
        (lambda: Sometimes(CutMix(), p=Linear(0.0, 2.0)), "p must"),
        (lambda: CutMix(alpha=Linear(0.0, 1.0)), "must be a positive finite number"),
        (lambda: CutMix(alpha=Linear(0.5, since=0.5, until=0.5)), "since < until"),
        (lambda: Step({0.0: 1.0, 0.5: "a"}), "needs numbers"),
        (lambda: Step({0.5: 1.0}), "starting at 0.0"),
        (lambda: parse("Switch({0.0: MixUp, **{}})"), "Expected constructor calls"),
        (lambda: switch_mix(mode="half"), "mode must be one of batch, pair, elem"),
        (lambda: switch_mix(0, 0), "for no mixing use NoMix"),
        (lambda: switch_mix(switch_prob=2.0), "switch_prob"),
        (lambda: switch_mix(prob=1.5), "p must"),
    ],
)
def test_bad_settings(make, message: str) -> None:
    """Wrong settings are refused when the object is created."""
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_in_tuples_and_counts_take_no_schedule() -> None:
    """Only float settings do; others say what they want."""
    with pytest.raises(TypeError, match="minmax of CutMix must be"):
        CutMix(minmax=(Linear(0.0, 0.2), 0.8))
    with pytest.raises(TypeError, match="cells of GridMix must be"):
        GridMix(cells=Linear(2.0, 8.0))


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
