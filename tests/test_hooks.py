"""Taps: eager, compiled, copied, distributed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from mixwell.features.hooks import Tap, classifier_of, pooled
from mixwell.saliency import InputGradient
from steps import process_group


class Net(nn.Module):
    """A small classifier whose feature is also returned, to compare a tap with."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 5)

    def feature(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.feature(x))


class Owner(nn.Module):
    """A module that owns a model and its tap, as methods do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.tap = Tap(model)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(x), self.tap.take()


@pytest.fixture
def model(device: torch.device) -> nn.Module:
    return Net().to(device)


@pytest.fixture
def compiled() -> Iterator[Callable[[nn.Module], Callable]]:
    """Compile without a code generator: what matters here is which hooks, flags and buffers a graph was made for."""
    yield lambda module: torch.compile(module, backend="aot_eager")
    torch.compiler.reset()


@pytest.fixture
def images(device: torch.device) -> Tensor:
    return torch.rand(4, 3, 8, 8, device=device)


def test_tap_reads_input_and_output(model: Net, images: Tensor) -> None:
    """The captured tensor is the module's input or output, in the graph; it is given once."""
    model.eval()
    into, out, middle = Tap(model), Tap(model, "head", of="output"), Tap(model, "body.0", of="output")
    logits = model(images)
    feature = into.take()
    assert feature.equal(model.feature(images))
    assert out.take() is logits
    assert pooled(middle.take()).shape == (4, 6)
    (slope,) = torch.autograd.grad(logits.sum(), feature)
    assert slope.allclose(model.head.weight.sum(0).expand(4, 6))
    with pytest.raises(RuntimeError, match=r"before torch\.compile"):
        out.take()
    assert repr(into) == "Tap('head', of='input')"


def test_tap_reads_keyword_arguments() -> None:
    """A module that is called by keyword is tapped as well."""
    model = nn.Module()
    model.layer = nn.Linear(3, 2)
    tap, x = Tap(model, "layer"), torch.rand(1, 3)
    model.layer(input=x)
    assert tap.take() is x


def test_tap_wants_a_tensor() -> None:
    """A module that returns several things is named in the error."""
    model = nn.Sequential(nn.LSTM(3, 4))
    tap = Tap(model, "0", of="output")
    model(torch.rand(2, 1, 3))
    with pytest.raises(TypeError, match="output of '0' is a tuple"):
        tap.take()


def test_removed_tap_is_silent(model: nn.Module, images: Tensor) -> None:
    """After ``remove()`` nothing is captured, and what was is gone."""
    tap = Tap(model)
    model(images)
    tap.remove()
    model(images)
    with pytest.raises(RuntimeError, match="captured nothing"):
        tap.take()


def test_unknown_module(model: nn.Module) -> None:
    """The nearest names are offered."""
    with pytest.raises(ValueError, match=r"no module 'body\.1x'; the nearest names are body\.1"):
        Tap(model, "body.1x")
    with pytest.raises(ValueError, match=r"no module 'zzz'.*head"):
        Tap(model, "zzz")
    with pytest.raises(ValueError, match="of='middle'"):
        Tap(model, of="middle")  # type: ignore[arg-type]


@pytest.mark.parametrize("together", [True, False])
def test_copies_are_separate(together: bool, model: nn.Module, images: Tensor) -> None:
    """A copy neither writes into the original's tap nor drags a graph along; copied with its owner, its tap works."""
    owner = Owner(model)
    owner.model(images)  # a captured feature inside a graph must not stop the copy
    copied = copy.deepcopy(owner if together else owner.model)
    feature = owner.tap.take()
    if together:
        logits, own = copied(images)
        assert copied.tap is not owner.tap
        assert logits.allclose(copied.model.head(own))
        assert own is not feature
        copied.tap.remove()
        assert not copied.model.head._forward_hooks
        assert owner.model.head._forward_hooks
    else:
        copied(images)
    with pytest.raises(RuntimeError, match="captured nothing"):
        owner.tap.take()
    assert pickle.loads(pickle.dumps(owner)).tap.name == "head"  # noqa: S301


def test_compiled_after_the_tap(model: nn.Module, images: Tensor, compiled: Callable) -> None:
    """Compiled and eager capture the same, and gradients through the tap agree."""
    owner = Owner(model.eval())
    results = []
    for forward in (owner, compiled(owner)):
        logits, feature = forward(images)
        owner.zero_grad()
        (logits.logsumexp(1).sum() + feature.square().sum()).backward()
        results.append((logits, feature, owner.model.body[0].weight.grad.clone()))
    for eager, other in zip(*results, strict=True):
        assert other.allclose(eager, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_compiled_model_of_a_tapped_one(training: bool, model: nn.Module, images: Tensor, compiled: Callable) -> None:
    """Compiling only the model, as users do, keeps the tap."""
    tap = Tap(model.train(training))
    forward = compiled(model)
    for _ in range(2):
        logits = forward(images)
        assert model.head(tap.take()).allclose(logits, atol=1e-5)


def test_compiled_before_the_tap(model: nn.Module, images: Tensor, compiled: Callable) -> None:
    """The tap that never fires says why."""
    forward = compiled(model)
    forward(images)
    tap = Tap(model)
    forward(images)
    with pytest.raises(RuntimeError, match="compiled before the tap was installed"):
        tap.take()


def test_distributed(tmp_path) -> None:
    """A tap installed before the wrapper reads, gradients flow, and a saliency pass does not upset the reducer."""
    with process_group(str(tmp_path / "meet"), 0, 1):
        read_through_wrapper()


def read_through_wrapper() -> None:
    model, images, labels = Net().eval(), torch.rand(4, 3, 8, 8), torch.arange(4)
    expected = InputGradient()(model, images, labels)
    owner = Owner(model)
    wrapped = nn.parallel.DistributedDataParallel(owner)
    inner = nn.parallel.DistributedDataParallel(model)
    inner.register_forward_pre_hook(lambda *_: pytest.fail("the wrapper exchanges buffers: saliency must go around it"))
    for _ in range(2):
        logits, feature = wrapped(images)
        assert InputGradient()(inner, images, labels).allclose(expected, atol=1e-6)
        (logits.sum() + feature.sum()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


class Timm(nn.Module):
    """A model that says what its classifier is, as timm's do."""

    def __init__(self, classifier: object) -> None:
        super().__init__()
        self.fc, self.last = nn.Conv2d(3, 4, 1), nn.Linear(4, 4)
        self.classifier = classifier

    def get_classifier(self) -> object:
        return self.fc if self.classifier is None else self.classifier


def test_classifier_of(model: nn.Module) -> None:
    """The stated classifier wins over the last linear layer; what cannot be tapped says what to do."""
    assert classifier_of(model) == ("head", model.head)
    assert classifier_of(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.ReLU()))[0] == "1"
    stated = Timm(None)
    assert classifier_of(stated) == ("fc", stated.fc)
    with pytest.raises(ValueError, match="Identity"):
        classifier_of(Timm(nn.Identity()))
    with pytest.raises(ValueError, match="returns a tuple and not one module"):
        classifier_of(Timm((nn.Linear(2, 2), nn.Linear(2, 2))))
    with pytest.raises(ValueError, match=r"neither get_classifier\(\) nor an nn\.Linear"):
        classifier_of(nn.Sequential(nn.Conv2d(3, 5, 1)))


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet10t", 64), ("vit_tiny_patch16_224", 224), ("convnext_atto", 64), ("mobilenetv3_small_050", 64)],
)
def test_timm_models(name: str, size: int) -> None:
    """The tapped feature times the classifier is the logits, for unlike architectures."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model(name, num_classes=7).eval()
    tap = Tap(model)
    with torch.no_grad():
        logits = model(torch.rand(2, 3, size, size))
        feature = tap.take()
        assert feature.ndim == 2
        assert model.get_classifier()(feature).allclose(logits, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 6), (2, 6, 3, 5), (2, 6, 2, 3, 4)])
def test_pooled(shape: tuple[int, ...]) -> None:
    """The mean over tokens or places."""
    features = torch.rand(shape)
    wide = features if len(shape) != 3 else features.movedim(2, 1)
    expected = wide.reshape(2, 6, -1).sum(2) / max(1, wide[0, 0].numel())
    assert pooled(features).allclose(expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        pooled(torch.rand(3))
