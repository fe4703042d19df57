"""The golden vectors of the reference implementations, through the checker that lies beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
METHODS = (
    "mixup",
    "cutmix",
    "resizemix",
    "fmix",
    "saliencymix",
    "sumix_loss",
    "label_variants",
    "accuracy_mixup",
    "torchvision",
    "timm",
    "kornia",
    "smoothmix",
    "gridmix",
    "attentivemix",
    "guidedmix",
    "snapmix",
    "alignmix",
    "puzzlemix_mask",
    "puzzlemix_transport",
    "mixblock",
    "automix_mixup",
    "automix_step",
    "adautomix",
    "schedules",
)


def test_golden_vectors(shared: Path) -> None:
    golden = shared / "golden"
    if not (golden / "check.py").exists():
        pytest.skip(f"no golden vectors at {golden}")
    command = [sys.executable, str(golden / "check.py"), "--vectors", str(golden / "vectors" / "public"), "--strict"]
    command += ["--adapters", str(HERE / "golden_adapters.py")]
    for method in METHODS:
        command += ["--method", method]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "total failed=0 missing=0" in result.stdout
