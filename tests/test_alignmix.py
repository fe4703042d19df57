"""AlignMix: the transport against its definition, the alignment against what it must not depend on, and the step."""

from __future__ import annotations

import copy
import runpy
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell import Constant, CutMix, Derangement, Mixing, MixUp, SemanticShare
from mixwell.methods.alignmix import Alignment, AlignMix
from mixwell.ops.sinkhorn import log_transport, mix_aligned, squared_distances

B, P, D = 3, 6, 8
HALF = torch.full((B,), 0.5)


def points(scale: float = 1.0) -> Tensor:
    return torch.randn(B, P, D) * scale


def plan_of(a: Tensor, b: Tensor, eps: float = 0.1, iterations: int = 200) -> Tensor:
    return log_transport(squared_distances(a, b), eps, iterations)[0]


def towards(backwards: bool) -> Tensor:
    return torch.tensor([backwards])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the checker leaves files open
def test_golden_vectors(shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The published code's plans, iterations and mixed features, through the checker that lies beside them."""
    golden = shared / "golden"
    if not (golden / "check.py").exists():
        pytest.skip(f"no golden vectors at {golden}")
    adapters, vectors = Path(__file__).with_name("golden_alignmix.py"), golden / "vectors" / "public"
    command = ["check", "--strict", "--vectors", str(vectors), "--adapters", str(adapters), "--method", "alignmix"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(sys, "path", [*sys.path])
    failed = runpy.run_path(str(golden / "check.py"))["main"]()
    printed = capsys.readouterr().out
    assert not failed and "total failed=0 missing=0" in printed, printed


def test_distances() -> None:
    """Those of torch's own ``cdist``, in float32 whatever comes in."""
    a, b = points(3.0), torch.randn(B, 4, D)
    assert squared_distances(a, b).allclose(torch.cdist(a, b).square(), atol=1e-4)
    assert squared_distances(a, a).diagonal(dim1=1, dim2=2).abs().max() < 1e-4
    with torch.autocast("cpu", torch.bfloat16):
        assert squared_distances(a.bfloat16(), b.bfloat16()).dtype == torch.float32


def test_marginals() -> None:
    """Rows and columns of P times the plan add up to one, and every entry has the form that entropy asks for."""
    cost = squared_distances(points(), points())
    log_plan, iterations = log_transport(cost, 1.0, 500)
    assert iterations == 500
    for dim in (1, 2):
        assert log_plan.exp().sum(dim).allclose(torch.ones(B, P), atol=1e-4)
    potentials = log_plan + cost  # must be a sum of something of the row and something of the column
    mixed = potentials[:, :1, :1] - potentials[:, 1:, :1] - potentials[:, :1, 1:] + potentials[:, 1:, 1:]
    assert mixed.abs().max() < 1e-4


def test_small_entropy_is_the_best_assignment() -> None:
    """With little entropy the plan is the permutation that brute force finds."""
    a, b = points(), points()
    cost = squared_distances(a, b)
    found = plan_of(a, b, eps=0.02, iterations=3000).exp()
    for row in range(B):
        best = min(permutations(range(P)), key=lambda order: cost[row, range(P), order].sum())
        assert found[row].argmax(1).tolist() == list(best)


def test_linear_assignment() -> None:
    """The same at the size of a feature map, against SciPy."""
    optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")
    cost = squared_distances(torch.randn(1, 49, 16), torch.randn(1, 49, 16))
    plan = log_transport(cost, 0.1, 500)[0].softmax(2)
    best = cost[0][optimize.linear_sum_assignment(cost[0])].sum()
    assert best <= (plan * cost).sum() * (1 + 1e-3) < best * 1.02


def test_tolerance_stops_early() -> None:
    """A looser tolerance needs fewer iterations, and the last one is the first that changes little enough."""
    cost = squared_distances(points(), points())
    counts = [log_transport(cost, 0.1, 100, tolerance)[1] for tolerance in (1.0, 0.1, 0.01)]
    assert counts == sorted(counts) and counts[0] < counts[-1] < 100
    stopped = log_transport(cost, 0.1, 100, 0.1)[0]
    assert stopped.equal(log_transport(cost, 0.1, counts[1])[0])


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("iterations", [1, 50])
def test_weights_are_averages_before_convergence(scale: float, iterations: int) -> None:
    """However far the iteration is from its end, aligned points lie in the hull of what they are made of."""
    a, b = points(scale), points(scale)
    log_plan = plan_of(a, b, iterations=iterations)
    for backwards, source in ((False, b), (True, a)):
        aligned = mix_aligned(a, b, torch.tensor([float(backwards)]), towards(backwards), log_plan)
        assert aligned.isfinite().all()
        low, high = source.amin(1, keepdim=True), source.amax(1, keepdim=True)
        assert ((aligned >= low - 1e-4) & (aligned <= high + 1e-4)).all()
    constant = torch.ones_like(a)
    assert mix_aligned(constant, constant, HALF, towards(False), log_plan).allclose(constant, atol=1e-5)


def test_own_features_stay() -> None:
    """Aligned with itself a map is itself, given little entropy."""
    a = points()
    log_plan = plan_of(a, a, eps=0.01)
    assert log_plan.exp().allclose(torch.eye(P).expand(B, -1, -1), atol=1e-4)
    for backwards in (False, True):
        assert mix_aligned(a, a, HALF, towards(backwards), log_plan).allclose(a, atol=1e-4)


def test_order_of_the_aligned_map_does_not_matter() -> None:
    """Forwards the partner's places may be shuffled, backwards the anchor's."""
    a, b, order = points(), points(), torch.randperm(P)
    expected = [mix_aligned(a, b, HALF, towards(way), plan_of(a, b)) for way in (False, True)]
    shuffled = mix_aligned(a, b[:, order], HALF, towards(False), plan_of(a, b[:, order]))
    assert shuffled.allclose(expected[0], atol=1e-4)
    shuffled = mix_aligned(a[:, order], b, HALF, towards(True), plan_of(a[:, order], b))
    assert shuffled.allclose(expected[1], atol=1e-4)


def test_direction_of_each_sample() -> None:
    """Every sample goes its own way, and at the ends of the ratio nothing is transported."""
    a, b = points(), points()
    log_plan, coins = plan_of(a, b), torch.tensor([True, False, True])
    mixed = mix_aligned(a, b, torch.tensor([0.2, 0.4, 0.9]), coins, log_plan)
    for row, coin in enumerate(coins.tolist()):
        alone = mix_aligned(*(t[row : row + 1] for t in (a, b)), torch.tensor([0.2, 0.4, 0.9])[row : row + 1],
                            towards(coin), log_plan[row : row + 1])  # fmt: skip
        assert mixed[row].allclose(alone[0], atol=1e-6)
    assert mix_aligned(a, b, torch.ones(1), towards(False), log_plan).equal(a)
    assert mix_aligned(a, b, torch.zeros(1), towards(True), log_plan).equal(b)


class Net(nn.Module):
    """One stage and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


@pytest.fixture
def compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def data(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.rand(4, 3, 12, 12, device=device), torch.arange(4, device=device)


def test_without_alignment_it_is_mixing(device: torch.device) -> None:
    """With p = 0 the images are mixed as by Mixing."""
    model, (images, labels) = Net().to(device), data(device)
    losses = []
    for method in (AlignMix(copy.deepcopy(model), p=0.0, layer="body"), Mixing(copy.deepcopy(model), MixUp(alpha=2.0))):
        torch.manual_seed(0)
        losses.append(method(images, labels)["loss"])
    assert losses[0].equal(losses[1])


@pytest.mark.parametrize("scope", ["batch", "sample"])
@pytest.mark.parametrize("policy", [MixUp(scope="sample"), CutMix(scope="sample")], ids=repr)
def test_step(scope: str, policy, device: torch.device) -> None:
    """Loss and logits are those of the aligned features and the plan's weights; gradients reach the whole model."""
    model, (images, labels) = Net().eval().to(device), data(device)
    method = AlignMix(model, policy, p=1.0, layer="body", scope=scope)
    torch.manual_seed(2)
    result = method(images, labels)
    torch.manual_seed(2)
    plan = policy.draw(images, labels)
    torch.rand(())
    coins = torch.rand(4 if scope == "sample" else 1, device=device) < 0.5
    logits = model.fc(method.alignment(plan, coins)(model.body(images)).mean((2, 3)))
    assert result["output"].allclose(logits, atol=1e-6)
    each = F.cross_entropy(logits.repeat(2, 1), labels[plan.sources].T.flatten(), reduction="none").view(2, 4)
    assert result["loss"].allclose((plan.weights.T * each).sum(0).mean(), atol=1e-5)
    result["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_plan_has_no_gradient() -> None:
    """The gradient is that of the mix with the plan held fixed."""
    features = torch.randn(2, 6, 3, 3, requires_grad=True)
    plan = MixUp(alpha=Constant(0.4), pairing=Derangement()).draw(torch.rand(2, 3, 9, 9), torch.arange(2))
    (found,) = torch.autograd.grad(Alignment(plan, towards(False))(features).square().sum(), features)
    a = features.flatten(2).transpose(1, 2)
    fixed = plan_of(a.detach(), a[plan.sources[:, 1]].detach(), iterations=50)
    mixed = mix_aligned(a, a[plan.sources[:, 1]], plan.weights[:, 0], towards(False), fixed)
    (expected,) = torch.autograd.grad(mixed.square().sum(), features)
    assert found.allclose(expected, atol=1e-5)


def test_ratio_one(device: torch.device) -> None:
    """With lam = 1 the places of the anchor may move, its mean stays; outside its step the model is plain anyway."""
    model, (images, labels) = Net().eval().to(device), data(device)
    plain = model(images)
    method = AlignMix(model, MixUp(alpha=Constant(1.0)), p=1.0, layer="body", eps=1.0)
    for _ in range(8):
        assert method(images, labels)["output"].allclose(plain, atol=1e-3)
        assert model(images).equal(plain)


@pytest.mark.parametrize("settings", [{}, {"iterations": 100, "tolerance": 0.1, "exact": False}])
def test_layouts_agree(settings: dict) -> None:
    """Maps with channels first or last, and tokens, are mixed alike; half precision comes close."""
    plan = MixUp(alpha=Constant(0.3)).draw(torch.rand(4, 3, 16, 24), torch.arange(4))
    features, coins = torch.randn(4, 5, 4, 6), torch.tensor([True, False, False, True])
    align = Alignment(plan, coins, **settings)
    mixed = align(features)
    last = align(features.permute(0, 2, 3, 1))
    tokens = align(features.flatten(2).transpose(1, 2))
    assert last.permute(0, 3, 1, 2).allclose(mixed, atol=1e-5)
    assert tokens.transpose(1, 2).reshape(mixed.shape).allclose(mixed, atol=1e-5)
    assert align(features.bfloat16()).dtype == torch.bfloat16


@pytest.mark.slow
def test_compiled(compiled: None, device: torch.device) -> None:
    """A method whose model is compiled gives loss and gradients of the plain one."""
    model, (images, labels) = Net().to(device), data(device)
    results = []
    for compile_it in (False, True):
        method = AlignMix(copy.deepcopy(model), layer="body", iterations=2, scope="sample")
        if compile_it:
            method.model.compile(backend="aot_eager")
        torch.manual_seed(1)
        losses = [method(images, labels)["loss"] for _ in range(4)]
        sum(losses).backward()
        results.append([*losses, *(p.grad for p in method.model.parameters())])
    assert all(a.allclose(b, atol=1e-4) for a, b in zip(*results, strict=True))


def test_label_policy(device: torch.device) -> None:
    """Labels are weighed as in Mixing, by a look at the unmixed images; with p = 0 the two are the same."""
    model, (images, labels) = Net().to(device), data(device)
    policy, seen = MixUp(alpha=Constant(0.3), pairing=Derangement()), []
    for method in (
        AlignMix(copy.deepcopy(model), policy, p=0.0, layer="body", label=SemanticShare()),
        Mixing(copy.deepcopy(model), policy, label=SemanticShare()),
        Mixing(copy.deepcopy(model), policy),
    ):
        torch.manual_seed(0)
        seen.append(method(images, labels)["loss"])
    assert seen[0].equal(seen[1]) and not seen[0].equal(seen[2])
    aligned = AlignMix(model.eval(), policy, p=1.0, layer="body", label=SemanticShare())(images, labels)
    assert aligned["loss"].isfinite() and not aligned["output"].allclose(
        model(images)
    )  # the clean pass was not changed


def test_bad_input(device: torch.device) -> None:
    """Settings are checked when built, features when they come."""
    images, labels = data(device)
    with pytest.raises(ValueError, match="no module 'bodi'; the nearest names are body"):
        AlignMix(Net(), layer="bodi")
    with pytest.raises(ValueError, match=r"output of shape \(4, 5\): name another layer"):
        AlignMix(Net().to(device), p=1.0, layer="fc")(images, labels)
    for settings in ({"p": 1.5}, {"scope": "pair"}, {"eps": 0.0}, {"iterations": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            AlignMix(Net(), **settings)
    lonely = AlignMix(Net().to(device), p=1.0, layer="body")(images[:1], labels[:1])
    assert lonely["loss"].isfinite()
