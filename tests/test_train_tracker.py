"""Experiment trackers: off by default, checked before training, and given every epoch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
from mixwell.train.cli import main

ARGS = ["train", "digits", "--epochs", "2", "--subset", "40", "--batch_size", "20", "--image_size", "8"]
ARGS += ["--device", "cpu", "--threads", "1"]
PACKAGE = """
import json, pathlib
class Run:
    def __init__(self):
        self.said = []
    def log(self, values, step=None):
        self.said.append(["log", step, values])
    def finish(self):
        pathlib.Path(__file__).with_name("said.json").write_text(json.dumps(self.said))
    def update(self, values, **_):
        self.said.append(["config", values])
config = run = Run()
def init(**settings):
    run.said.append(["init", settings])
    return run
"""


@pytest.mark.slow
def test_every_epoch_is_logged(tmp_path: Path) -> None:
    """The tracker gets the settings, and the values of metrics.jsonl."""
    (tmp_path / "trackio").mkdir()
    (tmp_path / "trackio" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "trackio-1.0.dist-info").mkdir()
    (tmp_path / "trackio-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: trackio\nVersion: 1.0\n")
    run = tmp_path / "runs" / "first"
    command = [sys.executable, "-m", "mixwell", *ARGS, "--tracker", "trackio", "--out", str(run)]
    paths = os.pathsep.join([str(tmp_path), *sys.path])  # Accelerate looks for trackers when it is imported
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": paths})
    said = json.loads((tmp_path / "trackio" / "said.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert said[0] == ["init", {"project": "mixwell", "name": "first"}]
    assert said[1] == ["config", json.loads((run / "config.json").read_text())]
    assert said[2:] == [["log", epoch, values] for epoch, values in enumerate(lines, 1)]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("wandb", "the tracker wandb is not installed: pip install wandb, or leave --tracker out"),
        ("board", "tracker must be one of wandb, mlflow, trackio, or empty, but is 'board'"),
    ],
)
def test_trackers_that_cannot_be_used(name: str, sentence: str, tmp_path: Path, capsys, monkeypatch) -> None:
    """One sentence, and no run directory."""
    monkeypatch.setattr("mixwell.train.accelerator.get_available_trackers", list)
    assert main([*ARGS, "--tracker", name, "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == f"mixwell: {sentence}\n" and not (tmp_path / "run").exists()
