"""What all methods share, and the plain one."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import catalogue
import mixwell
from catalogue import CLASSES
from mixwell import (
    CutMix,
    Method,
    MixedBatch,
    Mixing,
    MixUp,
    PixelShare,
    SemanticShare,
    SUMix,
    View,
    binary_cross_entropy,
    cross_entropy,
)
from steps import Net, data, fixed, seeded

METHODS = [make for make in catalogue.METHODS if make.func in (Mixing, SUMix)]  # others have tests of their own


def few(rows: int = 8) -> tuple[Tensor, Tensor]:
    images, labels = data(rows)
    return images, labels % CLASSES


@pytest.mark.parametrize("make", METHODS, ids=str)
def test_every_method_keeps_the_contract(make: Callable[..., Method]) -> None:
    """Loss, output, and scalars without gradient; ``after_step`` is accepted at any time."""
    method, batch = make(Net(CLASSES, norm=True), CutMix(alpha=1.0)), few()
    out = method(*batch)
    assert out["loss"].shape == () and out["output"].shape == (8, CLASSES)
    assert all(
        value.shape == () and not value.requires_grad for key, value in out.items() if key not in ("loss", "output")
    )
    for progress in (0.0, 0.5, 1.0):
        assert method.after_step(progress) is None
    assert isinstance(method.model, Net)
    method.eval()
    assert not method.model.norm.training and method(*batch)["loss"].isfinite()


@pytest.mark.parametrize("make", METHODS, ids=str)
def test_param_groups_hold_every_trainable_parameter_once(make: Callable[..., Method]) -> None:
    """And none that is frozen."""
    model = Net(CLASSES)
    model.stem.requires_grad_(False)
    method = make(model, CutMix())
    held = [id(p) for group in method.param_groups() for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in method.parameters() if p.requires_grad} != set()


@pytest.mark.parametrize("make", METHODS, ids=str)
def test_dropout_is_no_obstacle(make: Callable[..., Method]) -> None:
    """A network that is random itself trains as well."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 12), nn.Dropout(), nn.ReLU(), nn.Linear(12, CLASSES))
    make(model, CutMix())(*few())["loss"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("make", METHODS, ids=str)
def test_images_and_labels_are_left_as_they_were(make: Callable[..., Method]) -> None:
    """The caller may use them again."""
    images, labels = few()
    kept = images.clone(), labels.clone()
    make(Net(CLASSES), CutMix())(images, labels)
    assert torch.equal(images, kept[0]) and torch.equal(labels, kept[1])


def test_without_a_policy_it_is_plain_training() -> None:
    """The loss everybody knows."""
    model, batch = Net(), data()
    out = Mixing(model)(*batch)
    torch.testing.assert_close(out["loss"], F.cross_entropy(model(batch[0]), batch[1]))
    torch.testing.assert_close(out["output"], model(batch[0]))


def test_mixing_is_policy_model_and_loss() -> None:
    """The ten lines of the README, in one object; any loss that reads a mixed batch."""
    model, batch = Net(), data()
    losses = [cross_entropy, binary_cross_entropy, functools.partial(cross_entropy, smoothing=0.1)]
    for loss in losses:
        method = Mixing(model, MixUp(), loss=loss)
        got = seeded(method, *batch)["loss"]
        torch.manual_seed(1)
        mixed = MixUp()(*batch)
        torch.testing.assert_close(got, loss(model(mixed.images), mixed))
    spelled = mixwell.parse("Mixing(loss=CrossEntropy(smoothing=0.1))")(model, MixUp(), num_classes=10)
    torch.testing.assert_close(seeded(spelled, *batch)["loss"], got)


def test_semantic_labels_without_the_rest_of_sumix() -> None:
    """One more pass, without gradient or statistics; the same as SUMix without its regulariser."""
    batch, model = data(), Net(norm=True)
    method = Mixing(model, fixed(8), label=SemanticShare())
    got = method(*batch)
    assert model.norm.num_batches_tracked == 1
    model.zero_grad()
    got["loss"].backward()
    gradient = model.stem.weight.grad.clone()
    mixed = fixed(8)(*batch)
    logits = model(mixed.images)
    weights = SemanticShare()(mixed, View(logits.detach(), model(batch[0]).detach()))
    expected = cross_entropy(logits, mixed.with_weights(weights))
    torch.testing.assert_close(got["loss"], expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, model.stem.weight)[0])
    assert (weights - mixed.weights).abs().max() > 1e-4
    sumix = SUMix(model, fixed(8), num_classes=10, gamma=0.0)
    torch.testing.assert_close(sumix(*batch)["loss"], expected)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Mixing(Net(), CutMix), TypeError, "policy must be an object such as CutMix"),
        (lambda: Mixing("resnet18"), TypeError, "model must be an nn.Module, but got str"),
        (lambda: Mixing(SUMix(Net(), CutMix(), num_classes=10)), TypeError, r"got SUMix: give it the .*method\.model"),
        (lambda: Mixing(Several(), CutMix())(*data()), TypeError, "must return logits.* returned a tuple: wrap"),
        (lambda: Mixing(Net(5), CutMix())(*data()), ValueError, "labels must lie between 0 and 4"),
    ],
)
def test_wrong_use_is_refused(make, error, sentence) -> None:
    """One sentence each."""
    torch.manual_seed(0)
    with pytest.raises(error, match=sentence):
        make()


def test_accuracy_counts_every_source() -> None:
    """The label weight of the predicted class, also where it is the class of the partner."""
    model, images, policy = Net(), data()[0], fixed(8)
    predicted = model(policy(images, torch.arange(8)).images).argmax(1)
    labels = predicted.view(4, 2).flip(1).flatten()  # the partner of every row has the predicted class
    step = Mixing(model, policy)(images, labels)
    assert step["accuracy"] >= 69.9
    torch.testing.assert_close(step["accuracy"], mixwell.mixed_accuracy(step["output"], policy(images, labels)))


@pytest.mark.parametrize("name", mixwell.names("method"))
def test_parts_follow_the_model(name: str) -> None:
    """Heads and blocks that a method adds have the dtype and the device of the model."""
    for like in (torch.zeros((), dtype=torch.bfloat16), torch.zeros((), device="meta")):
        method = mixwell.parse(name)(mixwell.models.build("mini_resnet", 10).to(like), CutMix(), num_classes=10)
        assert {(p.dtype, p.device) for p in method.parameters()} == {(like.dtype, like.device)}


@pytest.mark.parametrize("name", mixwell.names("method"))
@pytest.mark.parametrize("place", [(slice(None), 0), (slice(None), None)], ids=["(8,)", "(8, 1, 10)"])
def test_logits_of_another_shape(name: str, place: tuple) -> None:
    """Models with one logit, or with further dimensions, are refused before a loss broadcasts them."""
    model = mixwell.models.build("mini_resnet", 10)
    model.register_forward_hook(lambda module, inputs, logits: logits[place])
    with pytest.raises(ValueError, match=r"must return logits \(B, N\)|but its output is not what|logits .* shape"):
        mixwell.parse(name)(model, CutMix(), num_classes=10)(torch.rand(8, 3, 16, 16), torch.arange(8))


class Several(Net):
    """A classifier with two outputs."""

    def forward(self, x):
        return super().forward(x), x


class ThreeSources(CutMix):
    """A policy that says it mixes three images."""

    def __call__(self, images: Tensor, labels: Tensor, **settings: object) -> MixedBatch:
        mixed = super().__call__(images, labels, **settings)
        return MixedBatch(mixed.images, mixed.labels[:, [0, 1, 1]], torch.full((len(labels), 3), 1 / 3), mixed.plan)


class Attending(PixelShare):
    """A label policy that needs what no method computes."""

    needs = frozenset({"attention"})


NO_LINEAR = nn.Conv2d(3, 10, 1)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: SUMix(Net(), None, num_classes=10), TypeError, "policy must be an object such as CutMix.* got None"),
        (
            lambda: SUMix(Net(), CutMix, num_classes=10),
            TypeError,
            "policy must be an object such as CutMix.* got <class",
        ),
        (lambda: SUMix(Net(), "CutMix", num_classes=10), TypeError, "policy must be an object .* got 'CutMix'"),
        (
            lambda: SUMix(lambda x: x, CutMix(), num_classes=10),
            TypeError,
            "model must be an nn.Module, but got function",
        ),
        (
            lambda: SUMix(NO_LINEAR, CutMix(), num_classes=9),
            ValueError,
            "layer with 9 outputs .*: check num_classes, or name",
        ),
        (
            lambda: SUMix(Net(), CutMix(), num_classes=10, classifier="fx"),
            ValueError,
            "no module 'fx'; the nearest .* fc",
        ),
        (
            lambda: SUMix(Net(), CutMix(), num_classes=10, classifier="norm"),
            ValueError,
            "'norm' is a Identity: name the layer",
        ),
        (
            lambda: SUMix(Net(), CutMix(), num_classes=10, gamma=-1.0),
            ValueError,
            "gamma must be a finite .* but got -1.0",
        ),
        (
            lambda: SUMix(Net(), CutMix(), num_classes=10, gamma=float("nan")),
            ValueError,
            "gamma must be .* but got nan",
        ),
        (lambda: SUMix(Net(), CutMix(), num_classes=10, loss=3), TypeError, "loss of SUMix must be"),
        (
            lambda: SUMix(Net(), CutMix(), num_classes=10, label="area"),
            TypeError,
            "label of SUMix must be a LabelPolicy",
        ),
        (
            lambda: SUMix(Net(), CutMix(), num_classes=10, label=Attending()),
            ValueError,
            "no attention that could be",
        ),
        (
            lambda: SUMix(Net(), CutMix(), num_classes=10, label=PixelShare(), reference_compat=True),
            ValueError,
            "reference_compat sets label itself",
        ),
        (
            lambda: SUMix(Net(), CutMix(), num_classes=9)(*data()),
            ValueError,
            "layer with 9 outputs .*'fc' has 10: check num_classes",
        ),
        (lambda: SUMix(Net(5), CutMix(), num_classes=5)(*data()), ValueError, "labels must lie between 0 and 4"),
        (lambda: SUMix(Net(), ThreeSources(), num_classes=10)(*data()), ValueError, "have 3 sources: use a two-source"),
    ],
)
def test_wrong_use_of_sumix_is_refused(make, error, sentence) -> None:
    """One sentence each; settings when they are written, shapes when they come."""
    torch.manual_seed(0)
    with pytest.raises(error, match=sentence):
        make()
