"""The contract of plans as records: they compile, keep a GPU busy, and can be saved, moved and replayed."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import mixwell as mw
from cases import FLOAT, Case, fixed_classifier, mix
from catalogue import PAIRINGS, POLICIES, RATIOS
from mixwell import BatchPolicy, Plan
from plans import PLANS
from test_contract_apply import check_same

CHOICE = mw.OneOf([mw.ResizeMix(), mw.MixUp(), mw.SaliencyMix()], scope="sample")
KINDS = [
    "blend, once",
    "several scaled boxes",
    "fine mask, soft",
    "moved cells",
    repr(mw.CutMix(minmax=(0.2, 0.8))),
    repr(CHOICE),
]
every_plan = pytest.mark.parametrize("name", PLANS)
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=repr)


def often(policies: list[BatchPolicy]) -> Any:
    """Parametrize a test with policies; all but the first of a class are slow."""
    kinds = [type(policy) for policy in policies]
    marks = [[pytest.mark.slow] if kind in kinds[:index] else [] for index, kind in enumerate(kinds)]
    cases = [pytest.param(policy, marks=mark) for policy, mark in zip(policies, marks, strict=True)]
    return pytest.mark.parametrize("policy", cases, ids=repr)


def applied(plan: Plan, images: Tensor) -> Tensor:
    """Apply a plan, as a function to compile."""
    return plan.apply(images)


@pytest.mark.parametrize("layout", ["contiguous", pytest.param("channels_last", marks=pytest.mark.slow)])
@every_plan
def test_compiles_in_one_graph(name: str, layout: str, device: torch.device) -> None:
    """``apply`` is one graph without a break, and does what it does uncompiled."""
    torch.compiler.reset()
    compiled = torch.compile(applied, fullgraph=True, backend="eager")
    images = Case((4, 3, 12, 9), torch.float32, layout).images(device)
    plan = PLANS[name](images)
    mixed = compiled(plan, images)
    assert mixed.stride() == images.stride()
    check_same(mixed, plan.apply(images), plan)


@pytest.mark.slow
def test_compiles_for_every_type_and_with_gradients(device: torch.device) -> None:
    """Bytes and gradients go through compiled graphs as well."""
    for name in KINDS:
        torch.compiler.reset()
        compiled = torch.compile(applied, fullgraph=True, backend="aot_eager", dynamic=False)
        images = FLOAT._replace(dtype=torch.uint8).images(device)
        plan = PLANS[name](images)
        check_same(compiled(plan, images), plan.apply(images), plan)
        learned = FLOAT.images(device).requires_grad_()
        (gradient,) = torch.autograd.grad(compiled(plan, learned).square().sum(), learned)
        (expected,) = torch.autograd.grad(plan.apply(learned).square().sum(), learned)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.slow
@pytest.mark.parametrize("names", [KINDS, list(PLANS)], ids=["some", "every"])
def test_compiled_code_agrees(names: list[str], device: torch.device, request: pytest.FixtureRequest) -> None:
    """The code that the compiler writes agrees with eager for every kind of plan."""
    if device.type == "cpu":
        request.getfixturevalue("compiler")
    images = FLOAT.images(device)
    for some in (names[start : start + 8] for start in range(0, len(names), 8)):
        torch.compiler.reset()
        plans = [PLANS[name](images) for name in some]
        compiled = torch.compile(lambda plans, images: [plan.apply(images) for plan in plans], fullgraph=True)
        for plan, mixed in zip(plans, compiled(plans, images), strict=True):
            check_same(mixed, plan.apply(images), plan)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@often([p for p in POLICIES if getattr(p, "uses_saliency", False)] + [CHOICE])
def test_saliency_maps_compile_in_one_graph(policy: BatchPolicy, device: torch.device) -> None:
    """Drawing with given maps, too, and with the same seed the result is the same."""
    images, labels, results = torch.rand(4, 3, 8, 8, device=device), torch.arange(4, device=device), []
    maps = torch.rand(4, 8, 8, device=device)
    torch.compiler.reset()

    def mixed(images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        found = policy(images, labels, saliency=maps)
        return found.images, found.weights

    for function in (mixed, torch.compile(mixed, fullgraph=True, backend="eager")):
        torch.manual_seed(5)
        results.append(function(images, maps))
    torch.testing.assert_close(*results)


def call(policy: BatchPolicy, images: Tensor, labels: Tensor, **more: Any) -> None:
    """Do all that a training step does with a policy."""
    mixed = policy(images, labels, model=fixed_classifier(images.device), **more)
    mixed.plan.share((5, 7))
    mixed.plan.to(images.device).apply(images)
    mixed.plan.apply_segmentation(images[:, 0])
    mixed.targets(10, smoothing=0.1)
    mw.cross_entropy(images.new_zeros(len(labels), 10), mixed)
    mw.binary_cross_entropy(images.new_zeros(len(labels), 10), mixed)


class NoWaitingCopies(TorchFunctionMode):
    """Refuses to make tensors from numbers right on a device, which waits until they are there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the device of what is made from numbers."""
        kwargs = kwargs or {}
        made = func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type != "cpu"
        if made or (func is Tensor.new_tensor and args[0].device.type != "cpu"):
            raise RuntimeError("made from numbers on a device: make it on the host and send it with non_blocking=True")
        return func(*args, **kwargs)


def dirichlet_without_numbers(parameters: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return a tensor without numbers; torch does not know the shape of such a draw."""
    return torch.empty_like(parameters)


def never_read(images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch, do: Callable[..., object]) -> None:
    """Call ``do`` with tensors on the meta device: they hold no values, so that reading one raises an error."""
    monkeypatch.setattr(torch, "_sample_dirichlet", dirichlet_without_numbers)
    for layout in (torch.contiguous_format, torch.channels_last):
        with NoWaitingCopies():
            do(images.to("meta").contiguous(memory_format=layout), labels.to("meta"))


@often(POLICIES)
def test_nothing_waits_for_the_device(policy: BatchPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing, applying and labelling read no tensor on the host, also for large images."""
    for case in (FLOAT, Case((4, 3, 160, 160), torch.float32, "contiguous")):
        never_read(case.images(), case.labels(), monkeypatch, lambda *batch: call(policy, *batch))


@pytest.mark.parametrize(
    "policy", [mw.SaliencyMix(pairing=p) for p in PAIRINGS] + [mw.MixUp(alpha=r) for r in RATIOS], ids=repr
)
def test_pairings_and_ratios_do_not_wait(policy: BatchPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do the parts that policies are made of."""
    if policy == mw.MixUp(alpha=mw.Beta(0.05)) and torch.__version__.startswith("2.7"):
        pytest.skip("torch 2.7 cannot draw from a gamma distribution on the meta device")
    case = Case((5, 3, 8, 8), torch.float32, "contiguous")
    never_read(case.images(), case.labels(), monkeypatch, lambda *batch: call(policy, *batch))


@every_plan
def test_plans_do_not_wait(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that are made by hand are applied without reading them."""
    images = FLOAT.images()
    plan = PLANS[name](images).to("meta")
    never_read(images, FLOAT.labels(), monkeypatch, lambda images, labels: plan.apply(images))


def test_reading_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three tests above would notice, also numbers that are sent and waited for."""
    for careless in (
        lambda t: float(t.sum()),
        lambda t: t.tolist(),
        lambda t: t[t > 0],
        lambda t: 1 if t[0, 0, 0, 0] else 0,
        lambda t: torch.tensor([1.0], device=t.device),
        lambda t: t.new_tensor([1.0]),
    ):
        with pytest.raises((RuntimeError, NotImplementedError)):
            never_read(FLOAT.images(), FLOAT.labels(), monkeypatch, lambda images, labels, f=careless: f(images))


@every_policy
def test_nothing_waits_for_a_gpu(policy: BatchPolicy, device: torch.device) -> None:
    """The same on a GPU, where torch itself says who waits; run with ``--device cuda``."""
    if device.type != "cuda":
        pytest.skip("torch tells of waiting on CUDA only")
    images, labels = FLOAT.images(device), FLOAT.labels(device)
    given = {"saliency": images.mean(1).abs(), "model": fixed_classifier(device)}
    policy.draw(images, labels, **given).apply(images)  # the first time may set things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        policy.draw(images, labels, **given).apply(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_plan
def test_saved_plan_replays(name: str, device: torch.device) -> None:
    """A plan that went through a file, read without trust in it, does the same bit for bit."""
    images = FLOAT.images(device)
    plan = PLANS[name](images)
    file = io.BytesIO()
    torch.save(plan.state_dict(), file)
    file.seek(0)
    again = Plan.from_state_dict(torch.load(file, weights_only=True))
    for plans in (again, plan.to(device), plan.to("cpu").to(device), plan.to("meta").to("meta")):
        assert type(plans) is type(plan) and plans.size == plan.size and repr(plans) == repr(plan)
    for field in ("sources", "lam", "weights"):
        assert getattr(again, field).equal(getattr(plan, field))
    assert again.apply(images).equal(plan.apply(images))
    assert again.share((9, 5)).equal(plan.share((9, 5)))


@every_policy
def test_generator_on_the_host_gives_the_same_plan_everywhere(policy: BatchPolicy, device: torch.device) -> None:
    """What is drawn from a CPU generator does not depend on the device."""
    here, there = FLOAT.images("cpu"), FLOAT.images(device)
    saliency = here.mean(1).abs()
    expected = mix(policy, here, seed=3, saliency=saliency)
    found = mix(policy, there, seed=3, saliency=saliency.to(device))
    assert found.plan.sources.device == there.device
    assert found.plan.sources.cpu().equal(expected.plan.sources)
    torch.testing.assert_close(found.weights.cpu(), expected.weights)
