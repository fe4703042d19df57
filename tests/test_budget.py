"""The number of epochs that fits into a budget of minutes, with a clock that the test sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
from mixwell.train import budget, cli, run
from mixwell.train.budget import Cost, Sample, fitted
from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.loop import Training
from mixwell.train.recipes import RECIPES

TINY = replace(RECIPES["digits"](), epochs=40, subset=60, batch_size=10, image_size=8, device="cpu", threads=1)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def ticking(loader: object, clock: Clock, seconds: Callable[[int], float]) -> Sample:
    """Return a sample of a loader whose steps take the given seconds, by their index."""
    sample = Sample(loader, torch.device("cpu"), 5.0, clock)
    for index, _ in enumerate(sample):
        clock.now += seconds(index)
    return sample


@pytest.mark.parametrize(("length", "steps"), [(1, 1), (3, 3), (20, 20), (10_000, 27)])
def test_time_of_a_loader(length: int, steps: int) -> None:
    """Slow first steps do not count, and a long epoch is not run to its end."""
    sample = ticking(range(length), Clock(), lambda index: 30.0 if index < 2 and length > 3 else 0.2)
    assert len(sample.times) - 1 in (steps, steps + 1)
    assert sample.seconds == pytest.approx(length * 0.2)


def brute_force(config: Config, cost: Cost, seconds: float) -> int:
    """Add up the run epoch by epoch, for every length."""
    found = 0
    for epochs in range(1, config.epochs + 1):
        time = cost.start + cost.test
        for epoch in range(1, epochs + 1):
            time += cost.epoch
            if epoch % config.val_every == 0 or epoch > epochs - 10:
                time += cost.validation
        found = epochs if time <= seconds else found
    return found


@pytest.mark.parametrize("minutes", [1.0, 3.3, 7.0, 60.0, 10_000.0])
@pytest.mark.parametrize("val_every", [1, 4])
def test_epochs(minutes: float, val_every: int) -> None:
    config, cost = Config(epochs=300, warmup=15, val_every=val_every), Cost(start=7, epoch=10, validation=2.5, test=4)
    chosen = fitted(config, cost, minutes)
    assert chosen.epochs == brute_force(config, cost, minutes * 60 * 0.95)
    assert chosen.warmup / chosen.epochs == pytest.approx(15 / 300)
    assert replace(chosen, epochs=300, warmup=15) == config


def test_too_short() -> None:
    with pytest.raises(RunError, match=r"one epoch takes 2\.4 min, not 1: raise --budget, or set --subset"):
        fitted(Config(), Cost(start=7, epoch=120, validation=5, test=5), 1)


def test_cost_of_a_run(tmp_path: Path) -> None:
    """Steps of 1 s and batches of the evaluation of 0.5 s, in a run of 6 steps and two models."""
    clock = Clock()

    def tick(seconds: float, function: Callable[..., object]) -> Callable[..., object]:
        def timed(*args: object, **kwargs: object) -> object:
            clock.now += seconds
            return function(*args, **kwargs)

        return timed

    training = Training(replace(TINY, ema=0.9), tmp_path, "")
    clock.now += 20
    training.predict = tick(1.0, training.predict)  # type: ignore[method-assign]
    for model in (training.method.model, training.average.module):  # type: ignore[union-attr]
        model.register_forward_pre_hook(
            lambda module, _: None if module.training else setattr(clock, "now", clock.now + 0.5)
        )
    batches, tests = len(training.val), len(training.test)
    cost = budget.measure(training, 0.0, clock=clock)
    assert (cost.epoch, cost.validation) == pytest.approx((6.0, 2 * batches * 0.5))
    assert cost.test == pytest.approx(tests * 0.5)
    assert cost.start == pytest.approx(20 + clock.now)


def test_a_run_keeps_its_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The choice is in config.json; the run is the same as with so many epochs from the start, and can be resumed."""
    monkeypatch.setattr(budget, "measure", lambda *_: Cost(start=1, epoch=5, validation=0.5, test=1))
    words = [f"--{name}={getattr(TINY, name)}" for name in ("epochs", "subset", "batch_size", "image_size", "threads")]
    words += ["--device", "cpu", "--policy", "until(CutMix(), 0.5)"]
    out = tmp_path / "run"
    assert cli.main(["train", "digits", "--budget", "0.3", *words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "budget 0.3 min: 5.0 s per epoch and 0.5 s per validation, so 2 of 40 epochs, 0.1 of them warm-up" in said
    config = Config.read((out / "config.json").read_text())
    assert (config.epochs, config.warmup) == (2, pytest.approx(0.1))
    again = run(config, tmp_path / "again")
    assert again.test == json.loads((out / "summary.json").read_text())["test"]
    assert "--epochs 2" in json.loads((out / "summary.json").read_text())["command"]
    assert cli.main(["train", "--resume", str(out), "--budget", "3"]) == 2
    assert "a resumed run keeps its epochs: remove --budget" in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(out)]) == 0


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "ten"])
def test_not_a_budget(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "digits", f"--budget={text}"]) == 2
    assert "expected a positive number of minutes" in capsys.readouterr().err
