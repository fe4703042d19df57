"""Finding the layer that computes the logits, and checking a guess."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixwell.features.layers import classifier_of
from mixwell.features.passes import FeatureHook
from test_hooks import Net


@pytest.fixture
def model(device: torch.device) -> nn.Module:
    return Net().to(device)


@pytest.fixture
def images(device: torch.device) -> Tensor:
    return torch.rand(4, 3, 8, 8, device=device)


class Auxiliary(Net):
    """Registers a second linear layer after the classifier."""

    def __init__(self, width: int, used: bool) -> None:
        super().__init__()
        self.aux, self.used = nn.Linear(6, width), used

    def forward(self, x: Tensor) -> Tensor:
        feature = self.feature(x)
        if self.used:
            self.aux(feature)
        return self.head(feature)


def test_a_guessed_classifier_is_verified(images: Tensor) -> None:
    """The number of classes decides between linear layers; a guess whose output is not the logits is an error."""
    assert classifier_of(Auxiliary(3, True), num_classes=5)[0] == "head"
    for used in (True, False):
        model = Auxiliary(5, used)
        with (hook := FeatureHook(model, num_classes=5)):
            logits = model(images)
        with pytest.raises(ValueError, match=r"'aux' looked like the classifier.*classifier=\"head.fc\""):
            hook.take(logits)
        with (hook := FeatureHook(model, "head")):
            logits = model(images)
        assert hook.take(logits).shape == (4, 6)
    with (hook := FeatureHook(Auxiliary(5, False), num_classes=5)):
        pass
    with pytest.raises(RuntimeError, match=r"through 'aux' .*does not use that module: name .*classifier=\"head.fc\""):
        hook.take()
    with pytest.raises(ValueError, match=r"layer with 9 outputs .*; the last linear layer 'head' has 5: check num_cl"):
        classifier_of(Net(), num_classes=9)
    squeezed = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with (hook := FeatureHook(squeezed, num_classes=5)):
        logits = squeezed(images)
    assert hook.name == "1" and hook.take(logits).shape[:2] == (4, 6)


class Timm(nn.Module):
    """A model that says what its classifier is, as timm's do."""

    def __init__(self, classifier: object) -> None:
        super().__init__()
        self.fc, self.last = nn.Conv2d(3, 4, 1), nn.Linear(4, 4)
        self.classifier = classifier

    def get_classifier(self) -> object:
        return self.fc if self.classifier is None else self.classifier


def test_classifier_of(model: nn.Module) -> None:
    """The stated classifier wins over the last linear layer; a model without one gets a sentence."""
    assert classifier_of(model) == ("head", model.head)
    assert classifier_of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.ReLU()))[0] == "1"
    stated = Timm(None)
    assert classifier_of(stated) == ("fc", stated.fc)
    with pytest.raises(ValueError, match="Identity"):
        classifier_of(Timm(nn.Identity()))
    with pytest.raises(ValueError, match="returns a tuple, which is not one module"):
        classifier_of(Timm((nn.Linear(2, 2), nn.Linear(2, 2))))
    with pytest.raises(ValueError, match=r"neither get_classifier\(\) nor an nn\.Linear"):
        classifier_of(nn.Sequential(nn.Conv2d(3, 5, 1)))


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet10t", 64), ("vit_tiny_patch16_224", 224), ("convnext_atto", 64), ("mobilenetv3_small_050", 64)],
)
def test_timm_models(name: str, size: int) -> None:
    """The classifier of the feature is the logits, for different architectures."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model(name, num_classes=7).eval()
    with torch.no_grad(), (hook := FeatureHook(model)):
        logits = model(torch.rand(2, 3, size, size))
        feature = hook.take()
        assert feature.ndim == 2
        assert model.get_classifier()(feature).allclose(logits, atol=1e-5)
