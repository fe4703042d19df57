"""Any method with any label policy, loss and sample policy: one step equals a plain loop, or is refused when built."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catalogue import CLASSES, LABELS, METHODS
from catalogue import POLICIES as CATALOGUE
from learned import awake
from mixwell import (
    AdAutoMix,
    AlignMix,
    AttentionShare,
    AutoMix,
    BatchPolicy,
    BinaryCrossEntropy,
    CrossEntropy,
    CutMix,
    LabelPolicy,
    Method,
    MixedBatch,
    Mixing,
    MixUp,
    ObjectShare,
    PixelShare,
    ProgressiveAttentionShare,
    SAMix,
    SAMixPretrained,
    SemanticShare,
    Switch,
    TokenLabelAlignment,
)
from plain_steps import BOXES, STEPS
from small_nets import Net, TinyViT


def squared_error(logits: Tensor, mixed: MixedBatch) -> Tensor:
    """A loss of a user's own."""
    return (logits.softmax(1) - mixed.targets(logits.shape[1])).square().sum(1).mean()


POLICIES: list[BatchPolicy] = [MixUp(), CutMix(scope="sample")]
LOSSES = [CrossEntropy(smoothing=0.1), BinaryCrossEntropy(), squared_error]
LEARNED: list[Callable[..., Method]] = [
    partial(AutoMix, num_classes=CLASSES, layer="conv", margin=0.0),
    partial(SAMix, num_classes=CLASSES, layer="conv", margin=0.0),
    partial(AdAutoMix, num_classes=CLASSES, layer="conv", margin=0.0, sources=2, interval=0),
    partial(SAMixPretrained, num_classes=CLASSES),
]
COMPARED = [make for make in METHODS if make.func in STEPS] + LEARNED
ATTENTION = (AttentionShare, ProgressiveAttentionShare, TokenLabelAlignment)
# Nothing else is refused when built; a label policy that reads attention needs a transformer.
REFUSED = {"AlignMix": ATTENTION}


def compare(make: Callable[..., Method], images: Tensor, labels: Tensor, parts: tuple, kind: type[Net] = Net) -> None:
    policy, label, loss = parts
    method = make(kind(), policy, label=label, loss=loss)
    results = []
    for step in (
        lambda: method(images, labels, boxes=BOXES)["loss"],
        lambda: STEPS[type(method)](method, images, labels, parts),
    ):
        torch.manual_seed(3)
        value = step()
        results.append([value, *torch.autograd.grad(value, [p for p in method.parameters() if p.requires_grad])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def refused(make: Callable[..., Method], label: LabelPolicy, kind: type[Net]) -> bool:
    """Return whether a method cannot use a label policy, which it says when it is built."""
    name = make.func.__name__
    published = make.keywords.get("reference_compat", False)  # sets its label policy itself
    without = isinstance(label, ATTENTION) and kind is Net
    return published or without or isinstance(label, REFUSED.get(name, ()))


@pytest.mark.parametrize("kind", [Net, TinyViT])
@pytest.mark.parametrize("make", COMPARED, ids=str)
@pytest.mark.parametrize("label", {type(label): label for label in LABELS}.values(), ids=repr)
def test_step_is_a_plain_loop(make: Callable[..., Method], label: LabelPolicy, kind: type[Net]) -> None:
    """Loss and every gradient, for every loss and policy."""
    torch.manual_seed(0)
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 3, 3, 6])
    if refused(make, label, kind) and label != SemanticShare():
        with pytest.raises(ValueError, match=r"\.$"):
            make(kind(), MixUp(), label=label)
        return
    for number, policy in enumerate(POLICIES):
        for loss in LOSSES if kind is Net else LOSSES[number::2]:
            compare(make, images, labels, (policy, label, loss), kind)


@pytest.mark.parametrize("make", COMPARED, ids=str)
def test_masks_in_the_call(make: Callable[..., Method]) -> None:
    """Masks of the rectangles of boxes give the loss of the boxes, which is not that without objects."""
    if make.keywords.get("reference_compat"):
        return
    torch.manual_seed(0)
    images, labels, results = torch.rand(4, 3, 8, 8), torch.tensor([0, 3, 3, 6]), []
    boxes = torch.tensor([[0, 0, 4, 8], [1, 2, 6, 7], [4, 4, 8, 8], [2, 0, 8, 3]])
    masks = torch.zeros(4, 8, 8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    method = make(Net(), CutMix(scope="sample"), label=ObjectShare())
    method = awake(method) if hasattr(method, "block") else method
    for objects in ({"masks": masks}, {"masks": masks.bool()}, {"boxes": boxes.float()}):
        torch.manual_seed(3)
        results.append(method(images, labels, **objects)["loss"])
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[2])
    method.label = PixelShare()
    torch.manual_seed(3)
    differs = not method(images, labels)["loss"].allclose(results[0], rtol=1e-6)
    assert differs or isinstance(method, AlignMix | AdAutoMix)  # which show both sources evenly here


class Ignoring:
    """Cross entropy in which a label adds nothing, as a loop."""

    def __init__(self, ignore_index: int) -> None:
        self.ignore_index = ignore_index

    def __call__(self, logits: Tensor, mixed: MixedBatch) -> Tensor:
        total, left, log_p = torch.zeros(()), 0.0, logits.log_softmax(1)
        for row, (labels, weights) in enumerate(zip(mixed.labels.tolist(), mixed.weights, strict=True)):
            for label, weight in zip(labels, weights, strict=True):
                if label != self.ignore_index:
                    total, left = total - weight * log_p[row, label], left + weight
        return total / left / len(logits) * mixed.weights.sum()


@pytest.mark.parametrize("ignored", [-100, pytest.param(255, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("make", COMPARED, ids=str)
def test_ignored_labels(make: Callable[..., Method], ignored: int) -> None:
    """With every label policy, a source whose label the loss ignores adds nothing to the loss and to any gradient."""
    torch.manual_seed(0)
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, ignored, 3, 6])
    for label in [SemanticShare(), *LABELS]:
        if refused(make, label, TinyViT) and label != SemanticShare():
            continue
        method = make(TinyViT(), MixUp(), loss=CrossEntropy(ignore_index=ignored), label=label)
        parts, results = (MixUp(), label, Ignoring(ignored)), []
        for step in (
            lambda method=method: method(images, labels, boxes=BOXES)["loss"],
            lambda method=method, parts=parts: STEPS[type(method)](method, images, labels, parts),
        ):
            torch.manual_seed(3)
            value = step()
            results.append([value, *torch.autograd.grad(value, [p for p in method.parameters() if p.requires_grad])])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", [p for p in CATALOGUE if not isinstance(p, Switch)], ids=repr)
@pytest.mark.parametrize("ignored", [-100, 255])
def test_ignored_labels_in_every_policy(policy: BatchPolicy, ignored: int) -> None:
    """The loss is finite, and training accuracy counts the other labels only."""
    torch.manual_seed(0)
    method = Mixing(Net(), policy, loss=CrossEntropy(ignore_index=ignored))
    with torch.no_grad():
        method.model.get_parameter("fc.bias")[3] = 1e3
    step = method(torch.rand(4, 3, 16, 16), torch.tensor([3, ignored, 3, 3]))
    assert step["loss"].item() == pytest.approx(0, abs=1e-3)
    assert step["accuracy"].item() == pytest.approx(100, abs=1e-3) or "SnapMix" in repr(policy)


@pytest.mark.parametrize("make", COMPARED, ids=str)
def test_dense_labels(make: Callable[..., Method]) -> None:
    """Labels as distributions with a softmax loss, and multi-label rows with a binary one."""
    images, label = torch.rand(4, 3, 8, 8), PixelShare()
    distributions = F.one_hot(torch.tensor([0, 3, 3, 6]), CLASSES).float() * 0.8 + 0.2 / CLASSES
    several = (torch.rand(4, CLASSES) > 0.6).float()
    if make.keywords.get("reference_compat"):
        with pytest.raises(ValueError, match="needs class indices, but the labels are dense"):
            make(Net(), CutMix())(images, distributions)
        return
    for labels, loss in ((distributions, CrossEntropy()), (several, BinaryCrossEntropy())):
        compare(make, images, labels, (CutMix(), label, loss))


class Output:
    """What models of Hugging Face return."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize("make", METHODS, ids=str)
@pytest.mark.parametrize("wrap", [Output, lambda logits: {"logits": logits}])
def test_outputs_with_logits(make: Callable[..., Method], wrap: Callable) -> None:
    """A model that returns an object or dict with logits trains like one that returns logits."""
    plain = Net()
    wrapped = Net()
    wrapped.load_state_dict(plain.state_dict())
    wrapped.rest = lambda maps: wrap(Net.rest(wrapped, maps))  # type: ignore[method-assign]
    images, labels, results = torch.rand(4, 3, 8, 8), torch.tensor([0, 3, 3, 6]), []
    for model in (plain, wrapped):
        torch.manual_seed(3)
        method = make(model, MixUp())
        results.append(method(images, labels)["loss"])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("make", METHODS, ids=str)
def test_a_function_serves_as_policy(make: Callable[..., Method]) -> None:
    """Any callable with images, labels and model; a method that needs a plan refuses it when built."""

    def policy(images: Tensor, labels: Tensor, model: nn.Module | None = None, **_: object) -> MixedBatch:
        return MixUp()(images, labels)

    try:
        method = make(Net(), policy)
    except TypeError as error:
        assert "with the method draw" in str(error)  # noqa: PT017
        return
    assert method(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].isfinite()


@pytest.mark.parametrize("make", METHODS, ids=str)
def test_the_model_is_free_after_a_step(make: Callable[..., Method]) -> None:
    """No hook stays, also after a step that fails; copies train alone, and a model may be wrapped twice."""
    model, images, labels = Net(), torch.rand(4, 3, 8, 8), torch.tensor([0, 3, 3, 6])
    first, second = make(model, MixUp()), make(model, MixUp())
    second.load_state_dict(first.state_dict())
    losses = []
    for method in (first, second, first):
        torch.manual_seed(3)
        losses.append(method(images, labels)["loss"])
        assert not any(module._forward_hooks for module in model.modules())
    assert losses[0].equal(losses[1]) and losses[0].equal(losses[2])
    with pytest.raises((RuntimeError, ValueError)):
        first(images[:, :2], labels)
    assert not any(module._forward_hooks for module in model.modules())
    torch.manual_seed(3)
    assert copy.deepcopy(first)(images, labels)["loss"].equal(losses[0])
    first.close()


@pytest.mark.parametrize("make", METHODS, ids=str)
def test_parts_follow_the_type_of_the_model(make: Callable[..., Method], device: torch.device) -> None:
    """Heads of a method have the type and device of the model."""
    method = make(Net().to(device, torch.float64), MixUp())
    assert {(p.dtype, p.device.type) for p in method.parameters()} == {(torch.float64, device.type)}
    images, labels = torch.rand(4, 3, 8, 8, dtype=torch.float64, device=device), torch.arange(4, device=device)
    method(images, labels)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
