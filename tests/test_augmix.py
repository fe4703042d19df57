"""AugMix: every augmentation against Pillow's, views against their definition, the divergence against its bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell import CutMix, Mixing, MixUp, Normalization, SemanticShare
from mixwell.methods.augmix import BASIC, MORE, AugMix, AugMixViews, jensen_shannon
from mixwell.ops import augmentations as ops

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
from PIL import ImageEnhance, ImageOps  # noqa: E402

SIZE = (14, 18)


def bytes_of(n: int = 6, channels: int = 3, size: tuple[int, int] = SIZE) -> Tensor:
    """Make smooth pictures of different contrast, one of them flat: pure noise would hide where pixels come from."""
    rough = torch.rand(n, channels, 5, 5)
    images = F.interpolate(rough, size, mode="bicubic", align_corners=True).clamp(0, 1)
    contrasts = torch.linspace(0, 1, n).view(-1, 1, 1, 1)
    return (images * contrasts * 255 + 20 * (1 - contrasts)).round().byte()


def through_pillow(images: Tensor, change: Callable, *magnitudes: Tensor) -> Tensor:
    """Change image by image in Pillow."""
    changed = []
    for row, image in enumerate(images):
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
        back = torch.frombuffer(
            bytearray(change(picture, *(m[row].item() for m in magnitudes)).tobytes()), dtype=torch.uint8
        )
        changed.append(back.view(*images.shape[2:], images.shape[1]).permute(2, 0, 1))
    return torch.stack(changed)


def compare(found: Tensor, expected: Tensor, within: float = 1.0, outliers: float = 0.0) -> None:
    """Compare values in [0, 1] with bytes, to within so many levels but for a share of the pixels."""
    off = (found * 255 - expected).abs() > within + 1e-3
    assert off.float().mean() <= outliers, (
        f"{off.float().mean():.4f} differ, by up to {(found * 255 - expected).abs().max()}"
    )


def transform(*entries: object) -> Callable:
    def change(picture, magnitude: float):
        matrix = tuple(magnitude if e == "m" else e for e in entries)
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)

    return change


SIGNED = torch.tensor([-0.9, -0.3, 0.0, 0.25, 0.5, 0.9])
FACTORS = torch.tensor([0.1, 0.4, 0.8, 1.0, 1.3, 1.9])
TABLE = {
    "autocontrast": (lambda x, m: ops.autocontrast(x), lambda p, m: ImageOps.autocontrast(p), SIGNED, 1.0, 0.0),
    "equalize": (lambda x, m: ops.equalize(x), lambda p, m: ImageOps.equalize(p), SIGNED, 0.0, 0.0),
    "posterize": (
        ops.posterize,
        lambda p, m: ImageOps.posterize(p, int(m)),
        torch.tensor([1, 2, 3, 4, 6, 8]),
        0.0,
        0.0,
    ),
    "solarize": (
        ops.solarize,
        ImageOps.solarize,
        torch.tensor([0, 30, 60, 128, 200, 256]),
        0.0,
        0.0,
    ),
    "rotate": (ops.rotate, lambda p, m: p.rotate(m, Image.Resampling.BILINEAR), SIGNED * 30, 1.0, 0.01),
    "shear_x": (ops.shear_x, transform(1, "m", 0, 0, 1, 0), SIGNED * 0.3, 1.0, 0.0),
    "shear_y": (ops.shear_y, transform(1, 0, 0, "m", 1, 0), SIGNED * 0.3, 1.0, 0.0),
    "translate_x": (ops.translate_x, transform(1, 0, "m", 0, 1, 0), (SIGNED * 6).round(), 0.0, 0.0),
    "translate_y": (ops.translate_y, transform(1, 0, 0, 0, 1, "m"), (SIGNED * 6).round(), 0.0, 0.0),
    "colour": (ops.colour, lambda p, m: ImageEnhance.Color(p).enhance(m), FACTORS, 1.6, 0.0),
    "contrast": (ops.contrast, lambda p, m: ImageEnhance.Contrast(p).enhance(m), FACTORS, 1.6, 0.0),
    "brightness": (ops.brightness, lambda p, m: ImageEnhance.Brightness(p).enhance(m), FACTORS, 1.0, 0.0),
    "sharpness": (ops.sharpness, lambda p, m: ImageEnhance.Sharpness(p).enhance(m), FACTORS, 1.6, 0.0),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("channels", [3, 1])
def test_augmentations_are_pillows(name: str, channels: int, device: torch.device) -> None:
    """Image by image, each with a magnitude of its own, to within Pillow's rounding."""
    ours, theirs, magnitudes, within, outliers = TABLE[name]
    images = bytes_of(channels=channels)
    unit = (images.float() / 255).to(device)
    before = unit.clone()
    found = ours(unit, magnitudes.to(device)).cpu()
    compare(found, through_pillow(images, theirs, magnitudes), within, outliers)
    assert unit.equal(before)


def test_augmentations_are_torchvisions() -> None:
    """A second opinion on the histograms."""
    v2 = pytest.importorskip("torchvision.transforms.v2.functional", reason="torchvision is not installed")
    images = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8)
    images[1] //= 7
    unit = images.float() / 255
    compare(ops.equalize(unit), v2.equalize(images), 0.0)
    compare(ops.autocontrast(unit), v2.autocontrast(images))
    compare(ops.posterize(unit, torch.full((4,), 3)), v2.posterize(images, 3), 0.0)
    compare(ops.solarize(unit, torch.full((4,), 100)), v2.solarize(images, 100), 0.0)


@pytest.mark.parametrize("number", range(len(BASIC + MORE)))
@pytest.mark.parametrize("level", [0.1, 3.0, 10.0])
def test_every_level_stays_in_range(number: int, level: float) -> None:
    """From the weakest to the strongest level values stay in [0, 1] and every row is augmented by itself."""
    unit = bytes_of().float() / 255
    levels, signs = torch.full((6,), level), torch.tensor([1.0, -1.0]).repeat(3)
    make = (BASIC + MORE)[number]
    found = make(unit, levels, signs)
    assert found.shape == unit.shape and found.min() >= 0 and found.max() <= 1
    alone = torch.cat([make(unit[k : k + 1], levels[k : k + 1], signs[k : k + 1]) for k in range(6)])
    assert found.allclose(alone, atol=1e-6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("settings", [{}, {"all_ops": True, "depth": 2, "width": 1}], ids=repr)
def test_views(settings: dict, device: torch.device) -> None:
    """Reproducible, different for every image and draw, in the range of the images, like them in every respect."""
    views, images = AugMixViews(**settings), torch.rand(4, 3, 12, 10, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    view = views(images, generator())
    assert view.equal(views(images, generator())) and not view.equal(views(images, generator(1)))
    assert images.equal(before) and view.shape == images.shape and view.dtype == images.dtype
    assert view.min() >= -1e-5 and view.max() <= 1 + 1e-5
    same = images[:1].expand(4, -1, -1, -1)
    assert len({tuple(v.flatten().tolist()) for v in views(same, generator())}) == 4


def test_no_share_leaves_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """With m = 0 the view is the image, bit for bit; with m = 1 it is an average of chains."""
    images = torch.rand(4, 3, 9, 9)
    shares = iter([0.0, 1.0, 0.5])
    monkeypatch.setattr("mixwell.methods.augmix.Beta.__call__", lambda self, n, *_: torch.full((n,), next(shares)))
    views = AugMixViews()
    nothing, everything, half = (views(images, generator()) for _ in range(3))
    assert nothing.equal(images)
    assert half.allclose((images + everything) / 2, atol=1e-6)


def test_a_view_is_an_average_of_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains are applied one after another, weighed, and mixed with the image: image by image in plain Python."""
    images, seen = torch.rand(5, 3, 8, 8), []

    def dimming(factor: float) -> Callable:
        return lambda x, level, sign: seen.append(len(x)) or x * factor

    monkeypatch.setattr("mixwell.methods.augmix.BASIC", (dimming(0.5), dimming(0.25)))
    monkeypatch.setattr("mixwell.methods.augmix.Beta.__call__", lambda self, n, *_: torch.ones(n))
    view = AugMixViews(depth=2, width=1)(images, generator())
    ratio = (view / images).mean((1, 2, 3))
    assert all(min(abs(r - e) for e in (1 / 4, 1 / 8, 1 / 16)) < 1e-5 for r in ratio.tolist())
    assert sum(seen) == 5 * 2 and len(seen) <= 4  # grouped, never image by image


def test_normalisation_and_bytes_commute() -> None:
    """Normalised images get the normalised view of the raw ones, and bytes the rounded one."""
    raw = bytes_of(size=(16, 16))
    unit, mean, std = raw.float() / 255, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    m, s = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
    expected = AugMixViews()(unit, generator())
    normalised = AugMixViews()((unit - m) / s, generator(), Normalization(mean, std))
    assert (normalised * s + m).allclose(expected, atol=1e-4)
    assert (AugMixViews()(raw, generator()).float() / 255).allclose(expected, atol=0.51 / 255)


def test_depth_and_kinds_are_even(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains have one, two or three steps as often, every augmentation comes as often, levels go up to the severity."""
    counts, levels = [0, 0, 0], []

    def counting(k: int) -> Callable:
        def make(x: Tensor, level: Tensor, sign: Tensor) -> Tensor:
            counts[k] += len(x)
            levels.append(level)
            return x

        return make

    monkeypatch.setattr("mixwell.methods.augmix.BASIC", tuple(counting(k) for k in range(3)))
    AugMixViews(severity=2.0)(torch.rand(1000, 1, 2, 2))
    assert sum(counts) / 3000 == pytest.approx(2, abs=0.1)
    assert all(count / sum(counts) == pytest.approx(1 / 3, abs=0.03) for count in counts)
    drawn = torch.cat(levels)
    assert drawn.min() >= 0.1 and drawn.max() <= 2.0 and drawn.mean() == pytest.approx(1.05, abs=0.05)


def test_divergence() -> None:
    """Between 0, where all predictions are equal, and log 3; whatever the order of the views; SciPy's for two."""
    logits = torch.randn(3, 16, 10) * 4
    found = jensen_shannon(logits)
    assert 0 < found < math.log(3) and jensen_shannon(logits.flip(0)).allclose(found)
    assert jensen_shannon(logits[:1].expand(3, -1, -1)) == pytest.approx(0, abs=1e-6)
    assert jensen_shannon(1000 * torch.eye(3)[:, None]) == pytest.approx(math.log(3), abs=1e-4)
    assert jensen_shannon(logits.bfloat16()).dtype == torch.float32
    distance = pytest.importorskip("scipy.spatial.distance", reason="scipy is not installed")
    p, q = (logit.softmax(1).double().numpy() for logit in logits[:2])
    assert jensen_shannon(logits[:2]) == pytest.approx((distance.jensenshannon(p, q, axis=1) ** 2).mean(), abs=1e-5)


def test_divergence_is_the_published_loss() -> None:
    """The authors' sum of three Kullback-Leibler terms against the clamped average."""
    logits = torch.randn(3, 8, 5, requires_grad=True)
    p = logits.softmax(2)
    average = torch.clamp(p.mean(0), 1e-7, 1).log()
    terms = [F.kl_div(average, one, reduction="batchmean") for one in p]
    assert jensen_shannon(logits).allclose(sum(terms) / 3, atol=1e-6)


class Net(nn.Module):
    """A linear classifier that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 8, 5)
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach())
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("policy", [None, MixUp(), CutMix(scope="sample")], ids=repr)
def test_step(policy, device: torch.device) -> None:
    """One pass over image and both views, mixed by one plan; the loss is the clean one plus twelve divergences."""
    model, images, labels = Net().to(device), torch.rand(5, 3, 8, 8, device=device), torch.arange(5, device=device)
    torch.manual_seed(3)
    result = AugMix(model, policy)(images, labels)
    (shown,) = model.shown
    logits = model.fc(shown.flatten(1)).view(3, 5, 5)
    torch.manual_seed(3)
    clean = Mixing(model, policy)(images, labels)
    assert clean["output"].allclose(logits[0], atol=1e-6) and result["output"].allclose(logits[0], atol=1e-6)
    assert result["divergence"].allclose(jensen_shannon(logits), atol=1e-6) and result["divergence"] > 0
    assert result["loss"].allclose(clean["loss"] + 12 * jensen_shannon(logits), atol=1e-5)
    result["loss"].backward()
    assert model.fc.weight.grad.isfinite().all()
    torch.manual_seed(3)
    assert AugMix(model, policy, weight=0.0)(images, labels)["loss"].allclose(clean["loss"], atol=1e-6)


def test_compiled() -> None:
    """Compiled as a whole it gives what the plain method gives."""
    method, images, labels = (
        AugMix(nn.Sequential(nn.Flatten(), nn.Linear(192, 5))),
        torch.rand(4, 3, 8, 8),
        torch.arange(4),
    )
    losses = []
    torch.compiler.reset()
    for step in (method, torch.compile(method, backend="aot_eager")):
        torch.manual_seed(0)
        losses.append(step(images, labels)["loss"])
    assert losses[0].allclose(losses[1], atol=1e-6)
    torch.compiler.reset()


def test_bad_settings() -> None:
    """Settings are checked when built, images when they come."""
    for settings in ({"severity": 11}, {"width": 0}, {"depth": 0}, {"alpha": 0.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            AugMixViews(**settings)
    with pytest.raises(ValueError, match="images must have shape"):
        AugMixViews()(torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match=r"AugMixViews computes in pixel values.* lie in \[-1, 2\]"):
        AugMixViews()(torch.tensor([-1.0, 2.0]).expand(2, 3, 4, 2))
    with pytest.raises(TypeError, match="views of AugMix must be an AugMixViews, but got 3"):
        AugMix(nn.Flatten(), views=3)
    with pytest.raises(ValueError, match=r"weight must be a finite number of at least 0\.0"):
        AugMix(nn.Flatten(), weight=-1.0)


def test_label_policy() -> None:
    """Images that the policy mixes are called what the label policy says, as in Mixing."""
    model, images, labels, losses = Net(), torch.rand(5, 3, 8, 8), torch.arange(5), []
    for method in (
        AugMix(model, MixUp(), weight=0.0, label=SemanticShare()),
        Mixing(model, MixUp(), label=SemanticShare()),
    ):
        torch.manual_seed(3)
        losses.append(method(images, labels)["loss"])
    torch.manual_seed(3)
    assert losses[0].allclose(losses[1]) and not losses[0].allclose(Mixing(model, MixUp())(images, labels)["loss"])
