"""The output of the command line: help without torch, missing packages, and streams that are lost or closed."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
from mixwell.train.output import SafeStream

TINY = ["--subset", "40", "--batch_size", "20", "--image_size", "8", "--device", "cpu"]


def start(code: str) -> str:
    """Run a Python program in a process of its own, and return its output."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout


def test_help_does_not_import_torch():
    for arguments in ([], ["--help"], ["--version"]):
        said = start(f"import sys, mixwell_cli; mixwell_cli.main({arguments}); print('torch' in sys.modules)")
        assert said.splitlines()[-1] == "False" and ("0.1" in said or "commands:" in said)


def test_missing_packages_are_named():
    """Without the extra ``train`` every command says how to install it."""
    hide = "import sys; sys.modules['accelerate'] = None; import mixwell_cli; "
    said = start(hide + "sys.stderr = sys.stdout; print(mixwell_cli.main(['train', 'digits']))")
    assert said.splitlines()[-2:][0].startswith("mixwell: the module accelerate is missing: install the packages")
    assert "pip install 'mixwell[train]'" in said and said.splitlines()[-1] == "2"


SHELL = f"{shlex.quote(sys.executable)} -m mixwell"
TRAIN = " ".join([SHELL, "train digits --epochs 12 --warmup 0 --threads 1", *TINY, "--out run"])


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("redirection", "out"),
    [("| head -1", "epoch"), ("<&- >&- 2>&-", ""), ("2> /dev/full > /dev/full", "")],
)
def test_losing_the_output_does_not_end_a_run(redirection, out, tmp_path):
    """The run goes on to its end, its files are complete, and its exit status is 0."""
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    command = (
        f"({TRAIN}; echo $? > status) {redirection}"
        if "|" in redirection
        else f"{TRAIN} {redirection}; echo $? > status"
    )
    found = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert found.stdout.startswith(out) and "Traceback" not in found.stderr and "Error" not in found.stderr
    assert (tmp_path / "status").read_text().strip() == "0"
    assert (
        len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 12
        and (tmp_path / "run" / "summary.json").exists()
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_is_lost_is_an_error(tmp_path):
    """What is only printed, and not in a file, is lost on a full disk; a reader that has seen enough is no error."""
    found = subprocess.run(f"{SHELL} list > /dev/full", shell=True, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and found.stderr == "mixwell: cannot write the output: No space left on device\n"
    found = subprocess.run(f"{SHELL} list | head -1", shell=True, capture_output=True, text=True, check=True)
    assert found.stdout == "recipes\n" and found.stderr == ""


def test_ascii_terminal():
    """Characters that the encoding of stdout lacks are escaped."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    output = SafeStream(stream)
    output.write("93.4 ± 0.2")
    output.flush()
    assert stream.buffer.getvalue() == b"93.4 \\xb1 0.2"
