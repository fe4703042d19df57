"""The program for a GPU: both stages in small, its data files, its clock and its time limits."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path

import gpu_check
import gpu_data
import gpu_images
import gpu_measure
import gpu_record
import gpu_run
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
CLASSES, TRAIN, TEST = 10, 60, 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An npz file of random images."""
    draw, path = np.random.default_rng(0), tmp_path_factory.mktemp("source") / "images.npz"
    arrays = {}
    for name, count in (("train", TRAIN), ("test", TEST)):
        arrays[f"x_{name}"] = draw.integers(0, 256, (count, 3, 32, 32), np.uint8)
        arrays[f"y_{name}"] = draw.permutation(np.arange(count) % CLASSES)
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def packed(source: Path) -> Path:
    """Both data files."""
    gpu_data.pack(gpu_data.load(source), source.parent)
    return source.parent


def stage(name: str, out: Path, *arguments: str) -> tuple[str, list[dict]]:
    """Run a stage in small on the CPU; return its output and its rows."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), name, "--device", "cpu", "--tiny"]
    command += ["--out", str(out), "--seconds", "1800"]  # a busy machine may be slow
    found = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout, [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_check(tmp_path: Path) -> None:
    """Every section ends, and the output fits into what is kept of it."""
    output, rows = stage("check", tmp_path)
    assert len(output) < 12_000
    kinds = {row["kind"] for row in rows}
    assert {"machine", "ceiling", "section", "tests", "mixing", "step"} <= kinds
    assert [row for row in rows if row["kind"] == "failure"] == []
    assert {row["outcome"] for row in rows if row["kind"] == "section"} == {"done"}
    (tests,) = (row for row in rows if row["kind"] == "tests")
    assert tests["PASSED"] > 1 and tests["failures"] == [] and tests["finished"]
    steps = [row for row in rows if row["kind"] == "step"]
    assert {row["method"] for row in steps} == set(gpu_check.full().steps[0][0].methods)
    assert {row["mode"] for row in steps} == {"eager", "whole"}
    for row in steps:
        assert row["ms"] > 0 and row["spread"] >= 0 and row["calls"] >= 10
        assert f"{row['ms']:.2f}" in output
    mixing = {(row["call"], row["dtype"]) for row in rows if row["kind"] == "mixing"}
    assert {("copy", "uint8"), ("CutMix per sample, mixwell, new", "bfloat16")} <= mixing


@pytest.mark.slow
def test_train(tmp_path: Path, packed: Path) -> None:
    """All runs end, with one data file missing and said to be."""
    (tmp_path / gpu_data.NAMES[1]).write_bytes((packed / gpu_data.NAMES[1]).read_bytes())
    output, rows = stage("train", tmp_path, "--data", str(tmp_path), "--seeds", "3", "--commit", "abc")
    assert len(output) < 12_000
    assert f"{TRAIN // 2} training and {TEST // 2} test images from {gpu_data.NAMES[1]}" in output
    assert "other data file was missing" in output
    runs = [row for row in rows if row["kind"] == "run"]
    assert [row["method"] for row in runs] == ["plain", "CutMix", "CutMix + SUMix", "AutoMix"]
    for row in runs:
        assert row["seed"] == 3 and row["commit"] == "abc" and row["versions"]["torch"]
        assert 0 <= row["top1"] <= 100 and math.isfinite(row["train_loss"])
        assert row["images_per_second"] > 0 and row["config"]["epochs"] == 1


def test_data_files(source: Path, packed: Path) -> None:
    """Both files together are the source; each alone is balanced, and no image is in both."""
    whole, names = gpu_data.join(packed)
    assert names == list(gpu_data.NAMES)
    with np.load(source) as arrays:
        for name in ("train", "test"):
            assert np.array_equal(whole[name].images, arrays[f"x_{name}"])
            assert np.array_equal(whole[name].labels, arrays[f"y_{name}"])
    halves = [gpu_data.read(packed / name) for name in gpu_data.NAMES]
    for half in halves:
        assert np.bincount(half["train"].labels).tolist() == [TRAIN // 2 // CLASSES] * CLASSES
        assert len(half["test"].labels) == TEST // 2
    assert not {*halves[0]["train"].index} & {*halves[1]["train"].index}


def test_no_data_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run benchmarks/gpu_data\.py first"):
        gpu_data.join(tmp_path)
    with pytest.raises(SystemExit, match="--source"):
        gpu_data.load(tmp_path / "nothing.tar.gz")


def test_file_too_large(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_data, "LIMIT", 1000)
    with pytest.raises(SystemExit, match="more than 1000"):
        gpu_data.pack(gpu_data.load(source), tmp_path)
    assert not any((tmp_path / name).exists() for name in gpu_data.NAMES)


def test_augmented() -> None:
    """Every image is one crop of the padded image or that crop mirrored, and all shifts occur both ways."""
    pixels, crop = torch.randint(0, 256, (400, 3, 8, 7), dtype=torch.uint8), 2
    found, seen = gpu_images.augmented(pixels, crop), set()
    assert found.shape == pixels.shape and found.dtype == torch.uint8
    for image, output in zip(pixels.numpy(), found.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
        windows = {(r, c): padded[:, r : r + 8, c : c + 7] for r in range(5) for c in range(5)}
        (place,) = (
            (*place, mirrored)
            for place, window in windows.items()
            for mirrored in (False, True)
            if np.array_equal(output, window[:, :, ::-1] if mirrored else window)
        )
        seen.add(place)
    assert len(seen) == 2 * 5 * 5


def test_batches() -> None:
    """An epoch has every image once but for an incomplete batch, with its own label, normalised and channels last."""
    labels = torch.arange(23)
    images = gpu_images.Images(labels.to(torch.uint8)[:, None, None, None].expand(23, 3, 4, 4).contiguous(), labels)
    batches, seen = list(images.batches(5, 1)), []
    for pixels, some in batches:
        assert pixels.shape == (5, 3, 4, 4) and pixels.is_contiguous(memory_format=torch.channels_last)
        for channel in range(3):
            expected = (some / 255 - gpu_images.MEAN[channel]) / gpu_images.STD[channel]
            torch.testing.assert_close(pixels[:, channel, 0, 0], expected.float())
        seen += some.tolist()
    assert len(seen) == len({*seen}) == 20


def test_accuracy() -> None:
    class ByMean(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            bright = images.mean((1, 2, 3)) > 0
            return torch.stack((~bright, bright), 1).float()

    pixels = torch.tensor([0, 255, 255, 0], dtype=torch.uint8)[:, None, None, None].expand(4, 3, 4, 4)
    images = gpu_images.Images(pixels, torch.tensor([0, 1, 0, 0]))
    assert gpu_images.accuracy(ByMean().train(), images) == 75.0


class Scripted(gpu_measure.Host):
    """A device whose series take known times."""

    def __init__(self, *series: float) -> None:
        super().__init__()
        self.series = list(series)

    def laps(self, call: gpu_measure.Call, count: int) -> list[float]:
        call()
        return [self.series.pop(0)] * count


def test_timed_twice() -> None:
    """The spread is that of two series; their mean is the time."""
    refreshed: list[int] = []
    on = Scripted(9.0, 9.0, 2.0, 3.0)  # two for warming up
    found = gpu_measure.timed(on, lambda: None, seconds=0.1, refresh=lambda: refreshed.append(1))
    assert (found.ms, found.spread, found.calls, len(refreshed)) == (2.5, 0.5, 22, 2)


def test_rotation() -> None:
    """Sets follow each other, take the memory asked for, and get new values."""
    inputs = gpu_measure.Rotation(gpu_measure.Host(), (2, 3, 4, 4), torch.uint8, 7, total=1000)
    assert len(inputs.sets) * inputs.bytes >= 1000 > (len(inputs.sets) - 1) * inputs.bytes
    drawn = [inputs.next() for _ in range(len(inputs.sets) + 1)]
    assert drawn[0][0].data_ptr() == drawn[-1][0].data_ptr() != drawn[1][0].data_ptr()
    before = drawn[0][0].clone()
    inputs.refresh()
    assert not drawn[0][0].equal(before)


def test_device_that_is_not_there() -> None:
    with pytest.raises(SystemExit, match="torch cannot use device 'abacus'"):
        gpu_measure.hardware("abacus")


class Event:
    """Stands for an event of CUDA."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Event.clock

    def elapsed_time(self, later: Event) -> float:
        return later.at - self.at


def test_cuda_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events lie around each call, the host waits before the first and after the last, and waits are counted."""
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append("wait"))
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", order.append)
    on = gpu_measure.Cuda("cuda")

    def call() -> None:
        order.append("call")
        Event.clock += 3.0

    assert on.laps(call, 2) == [3.0, 3.0]
    assert order == ["wait", "call", "call", "wait"]
    order.clear()

    def waits() -> None:
        for _ in range(3):
            warnings.warn(f"{gpu_measure.SYNC} (Triggered internally)", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)

    counted = on.syncs(waits)
    assert order == ["wait", "warn", "default"]
    assert gpu_measure.short_syncs(counted)["count"] == 3  # type: ignore[index]
    assert next(iter(counted)).startswith("tests/test_gpu.py:")  # type: ignore[arg-type]


def test_sections(tmp_path: Path) -> None:
    """A section that fails or takes too long does not keep the next from running; none starts without time."""
    record = gpu_record.Record(tmp_path / "rows.jsonl")
    sections = gpu_record.Sections(record, 60)
    sections.run("slow", 1.0, lambda: time.sleep(30))
    sections.run("broken", 5.0, lambda: 1 / 0)
    sections.run("good", 5.0, lambda: record.write("note"))
    sections.deadline = time.monotonic()
    sections.run("late", 5.0, lambda: pytest.fail("ran"))
    outcomes = {row["name"]: row["outcome"] for row in record.of("section")}
    assert outcomes == {
        "slow": "stopped after its 1 s",
        "broken": "failed: ZeroDivisionError: division by zero",
        "good": "done",
        "late": "skipped: no time left",
    }
    assert [json.loads(line) for line in record.path.read_text().splitlines()] == record.rows


def test_test_outcomes(tmp_path: Path) -> None:
    """Outcomes are read from the log of one process or several, also where it ends early."""
    log = """
tests/test_a.py::test_one[CutMix(alpha=0.2, scope='sample')] PASSED   [ 10%]
tests/test_a.py::test_two FAILED   [ 20%]
tests/test_a.py::test_three SKIPPED (no GPU)   [ 30%]
[gw0] [ 40%] PASSED tests/test_b.py::test_four[a b]
[gw1] [ 50%] FAILED tests/test_b.py::test_five[MixUp()]
E   AssertionError: 1 != 2
"""
    record = gpu_record.Record(tmp_path / "rows.jsonl")
    gpu_check.write_outcomes(record, log, -9)
    (row,) = record.of("tests")
    assert (row["PASSED"], row["FAILED"], row["SKIPPED"], row["finished"]) == (2, 2, 1, False)
    assert row["failures"] == ["tests/test_a.py::test_two", "tests/test_b.py::test_five[MixUp()]"]
    assert row["errors"] == ["E   AssertionError: 1 != 2"]


def test_time_of_a_run() -> None:
    """A run that cannot end in time says how many epochs could."""
    recipe = gpu_run.Recipe("plain", epochs=200)
    gpu_run.check_time(recipe, 50_000, 200 * 50_000, time.monotonic() + 250)
    with pytest.raises(gpu_run.DoesNotFitError, match=r"needs 214 s at 50000 images/s, .*--epochs 88 would fit"):
        gpu_run.check_time(recipe, 50_000, 200 * 50_000, time.monotonic() + 100.5)
    assert recipe.rate(0) == 0.1 and recipe.rate(1) == pytest.approx(0.0)


def test_clipped() -> None:
    """The end of a long text is kept, and the text is short enough."""
    text = "\n".join(f"line {k}" for k in range(5000))
    short = gpu_record.clipped(text, 1000)
    assert len(short) <= 1000 and short.startswith("line 0\n") and short.endswith("line 4999")
    assert gpu_record.clipped("short", 1000) == "short"
