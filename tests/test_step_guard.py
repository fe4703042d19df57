"""A step that is no number changes nothing, in a loop of one's own and in the training program."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from learned import Net, awake
from mixwell import AdAutoMix, AutoMix, Method, SAMix
from mixwell.methods.leftout import begin_momentum
from mixwell.models import mini_resnet
from mixwell.train.cli import main
from mixwell.train.loader import ArrayLoader
from steps import data, process_group, second_process

METHODS: dict[str, Callable[[], Method]] = {
    "AutoMix": lambda: AutoMix(mini_resnet(10)),
    "SAMix": lambda: SAMix(mini_resnet(10)),
    "AdAutoMix": lambda: AdAutoMix(mini_resnet(10), sources=3),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.1, fused=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, fused=True),
}


def step(method: Method, optimizer: torch.optim.Optimizer, *batches: Tensor, spoil: bool = False) -> None:
    """Take one step over several pieces; a gradient may be spoiled after the loss has been found good."""
    optimizer.zero_grad()
    for images in batches:
        method(images, torch.arange(len(images)))["loss"].backward()
    if spoil:
        next(p.grad for p in method.parameters() if p.grad is not None)[0] = math.inf
    method.before_step(optimizer)
    optimizer.step()
    method.after_step(0.1)


def remembered(method: AutoMix | AdAutoMix, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return everything that a step changes, but for the teacher's weights, which follow the student's in any case."""
    weights = [p for p in method.parameters() if p.requires_grad]
    running = [b for b in method.buffers() if b.is_floating_point()]
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [t.detach().clone() for t in (*weights, *running, *states) if isinstance(t, Tensor)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("what", ["image", "gradient", "second piece"])
@pytest.mark.parametrize("good_steps", [0, 2])
def test_nothing_changes(name: str, optimizer: str, what: str, good_steps: int) -> None:
    """Not the weights, the optimiser's memory or the batch-norm statistics; the next good step counts again."""
    method = awake(METHODS[name]())
    stepper = OPTIMIZERS[optimizer](method.param_groups())
    begin_momentum(stepper)
    good = data(rows=6, size=16)[0]
    for _ in range(good_steps):
        step(method, stepper, good)
    before = remembered(method, stepper)
    bad = good.clone()
    bad[2, 0, 3, 3] = math.nan
    pieces = {"image": [bad], "gradient": [good], "second piece": [good, bad]}[what]
    step(method, stepper, *pieces, spoil=what == "gradient")
    assert not hasattr(stepper, "found_inf")
    if good_steps or optimizer == "sgd":  # AdamW has no memory before its first step
        for old, new in zip(before, remembered(method, stepper), strict=True):
            torch.testing.assert_close(new, old, rtol=0, atol=0)
    assert all(t.isfinite().all() for t in method.state_dict().values() if isinstance(t, Tensor))
    step(method, stepper, good)
    changed = [not torch.equal(old, new) for old, new in zip(before, remembered(method, stepper), strict=False)]
    assert sum(changed) > len(changed) / 2
    assert max(float(t.abs().max()) for t in remembered(method, stepper) if t.is_floating_point()) < 100


def test_a_look_does_not_count() -> None:
    """A forward pass without gradient, of a batch that is no number, is nothing that could be left out."""
    method = awake(AutoMix(mini_resnet(10)))
    stepper = OPTIMIZERS["sgd"](method.param_groups())
    good = data(rows=6, size=16)[0]
    with torch.no_grad():
        method(good * math.nan, torch.arange(6))
    before = [p.detach().clone() for p in method.student.parameters()]
    step(method, stepper, good)
    assert any(not torch.equal(old, new) for old, new in zip(before, method.student.parameters(), strict=True))


def bad_half(rank: int, folder: str) -> list[Tensor]:
    """Take three steps of two processes, in the second of which one of them has a batch that is no number."""
    torch.set_num_threads(1)
    with process_group(f"{folder}/meet", rank, 2):
        method = torch.load(f"{folder}/method.pt", weights_only=False)
        parallel = torch.nn.parallel.DistributedDataParallel(method)
        stepper = OPTIMIZERS["sgd"](method.param_groups())
        for k in range(3):
            images = torch.full((4, 3, 16, 16), math.nan) if rank == 1 == k else torch.randn(4, 3, 16, 16)
            stepper.zero_grad()
            parallel(images, torch.arange(4))["loss"].backward()
            method.before_step(stepper)
            stepper.step()
            method.after_step(0.1)
        weights = torch.cat([p.detach().flatten() for p in method.student.parameters()])
        both = [torch.empty_like(weights) for _ in range(2)]
        torch.distributed.all_gather(both, weights)
        return both


def test_all_processes_leave_out_the_same_step(tmp_path: Path) -> None:
    """Otherwise their weights would differ from then on."""
    torch.save(awake(AutoMix(Net())), tmp_path / "method.pt")
    with second_process(bad_half, 1, str(tmp_path)):
        first, second = bad_half(0, str(tmp_path))
    assert torch.equal(first, second) and bool(first.isfinite().all())


def test_another_optimiser_gets_no_gradient() -> None:
    """So that its own state stays a number."""
    method = awake(AutoMix(mini_resnet(10)))
    plain = torch.optim.SGD(method.param_groups(), lr=0.05, fused=False)
    before = [p.detach().clone() for p in method.student.parameters()]
    step(method, plain, data(rows=6, size=16)[0], spoil=True)
    assert all(torch.equal(old, new) for old, new in zip(before, method.student.parameters(), strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdAutoMix(mini_resnet(10), interval=2),
        lambda: AutoMix(mini_resnet(10), generator_every=2),
    ],
)
def test_steps_that_take_turns_are_compiled_once_each(make: Callable[[], Method], compiler: str) -> None:
    """Two kinds of step need two sets of graphs, however many steps are taken."""
    method, graphs, counts = awake(make()), [], []
    compiled = torch.compile(method, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    images, labels = data(rows=6, size=16)
    for k in range(6):
        compiled(images, labels)["loss"].backward()
        method.after_step(k / 6)
        counts.append(len(graphs))
    assert counts[1:] == [counts[1]] * 5, counts


TINY = ["--subset", "120", "--batch_size", "20", "--image_size", "8", "--threads", "1", "--device", "cpu"]


def train(out: Path, *args: str) -> int:
    return main(["train", "digits", *TINY, *args, "--out", str(out)])


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_survives_a_bad_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One infinite image costs one step; what comes after is as good as before."""
    normalise, seen = ArrayLoader.normalise, []

    def spoiled(loader: ArrayLoader, images: Tensor) -> Tensor:
        images = normalise(loader, images)
        if loader.generator is not None:
            seen.append(None)
            if len(seen) == 3:
                images[0, 0] = math.inf
        return images

    monkeypatch.setattr(ArrayLoader, "normalise", spoiled)
    assert train(tmp_path / "run", "--method", "AutoMix", "--epochs", "2") == 0
    first, second = records(tmp_path / "run")
    assert first["train_skipped"] == pytest.approx(1 / 6) and second["train_skipped"] == 0
    assert 1 < first["train_loss"] < 12 and math.isfinite(second["val_loss"])


def test_a_run_that_diverges_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a sentence, and keeps no checkpoint that is no number."""
    assert train(tmp_path / "run", "--method", "AutoMix", "--epochs", "3", "--lr", "1e12") == 2
    assert "loss became nan in epoch 1: try a smaller --lr" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_means_are_of_the_steps_that_report(tmp_path: Path) -> None:
    """A loss of every fourth step is as large as one of every step."""
    found = {}
    for every in (1, 4):
        out = tmp_path / str(every)
        assert train(out, "--method", f"AutoMix(generator_every={every})", "--epochs", "1") == 0
        found[every] = records(out)[0]["train_generator_loss"]
    assert found[4] == pytest.approx(found[1], rel=0.1)


def test_a_first_step_left_out_starts_momentum_from_zero() -> None:
    """And not from what stood in the memory before."""
    method = awake(AutoMix(mini_resnet(10)))
    stepper = OPTIMIZERS["sgd"](method.param_groups())
    garbage = [torch.full_like(p, 1e20) for p in method.parameters()]
    del garbage
    step(method, stepper, data(rows=6, size=16)[0], spoil=True)
    moving = [state["momentum_buffer"] for state in stepper.state.values()]
    assert len(moving) > 10 and not any(bool(buffer.any()) for buffer in moving)


def test_a_run_goes_on_without_its_first_weights(tmp_path: Path) -> None:
    """They are in its checkpoint; the file may be gone."""
    assert train(tmp_path / "first", "--epochs", "1") == 0
    weights = (tmp_path / "first" / "model.safetensors").rename(tmp_path / "w.safetensors")
    assert train(tmp_path / "run", "--epochs", "1", "--weights", str(weights)) == 0
    weights.unlink()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
