"""RegMixup: the clean loss plus that of any mixing, over one joint batch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell import CrossEntropy, CutMix, FMix, Mixing, MixUp, NoMix, SemanticShare, binary_cross_entropy, cross_entropy
from mixwell.methods.regmixup import RegMixup


class Net(nn.Module):
    """A convolution, a batch norm and a classifier, remembering what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.fc = nn.Linear(6, 5)
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach())
        return self.fc(self.body(x).mean((2, 3)))


@pytest.fixture
def model(device: torch.device) -> Net:
    return Net().to(device)


@pytest.fixture
def images(device: torch.device) -> Tensor:
    return torch.rand(5, 3, 8, 8, device=device)


@pytest.fixture
def labels(device: torch.device) -> Tensor:
    return torch.arange(5, device=device)


@pytest.mark.parametrize("policy", [MixUp(alpha=20.0), CutMix(scope="sample"), FMix()], ids=repr)
def test_loss_is_clean_plus_mixed(policy, model: Net, images: Tensor, labels: Tensor) -> None:
    """Without batch norm between them, the parts are those of two separate steps; gradients add up as well."""
    twin = copy.deepcopy(model).eval()
    torch.manual_seed(4)
    result = RegMixup(model.eval(), policy, eta=0.7)(images, labels)
    result["loss"].backward()
    torch.manual_seed(4)
    mixed = Mixing(twin, policy)(images, labels)["loss"]
    clean = F.cross_entropy(twin(images), labels)
    (clean + 0.7 * mixed).backward()
    assert result["clean_loss"].allclose(clean) and result["mixed_loss"].allclose(mixed)
    assert result["loss"].allclose(clean + 0.7 * mixed)
    assert result["output"].allclose(twin(images))
    assert not result["clean_loss"].requires_grad
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(a.grad.allclose(b.grad, atol=1e-6) for a, b in pairs)


def test_one_joint_batch(model: Net, images: Tensor, labels: Tensor) -> None:
    """The model runs once, the clean images come first, and batch norm's statistics are those of both halves."""
    before = images.clone()
    twin = copy.deepcopy(model)
    torch.manual_seed(4)
    RegMixup(model)(images, labels)
    (shown,) = model.shown
    torch.manual_seed(4)
    expected = MixUp(alpha=20.0)(images, labels).images
    assert shown.equal(torch.cat((images, expected))) and images.equal(before)
    twin(torch.cat((images, expected)))
    assert model.body[1].running_mean.equal(twin.body[1].running_mean)


def test_without_weight_it_is_plain_training(model: Net, images: Tensor, labels: Tensor) -> None:
    """With eta = 0 it is the clean loss; a policy that mixes nothing doubles it."""
    plain = F.cross_entropy(model.eval()(images), labels)
    assert RegMixup(model, eta=0.0)(images, labels)["loss"].allclose(plain)
    assert RegMixup(model, NoMix())(images, labels)["loss"].allclose(2 * plain)


def test_label_policy_and_other_losses(model: Net, images: Tensor, labels: Tensor) -> None:
    """A label policy reads the clean half, which is there already; any loss will do, dense labels too."""
    result = RegMixup(model, CutMix(), label=SemanticShare(), loss=binary_cross_entropy)(images, labels)
    result["loss"].backward()
    assert result["loss"].isfinite() and len(model.shown) == 1
    dense = F.one_hot(labels, 5).float()
    losses = []
    for given in (labels, dense):
        torch.manual_seed(4)
        losses.append(RegMixup(model.eval(), loss=cross_entropy)(images, given)["loss"])
    assert losses[0].allclose(losses[1])


def test_ignored_labels(model: Net, images: Tensor, labels: Tensor) -> None:
    """The loss may ignore a label that is not a class: without mixing, the clean loss is torch's."""
    ignoring = labels.clone()
    ignoring[1] = -100
    step = RegMixup(model, NoMix(), loss=CrossEntropy(ignore_index=-100))(images, ignoring)
    expected = F.cross_entropy(step["output"], ignoring)
    torch.testing.assert_close(step["clean_loss"], expected.detach())
    torch.testing.assert_close(step["loss"], 2 * expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="labels must lie between"):
        RegMixup(model)(images, ignoring)


def test_compiled(model: Net, images: Tensor, labels: Tensor) -> None:
    """Compiled it gives the loss of the plain method."""
    method = RegMixup(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)).to(images.device))
    torch.manual_seed(4)
    expected = method(images, labels)["loss"]
    torch.compiler.reset()
    torch.manual_seed(4)
    assert torch.compile(method, backend="aot_eager")(images, labels)["loss"].allclose(expected)
    torch.compiler.reset()


def test_bad_settings(model: Net) -> None:
    """Settings are checked when the method is made."""
    with pytest.raises(ValueError, match=r"eta must be a finite number of at least 0.0, but got -1\.0"):
        RegMixup(model, eta=-1.0)
    with pytest.raises(TypeError, match="policy must be an object"):
        RegMixup(model, CutMix)
    assert repr(RegMixup(model).policy) == "MixUp(alpha=20.0)"
