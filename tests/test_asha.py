"""Early stopping of the trials of a sweep: which trials stop, and that they are marked and stay stopped."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

pytest.importorskip("accelerate")
from mixwell.report import table
from mixwell.train import sweep, trials
from mixwell.train.asha import ASHA, Halving
from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.runs import STOPPED, groups, read
from mixwell.train.trials import Board, Trial


def trial(folder: Path, name: str, recipe: str = "digits", epochs: int = 30) -> Trial:
    (folder / name).mkdir()
    return Trial(name, Config(recipe=recipe, epochs=epochs), folder / name)


def trained(one: Trial, values: list[float | None], measure: str = "val_top1") -> None:
    """Write the epochs of a trial; None for an epoch without validation."""
    records = [
        {"epoch": epoch, "train_loss": 1.0, "seconds": 1.0} | ({} if value is None else {measure: value})
        for epoch, value in enumerate(values, 1)
    ]
    (one.run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_each_comparison(tmp_path: Path) -> None:
    """Trials come further in a random order; each decision is that of the definition."""
    draw = random.Random(0)
    some = [trial(tmp_path, str(number)) for number in range(12)]
    curves = {one: [draw.random() for _ in range(30)] for one in some}
    halving, came, running = Halving(ASHA(2, eta=3), some), dict.fromkeys(some, 0), set(some)
    seen: dict[int, list[float]] = {2: [], 6: [], 18: []}
    while running:
        one = draw.choice(sorted(running, key=lambda trial: trial.name))
        came[one] += 1
        trained(one, curves[one][: came[one]])
        expected = False
        if came[one] in seen:
            value, before = curves[one][came[one] - 1], seen[came[one]]
            before.append(value)
            best = sorted(before, reverse=True)[: math.ceil(len(before) / 3)]
            expected = value not in best
        assert [*halving()] == ([one] if expected else [])
        if expected or came[one] == 30:
            running.remove(one)
    assert len(seen[2]) == 12 and 1 <= len(seen[18]) < len(seen[6]) < 12


def test_only_like_is_compared(tmp_path: Path) -> None:
    """Recipes are compared by themselves; an epoch without validation waits for the next one; mAP counts as well."""
    good, bad, other = (trial(tmp_path, name, recipe) for name, recipe in (("a", "x"), ("b", "x"), ("c", "y")))
    halving = Halving(ASHA(2), [good, bad, other])
    trained(good, [None, 80.0], "val_map")
    trained(other, [1.0, 1.0])
    trained(bad, [90.0, None], "val_map")
    assert not halving()
    trained(bad, [90.0, None, 70.0], "val_map")
    assert halving() == {bad: "1 of 2 trials were better after 2 epochs"}
    assert not halving()


def test_an_earlier_sweep_is_not_judged_again(tmp_path: Path) -> None:
    good, bad, late = (trial(tmp_path, name) for name in "abc")
    trained(good, [80.0])
    trained(bad, [10.0])
    halving = Halving(ASHA(1), [good, bad, late])
    assert not halving()
    trained(late, [40.0])
    assert [*halving()] == [late]


@pytest.mark.parametrize(
    "text",
    ["3", "{eta: 3}", "{min_epochs: 0}", "{min_epochs: 1.5}", "{min_epochs: 2, eta: 1}", "{min_epochs: 2, x: 1}"],
)
def test_mistakes(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(f"recipe: digits\nasha: {text}\n")
    with pytest.raises(RunError, match=r"s\.yaml: .*asha"):
        sweep.parse(tmp_path / "s.yaml")


def test_stopped_runs_are_marked(tmp_path: Path) -> None:
    """The table counts them apart, and says why each was stopped."""
    one = trial(tmp_path, "a", epochs=30)
    (one.run / "config.json").write_text(one.config.json())
    trained(one, [10.0, 20.0])
    (one.run / STOPPED).write_text("2 of 3 trials were better after 2 epochs\n")
    assert one.stopped and not one.done
    found = groups([read(one.run)])
    assert table.cells(found)[1][2:4] == ["0 (1 stopped)", "–"]
    assert "was stopped early (2 of 3 trials were better after 2 epochs) (2 of 30 epochs)" in table.remarks(found)[0]
    (one.run / "summary.json").write_text("{}")
    assert one.done and not one.stopped and not read(one.run).stopped


def test_the_board_shows_the_main_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy, or mAP for several labels per image, of the newest validated epoch."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    first, second = trial(tmp_path, "first"), trial(tmp_path, "second")
    trained(first, [10.0, 20.0, None])
    trained(second, [33.333], "val_map")
    board = Board([first, second])
    assert board.live is not None
    board.update()
    console = Console(width=100)
    with console.capture() as shown:
        console.print(board.live.renderable)
    assert all(words in shown.get() for words in ("top-1 20.00", "mAP 33.33", "3 of 30"))


class Ray:
    """Trains an epoch of every running trial at each call of ``wait``; what is cancelled ends with an error."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, curves: dict[Path, list[float | None]]) -> None:
        self.curves, self.came, self.cancelled = curves, dict.fromkeys(curves, 0), set[Path]()

    def remote(self, *args: str) -> Any:
        """Stand for the decorator, the function with its options, and the call."""
        return Path(args[1]) if len(args) == 2 else self

    def options(self, **_: float) -> Ray:
        return self

    def wait(self, running: list[Path], timeout: float) -> tuple[list[Path], list[Path]]:
        for path in running:
            self.came[path] += path not in self.cancelled
            trained(Trial(path.name, Config(), path), self.curves[path][: self.came[path]])
            if self.came[path] == len(self.curves[path]):
                (path / "summary.json").write_text("{}")
        return [path for path in running if self.came[path] == len(self.curves[path]) or path in self.cancelled], []

    def get(self, path: Path) -> tuple[float, str]:
        if path in self.cancelled:
            raise self.exceptions.RayError("the task was cancelled")
        return 1.0, ""

    def cancel(self, path: Path) -> None:
        self.cancelled.add(path)


def test_losers_are_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """They are not failures; the next sweep does not start them again, and one without ASHA does."""
    good, bad = (trial(tmp_path, name, epochs=4) for name in ("good", "bad"))
    ray = Ray({good.run: [50.0, 60.0, 70.0, 80.0], bad.run: [10.0, 20.0, 30.0, 40.0]})
    monkeypatch.setattr(trials, "_ray", lambda _: nullcontext(ray))
    assert trials.train_all([good, bad], losers=Halving(ASHA(2), [good, bad])) == {}
    assert good.done and not bad.done and bad.stopped == "1 of 2 trials were better after 2 epochs"
    assert capsys.readouterr().out.splitlines() == [f"bad: stopped early, {bad.stopped}", "good: 1.0 s"]
    ray.cancelled.clear()
    assert trials.train_all([good, bad], losers=Halving(ASHA(2), [good, bad])) == {} and not bad.done
    assert trials.train_all([good, bad]) == {} and bad.done and not bad.stopped


SWEEP = """
recipe: digits
settings: {epochs: 60, subset: 60, batch_size: 20, image_size: 8, threads: 1, device: cpu, val_every: 5, save_every: 5}
grid: {lr: [0.05, 0.0]}
asha: {min_epochs: 10, eta: 2}
"""


@pytest.mark.slow
def test_a_sweep_stops_what_learns_nothing(tmp_path: Path) -> None:
    """The run with learning rate 0 stops, is not trained again by the same sweep, and is by one without asha."""
    pytest.importorskip("ray")

    def swept(text: str) -> str:
        (tmp_path / "s.yaml").write_text(text)
        command = [sys.executable, "-m", "mixwell", "sweep", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "out")]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    said = swept(SWEEP)  # the rung depends on which trial is faster
    why = "lr=0.0, seed 0: stopped early, 1 of 2 trials were better after"
    assert any(f"{why} {epochs} epochs" in said for epochs in (10, 20, 40))
    runs = {read(path).config.lr: read(path) for path in (tmp_path / "out" / "runs").iterdir()}
    assert runs[0.05].finished and not runs[0.0].finished and len(runs[0.0].metrics) < 60
    before = (runs[0.0].path / "metrics.jsonl").read_text()
    assert "1 of 2 runs in" in swept(SWEEP) and (runs[0.0].path / "metrics.jsonl").read_text() == before
    swept(SWEEP.partition("asha")[0])
    assert all(read(run.path).finished and not read(run.path).stopped for run in runs.values())
