"""Sweeps: what a file asks for, errors in it, and trials that survive the loss of any process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mixwell.train import demo, sweep, trials
from mixwell.train.errors import RunError
from mixwell.train.recipes import RECIPES

FILE = """
recipe: digits
seeds: [0, 1]
settings: {epochs: EPOCHS, threads: 1, device: cpu}
rows:
  plain: {}
  cutmix: {policy: CutMix(alpha=0.2)}
  cutmix-sumix: {policy: CutMix(alpha=0.2), method: SUMix}
"""


def parsed(folder: Path, text: str) -> sweep.Sweep:
    (folder / "sweep.yaml").write_text(text)
    return sweep.parse(folder / "sweep.yaml")


def one_by_one(todo: Sequence[trials.Trial], *_: object) -> dict[str, str]:
    """Train in this process instead of through Ray."""
    for trial in todo:
        if not trial.done:
            trials._train(trial.config.json(), str(trial.run))
    return {}


def test_rows_and_seeds(tmp_path: Path) -> None:
    """Every row is trained with every seed, seed by seed."""
    found = parsed(tmp_path, FILE.replace("EPOCHS", "3")).trials(tmp_path)
    assert [(trial.run.name, trial.config.policy, trial.config.method, trial.config.seed) for trial in found] == [
        (f"{name}-seed{seed}", policy, method, seed)
        for seed in (0, 1)
        for name, policy, method in (
            ("plain", "none", "Mixing"),
            ("cutmix", "CutMix(alpha=0.2)", "Mixing"),
            ("cutmix-sumix", "CutMix(alpha=0.2)", "SUMix"),
        )
    ]
    assert {trial.config.epochs for trial in found} == {3}
    assert all(trial.config.lr == RECIPES["digits"]().lr for trial in found)


def test_grid(tmp_path: Path) -> None:
    """A grid is the product of its values; folder names tell runs from one another and are safe."""
    text = "recipes: [digits, cifar100_mini]\ngrid: {policy: [none, 'CutMix(alpha=1/2)', MixUp()], lr: [0.1, 1]}"
    if (tmp_path / "runs").exists():
        pytest.fail("nothing is written before training starts")
    with pytest.raises(RunError, match="policy"):  # checked when training starts
        sweep.train_and_report(parsed(tmp_path, text).trials(tmp_path), tmp_path, trials.Resources(), "", "")
    text = text.replace("1/2", "0.5")
    found = parsed(tmp_path, text).trials(tmp_path)
    assert len(found) == len({trial.run for trial in found}) == 12
    assert all(set(trial.run.name) <= set("abcdefghijklmnopqrstuvwxyzCMU0123456789_.=-100") for trial in found)
    assert {(trial.config.recipe, trial.config.policy, trial.config.lr) for trial in found} == {
        (recipe, policy, lr)
        for recipe in ("digits", "cifar100_mini")
        for policy in ("none", "CutMix(alpha=0.5)", "MixUp()")
        for lr in (0.1, 1.0)
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected settings such as"),
        ("- digits", "expected settings such as"),
        ("recipe: [digits", "is not YAML"),
        ("seeds: [0]", "name at least one recipe"),
        ("recipe: digit", "unknown recipe 'digit'; did you mean digits"),
        ("recipe: 3", "recipes must be a list of names"),
        ("recipe: digits\nseed: [0]", "unknown key 'seed'; did you mean seeds"),
        ("recipe: digits\nseeds: [a]", "seeds must be a list of whole numbers"),
        ("recipe: digits\nseeds: []", "seeds must be a list of whole numbers"),
        ("recipe: digits\ncpus: -1", "cpus must be a number of at least 0"),
        ("recipe: digits\nretries: 1.5", "retries must be a number"),
        ("recipe: digits\nsettings: [1]", "settings must be a mapping"),
        ("recipe: digits\nrows: {a: 1}", "each entry of rows must be a mapping"),
        ("recipe: digits\nsettings: {epoch: 3}", "unknown field 'epoch'; did you mean epochs"),
        ("recipe: digits\nsettings: {epochs: many}", "epochs must be of type int"),
        ("recipe: digits\nsettings: {lr: -1}", "lr must be at least 0"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        parsed(tmp_path, text).trials(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.yaml"):
        sweep.parse(tmp_path / "none.yaml")


def test_colliding_names(tmp_path: Path) -> None:
    """Rows whose names differ only in special characters do not share a run directory."""
    with pytest.raises(RunError, match="give them other names"):
        parsed(tmp_path, "recipe: digits\nrows: {'a b': {}, 'a/b': {lr: 0.3}}").trials(tmp_path)


def test_finished_runs_are_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second time nothing is trained, and the table is the same."""
    monkeypatch.setattr(sweep, "train_all", one_by_one)
    (tmp_path / "s.yaml").write_text(FILE.replace("EPOCHS", "1"))
    out = tmp_path / "out"
    sweep.main([str(tmp_path / "s.yaml"), "--out", str(out)])
    first, stamps = capsys.readouterr().out, {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*")}
    sweep.main([str(tmp_path / "s.yaml"), "--out", str(out)])
    second = capsys.readouterr().out
    assert second.startswith("6 of 6 runs")
    assert [line for line in second.splitlines() if line.startswith("|")] == [
        line for line in first.splitlines() if line.startswith("|")
    ]
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*")} == stamps
    (tmp_path / "s.yaml").write_text(FILE.replace("EPOCHS", "2"))
    with pytest.raises(RunError, match="epochs is 1, not 2: choose another --out"):
        sweep.main([str(tmp_path / "s.yaml"), "--out", str(out)])


def test_failed_trials_do_not_end_the_others(tmp_path: Path) -> None:
    """An error is returned as one sentence; one that is not the user's leaves its traceback in a file."""
    config = RECIPES["folder"]()
    _, error = trials._train(config.json(), str(tmp_path / "run"))
    assert "data" in error and "\n" not in error


def test_a_run_that_an_earlier_process_still_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial waits for the lock of its run directory, and says who holds it if it never comes free."""
    from mixwell.train.lock import locked

    monkeypatch.setattr(trials, "PATIENCE", 1.5)
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        _, error = trials._train(demo.trials(tmp_path, 1, [0])[0].config.json(), str(tmp_path / "run"))
    assert f"process {os.getpid()}" in error


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints one command for each run."""
    (tmp_path / "s.yaml").write_text(FILE.replace("EPOCHS", "3"))
    sweep.main([str(tmp_path / "s.yaml"), "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[1] == (
        "mixwell train digits --policy 'CutMix(alpha=0.2)' --epochs 3 --device cpu --threads 1 "
        "--out runs/s/runs/cutmix-seed0"
    )


def results(out: Path) -> dict[str, list[object]]:
    """Return what the runs of a sweep measured, without times."""
    found = {}
    for path in sorted(out.glob("runs/*/metrics.jsonl")):
        records = map(json.loads, path.read_text().splitlines())
        found[path.parent.name] = [(r["epoch"], r["train_loss"], r["val_top1"]) for r in records]
    return found


def ray_processes(group: int, kind: str) -> list[int]:
    """Return the processes of a session whose command line holds a text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, session = (
                (folder / "cmdline").read_text(),
                int((folder / "stat").read_text().rsplit(")", 1)[1].split()[3]),
            )
        except (OSError, ValueError):
            continue
        if session == group and kind in line.replace("\0", " "):
            found.append(int(folder.name))
    return found


class Started:
    """A sweep in a session of its own."""

    def __init__(self, file: Path, out: Path) -> None:
        command = [sys.executable, "-m", "mixwell", "sweep", str(file), "--out", str(out)]
        self.out, self.log = out, file.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)

    def wait_for_epochs(self, count: int) -> None:
        """Wait until its runs have finished some more epochs."""
        begun, goal = time.monotonic(), self.epochs() + count
        while self.epochs() < goal:
            assert time.monotonic() - begun < 1200
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)

    def epochs(self) -> int:
        return sum(path.read_text().count("\n") for path in self.out.glob("runs/*/metrics.jsonl"))

    def kill(self, kind: str) -> None:
        """Kill processes whose command line holds a text, the sweep's own process excepted."""
        for number in ray_processes(self.process.pid, kind):
            if number != self.process.pid:
                os.kill(number, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_survives_the_loss_of_any_process(tmp_path: Path) -> None:
    """The processes of the trials, the driver and all of Ray are killed; the results are those of undisturbed runs."""
    pytest.importorskip("ray")
    text = FILE.replace("EPOCHS", "6")
    one_by_one(parsed(tmp_path, text).trials(tmp_path / "whole"))
    file, out = tmp_path / "sweep.yaml", tmp_path / "out"

    first = Started(file, out)
    first.wait_for_epochs(3)
    first.kill("ray::_train")  # Ray starts these trials again
    first.wait_for_epochs(3)
    first.process.kill()
    first.process.wait()

    second = Started(file, out)
    second.wait_for_epochs(3)
    second.kill("ray")
    second.process.wait(timeout=600)
    assert second.process.returncode != 0

    last = Started(file, out)
    assert last.process.wait(timeout=1800) == 0, last.log.read_text()
    assert len(results(out)) == 6
    assert results(out) == results(tmp_path / "whole")
