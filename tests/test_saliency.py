"""Model-free saliency against OpenCV, slow loops and the published numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixwell import IMAGENET, Constant, Roll, SaliencyMix
from mixwell.ops.finegrained import fine_grained
from mixwell.ops.residual import gaussian_blur, spectral_residual
from mixwell.saliency import FineGrained, Saliency, SpectralResidual

SHAPES = [(1, 1, 1, 1), (1, 1, 1, 9), (2, 3, 5, 3), (1, 1, 17, 40), (3, 4, 32, 32), (1, 3, 33, 150)]
LABELS = torch.zeros(1, dtype=torch.long)


def golden(shared: Path, name: str) -> tuple[dict[str, dict], dict[str, Tensor]]:
    """Return the cases by name, and the tensors, of one file of reference numbers."""
    load_file = pytest.importorskip("safetensors.torch", reason="safetensors is not installed").load_file
    path = shared / "golden" / "vectors" / "public" / f"{name}.json"
    cases = {case["id"]: case for case in json.loads(path.read_text())["cases"]}
    return cases, load_file(path.with_suffix(".safetensors"))


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    """Return something like a photograph: smooth blobs under a little noise, uint8, shape (1, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (255 * (smooth + 0.1 * torch.randn(1, 3, height, width, generator=generator))).clamp(0, 255).byte()


def mirrored(place: int, size: int) -> int:
    """Return the pixel that stands for a place at most one beyond the border."""
    return 0 if size == 1 else size - 1 - abs(size - 1 - abs(place))


def slow_blur(grey: list[list[int]]) -> list[list[int]]:
    """Blur by 1-2-1 in both directions, one pixel after the other."""
    height, width = len(grey), len(grey[0])
    return [
        [
            (8 + sum(
                (2 - abs(i)) * (2 - abs(j)) * grey[mirrored(y + i, height)][mirrored(x + j, width)]
                for i in (-1, 0, 1) for j in (-1, 0, 1)
            )) // 16
            for x in range(width)
        ]
        for y in range(height)
    ]  # fmt: skip


def slow_fine_grained(image: list[list[int]]) -> list[list[float]]:
    """Compute fine-grained saliency in integers, window by window."""
    grey = slow_blur(slow_blur(image))
    height, width = len(grey), len(grey[0])
    on = [[0] * width for _ in grey]
    off = [[0] * width for _ in grey]
    for n in (12, 24, 28, 48, 56, 112):
        for y in range(height):
            for x in range(width):
                rows = range(max(y - n + 1, 0), min(y + n + 1, height))
                window = [value for row in rows for value in grey[row][max(x - n + 1, 0) : x + n + 1]]
                others, count = sum(window) - grey[y][x], len(window) - 1
                on[y][x] += max(grey[y][x] * count - others, 0) // max(count, 1)
                off[y][x] += max(others - grey[y][x] * count, 0) // max(count, 1)
    most_on, most_off = (max(max(row) for row in part) or 1 for part in (on, off))
    return [
        [(255 * on[y][x] // most_on + 255 * off[y][x] // most_off) / 255 for x in range(width)] for y in range(height)
    ]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 1), (2, 2), (14, 9), (13, 31)])
def test_fine_grained_equals_loops(size: tuple[int, int], device: torch.device) -> None:
    """Window sums, borders, counts and rounding, pixel by pixel, for each image of a batch."""
    grey = torch.randint(0, 256, (2, *size))
    expected = torch.tensor([slow_fine_grained(image.tolist()) for image in grey])
    assert fine_grained(grey.to(device)).cpu().equal(expected)


@pytest.mark.parametrize("size", [(32, 32), (17, 40), (61, 200), (224, 224), (256, 256)])
def test_fine_grained_equals_opencv(size: tuple[int, int], device: torch.device) -> None:
    """Exactly OpenCV's map, byte wrap included, and its conversion of colours."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    if not hasattr(cv2, "saliency"):
        pytest.skip("OpenCV comes without its saliency module (opencv-contrib)")
    opencv = cv2.saliency.StaticSaliencyFineGrained_create()
    source = FineGrained(channels="bgr", wrap=True, max_size=None)
    for image in (photo(*size), torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)):
        found = source(None, image.to(device), LABELS)[0].cpu()
        _, expected = opencv.computeSaliency(image[0].permute(1, 2, 0).contiguous().numpy())
        assert (found * 255).round().equal((torch.from_numpy(expected) * 255).round())


def test_wrap() -> None:
    """A spot brighter than its disc and darker than what lies around both sums above 255; wrapped, it starts again."""
    rows, columns = torch.arange(120)[:, None] - 60, torch.arange(120) - 60
    far = (rows**2 + columns**2).float().sqrt()
    image = torch.where(far < 3, 100, torch.where(far < 20, 20, 120)).byte().expand(1, 1, 120, 120)
    plain, wrapped = (FineGrained(wrap=wrap)(None, image, LABELS) for wrap in (False, True))
    assert plain.max() > 1.05
    assert wrapped.max() <= 1
    assert torch.where(plain > 1, plain - 256 / 255, plain).allclose(wrapped, atol=1e-6)


def test_fine_grained_golden(shared: Path) -> None:
    """The published maps of uint8 images, and their peaks."""
    cases, tensors = golden(shared, "saliencymix")
    names = [name for name, case in cases.items() if case["params"]["mode"] == "map"]
    assert names
    for name in names:
        image = tensors[f"{name}.in.image_u8"].permute(2, 0, 1)[None]
        found = FineGrained(channels="bgr", wrap=True)(None, image, LABELS)[0]
        assert found.allclose(tensors[f"{name}.out.saliency"], rtol=0, atol=1e-6)
        peak = divmod((found * 255).round().argmax().item(), found.shape[1])
        assert list(peak) == tensors[f"{name}.out.peak"].tolist()


def test_spectral_residual_golden(shared: Path) -> None:
    """The published spectral-residual maps."""
    cases, tensors = golden(shared, "guidedmix")
    names = [name for name, case in cases.items() if case["params"].get("mode") == "spectral_residual"]
    assert names
    for name in names:
        found = SpectralResidual()(None, tensors[f"{name}.in.x"].float(), LABELS)
        assert found.allclose(tensors[f"{name}.out.saliency_sr"], rtol=1e-4, atol=1e-6)


def slow_residual(grey: list[list[float]]) -> Tensor:
    """Compute spectral-residual saliency from the definition, before the last blur."""
    np = pytest.importorskip("numpy")
    spectrum = np.fft.fft2(np.array(grey))
    amplitude = np.sqrt(np.abs(spectrum) ** 2 + 1e-10)
    logarithm = np.pad(np.log(amplitude), 1, mode="edge")
    height, width = spectrum.shape
    smooth = sum(logarithm[i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9
    residual = np.exp(np.log(amplitude) - smooth)
    return torch.from_numpy(np.abs(np.fft.ifft2(spectrum / amplitude * residual)))


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (3, 5), (1, 6)])
def test_spectral_residual_equals_definition(size: tuple[int, int], device: torch.device) -> None:
    """Odd and tiny sides too."""
    grey = torch.rand(2, *size)
    expected = torch.stack([slow_residual(image.tolist()) for image in grey])
    assert spectral_residual(grey.to(device)).cpu().double().allclose(gaussian_blur(expected), rtol=1e-3, atol=1e-5)


def test_gaussian_blur() -> None:
    """The response to one bright pixel is the kernel, and to a row of three sides its mirror image."""
    point = torch.zeros(1, 15, 15)
    point[0, 7, 7] = 1
    kernel = [math.exp(-(d**2) / 18) for d in range(-3, 4)]
    expected = torch.tensor([[a * b / sum(kernel) ** 2 for a in kernel] for b in kernel])
    assert gaussian_blur(point)[0, 4:11, 4:11].allclose(expected, atol=1e-7)
    image = torch.rand(2, 9, 11)
    functional = pytest.importorskip("torchvision.transforms.v2.functional", reason="torchvision is not installed")
    assert gaussian_blur(image).allclose(functional.gaussian_blur(image, [7, 7], [3.0, 3.0]), atol=1e-6)


FREE = [SpectralResidual(), FineGrained(), FineGrained(max_size=None)]


@pytest.mark.parametrize("source", FREE, ids=repr)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_model_free_sources(source: Saliency, dtype: torch.dtype, device: torch.device) -> None:
    """Every shape and dtype, flat images too: finite, non-negative, float32, rows independent, images untouched."""
    for shape in SHAPES:
        scale = 255 if dtype == torch.uint8 else 1
        images = (torch.rand(shape, device=device) * scale).to(dtype)
        for batch in (images, torch.full_like(images, 0.1 * scale)):
            before = batch.clone()
            maps = source(None, batch, LABELS)
            assert maps.shape[0] == shape[0]
            assert maps.ndim == 3
            assert maps.dtype == torch.float32
            assert bool((maps.isfinite() & (maps >= 0)).all())
            assert maps[:1].allclose(source(None, batch[:1], LABELS), atol=1e-6)
            assert batch.equal(before)


@pytest.mark.parametrize("source", FREE, ids=repr)
@pytest.mark.parametrize("centre", [(10, 30), (40, 12), (24, 52)])
def test_peak_is_the_blob(source: Saliency, centre: tuple[int, int], device: torch.device) -> None:
    """A small bright blob on flat ground is the most salient place, wherever it lies."""
    rows, columns = torch.arange(48)[:, None] - centre[0], torch.arange(64) - centre[1]
    blob = (40 + 40 * torch.exp(-(rows**2 + columns**2).float())).byte().expand(2, 3, 48, 64).to(device)
    for one in source(None, blob, LABELS):
        row, column = divmod(one.argmax().item(), one.shape[1])
        assert math.dist((row, column), centre) <= 2


def test_normalisation_is_undone(device: torch.device) -> None:
    """Normalised floats give the map of the bytes they came from, to the last level."""
    bytes_ = photo(40, 56).to(device)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    floats = torch.stack([(c / 255 - m) / s for c, m, s in zip(bytes_[0], mean, std, strict=True)])[None]
    for source in (FineGrained(), FineGrained(max_size=30), FineGrained(channels="bgr", wrap=True)):
        expected = source(None, bytes_, LABELS)
        assert source(None, floats, LABELS, normalization=IMAGENET).allclose(expected, atol=1 / 255)
        assert source(None, bytes_ / 255, LABELS).allclose(expected, atol=1 / 255)
    assert FineGrained()(None, floats, LABELS, normalization=IMAGENET).equal(FineGrained()(None, bytes_, LABELS))


def test_policies_pass_their_normalization_on(device: torch.device) -> None:
    """Boxes of normalized images are those of the bytes, for our sources; other callables get three arguments."""
    bytes_ = photo(40, 56).to(device).expand(2, -1, -1, -1).clone()
    bytes_[1] = bytes_[1].flip(1)
    floats, labels = IMAGENET.normalize(bytes_ / 255), torch.arange(2, device=device)
    policy = SaliencyMix(pairing=Roll(), alpha=Constant(0.7))
    plan = policy(floats, labels, normalization=IMAGENET).plan
    assert plan.boxes.equal(policy(bytes_, labels).plan.boxes)
    with pytest.raises(
        ValueError, match=r"FineGrained computes in pixel values, but these images lie in \[-.*IMAGENET"
    ):
        policy(floats, labels)
    seen = []
    SaliencyMix(saliency=lambda *given: seen.append(len(given)) or torch.rand(2, 4, 4))(
        floats, labels, normalization=IMAGENET
    )
    assert seen == [3]


def test_channel_order() -> None:
    """``"bgr"`` weights the channels the other way round; other counts than three are averaged."""
    image = photo(20, 20)
    assert FineGrained(channels="bgr")(None, image, LABELS).equal(FineGrained()(None, image.flip(1), LABELS))
    assert not FineGrained(channels="bgr")(None, image, LABELS).equal(FineGrained()(None, image, LABELS))
    grey = image[:, :1]
    assert FineGrained()(None, grey.expand(-1, 4, -1, -1), LABELS).equal(FineGrained()(None, grey, LABELS))
    assert FineGrained()(None, grey, LABELS).equal(fine_grained(grey[:, 0]))
    images = torch.rand(2, 4, 12, 12)
    assert SpectralResidual()(None, images, LABELS).allclose(spectral_residual(images.mean(1)), atol=1e-6)


@pytest.mark.parametrize("make", [SpectralResidual, FineGrained])
def test_large_images_are_reduced(make: Callable[..., Saliency]) -> None:
    """The longer side becomes ``max_size``, the proportions stay, and the peak stays where it was in proportion."""
    image = torch.zeros(1, 3, 200, 300)
    image[..., 150:158, 60:68] = 1
    maps = make(max_size=100)(None, image, LABELS)
    assert maps.shape == (1, 67, 100)
    row, column = divmod(maps.argmax().item(), 100)
    assert abs(row * 3 - 153) <= 6
    assert abs(column * 3 - 63) <= 6
    assert make(max_size=None)(None, image, LABELS).shape == (1, 200, 300)
    assert make(max_size=300)(None, image, LABELS).equal(make(max_size=None)(None, image, LABELS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_size": 0}, "max_size must be at least 1"),
        ({"channels": "gbr"}, "one of rgb, bgr"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    """Wrong settings fail where they are written."""
    with pytest.raises(ValueError, match=message):
        FineGrained(**settings)


def test_bad_images() -> None:
    """Wrong shapes fail with the shape in the sentence."""
    with pytest.raises(ValueError, match=r"\(B, C, H, W\).* got \(3, 8, 8\)"):
        SpectralResidual()(None, torch.rand(3, 8, 8), LABELS)
    with pytest.raises(ValueError, match="has 3 channels, but the images have shape"):
        FineGrained()(None, torch.rand(1, 4, 8, 8), LABELS, normalization=IMAGENET)
