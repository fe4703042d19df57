"""GridLoss: the local loss against loops over cells, in models of unlike make, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell import Constant, CutMix, GridLoss, GridMix, Mixing, MixUp, SemanticShare, binary_cross_entropy
from steps import Net, data, process_group, seeded


def parts(classes: int = 5) -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("policy", [GridMix(cells=2), CutMix(alpha=Constant(0.4)), MixUp()], ids=repr)
def test_cell_by_cell(policy, dense: bool) -> None:
    """Every cell's loss, class indices and dense labels alike, is that of its sources in their shares."""
    model, images, labels = parts(), torch.rand(4, 3, 16, 16), torch.tensor([0, 3, 2, 4])
    method = GridLoss(model, policy, num_classes=5, cells=2)
    given = torch.rand(4, 5).softmax(1) if dense else labels
    result = seeded(method, images, given)
    torch.manual_seed(1)
    mixed = policy(images, given)
    features, share = model[0](mixed.images), mixed.plan.share((16, 16))
    total = 0.0
    for row in range(4):
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            here = features[row, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((1, 2))
            logits = method.head.weight[:, :, 0, 0] @ here + method.head.bias
            for k, source in enumerate(mixed.plan.sources[row].tolist()):
                part = share[row, k, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].mean()
                total += (part * F.cross_entropy(logits[None], given[source : source + 1])).item()
    assert result["cell_loss"].item() == pytest.approx(total / 16, abs=1e-5)
    plain = seeded(Mixing(model, policy), images, given)
    assert result["loss"].allclose(plain["loss"] + 0.15 * result["cell_loss"], atol=1e-6)
    assert result["output"].equal(plain["output"])
    result["loss"].backward()
    assert all(p.grad is not None for p in method.parameters())


def test_label_and_loss() -> None:
    """The whole image's label and loss are as in Mixing, and cells are read from the mixed pass."""
    model, (images, labels) = Net(10), data()
    settings = {"label": SemanticShare(), "loss": binary_cross_entropy}
    policy = CutMix(alpha=Constant(0.5))
    method = GridLoss(model, policy, num_classes=10, **settings)
    result, plain = seeded(method, images, labels), seeded(Mixing(model, policy, **settings), images, labels)
    assert result["loss"].allclose(plain["loss"] + 0.15 * result["cell_loss"], atol=1e-6)
    assert result["output"].equal(plain["output"])


@pytest.mark.parametrize("wrap", [torch.nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrapped_models(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """A wrapped model gives what the model alone gives."""
    torch.compiler.reset()
    model, (images, labels) = Net(10), data()
    alone = GridLoss(model, num_classes=10)
    method = GridLoss(wrap(model), num_classes=10)
    method.head.load_state_dict(alone.head.state_dict())
    assert alone.hook.name == method.hook.name == "stem"
    assert seeded(method, images, labels)["loss"].allclose(seeded(alone, images, labels)["loss"], atol=1e-6)
    torch.compiler.reset()


def test_distributed(tmp_path) -> None:
    """DistributedDataParallel around the model is looked through."""
    with process_group(str(tmp_path / "meet"), 0, 1):
        method = GridLoss(nn.parallel.DistributedDataParallel(Net(10)), num_classes=10)
        method(*data())["loss"].backward()
        assert all(p.grad is not None for p in method.parameters())


@pytest.mark.parametrize(
    ("name", "size", "layer", "channels"),
    [
        ("densenet121", 64, None, 1024),
        ("densenet121", 64, "features.denseblock4", 1024),
        ("vgg11", 64, None, 512),
        ("vit_tiny_patch16_224", 224, None, 192),
        ("swin_tiny_patch4_window7_224", 224, None, 768),
    ],
)
def test_timm_models(name: str, size: int, layer: str | None, channels: int) -> None:
    """Maps, maps with channels last and tokens are read."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    method = GridLoss(timm.create_model(name, num_classes=5).train(), num_classes=5, layer=layer)
    assert method.head.in_channels == channels and all(m.training for m in method.modules())
    assert method(torch.rand(2, 3, size, size), torch.arange(2))["loss"].isfinite()


def test_torchvision_models() -> None:
    """A vision transformer is read at its last block, not where it cuts patches; Swin by its last part of maps."""
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    vit = torchvision.models.VisionTransformer(32, 8, 3, 4, 16, 32, num_classes=5)
    method = GridLoss(vit, num_classes=5)
    assert method.hook.name == "encoder.layers.encoder_layer_2" and method.head.in_channels == 16
    assert method(torch.rand(2, 3, 32, 32), torch.arange(2))["loss"].isfinite()
    swin = GridLoss(torchvision.models.swin_t(num_classes=5), num_classes=5)
    assert swin.hook.name == "features" and swin.head.in_channels == 768


def test_bad_input() -> None:
    """Labels and maps that do not fit, and classes in place of policies, are named in a sentence."""
    images, labels = torch.rand(4, 3, 16, 16), torch.arange(4)
    with pytest.raises(ValueError, match="labels must lie between 0 and 4, but got 3 to 6"):
        GridLoss(parts(), num_classes=5)(images, labels + 3)
    with pytest.raises(ValueError, match="labels must lie between 0 and 4, but got 3 to 6"):
        GridLoss(parts(9), num_classes=5)(images, labels + 3)  # the classifier has more classes than the head
    with pytest.raises(ValueError, match="dense labels have 4 classes, but 5 are expected"):
        GridLoss(parts(), num_classes=5)(images, torch.eye(4))
    with pytest.raises(TypeError, match="policy must be an object such as CutMix"):
        GridLoss(parts(), GridMix, num_classes=5)
    with pytest.raises(ValueError, match="cells must be at least 1"):
        GridLoss(parts(), num_classes=5, cells=0)
    with pytest.raises(ValueError, match="number of channels that '2' outputs"):
        GridLoss(parts(), num_classes=5, layer="2")
    with pytest.raises(ValueError, match=r"built for 7 channels, but '0' outputs a map of 6: give channels=6"):
        GridLoss(parts(), num_classes=5, channels=7)(images, labels)
    with pytest.raises(ValueError, match="feature map of Linear"):
        GridLoss(nn.Linear(3, 5), num_classes=5)
    assert repr(GridLoss(parts(), None, num_classes=5).policy) == "GridMix()"


def test_probing_leaves_no_trace() -> None:
    """The forward pass that infers the channels moves no statistics, and restores training flags."""
    body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6).eval())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).double()
    before: dict[str, Tensor] = {name: value.clone() for name, value in model.state_dict().items()}
    method = GridLoss(model, num_classes=5)
    assert method.head.in_channels == 6 and method.head.weight.dtype == torch.float64
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert [norm.training for norm in body] == [True, True, False]
