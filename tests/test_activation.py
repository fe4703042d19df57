"""Saliency from a network's last map: what it is shown, by which name it goes, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mixwell
from mixwell import Activation, AttentiveMix, ClassActivation, InputGradient, Saliency
from steps import Net

IMAGES, LABELS = torch.rand(2, 3, 16, 20), torch.tensor([0, 4])


class Watched(Net):
    """Remembers what it was shown."""

    def forward(self, x: Tensor) -> Tensor:
        self.shown = x
        return super().forward(x)


@pytest.mark.parametrize("size", [8, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_size(size: int, dtype: torch.dtype) -> None:
    """The network sees images of this size, up or down, and the map is that of its answer."""
    teacher, images = Watched().to(dtype), torch.rand(2, 3, 16, 20, dtype=dtype)
    maps = Activation(teacher, size=size)(None, images, LABELS)
    scaled = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    assert teacher.shown.shape[2:] == (size, size) and teacher.shown.dtype == dtype
    assert teacher.shown.float().allclose(scaled, atol=1e-2)
    expected = teacher.norm(teacher.stem(teacher.shown)).float().mean(1)
    assert maps.allclose(expected - expected.amin((1, 2), keepdim=True).clamp_max(0), atol=1e-5)
    Activation(teacher)(None, images, LABELS)
    assert teacher.shown.shape == images.shape
    with pytest.raises(ValueError, match="size must be at least 1, but got 0"):
        Activation(size=0)


def test_size_puts_cells_where_they_are() -> None:
    """AttentiveMix with a teacher for larger images keeps the cells that the teacher answers to."""
    teacher = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(49, 5))
    images = torch.zeros(2, 1, 28, 28)
    images[:, :, 8:12, 20:24] = 1
    plan = AttentiveMix(top=1, saliency=Activation(teacher, size=224)).draw(images, LABELS)
    assert plan.mask[:, 0].nonzero().tolist() == [[0, 2, 5], [1, 2, 5]]


@pytest.mark.parametrize("source", [InputGradient(), Activation(), ClassActivation(), ClassActivation(gradient=True)])
def test_bytes_are_refused(source: Saliency) -> None:
    """All sources that ask a network say alike that it wants floating-point images."""
    name = type(source).__name__
    with pytest.raises(ValueError, match=f"{name} needs floating-point images, the model's input, got torch.uint8"):
        source(Net(), (IMAGES * 255).byte(), LABELS)


def test_name() -> None:
    """A teacher is shown, and what has one is not read back as if it had none."""
    assert repr(Activation(Net())) == "Activation(teacher=<Net>)"
    assert repr(Activation(Net(), reduce="norm", size=224)) == "Activation(teacher=<Net>, reduce='norm', size=224)"
    assert repr(ClassActivation(teacher=Net(), gradient=True)) == "ClassActivation(teacher=<Net>, gradient=True)"
    policy = AttentiveMix(saliency=Activation(Net()))
    assert repr(policy) == "AttentiveMix(saliency=Activation(teacher=<Net>))"
    with pytest.raises(ValueError, match="Expected something like"):
        mixwell.parse(repr(policy))
    for source in (Activation(layer="stem", size=64), ClassActivation(layer="stem"), Activation()):
        assert mixwell.parse(repr(source)) == source


def test_teacher() -> None:
    """A teacher is asked instead of the model, stays as it is, and must be a network."""
    teacher, model = Watched(), Watched()
    before = copy.deepcopy(teacher.state_dict())
    Activation(teacher)(model, IMAGES, LABELS)
    assert teacher.shown is IMAGES and not hasattr(model, "shown") and teacher.training
    assert all(value.equal(before[name]) for name, value in teacher.state_dict().items())
    for make in (Activation, ClassActivation):
        with pytest.raises(TypeError, match=f"teacher of {make.__name__} must be a Module or None, but got 5"):
            make(teacher=5)
        with pytest.raises(ValueError, match=f"{make.__name__} needs a model: .*give it a teacher"):
            make()(None, IMAGES, LABELS)
