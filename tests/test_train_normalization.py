"""The program passes the normalization of its data to methods and policies: what they compute is that of the bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("torchvision")
from PIL import Image
from torch import Tensor, nn

from mixwell import AugMixViews, FineGrained
from mixwell.ops.puzzle import contrast
from mixwell.policies import puzzlemix
from mixwell.train import Config, build, run
from mixwell.train.data import load
from mixwell.train.loader import Loader
from mixwell.train.network import load as load_network

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]

Step = Callable[..., Tensor]


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Step:
    """Return a function that trains one step on a folder of noise, and returns the bytes of its images."""
    draws = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for n in range(4):
                small = Image.fromarray(draws.integers(256, size=(8, 8, 3), dtype=np.uint8))
                small.resize((16, 16)).save(tmp_path / split / name / f"{n}.png")
    seen, normalise = [], Loader.normalise

    def recorded(loader: Loader, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        if loader.generator is not None:
            seen.append(images.clone())
        return normalise(loader, images)

    monkeypatch.setattr(Loader, "normalise", recorded)
    config = Config(dataset="folder", data=str(tmp_path), image_size=16, batch_size=8, epochs=1, device="cpu")

    def train(**settings: Any) -> Tensor:
        run(Config(**(vars(config) | settings)), tmp_path / "run")
        (images,) = seen
        return images

    return train


def levels(images: Tensor) -> np.ndarray:
    """Return normalized images as levels from 0 to 255."""
    return (images.detach().numpy() * STD + MEAN) * 255


def test_noise_is_in_levels(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    """PerturbedMixing moves every channel by up to epsilon levels, and leaves none beyond 0 and 255."""
    shown, classifier = [], build.classifier

    def watched(*args: Any) -> nn.Module:
        model = classifier(*args)
        model.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]) if len(shown) < 2 else None)
        return model

    monkeypatch.setattr(build, "classifier", watched)
    images = step(method="PerturbedMixing(p=1.0, epsilon=8.0)").numpy()
    started, noisy = (levels(each) for each in shown)
    for found in (started, noisy):
        assert found.min() > -1e-3 and found.max() < 255 + 1e-3
        assert np.abs(found - images).max() < 8 + 1e-3
    assert (np.abs(started - images).max((0, 2, 3)) > 7.5).all()  # drawn evenly between -8 and 8


def test_border_weights_of_puzzlemix(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def recorded(images: Tensor, *args: Any) -> Any:
        found.append((args, contrast(images, *args)))
        return found[-1][1]

    monkeypatch.setattr(puzzlemix, "contrast", recorded)
    images = step(policy="PuzzleMix(blocks=4)")
    ((args, borders),) = found
    torch.testing.assert_close(borders, contrast(images.double() / 255, *args), check_dtype=False, rtol=1e-4, atol=1e-5)


def test_views_of_augmix(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same draws, the views are those of the bytes, up to the rounding of the latter."""
    found, view = [], AugMixViews.__call__

    def recorded(views: AugMixViews, *args: Any, **settings: Any) -> Tensor:
        state = torch.get_rng_state()
        found.append((views, state, view(views, *args, **settings)))
        return found[-1][2]

    monkeypatch.setattr(AugMixViews, "__call__", recorded)
    images = step(method="AugMix")
    assert len(found) == 2
    for views, state, normalized in found:
        torch.set_rng_state(state)
        assert np.abs(levels(normalized) - view(views, images).numpy()).max() < 0.51


def test_maps_of_saliencymix(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    found, source = [], FineGrained.__call__

    def recorded(saliency: FineGrained, *args: Any, **settings: Any) -> Tensor:
        found.append(source(saliency, *args, **settings))
        return found[-1]

    monkeypatch.setattr(FineGrained, "__call__", recorded)
    images = step(policy="SaliencyMix(saliency=FineGrained())")
    assert len(found) == 1 and torch.equal(found[0], FineGrained()(None, images, torch.zeros(8)))


def test_loss_and_accuracy(step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss that ``--loss`` names is that of the method, and its accuracy is recorded in percent."""
    seen, make = [], build.method
    monkeypatch.setattr(build, "method", lambda *args: seen.append(make(*args)) or seen[-1])
    step(loss="CrossEntropy(smoothing=0.3)", policy="CutMix")
    assert seen[0].loss.smoothing == 0.3 and seen[0].progress == 1.0
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert 0 <= record["train_accuracy"] <= 100


@pytest.mark.parametrize("dataset", ["digits", "cifar100"])
def test_a_loaded_network_normalizes_as_in_training(dataset: str, tmp_path: Path) -> None:
    """The network that other commands load has the test accuracy of the run, on images that it normalizes itself."""
    settings: dict[str, Any] = {"image_size": 16, "subset": 100}
    if dataset == "cifar100":
        draws = np.random.default_rng(0)
        images, labels = draws.integers(256, size=(40, 3, 32, 32), dtype=np.uint8), np.arange(40) % 4
        images[:, 0] = 60 * labels[:, None, None] + images[:, 0] // 16
        np.savez(tmp_path / "cifar.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
        settings = {"image_size": 32, "data": str(tmp_path)}
    config = Config(dataset=dataset, epochs=2, batch_size=20, device="cpu", threads=1, **settings)
    summary = run(config, tmp_path / "run")
    network, data = load_network(tmp_path / "run"), load(config)
    assert network.normalization == data.normalization
    pixels = data.test.images if isinstance(data.test.images, Tensor) else torch.stack(list(data.test.images))
    with torch.no_grad():
        logits = network.model(network.normalization.normalize(pixels.float() / 255))
    loss = nn.functional.cross_entropy(logits, data.test.labels)
    assert float(loss) == pytest.approx(summary.test["loss"], rel=1e-4)
