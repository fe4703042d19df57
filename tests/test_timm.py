"""The drop-in for timm's Mixup: the same numbers as timm, and more than timm can do."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from timm.data import FastCollateMixup as TheirCollate
from timm.data import Mixup as Theirs
from timm.data import create_loader
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from torchvision.datasets import FakeData

import mixwell as mw
from mixwell.integrations.timm import FastCollateMixup, Mixup
from mixwell.integrations.timm_task import MethodTask
from steps import Net

KINDS = {
    "mixup": {"mixup_alpha": 0.8},
    "cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    "both": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_prob": 0.4},
    "minmax": {"mixup_alpha": 0.0, "cutmix_minmax": (0.2, 0.8)},
    "minmax and mixup": {"mixup_alpha": 0.3, "cutmix_minmax": (0.2, 0.8)},
    "uncorrected": {"mixup_alpha": 0.2, "cutmix_alpha": 0.7, "correct_lam": False},
    "seldom": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.5},
    "ratios of 1": {"mixup_alpha": 0.02, "cutmix_alpha": 0.02},
    "ratios of 1, minmax": {"mixup_alpha": 0.02, "cutmix_minmax": (0.1, 0.9)},
    "no smoothing": {"mixup_alpha": 1.0, "cutmix_alpha": 0.3, "label_smoothing": 0.0},
}


def both(ours, theirs, call, times=12):
    """Yield the results of two objects, which draw from the same state each time and must leave the same one."""
    for seed in range(times):
        np.random.seed(seed)  # noqa: NPY002
        expected = call(theirs)
        after = np.random.rand()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        got = call(ours)
        assert np.random.rand() == after, "another number of draws"  # noqa: NPY002
        yield got, expected


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_timm(kind: str, mode: str) -> None:
    """Same seed, same images and targets, and pasted pixels bit for bit."""
    settings = {**KINDS[kind], "mode": mode, "num_classes": 7}
    images, labels = torch.rand(6, 3, 13, 18), torch.randint(7, (6,))
    kept = images.clone()
    for got, expected in both(Mixup(**settings), Theirs(**settings), lambda mix: mix(images.clone(), labels)):
        torch.testing.assert_close(got[0], expected[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(got[1], expected[1], atol=1e-6, rtol=0)
        if kind == "cutmix":
            assert torch.equal(got[0], expected[0])
    Mixup(**settings)(images, labels)
    assert torch.equal(images, kept), "the caller's images are not overwritten"


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_equals_timm_with_multiple_labels(mode: str) -> None:
    """Dense labels are mixed and smoothed towards one half."""
    settings = {"cutmix_alpha": 1.0, "mode": mode, "num_classes": 5, "multi_label": True}
    images, labels = torch.rand(4, 3, 9, 9), torch.randint(2, (4, 5))
    for got, expected in both(Mixup(**settings), Theirs(**settings), lambda mix: mix(images.clone(), labels)):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"needs dense labels \(4, 5\)"):
        Mixup(**settings)(images, torch.arange(4))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_switched_off(mode: str) -> None:
    """Without mixing, images stay, labels are smoothed, and nothing is drawn, as in timm."""
    settings = {"cutmix_alpha": 1.0, "mode": mode, "num_classes": 5}
    ours, theirs = Mixup(**settings), Theirs(**settings)
    ours.mixup_enabled = theirs.mixup_enabled = False
    images, labels = torch.rand(4, 3, 9, 9), torch.arange(4)
    for got, expected in both(ours, theirs, lambda mix: mix(images.clone(), labels), times=2):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
        assert torch.equal(got[0], images)
    with_policy = Mixup(policy=mw.CutMix(), num_classes=5)
    with_policy.mixup_enabled = False
    assert torch.equal(with_policy(images, labels)[0], images)


@pytest.mark.parametrize("array", [True, False])
@pytest.mark.parametrize("mode", ["batch", "pair", "elem", "half"])
@pytest.mark.parametrize("kind", KINDS)
def test_collating_equals_timm(kind: str, mode: str, array: bool) -> None:
    """uint8 images are rounded as in timm, with one level of slack where a value falls between two."""
    settings = {**KINDS[kind], "mode": mode, "num_classes": 7}
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 13, 18)).astype(np.uint8)

    def rows():
        return [(i.copy() if array else torch.from_numpy(i.copy()), k % 7) for k, i in enumerate(images)]

    for got, expected in both(FastCollateMixup(**settings), TheirCollate(**settings), lambda mix: mix(rows())):
        assert got[0].dtype == torch.uint8 and got[0].shape == expected[0].shape
        difference = (got[0].int() - expected[0].int()).abs()
        assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01
        if kind == "cutmix":
            assert difference.max() == 0
        torch.testing.assert_close(got[1], expected[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("mode", ["batch", "pair", "elem", "half"])
@pytest.mark.parametrize("kind", ["both", "cutmix"])
def test_odd_batches(mode: str, rows: int, kind: str) -> None:
    """Targets follow the pixels in a batch of any size; the middle image keeps its label."""
    images = torch.arange(rows, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8) * 50
    settings = {**KINDS[kind], "mode": mode, "num_classes": 5, "label_smoothing": 0.0}
    for _ in range(20):
        if mode == "half":
            mixed, targets = FastCollateMixup(**settings)([(i.clone(), k) for k, i in enumerate(images)])
            assert len(mixed) == len(targets) == rows // 2
        else:
            mixed, targets = Mixup(**settings)(images.float(), torch.arange(rows))
            assert torch.equal(targets[rows // 2], torch.eye(5)[rows // 2]) or rows % 2 == 0
        level = (targets * torch.arange(5) * 50).sum(1)
        torch.testing.assert_close(mixed.float().mean((1, 2, 3)), level, atol=0.5 if mode == "half" else 1e-3, rtol=0)


def test_any_policy() -> None:
    """A policy replaces timm's draws, runs the model if it needs to, and torch's seed repeats it."""
    images, labels = torch.rand(5, 3, 16, 16), torch.arange(5)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 5))
    mixup = Mixup(0.8, 1.0, policy=mw.PuzzleMix(), model=model, num_classes=5)
    torch.manual_seed(3)
    mixed, targets = mixup(images, labels)
    torch.manual_seed(3)
    expected = mw.PuzzleMix()(images, labels, model=model)
    assert torch.equal(mixed, expected.images)
    torch.testing.assert_close(targets, expected.targets(5, smoothing=0.1))
    normalized = Mixup(policy=mw.SaliencyMix(), normalization=mw.IMAGENET, num_classes=5)
    assert normalized(mw.IMAGENET.normalize(images), labels)[1].shape == (5, 5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mixup_alpha": 0.0}, "Nothing to mix"),
        ({"mode": "half"}, "mode must be one of batch, pair, elem, but got 'half'"),
        ({"cutmix_minmax": (0.1,)}, "two shares"),
    ],
)
def test_wrong_settings(settings: dict, words: str) -> None:
    """A setting that cannot work is refused when the object is created."""
    with pytest.raises(ValueError, match=words):
        Mixup(**settings)


def train(mixup_class, policy: dict, prefetcher: bool) -> list[float]:
    """Train as timm's train.py does, with its model, data set, loader, mixup, optimizer and loss."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    model = timm.create_model("resnet10t", num_classes=8)
    mixup_args = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 1.0, "switch_prob": 0.5, "mode": "batch"}
    mixup_args |= {"label_smoothing": 0.1, "num_classes": 8}
    data = FakeData(size=16, image_size=(3, 32, 32), num_classes=8)
    collate_fn = mixup_fn = None
    if prefetcher:
        collate_fn = mixup_class(**mixup_args, **policy)
    else:
        mixup_fn = mixup_class(**mixup_args, **policy)
    loader = create_loader(
        data,
        input_size=(3, 32, 32),
        batch_size=8,
        is_training=True,
        use_prefetcher=prefetcher,
        no_aug=True,
        num_workers=0,
        collate_fn=collate_fn,
        persistent_workers=False,
        pin_memory=False,
        device=torch.device("cpu"),
    )
    train_loss_fn = SoftTargetCrossEntropy()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.002, momentum=0.9)
    losses = []
    for epoch in range(4):
        if epoch == 3:  # train.py: --mixup-off-epoch
            if prefetcher:
                loader.mixup_enabled = False
            else:
                mixup_fn.mixup_enabled = False
        model.train()
        for input, target in loader:  # noqa: A001  (train.py's name)
            if not prefetcher:
                input, target = mixup_fn(input, target)  # noqa: A001
            loss = train_loss_fn(model(input), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("prefetcher", [False, True])
def test_in_timms_training_loop(prefetcher: bool) -> None:
    """With only the import changed, timm's loop has the same losses; with a policy it trains too."""
    ours, theirs = (FastCollateMixup, TheirCollate) if prefetcher else (Mixup, Theirs)
    expected = train(theirs, {}, prefetcher)
    np.testing.assert_allclose(train(ours, {}, prefetcher), expected, rtol=5e-3 if prefetcher else 1e-3)
    losses = train(ours, {"policy": mw.FMix()}, prefetcher)
    assert len(losses) == 8 and np.isfinite(losses).all()


def test_method_as_a_task() -> None:
    """Timm's loop with its task replaced: EMA, validation model and checkpoint are the classifier's."""
    torch.manual_seed(0)
    method = mw.AutoMix(Net(norm=True), num_classes=10, layer="norm", momentum=mw.Linear(0.9, 1.0))
    optimizer = create_optimizer_v2(method, opt="sgd", lr=0.002, momentum=0.9)
    task = MethodTask(method, optimizer, steps=6)
    task.setup_ema(decay=0.9)
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8)
    for step in range(6):
        task.train()
        optimizer.zero_grad()
        result = task(images, labels)
        result["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), 5.0)
        optimizer.step()
        task.update_ema(step=step)
        assert result["output"].shape == (8, 10)
    assert method.progress == 1.0 and task.get_eval_model() is method.model
    assert isinstance(task.get_eval_model(ema=True), Net)
    assert set(task.get_checkpoint_state()["state_dict"]) == set(Net(norm=True).state_dict())
    with pytest.raises(ValueError, match="belong together"):
        MethodTask(method, steps=3)
