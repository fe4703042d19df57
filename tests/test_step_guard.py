"""A step with a NaN or Inf loss or gradient changes nothing: in a user's own loop and in the training program."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixwell import CutMix, Method, Mixing, RegMixup, StepGuard, SUMix
from mixwell.models import mini_resnet
from mixwell.step_guard import _all_finite
from mixwell.train.cli import main
from mixwell.train.loader import ArrayLoader
from steps import Net, data, process_group, second_process

METHODS: dict[str, Callable[[], Method]] = {
    "Mixing": lambda: Mixing(mini_resnet(10), CutMix()),
    "SUMix": lambda: SUMix(mini_resnet(10), CutMix(), num_classes=10),
    "RegMixup": lambda: RegMixup(mini_resnet(10)),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "fused SGD": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.1, fused=True),
    "fused AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, fused=True),
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.1, fused=False),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.9),
}


def step(method: Method, guard: StepGuard, *pieces: Tensor, spoil: str = "") -> None:
    """Take one step over several pieces; its loss or one gradient may be spoiled."""
    guard.begin()
    total = torch.zeros(())
    for images in pieces:
        loss = method(images, torch.arange(len(images)))["loss"]
        loss.backward()
        total = total + loss.detach()
    if spoil == "gradient":
        next(p.grad for p in method.parameters() if p.grad is not None)[0] = math.inf
    guard.check(total + math.inf if spoil == "loss" else total)
    guard.optimizer.step()
    guard.optimizer.zero_grad()
    method.after_step(0.1)


def everything(method: Method, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return copies of everything that a step changes."""
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return [t.detach().clone() for t in (*method.parameters(), *method.buffers(), *states)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("what", ["image", "second piece", "gradient", "loss"])
def test_a_skipped_step_changes_nothing(name: str, optimizer: str, what: str) -> None:
    """Not the weights, the optimizer's state or the batch-norm statistics; the next step trains again."""
    method = METHODS[name]()
    guard = StepGuard(method, OPTIMIZERS[optimizer](method.param_groups()))
    good = data(rows=6)[0]
    step(method, guard, good)
    before = everything(method, guard.optimizer)
    bad = good.clone()
    bad[2] = math.nan
    step(method, guard, *{"image": [bad], "second piece": [good, bad]}.get(what, [good]), spoil=what)
    for old, new in zip(before, everything(method, guard.optimizer), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    step(method, guard, good)
    after = everything(method, guard.optimizer)
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True) if old.dim() > 1)
    assert guard.read() == 1 and guard.read() == 0
    assert not hasattr(guard.optimizer, "found_inf")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_good_steps_are_those_without_a_guard(optimizer: str) -> None:
    """Bit for bit."""
    found = []
    for guarded in (True, False):
        torch.manual_seed(0)
        method = METHODS["Mixing"]()
        stepper, images = OPTIMIZERS[optimizer](method.param_groups()), data(rows=6)[0]
        guard = StepGuard(method, stepper)
        for _ in range(3):
            if guarded:
                step(method, guard, images)
            else:
                method(images, torch.arange(6))["loss"].backward()
                stepper.step()
                stepper.zero_grad()
        found.append(everything(method, stepper))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_first_step_that_is_skipped_starts_momentum_from_zero() -> None:
    """And not from what was in the memory before."""
    method = METHODS["Mixing"]()
    guard = StepGuard(method, OPTIMIZERS["fused SGD"](method.param_groups()))
    garbage = [torch.full_like(p, 1e20) for p in method.parameters()]
    del garbage
    step(method, guard, data(rows=6)[0], spoil="gradient")
    buffers = [state["momentum_buffer"] for state in guard.optimizer.state.values()]
    assert len(buffers) > 10 and not any(bool(buffer.any()) for buffer in buffers)


def test_too_many_in_a_row() -> None:
    """The longest row counts, also over several reads; a good step ends it."""
    model = nn.Linear(2, 1)
    guard = StepGuard(model, torch.optim.SGD(model.parameters(), lr=0.1), patience=4)

    def take(*values: float) -> int:
        for value in values:
            guard.begin()
            loss = (model(torch.ones(1, 2)) * value).sum()
            loss.backward()
            guard.check(loss)
            guard.optimizer.step()
            guard.optimizer.zero_grad()
        return guard.read()

    assert take(1, math.nan, math.nan, math.inf, 1, math.nan) == 4
    assert take(math.nan, -math.inf, 1) == 2
    assert take(math.nan) == 1 and take(math.nan, math.nan) == 2
    with pytest.raises(FloatingPointError, match="4 steps in a row had a NaN or Inf loss or gradient"):
        take(math.nan, 1, 1)


@pytest.mark.parametrize("fused", [True, False])
def test_with_a_grad_scaler(fused: bool) -> None:
    """A bad loss with good gradients is skipped too, and the scaler lowers its scale as for any other."""
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    guard = StepGuard(model, optimizer, scaler)
    for k, factor in enumerate([1.0, math.inf, 1.0, math.nan]):
        before = [t.clone() for t in (*model.parameters(), *model.buffers())]
        guard.begin()
        loss = model(torch.randn(8, 4)).square().mean()
        scaler.scale(loss if k == 1 else loss * factor).backward()
        guard.check(loss * factor)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        same = [torch.equal(old, new) for old, new in zip(before, (*model.parameters(), *model.buffers()), strict=True)]
        assert all(same) if k % 2 else not any(same[2:])
    assert guard.read() == 2 and scaler.get_scale() == 256.0


def bad_half(rank: int, folder: str) -> list[Tensor]:
    """Take three steps in two processes; in the second step, one of them has a NaN batch."""
    torch.set_num_threads(1)
    with process_group(f"{folder}/meet", rank, 2):
        method = torch.load(f"{folder}/method.pt", weights_only=False)
        parallel = nn.parallel.DistributedDataParallel(method)
        guard = StepGuard(method, OPTIMIZERS["fused SGD"](method.param_groups()))
        for k in range(3):
            images, finite = torch.randn(4, 3, 16, 16), not rank == 1 == k
            guard.begin()
            loss = parallel(images, torch.arange(4))["loss"]
            loss.backward()
            guard.check(loss if finite else loss + math.nan)  # the gradients are good in both processes
            guard.optimizer.step()
            guard.optimizer.zero_grad()
        weights = torch.cat([p.detach().flatten() for p in method.parameters()] + [torch.tensor([float(guard.read())])])
        both = [torch.empty_like(weights) for _ in range(2)]
        torch.distributed.all_gather(both, weights)
        return both


def test_all_processes_skip_the_same_step(tmp_path: Path) -> None:
    """Otherwise their weights would differ from then on."""
    torch.save(Mixing(Net()), tmp_path / "method.pt")
    with second_process(bad_half, 1, str(tmp_path)):
        first, second = bad_half(0, str(tmp_path))
    assert torch.equal(first, second) and bool(first.isfinite().all()) and first[-1] == 1


TINY = ["--subset", "120", "--batch_size", "20", "--image_size", "8", "--threads", "1", "--device", "cpu"]


def train(out: Path, *args: str) -> int:
    return main(["train", "digits", *TINY, *args, "--out", str(out)])


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "args", [["--policy", "MixUp"], ["--policy", "MixUp", "--method", "SUMix", "--clip", "1"]], ids=str
)
def test_a_run_survives_a_bad_batch(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One infinite image costs one step, which is counted and shown."""
    normalise, seen = ArrayLoader.normalise, []

    def spoiled(loader: ArrayLoader, images: Tensor) -> Tensor:
        images = normalise(loader, images)
        if loader.generator is not None:
            seen.append(None)
            if len(seen) == 3:
                images[0, 0] = math.inf
        return images

    monkeypatch.setattr(ArrayLoader, "normalise", spoiled)
    assert train(tmp_path / "run", *args, "--epochs", "2") == 0
    first, second = records(tmp_path / "run")
    assert first["train_skipped"] == 1 and second["train_skipped"] == 0
    assert 1 < first["train_loss"] < 12 and math.isfinite(second["val_loss"])
    said = capsys.readouterr().out.splitlines()
    assert "skipped 1 steps" in said[0] and "skipped" not in said[1]


def test_means_are_over_the_steps_that_report(tmp_path: Path) -> None:
    """The mean of a loss that a quarter of the steps report is not divided by the number of all steps."""
    found = {}
    for share in (1.0, 0.25):
        out = tmp_path / str(share)
        assert train(out, "--method", f"AutoMix(block_p={share})", "--epochs", "1") == 0
        found[share] = records(out)[0]["train_block_loss"]
    assert found[0.25] == pytest.approx(found[1.0], rel=0.1)


def test_a_run_goes_on_without_its_first_weights(tmp_path: Path) -> None:
    """They are in its checkpoint; the file may be gone."""
    assert train(tmp_path / "first", "--epochs", "1") == 0
    weights = (tmp_path / "first" / "model.safetensors").rename(tmp_path / "w.safetensors")
    assert train(tmp_path / "run", "--epochs", "1", "--weights", str(weights)) == 0
    weights.unlink()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [6e4, -6e4, float("nan"), float("inf"), -float("inf")])
def test_one_bad_value_among_many(dtype: torch.dtype, value: float) -> None:
    """Large gradients of any type are finite, and so is their sum; one NaN or Inf is found."""
    gradient = torch.full((70_000,), 100.0, dtype=dtype)
    gradient[12_345] = value
    others = [torch.ones(2, dtype=dtype), torch.full((9,), 1e30)]
    assert bool(_all_finite([gradient, *others, torch.tensor(1.0)])) == math.isfinite(value)
