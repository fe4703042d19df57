"""Feature hooks: eager, compiled, copied, distributed, and gone after the step."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from mixwell.features.maps import pooled
from mixwell.features.passes import FeatureHook, reading
from mixwell.saliency import InputGradient
from steps import process_group


class Net(nn.Module):
    """A small classifier whose feature can be computed separately."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, 5)

    def feature(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.feature(x))


class Owner(nn.Module):
    """A module that owns a model and a hook, as methods do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.hook = FeatureHook(model)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with reading(self.hook):
            logits = self.model(x)
        return logits, self.hook.take()


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


def test_hook_reads_input_and_output(model: Net, images: Tensor) -> None:
    """The captured tensor is the module's input or output, in the graph; it is returned once."""
    model.eval()
    into, out, middle = (
        FeatureHook(model),
        FeatureHook(model, "head", of="output"),
        FeatureHook(model, "body.0", of="output"),
    )
    with into, out, middle:
        logits = model(images)
    feature = into.take()
    assert feature.equal(model.feature(images))
    assert out.take() is logits
    assert pooled(middle.take()).shape == (4, 6)
    (slope,) = torch.autograd.grad(logits.sum(), feature)
    assert slope.allclose(model.head.weight.sum(0).expand(4, 6))
    with pytest.raises(RuntimeError, match="No forward pass ran through 'head'"):
        out.take()
    assert repr(into) == "FeatureHook('head', of='input')"


def test_hook_reads_keyword_arguments() -> None:
    """A module that is called by keyword is read as well."""
    model = nn.Module()
    model.layer = nn.Linear(3, 2)
    x = torch.rand(1, 3)
    with (hook := FeatureHook(model, "layer")):
        model.layer(input=x)
    assert hook.take() is x


def test_hook_wants_a_tensor() -> None:
    """A module that returns several things is named in the error."""
    model = nn.Sequential(nn.LSTM(3, 4))
    with (hook := FeatureHook(model, "0", of="output")):
        model(torch.rand(2, 1, 3))
    with pytest.raises(TypeError, match="output of '0' is a tuple"):
        hook.take()
    with pytest.raises(TypeError, match="output of '0' is a tuple"), hook.changed(abs):
        model(torch.rand(2, 1, 3))


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_hooks_exist_only_inside_the_block(model: Net, images: Tensor) -> None:
    """After the block, also one that fails, nothing is attached and nothing is read; hooks of others stay."""
    other = model.head.register_forward_hook(lambda *_: None)
    hook, second = FeatureHook(model), FeatureHook(model)
    with hook, second:
        assert hooks_of(model) == 3
        model(images)
    assert hooks_of(model) == 1 and hook.take().equal(second.take())
    with pytest.raises(RuntimeError, match="expected input"), hook:
        model(images[:, :2])
    with pytest.raises(RuntimeError, match="expected input"), FeatureHook(model, "body").changed(abs):
        model(images[:, :2])
    assert hooks_of(model) == 1
    model(images)
    with pytest.raises(RuntimeError, match="No forward pass"):
        hook.take()
    other.remove()


def test_change_replaces_one_output(model: Net, images: Tensor) -> None:
    """The next output inside the block, and only that one."""
    hook, plain = FeatureHook(model.eval(), "body", of="output"), model(images)
    with hook.changed(lambda features: 2 * features):
        assert model(images).allclose(model.head(2 * model.feature(images)), atol=1e-6)
    assert model(images).equal(plain)
    with pytest.raises(RuntimeError, match="No forward pass ran through 'body'"), hook.changed(abs):
        pass


def test_unknown_module(model: nn.Module) -> None:
    """The nearest names are offered."""
    with pytest.raises(ValueError, match=r"no module 'body\.1x'; the nearest names are body\.1"):
        FeatureHook(model, "body.1x")
    with pytest.raises(ValueError, match=r"no module 'zzz'.*head"):
        FeatureHook(model, "zzz")
    with pytest.raises(ValueError, match='of must be "input" or "output"'):
        FeatureHook(model, of="middle")  # type: ignore[arg-type]


def test_copies_are_separate(model: nn.Module, images: Tensor) -> None:
    """A copy of the model is plain; a copy of the owner has a hook of its own; neither copies a graph."""
    owner = Owner(model)
    with owner.hook:
        owner.model(images)  # a captured feature inside a graph must not stop the copy
        copied = copy.deepcopy(owner)
    feature, (logits, own) = owner.hook.take(), copied(images)
    assert copied.hook is not owner.hook and own is not feature
    assert logits.allclose(copied.model.head(own))
    assert hooks_of(copy.deepcopy(owner.model)) == 0
    assert pickle.loads(pickle.dumps(owner)).hook.name == "head"  # noqa: S301


def test_compiled_owner(model: nn.Module, images: Tensor, compiled: Callable) -> None:
    """Compiled and eager capture the same, in one graph, and gradients through the feature agree."""
    owner = Owner(model.eval())
    results = []
    for forward in (owner, torch.compile(owner, backend="aot_eager", fullgraph=True)):
        logits, feature = forward(images)
        owner.zero_grad()
        (logits.logsumexp(1).sum() + feature.square().sum()).backward()
        results.append((logits, feature, owner.model.body[0].weight.grad.clone()))
    for eager, other in zip(*results, strict=True):
        assert other.allclose(eager, atol=1e-5)
    owner.hook.close()
    assert hooks_of(model) == 0


@pytest.mark.parametrize("training", [True, False])
def test_compiled_model(training: bool, model: nn.Module, images: Tensor, compiled: Callable) -> None:
    """Compiling only the model, as users do, keeps the hook; outside of the block it does nothing."""
    hook = FeatureHook(model.train(training))
    forward = compiled(model)
    for _ in range(2):
        with hook:
            logits = forward(images)
        assert model.head(hook.take()).allclose(logits, atol=1e-5)
        forward(images)
        with pytest.raises(RuntimeError, match="No forward pass"):
            hook.take()
    hook.close()
    assert hooks_of(model) == 0


def test_compiled_and_called_before_the_hook(model: nn.Module, images: Tensor, compiled: Callable) -> None:
    """A hook that is not in the compiled graph raises, instead of training on something else."""
    forward = compiled(model)
    forward(images)
    with (hook := FeatureHook(model)):
        forward(images)
    with pytest.raises(RuntimeError, match="compiled and called before the hook"):
        hook.take()


def test_distributed(tmp_path) -> None:
    """A hook inside the wrapper reads, gradients flow, and a saliency pass does not upset the reducer."""
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


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 6), (2, 6, 3, 5), (2, 6, 2, 3, 4)])
def test_pooled(shape: tuple[int, ...]) -> None:
    """The mean over tokens or positions."""
    features = torch.rand(shape)
    wide = features if len(shape) != 3 else features.movedim(2, 1)
    expected = wide.reshape(2, 6, -1).sum(2) / max(1, wide[0, 0].numel())
    assert pooled(features).allclose(expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        pooled(torch.rand(3))
