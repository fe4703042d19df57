"""The demo trains, writes its results, and uses finished runs again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from mixwell import names
from mixwell.train import demo
from mixwell.train.errors import RunError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what a demo of one epoch and one seed has written."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_cores", lambda: 1)  # in this process, which has imported everything already
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
    trained: list[str] = []
    monkeypatch.setattr(demo, "train_all", lambda todo: trained.extend(job.name for job in todo))
    demo.main(["--epochs", "1", "--seeds", "0", "--out", str(folder)])
    assert trained == []
    assert "3 of 3 runs" in capsys.readouterr().out
    with pytest.raises(RunError, match="seed1"):  # nobody has trained it here
        demo.main(["--epochs", "1", "--seeds", "0", "1", "--out", str(folder)])
    assert sorted(trained) == ["cutmix, seed 1", "cutmix-sumix, seed 1", "plain, seed 1"]


def test_fresh_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--fresh`` removes the runs that it will do again, and nothing else."""
    jobs = demo.jobs(tmp_path, 1, [0])
    for job in jobs:
        job.run.mkdir(parents=True)
        (job.run / "summary.json").write_text("{}")
    (tmp_path / "runs" / "mine").mkdir()
    trained: list[demo.Job] = []
    monkeypatch.setattr(demo, "train_all", trained.extend)
    with pytest.raises(RunError):
        demo.main(["--epochs", "1", "--seeds", "0", "--fresh", "--out", str(tmp_path)])
    assert trained == jobs
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_runs_with_other_settings_are_refused(tmp_path: Path) -> None:
    """A folder whose runs were made otherwise is left alone, with a way out."""
    job = demo.jobs(tmp_path, 1, [0])[0]
    job.run.mkdir(parents=True)
    (job.run / "config.json").write_text(job.config.json().replace('"lr": 0.05', '"lr": 0.5'))
    with pytest.raises(RunError, match=r"lr is 0\.5, not 0\.05: add --fresh to start over"):
        demo.main(["--epochs", "1", "--seeds", "0", "--out", str(tmp_path)])


def test_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the demo with the command that continues it."""

    def interrupted(todo: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "train_all", interrupted)
    with pytest.raises(KeyboardInterrupt, match="resume with: mixwell demo --epochs 1 --out"):
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
    assert b"resume with: mixwell demo" in told
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
