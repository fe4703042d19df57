"""HiddenMix: mixes where it says and nowhere else, and leaves the model alone outside its step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell import (
    BatchPolicy,
    Constant,
    CutMix,
    Derangement,
    FMix,
    Given,
    Mixing,
    MixUp,
    OneOf,
    Plan,
    ResizeMix,
)
from mixwell.methods.hiddenmix import HiddenMix
from steps import process_group, second_process

CLASSES = 5


class Net(nn.Module):
    """Three stages and a classifier, small enough to compile in a blink."""

    def __init__(self) -> None:
        super().__init__()
        for k, (inputs, outputs) in enumerate(((3, 4), (4, 6), (6, 8)), 1):
            convolution = nn.Conv2d(inputs, outputs, 3, stride=min(k, 2), padding=1)
            self.add_module(f"layer{k}", nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU()))
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


@pytest.fixture
def model(device: torch.device) -> Net:
    return Net().to(device)


@pytest.fixture
def images(device: torch.device) -> Tensor:
    return torch.rand(6, 3, 16, 16, device=device)


@pytest.fixture
def labels(device: torch.device) -> Tensor:
    return torch.arange(6, device=device) % CLASSES


@pytest.fixture
def compiled() -> Iterator[Callable]:
    torch.compiler.reset()
    yield lambda what: torch.compile(what, backend="aot_eager")
    torch.compiler.reset()


def outputs_of(model: nn.Module, run: Callable[[], object]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what went into and came out of every named module while something ran."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def probe(name: str) -> Callable:
        return lambda module, args, output: seen.__setitem__(name, (args[0].detach(), output.detach()))

    handles = [m.register_forward_hook(probe(name)) for name, m in model.named_modules() if name]
    run()
    for handle in handles:
        handle.remove()
    return seen


def by_hand(plan: Plan, features: Tensor) -> Tensor:
    """Mix features image by image and place by place, each by the mean share of the pixels it covers."""
    height, width = features.shape[2:]
    share = plan.share(plan.size)
    mixed = torch.zeros_like(features)
    cell_h, cell_w = plan.size[0] // height, plan.size[1] // width
    for row in range(len(features)):
        for k, source in enumerate(plan.sources[row].tolist()):
            for y in range(height):
                for x in range(width):
                    cell = share[row, k, y * cell_h : (y + 1) * cell_h, x * cell_w : (x + 1) * cell_w]
                    mixed[row, :, y, x] += cell.mean() * features[source, :, y, x]
    return mixed


@pytest.mark.parametrize("name", ["input", ""])
@pytest.mark.parametrize("policy", [MixUp(alpha=2.0), CutMix(scope="sample"), ResizeMix()], ids=repr)
def test_input_is_plain_mixing(name: str, policy: BatchPolicy, model: Net, images: Tensor, labels: Tensor) -> None:
    """At the input HiddenMix is Mixing, bit for bit, gradients included."""
    results = []
    for method in (HiddenMix(copy.deepcopy(model), policy, layers=[name]), Mixing(copy.deepcopy(model), policy)):
        torch.manual_seed(3)
        result = method(images, labels)
        result["loss"].backward()
        results.append([result["loss"], result["output"], *(p.grad for p in method.model.parameters())])
    assert all(a.equal(b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("layer", ["layer1", "layer2.0", "layer3"])
@pytest.mark.parametrize(
    "policy",
    [MixUp(scope="sample"), CutMix(scope="sample"), FMix(), OneOf([MixUp(), CutMix()], scope="sample")],
    ids=repr,
)
def test_only_the_chosen_layer_is_mixed(
    layer: str, policy: BatchPolicy, model: Net, images: Tensor, labels: Tensor
) -> None:
    """Before the layer all is clean, and the next one sees its output mixed by the plan."""
    method = HiddenMix(model.eval(), policy, layers=[layer])
    clean = outputs_of(model, lambda: model(images))
    mixed = outputs_of(model, lambda: (torch.manual_seed(5), method(images, labels)))
    torch.manual_seed(5)
    plan = policy.draw(images, labels)
    names = list(clean)
    finished = names.index(layer)  # modules are seen in the order in which they finish
    for name in names[:finished]:
        assert mixed[name][0].equal(clean[name][0]) and mixed[name][1].equal(clean[name][1]), name
    after = {"layer1": "layer2.0", "layer2.0": "layer2.1", "layer3": "fc"}[layer]
    expected = by_hand(plan, clean[layer][1])
    assert mixed[after][0].allclose(expected.mean((2, 3)) if after == "fc" else expected, atol=1e-5)


@pytest.mark.parametrize("layer", ["input", "layer1", "layer2"])
def test_ratio_one_is_plain_training(layer: str, model: Net, images: Tensor, labels: Tensor) -> None:
    """With lam = 1 the logits are the model's own and the loss is plain cross entropy."""
    result = HiddenMix(model.eval(), MixUp(alpha=Constant(1.0)), layers=[layer])(images, labels)
    assert result["output"].equal(model(images))
    assert result["loss"].allclose(F.cross_entropy(model(images), labels))


def test_layers_are_drawn_evenly(model: Net, images: Tensor, labels: Tensor) -> None:
    """By default the input and the first two of four stages, here two of three; each in a third of the steps."""
    method = HiddenMix(model.eval())
    assert method.layers == ("input", "layer1", "layer2")
    assert repr(method.policy) == "MixUp(alpha=2.0)"
    counts = dict.fromkeys(method.layers, 0)

    def counting(name: str, changed: Callable) -> Callable:
        def count(change: Callable) -> contextlib.AbstractContextManager[None]:
            counts[name] += 1
            return changed(change)

        return count

    for name, hook in method.hooks.items():
        hook.changed = counting(name, hook.changed)
    for _ in range(90):
        method(images[:2], labels[:2])
    assert all(15 < count < 45 for name, count in counts.items() if name != "input") and sum(counts.values()) < 75


@pytest.mark.parametrize("training", [True, False])
def test_the_model_itself_is_plain(training: bool, model: Net, images: Tensor, labels: Tensor) -> None:
    """Before, between and after steps, also after one that failed, the model gives what it gave without the method."""
    plain = copy.deepcopy(model).train(training)
    method = HiddenMix(model.train(training), layers=["layer1", "layer2"])
    assert method.model(images).equal(plain(images))
    method(images, labels)
    with pytest.raises(RuntimeError):
        method(images[:, :2], labels)
    plain.load_state_dict(model.state_dict())
    assert model(images).equal(plain(images))
    assert copy.deepcopy(model)(images).shape == (6, CLASSES)


def test_batch_norm_sees_mixed_features(model: Net, images: Tensor, labels: Tensor) -> None:
    """Statistics before the layer are those of clean features, after it those of mixed ones, as published."""
    plain = copy.deepcopy(model)
    plain(images)
    policy = MixUp(alpha=Constant(0.5), pairing=Given((1, 0, 3, 2, 5, 4)))
    HiddenMix(model, policy, layers=["layer1"])(images, labels)
    assert model.layer1[1].running_var.equal(plain.layer1[1].running_var)
    assert bool((model.layer2[1].running_var < plain.layer2[1].running_var).all())


def test_gradient_flows_to_both_sources(model: Net, images: Tensor, labels: Tensor) -> None:
    """Through the mixed features the anchor and its partner learn, in the drawn ratio."""
    images.requires_grad_()
    method = HiddenMix(model.eval(), MixUp(alpha=Constant(0.25), pairing=Derangement()), layers=["layer2"])
    method(images, labels)["output"][0].sum().backward()
    assert (images.grad.abs().amax((1, 2, 3)) > 0).sum() == 2


@pytest.mark.slow  # test_compiled.py has a smaller network
@pytest.mark.parametrize("whole", [True, False])
def test_compiled(whole: bool, model: Net, images: Tensor, labels: Tensor, compiled: Callable) -> None:
    """Compiled as a whole, or only its model, a method gives the loss and the gradients of the plain one."""
    results = []
    for compile_it in (False, True):
        method = HiddenMix(copy.deepcopy(model), OneOf([MixUp(), CutMix()]), layers=("input", "layer1", "layer2"))
        step = method
        if compile_it and whole:
            step = compiled(method)
        elif compile_it:
            method.model.compile(backend="aot_eager")
        torch.manual_seed(1)
        losses = []
        for _ in range(8):
            result = step(images, labels)
            result["loss"].backward()
            losses.append(result["loss"].detach())
        results.append([*losses, *(p.grad for p in method.model.parameters())])
    assert all(a.allclose(b, atol=1e-4) for a, b in zip(*results, strict=True))


def test_one_graph_for_each_layer(model: Net, images: Tensor, labels: Tensor) -> None:
    """Steps with the same layer and policy never compile again, whatever was drawn."""
    torch.compiler.reset()
    graphs = []
    method = HiddenMix(model, CutMix(scope="sample"), layers=("input", "layer1", "layer2"))
    method.model.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    for _ in range(20):
        method(images, labels)
    assert len(graphs) == 3
    torch.compiler.reset()


def test_compiled_too_early(model: Net, images: Tensor, labels: Tensor, compiled: Callable) -> None:
    """A hook that never runs raises, instead of training on unmixed features with mixed labels."""
    forward = compiled(model)
    forward(images)
    method = HiddenMix(model, layers=["layer1"])
    method.model = forward
    with pytest.raises(
        RuntimeError, match=r"No forward pass ran through 'layer1'.*compiled and called before the hook"
    ):
        method(images, labels)


def _train_on(rank: int, world: int, meet: str) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    with process_group(meet, rank, world):
        method = HiddenMix(model, layers=("input", "layer1", "layer2"))
        wrapped = nn.parallel.DistributedDataParallel(method)
        torch.manual_seed(rank)  # other pictures, another layer
        for _ in range(3):
            wrapped(torch.rand(4, 3, 16, 16), torch.arange(4))["loss"].backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters()])
        both = [torch.empty_like(grads) for _ in range(world)]
        torch.distributed.all_gather(both, grads)
        assert all(g.equal(both[0]) for g in both) and bool(grads.abs().sum() > 0)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_distributed(world: int, tmp_path) -> None:
    """In one process and in two, which draw different layers, gradients are exchanged and agree."""
    meet = str(tmp_path / "meet")
    with second_process(_train_on, 1, world, meet) if world == 2 else contextlib.nullcontext():
        _train_on(0, world, meet)


def test_half_precision(model: Net, images: Tensor, labels: Tensor) -> None:
    """Under autocast features of half precision are mixed as well."""
    for policy in (MixUp(), CutMix()):
        method = HiddenMix(model, policy, layers=["layer1"])
        with torch.autocast(images.device.type, torch.bfloat16):
            result = method(images, labels)
        result["loss"].backward()
        assert result["loss"].isfinite()


def test_unknown_layers(model: Net) -> None:
    """The nearest names are offered; models whose stages could not be inferred ask for names."""
    with pytest.raises(ValueError, match=r"no module 'layer9'; the nearest names are layer3, layer2, layer1"):
        HiddenMix(model, layers=("input", "layer9"))
    with pytest.raises(ValueError, match="Could not infer the stages of Sequential: name the layers"):
        HiddenMix(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
    with pytest.raises(ValueError, match="at least one layer"):
        HiddenMix(model, layers=())
    for layers in (2, (2,)):
        with pytest.raises(TypeError, match=r"layers .*must be .* but got \(?2"):
            HiddenMix(model, layers=layers)
    assert HiddenMix(model, layers="layer1").layers == ("layer1",)


def test_features_without_places(images: Tensor, labels: Tensor, device: torch.device) -> None:
    """Vectors can be blended, not cut; a module that puts out several things is named."""
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7), nn.Linear(7, CLASSES)).to(device)
    assert HiddenMix(flat, layers=["1"])(images, labels)["loss"].isfinite()
    with pytest.raises(ValueError, match=r"mixes regions, but features of shape \(6, 7\) have no positions"):
        HiddenMix(flat, CutMix(alpha=Constant(0.5), box="inside"), layers=["1"])(images, labels)
