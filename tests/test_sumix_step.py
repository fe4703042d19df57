"""SUMix as a training step: over every policy and many classifiers, compiled, copied, distributed."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mixwell
from catalogue import LEARNED
from mixwell import (
    Constant,
    CutMix,
    Given,
    MixUp,
    OneOf,
    Policy,
    ResizeMix,
    SemanticShare,
    Sometimes,
    SUMix,
    models,
    sumix_terms,
)
from mixwell.methods.sumix import normalised_uncertainty
from steps import Net, data, fixed, gradients, joint_step, second_process, seeded


def build(name: str) -> mixwell.BatchPolicy:
    """Make a policy of a name, with members where it needs some."""
    members = {
        "MaskMix": mixwell.MaskMix(patch=8),
        "OneOf": OneOf([MixUp(), ResizeMix()], scope="sample"),
        "Switch": mixwell.Switch({0.0: CutMix(), 0.9: MixUp()}),
        "Sometimes": Sometimes(CutMix()),
    }
    return members.get(name) or mixwell.parse(name)


PAIRED = [name for name in mixwell.names("policy") if name not in LEARNED and getattr(mixwell, name).two_sources]


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_trains_over_every_policy(name: str, scope: str) -> None:
    """A step gives every parameter a finite gradient, and an optimiser lowers the loss of its own step."""
    policy = build(name)
    if isinstance(policy, Policy):
        policy = replace(policy, scope=scope)
    norm = mixwell.Normalization(0.5, 0.25)
    method, batch = SUMix(Net(), policy, num_classes=10, normalization=norm), data(size=32)
    before = seeded(method, *batch)
    before["loss"].backward()
    assert before["output"].shape == (8, 10)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    torch.optim.SGD(method.param_groups(), lr=1e-2).step()
    method.after_step(0.5)
    assert seeded(method, *batch)["loss"] < before["loss"]


def timm_model(name: str, **settings: object) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=10, **settings)


def torchvision_model(name: str) -> nn.Module:
    return pytest.importorskip("torchvision").models.get_model(name, num_classes=10)


CLASSIFIERS = {
    "timm resnet18": (lambda: timm_model("resnet18"), 512),
    "timm vit_tiny": (lambda: timm_model("vit_tiny_patch16_224", img_size=32, drop_rate=0.1, drop_path_rate=0.1), 192),
    "timm convnext_atto": (lambda: timm_model("convnext_atto"), 320),
    "torchvision resnet18": (lambda: torchvision_model("resnet18"), 512),
    "torchvision mobilenet_v3_small": (lambda: torchvision_model("mobilenet_v3_small"), 1024),
    "mini_resnet": (lambda: models.mini_resnet(10), 128),
    "layers in a row": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.GELU(), nn.Linear(16, 10)), 16),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_trains_any_classifier(name: str) -> None:
    """The second head finds the classifier's input by itself."""
    make, width = CLASSIFIERS[name]
    method = SUMix(make(), CutMix(alpha=1.0), num_classes=10)
    assert method.head.linear.in_features == width
    seeded(method, *data(4, 32))["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_a_classifier_that_is_a_convolution() -> None:
    """It is named, as it cannot be found; its input map is averaged."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    method = SUMix(model, CutMix(), num_classes=10, classifier="2")
    seeded(method, *data())["loss"].backward()
    assert method.head.linear.in_features == 6


@pytest.mark.parametrize(
    "settings", [{}, {"label": SemanticShare(similarity="released")}, {"reference_compat": True}, {"is_norm": False}]
)
def test_step_is_terms_of_two_passes(settings: dict[str, object]) -> None:
    """The method computes what public parts compute together."""
    model, batch, policy = Net(), data(), fixed(8)
    with torch.no_grad():
        model.fc.weight.mul_(30)  # sure enough for images to differ in their ratio
    method = SUMix(model, policy, num_classes=10, **settings)
    got = method(*batch)
    mixed = policy(*batch)
    feature = [model.stem(x).relu().mean((2, 3)) for x in (mixed.images, batch[0])]
    logits = [model.fc(f) for f in feature]
    heads = logits if method.head is None else [normalised_uncertainty(method.head.linear(f)) for f in feature]
    options = {"label": settings.get("label", SemanticShare())}
    if "reference_compat" in settings:
        options = {"label": SemanticShare(similarity="reference", kappa=1.0), "form": "exp", "published": True}
    terms = sumix_terms(mixed, *logits, *heads, **options)
    torch.testing.assert_close(got["loss"], terms.loss)
    torch.testing.assert_close(got["regulariser"], terms.regulariser.detach())
    torch.testing.assert_close(got["ratio_shift"], (terms.weights - mixed.weights)[:, 0].abs().mean())
    assert torch.equal(got["output"], logits[0]) and not got["regulariser"].requires_grad


def test_clean_pass_leaves_no_trace_unless_asked() -> None:
    """Batch norm sees the mixed images once; gradients flow through the clean pass where the method says so."""
    batch = data()
    for settings, tracked in (({}, 1), ({"reference_compat": True}, 2)):
        method = SUMix(Net(norm=True), fixed(8), num_classes=10, **settings)
        alone = copy.deepcopy(method.model)
        method(*batch)
        alone(fixed(8)(*batch).images)
        assert method.model.norm.num_batches_tracked == tracked
        same = torch.equal(method.model.norm.running_mean, alone.norm.running_mean)
        assert same == (tracked == 1)
        assert method.model.norm.training and method.model.norm.track_running_stats


def test_the_clean_pass_has_a_gradient_as_released_only() -> None:
    """And none where the caller asks for none."""
    for compat in (False, True):
        method, seen = SUMix(Net(), fixed(8), num_classes=10, reference_compat=compat), []
        method.model.register_forward_hook(lambda *_, seen=seen: seen.append(torch.is_grad_enabled()))
        method(*data())
        with torch.no_grad():
            method(*data())
        assert seen == [compat, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_head_follows_the_model(dtype: torch.dtype, device: torch.device) -> None:
    """A model of another type or on another device gets a head of that kind."""
    model = Net().to(device, dtype)
    method = SUMix(model, fixed(8), num_classes=10)
    images, labels = data()
    method(images.to(device, dtype), labels.to(device))["loss"].backward()
    assert {(p.dtype, p.device) for p in method.parameters()} == {(dtype, model.fc.weight.device)}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_the_model_is_free_after_a_step() -> None:
    """It can be scripted and copied, and wrapped again."""
    model, batch = Net(), data()
    methods = [SUMix(model, fixed(8), num_classes=10) for _ in range(2)]
    methods[1].load_state_dict(methods[0].state_dict())
    losses = [method(*batch)["loss"] for method in (*methods, methods[0])]
    assert losses[0].equal(losses[1]) and losses[0].equal(losses[2])
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.jit.script(model)(batch[0]).equal(model(batch[0]))


def test_mixed_with_itself_it_is_ordinary_training() -> None:
    """Whatever ratio is drawn, the label is the image's own."""
    batch, model = data(), Net()
    for lam in (0.0, 0.4, 1.0):
        policy = CutMix(alpha=Constant(lam), pairing=Given(range(8)))
        method = SUMix(model, policy, num_classes=10, gamma=0.0)
        out = method(*batch)
        torch.testing.assert_close(out["loss"], F.cross_entropy(model(batch[0]), batch[1]))
        assert out["ratio_shift"] < 1e-6


def test_gamma_of_zero_needs_no_second_head() -> None:
    """Nothing to read, nothing to train, nothing to find."""
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    method = SUMix(model, CutMix(), num_classes=10, gamma=0.0)
    assert method.head is None and set(map(id, method.parameters())) == set(map(id, model.parameters()))
    out = method(*data())
    assert out["regulariser"] == 0 and out["loss"] > 0


def norm_of(grads: dict[str, Tensor]) -> float:
    return torch.stack([g.norm() for name, g in grads.items() if "fc" not in name and "head" not in name]).norm().item()


def regulariser_share(sharpness: float, **settings: object) -> float:
    """Return the regulariser's gradient over the main term's, in the weights of the backbone."""
    torch.manual_seed(0)
    method = SUMix(models.mini_resnet(100), CutMix(alpha=1.0), num_classes=100, **settings)
    with torch.no_grad():
        method.model.fc.weight.mul_(sharpness)
    batch = torch.randn(32, 3, 16, 16), torch.randint(100, (32,))
    both = gradients(method, *batch)
    method.gamma = 0.0
    main = gradients(method, *batch)
    return norm_of({name: both[name] - main[name] for name in main}) / norm_of(main)


@pytest.mark.parametrize("sharpness", [1.0, 20.0])
def test_the_regulariser_neither_vanishes_nor_rules(sharpness: float) -> None:
    """By default its gradient is a thousandth of the main one or more; released, it vanishes with the batch size."""
    assert 1e-3 < regulariser_share(sharpness) < 1
    assert regulariser_share(sharpness, reference_compat=True) < regulariser_share(sharpness) / 8


def test_under_autocast() -> None:
    """The loss is float32 and close to full precision, everything trains."""
    method, batch = SUMix(Net(), fixed(8), num_classes=10), data()
    expected = seeded(method, *batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        out = seeded(method, *batch)
    assert out["output"].dtype == torch.bfloat16 and out["loss"].dtype == torch.float32
    torch.testing.assert_close(out["loss"], expected, rtol=0.02, atol=0.02)
    out["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


def test_autocast_forgets_weights_cast_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older torch would reuse them in the mixed pass, and train nothing: they go between the two passes."""
    model, order = Net(), []
    model.register_forward_hook(lambda *_: order.append("pass"))
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: order.append("clear"))
    SUMix(model, CutMix(), num_classes=10)(*data())
    assert order[:3] == ["pass", "clear", "pass"]


@pytest.mark.parametrize(
    ("backend", "settings"),
    [("eager", {}), ("eager", {"reference_compat": True}), pytest.param("inductor", {}, marks=pytest.mark.slow)],
)
def test_compiled(backend: str, settings: dict[str, object], compiler: str) -> None:
    """The same loss and gradients, and batch-norm statistics as untouched."""
    method, batch = SUMix(Net(norm=True), fixed(8), num_classes=10, **settings), data()
    other = copy.deepcopy(method)
    compiled = torch.compile(other, backend=backend)
    for _ in range(2):
        expected, got = gradients(method, *batch), gradients(compiled, *batch)
        for name, value in expected.items():
            torch.testing.assert_close(got[f"_orig_mod.{name}"], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.model.norm.running_mean, method.model.norm.running_mean)
    assert other.model.norm.num_batches_tracked == method.model.norm.num_batches_tracked


def test_copies_and_checkpoints() -> None:
    """A deep copy trains by itself; a state dict carries everything, and the classifier's part stands alone."""
    method, batch = SUMix(Net(norm=True), CutMix(), num_classes=10), data()
    other = copy.deepcopy(method)
    first = seeded(method, *batch)["loss"]
    torch.testing.assert_close(seeded(other, *batch)["loss"], first)
    other.model.fc.weight.data.zero_()
    assert method.model.fc.weight.abs().sum() > 0
    fresh = SUMix(Net(norm=True), CutMix(), num_classes=10)
    fresh.load_state_dict(method.state_dict())
    torch.testing.assert_close(seeded(fresh, *batch)["loss"], seeded(method, *batch)["loss"])
    assert {k.split(".")[0] for k in method.state_dict()} == {"model", "head", "_extra_state"}
    Net(norm=True).load_state_dict(method.model.state_dict())


def test_two_processes_give_the_gradient_of_the_joint_batch(tmp_path) -> None:
    """Nothing depends on the batch of one process."""
    if not torch.distributed.is_available():
        pytest.skip("this torch cannot run distributed")
    method, batch = SUMix(Net(), fixed(4), num_classes=10), data(8)
    torch.save((method, *batch), tmp_path / "batch.pt")
    with second_process(joint_step, 1, str(tmp_path)):
        got = joint_step(0, str(tmp_path))
    method.policy = fixed(8)
    for name, expected in gradients(method, *batch).items():
        torch.testing.assert_close(got[name], expected, rtol=1e-4, atol=1e-6)
