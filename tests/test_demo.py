"""The demo trains, writes its results, and uses finished runs again."""

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
from PIL import Image

from mixwell import names
from mixwell.train import demo, sweep, trials
from mixwell.train.errors import RunError


def one_by_one(todo: Sequence[trials.Trial], *_: object) -> dict[str, str]:
    """Train in this process instead of through Ray."""
    for trial in todo:
        assert trials._train(trial.config.json(), str(trial.run))[1] == ""
    return {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what a demo of one epoch and one seed has written."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "train_all", one_by_one)  # in this process, which has imported everything already
        demo.main(["--epochs", "1", "--seeds", "0", "--out", str(out)])
    return out


def test_demo_writes_everything(folder: Path) -> None:
    """Three trainings, a table with a row for each, pictures of every policy, a page."""
    text = (folder / "table.md").read_text()
    for run in (folder / "runs").iterdir():
        (record,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        assert f" {record['val_top1']:.2f} |" in text
    assert len(list((folder / "runs").iterdir())) == 3
    for name in ("plain", "CutMix(alpha=0.2)", "CutMix(alpha=0.2) + SUMix"):
        assert f"| {name} " in text
    assert "Fewer than 3 seeds" in text
    with Image.open(folder / "strip.png") as image:
        told = image.info["Description"]
    assert {name for name in names("policy") if f"{name}(" in told} >= {"CutMix", "FMix", "MixUp", "ResizeMix"}
    assert "<svg" in (folder / "report.html").read_text()


def test_finished_runs_are_used_again(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time nothing is trained; another seed alone is."""
    asked: list[str] = []
    monkeypatch.setattr(sweep, "train_all", lambda todo, *_: asked.extend(t.run.name for t in todo if not t.done) or {})
    demo.main(["--epochs", "1", "--seeds", "0", "--out", str(folder)])
    assert asked == []
    assert "3 of 3 runs" in capsys.readouterr().out
    demo.main(["--epochs", "1", "--seeds", "0", "1", "--out", str(folder)])
    assert sorted(asked) == [f"{name}-1-epochs-seed1" for name in ("cutmix", "cutmix-sumix", "plain")]


def test_fresh_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--fresh`` removes the runs that it will do again, and nothing else."""
    todo = demo.trials(tmp_path, 1, [0])
    for trial in todo:
        trial.run.mkdir(parents=True)
        (trial.run / "summary.json").write_text("{}")
    (tmp_path / "runs" / "mine").mkdir()
    asked: list[trials.Trial] = []
    monkeypatch.setattr(sweep, "train_all", lambda todo, *_: asked.extend(todo) or {})
    demo.main(["--epochs", "1", "--seeds", "0", "--fresh", "--out", str(tmp_path)])
    assert asked == todo
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_runs_with_other_settings_are_refused(tmp_path: Path) -> None:
    """A folder whose runs were made with other settings is left alone; the error names the ways out."""
    trial = demo.trials(tmp_path, 1, [0])[0]
    trial.run.mkdir(parents=True)
    (trial.run / "config.json").write_text(trial.config.json().replace('"lr": 0.05', '"lr": 0.5'))
    with pytest.raises(RunError, match=r"lr is 0\.5, not 0\.05: add --fresh to start over"):
        demo.main(["--epochs", "1", "--seeds", "0", "--out", str(tmp_path)])


def test_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the demo with the command that continues it."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "train_all", interrupted)
    with pytest.raises(KeyboardInterrupt, match="continue with: mixwell demo --epochs 1 --out"):
        demo.main(["--epochs", "1", "--out", str(tmp_path), "--fresh"])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_interrupted_processes_end_and_go_on(tmp_path: Path) -> None:
    """Ctrl-C ends all processes without a traceback, and the next demo goes on where it was."""
    command = [
        sys.executable,
        "-m",
        "mixwell",
        "demo",
        "--epochs",
        "30",
        "--seeds",
        "0",
        "--out",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        begun = time.monotonic()
        while not list(tmp_path.glob("runs/*/checkpoint/epoch-*")):
            assert process.poll() is None and time.monotonic() - begun < 300
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=300)
    assert process.returncode == 130
    assert b"Traceback" not in told
    assert b"continue with: mixwell demo" in told
    for _ in range(50):
        if not alive(process.pid):
            return
        time.sleep(0.1)
    pytest.fail("processes of the demo are still there")


def alive(group: int) -> bool:
    """Whether a process of this group is still there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
