"""Attacks and occlusion: limits in pixel space, loops, and what may not change."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixwell as mw
from mixwell.evaluation.adversarial import autoattack, fgsm, pgd
from mixwell.evaluation.occlusion import SHARES, area, drop_patches

SPACES = [
    None, mw.IMAGENET, mw.CIFAR100, mw.Normalization(0.5, 0.5), mw.Normalization((0.9, 0.1, 0.5), 0.01),
    mw.Normalization((0.0, 1.0, 0.3), (2.0, 0.03, 0.7)),
]  # fmt: skip


def setting(space: mw.Normalization | None) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Return a small network, pixels with black and white ones among them, their normalized images and labels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    pixels = (2 * torch.rand(16, 3, 8, 8) - 0.5).clamp(0, 1)
    images = pixels if space is None else space.normalize(pixels)
    return model, pixels, images, torch.arange(16) % 4


def back(images: Tensor, space: mw.Normalization | None) -> Tensor:
    return images if space is None else space.pixels(images)


@pytest.mark.parametrize("space", SPACES, ids=repr)
@pytest.mark.parametrize("eps", [2 / 255, 4 / 255, 8 / 255])
@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_attacks_stay_within_their_limits(space: mw.Normalization | None, eps: float, attack: object) -> None:
    """Within eps in pixel values, inside [0, 1], a higher loss, and no trace in model or images."""
    model, pixels, images, labels = setting(space)
    before = images.clone()
    extra = {"generator": torch.Generator().manual_seed(0)} if attack is pgd else {}
    found = attack(model, images, labels, eps, space, **extra)  # type: ignore[operator]
    changed = back(found, space)
    assert changed.min() >= -1e-6 and changed.max() <= 1 + 1e-6
    assert (changed - pixels).abs().max() <= eps + 1e-6
    assert F.cross_entropy(model(found), labels) > F.cross_entropy(model(images), labels)
    assert images.equal(before) and all(p.grad is None for p in model.parameters())
    assert not found.requires_grad


@pytest.mark.parametrize("attack", [fgsm, pgd])
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (1, 1000), (4, 3)])
def test_attacks_of_other_images(attack: object, channels: int, classes: int) -> None:
    """One channel and four, two classes and a thousand, images that are not square, a NaN in one image."""
    space, pixels = mw.Normalization(0.3, 0.6), torch.rand(3, channels, 5, 9)
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * 45, classes))
    images, labels = space.normalize(pixels), torch.arange(3) % classes
    changed = space.pixels(attack(model, images, labels, 8 / 255, space))  # type: ignore[operator]
    assert changed.min() >= -1e-6 and changed.max() <= 1 + 1e-6 and (changed - pixels).abs().max() <= 8 / 255 + 1e-6
    assert (changed - pixels).abs().max() > 7 / 255


@pytest.mark.parametrize("space", SPACES, ids=repr)
def test_fgsm_equals_single_pixels(space: mw.Normalization | None) -> None:
    """The sign of a finite difference at each pixel, in float64, decides where the pixel goes."""
    model, pixels, images, labels = setting(space)
    found = back(fgsm(model, images, labels, 4 / 255, space), space)
    model = model.double()
    for place in ((0, 0, 0, 0), (3, 1, 4, 2), (7, 2, 7, 7), (9, 0, 5, 3), (15, 2, 1, 6)):
        losses = []
        for shift in (1e-6, -1e-6):
            moved = pixels.double()
            moved[place] += shift
            if space is not None:
                mean, std = space.tensors(moved)
                moved = (moved - mean.double()) / std.double()
            losses.append(F.cross_entropy(model(moved), labels, reduction="sum").item())
        wanted = min(max(pixels[place].item() + (4 / 255 if losses[0] > losses[1] else -4 / 255), 0), 1)
        assert found[place].item() == pytest.approx(wanted, abs=1e-6)


def test_pgd_is_stronger_and_repeats_itself() -> None:
    model, _, images, labels = setting(mw.IMAGENET)
    one, two = (
        pgd(model, images, labels, 8 / 255, mw.IMAGENET, generator=torch.Generator().manual_seed(1)) for _ in "ab"
    )
    assert one.equal(two)
    single = F.cross_entropy(model(fgsm(model, images, labels, 8 / 255, mw.IMAGENET)), labels)
    assert F.cross_entropy(model(one), labels) > single - 1e-3
    first = pgd(model, images, labels, 8 / 255, mw.IMAGENET, steps=1, step=8 / 255)
    torch.testing.assert_close(first, fgsm(model, images, labels, 8 / 255, mw.IMAGENET))


def test_attack_without_normalization_says_so() -> None:
    model, _, images, labels = setting(mw.IMAGENET)
    with pytest.raises(ValueError, match="FGSM or PGD computes in pixel values"):
        fgsm(model, images, labels)


def test_autoattack_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels, images, labels = setting(mw.CIFAR100)
    if importlib.util.find_spec("pyautoattack") is None:
        with pytest.raises(ImportError, match="AutoAttack needs the package pyautoattack"):
            autoattack(model, images, labels, 8 / 255, mw.CIFAR100)

    class Fake:
        def __init__(self, forward: object, **settings: object) -> None:
            self.forward, self.eps = forward, settings["eps"]
            self.apgd_targeted, self.fab = SimpleNamespace(), SimpleNamespace()
            self.attacks_to_run = ["apgd-ce", "apgd-t", "fab-t", "square"]

        def run_standard_evaluation(self, inputs: Tensor, labels: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
            assert self.apgd_targeted.n_target_classes == self.fab.n_target_classes == 3
            assert len(self.attacks_to_run) == 4 and batch_size == 16
            torch.testing.assert_close(inputs, pixels)
            torch.testing.assert_close(self.forward(inputs), model(images))  # type: ignore[operator]
            return (inputs + self.eps).clamp(0, 1), labels  # type: ignore[operator]

    monkeypatch.setitem(sys.modules, "pyautoattack", SimpleNamespace(AutoAttack=Fake))  # type: ignore[arg-type]
    found = autoattack(model, images, labels, 8 / 255, mw.CIFAR100)
    torch.testing.assert_close(mw.CIFAR100.pixels(found), (pixels + 8 / 255).clamp(0, 1))


@pytest.mark.parametrize("fill", ["mean", "black"])
@pytest.mark.parametrize("space", SPACES, ids=repr)
@pytest.mark.parametrize(("side", "grid"), [((28, 28), 14), ((30, 45), 14), ((8, 8), 14), ((6, 6), 3)])
def test_patches(fill: str, space: mw.Normalization | None, side: tuple[int, int], grid: int) -> None:
    """Whole patches, the asked number in every image, each image at its own places, in the right colour."""
    pixels = torch.rand(5, 3, *side) * 0.9 + 0.05
    images = pixels if space is None else space.normalize(pixels)
    mean = torch.full((3,), 0.5) if space is None else torch.tensor(space.mean).expand(3)
    colour = mean if fill == "mean" else torch.zeros(3)
    hidden_before = torch.zeros(5, *side, dtype=torch.bool)
    rows, columns = min(grid, side[0]), min(grid, side[1])
    for share in SHARES:
        found = drop_patches(
            images, share, grid=grid, fill=fill, normalization=space, generator=torch.Generator().manual_seed(4),
        )  # type: ignore[arg-type]  # fmt: skip
        hidden = (found != images).any(1)
        torch.testing.assert_close(back(found, space).movedim(1, -1)[hidden], colour.expand(int(hidden.sum()), 3))
        counts = []
        for one in hidden:
            patches = {(r * rows // side[0], c * columns // side[1]) for r, c in one.nonzero().tolist()}
            whole = sum(
                (r * rows // side[0], c * columns // side[1]) in patches for r in range(side[0]) for c in range(side[1])
            )
            assert whole == one.sum()
            counts.append(len(patches))
        assert set(counts) == {round(share * rows * columns)}
        assert (hidden | ~hidden_before).all()
        hidden_before = hidden
    assert not hidden[0].equal(hidden[1])


@pytest.mark.parametrize("classes", [2, 4, 12])
def test_real_autoattack(classes: int) -> None:
    """The package itself, where it is installed: within the limit, and no image that PGD fools is left right."""
    pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
    torch.manual_seed(0)
    space, pixels = mw.Normalization(0.5, 0.5), torch.rand(4, 3, 8, 8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, classes)).eval()
    images = space.normalize(pixels)
    labels = model(images).argmax(1)
    found = autoattack(model, images, labels, 16 / 255, space)
    changed = space.pixels(found)
    assert changed.min() >= -1e-6 and changed.max() <= 1 + 1e-6 and (changed - pixels).abs().max() <= 16 / 255 + 1e-6
    weak = model(pgd(model, images, labels, 16 / 255, space)).argmax(1) == labels
    assert not ((model(found).argmax(1) == labels) & ~weak).any()


def test_area_and_bad_share() -> None:
    numpy = pytest.importorskip("numpy")
    curve = torch.rand(10).tolist()
    assert area(curve) == pytest.approx(numpy.trapezoid(curve, SHARES) / 0.9, abs=1e-6)
    assert area([80.0] * 10) == pytest.approx(80)
    assert area(list(range(10))) == pytest.approx(4.5)
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\]"):
        drop_patches(torch.zeros(1, 1, 2, 2), 1.5)
