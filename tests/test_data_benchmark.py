"""The benchmark of the input pipeline, in small."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("torchvision")


def test_every_stage_has_a_figure(capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "data.py"))
    script["main"].__globals__["TURN"] = 0.0  # one call of each row
    threads = torch.get_num_threads()
    words = "--images 16 --files 8 --size 24 --batch 4 --threads 1 --rounds 1 --workers"
    try:
        script["main"]([*words.split(), "0", "1"])
    finally:
        torch.set_num_threads(threads)
    rows = re.findall(r"^(\w.*?) {2,}([\d,]+) +([\d,]+) - ([\d,]+) +1$", capsys.readouterr().out, re.MULTILINE)
    names = [name for name, *_ in rows]
    for stage in ("decode", "crop, flip", "batch (collate)", "normalize", "erase", "CutMix on uint8", "whole loader"):
        assert any(stage in name for name in names), stage
    assert sum("whole loader: mixwell" in name for name in names) == 3 and len(names) == 14 + 19
    assert all(int(rate.replace(",", "")) > 0 for _, rate, *_ in rows)
