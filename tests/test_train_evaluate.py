"""Measures against slow loops and the library's own, and over two processes against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("accelerate")
from accelerate import Accelerator

import mixwell
from mixwell.train.cli import main
from mixwell.train.evaluate import evaluate, score, summarise


def slow(logits: torch.Tensor, labels: torch.Tensor, bins: int) -> dict[str, float]:
    """The measures, image by image and bin by bin."""
    top1, top5, loss, rows = 0, 0, 0.0, []
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        probabilities = row.exp() / row.exp().sum()
        order = sorted(range(len(row)), key=lambda c: -row[c])
        top1 += order[0] == label
        top5 += label in order[:5]
        loss -= probabilities[label].log().item()
        rows.append((probabilities.max().item(), order[0] == label))
    ece = 0.0
    for b in range(bins):
        inside = [(p, hit) for p, hit in rows if b / bins < p <= (b + 1) / bins]
        if inside:
            gap = sum(hit for _, hit in inside) / len(inside) - sum(p for p, _ in inside) / len(inside)
            ece += len(inside) / len(rows) * abs(gap)
    return {"top1": 100 * top1 / len(rows), "top5": 100 * top5 / len(rows), "loss": loss / len(rows), "ece": ece}


@pytest.mark.parametrize(("classes", "bins", "sharpness"), [(10, 10, 1), (10, 15, 5), (3, 10, 2), (100, 7, 3)])
def test_measures_against_a_loop(device, classes, bins, sharpness):
    logits, labels = torch.randn(57, classes) * sharpness, torch.randint(classes, (57,))
    parts = [score(a.to(device), b.to(device), bins) for a, b in zip(logits.split(20), labels.split(20), strict=True)]
    found = summarise(sum(parts[1:], parts[0]))
    assert found == pytest.approx(slow(logits, labels, bins), abs=1e-9)
    assert found["ece"] == pytest.approx(float(mixwell.expected_calibration_error(logits, labels, bins)), abs=1e-6)


def test_certain_and_low_precision_logits_are_finite():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=torch.bfloat16)
    assert summarise(score(logits, torch.tensor([0, 1]))) == {"top1": 100, "top5": 100, "loss": 0, "ece": 0}


def test_a_confidence_on_the_border_belongs_below():
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.2]])  # confidence 0.5, wrong, and 0.55, right: two bins of ten
    assert summarise(score(logits, torch.tensor([1, 1])))["ece"] == pytest.approx((0.5 + 1 - 0.5498) / 2, abs=1e-4)


class Fixed(torch.nn.Module):
    """Returns the images as logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def test_several_labels_per_image():
    """Dense labels are measured by mAP over all images at once, whatever the batches."""
    peer = pytest.importorskip("sklearn.metrics")
    logits, labels = torch.randn(50, 7), (torch.rand(50, 7) < 0.3).float()
    expected = {
        "map": 100 * peer.average_precision_score(labels, logits, average="macro"),
        "loss": torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).item(),
    }
    for size in (50, 7):
        batches = zip(logits.split(size), labels.split(size), strict=True)
        found = evaluate(Fixed(), batches, Accelerator(cpu=True))
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path, capsys):
    """Train over gloo with two processes, which share 897 images to measure on; then measure with one."""
    run = tmp_path / "run"
    args = ["train", "digits", "--epochs", "2", "--subset", "60", "--batch_size", "20", "--image_size", "8"]
    args += ["--policy", "CutMix(alpha=1)", "--method", "SUMix", "--device", "cpu", "--ema", "0.5", "--out", str(run)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*launch, "-m", "mixwell.train.cli", *args],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3  # the second process is silent
    summary = json.loads((run / "summary.json").read_text())
    assert summary["environment"]["processes"] == 2
    assert main(["eval", str(run), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone == pytest.approx(summary["test"] | {"images": 897}, rel=1e-9)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {name: last[f"ema_{name}"] for name in summary["test"]} == pytest.approx(summary["test"], rel=1e-9)
