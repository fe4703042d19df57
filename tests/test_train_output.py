"""The output of the command line: help without torch, missing packages, and streams that are lost or closed."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
import mixwell
from mixwell.train.cli import main
from mixwell.train.files import save
from mixwell.train.output import SafeStream

TINY = ["--subset", "40", "--batch_size", "20", "--image_size", "8", "--device", "cpu"]


EXTRA = (  # what the extra "train" installs, by the names that are imported
    *("PIL", "accelerate", "jinja2", "matplotlib", "numpy", "rich", "safetensors", "sklearn", "tensorboard"),
    *("timm", "torchvision"),
)
WITHOUT_EXTRA = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRA}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def start(folder: Path, *args: str, site: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python on arguments in a process of its own, after some code."""
    (folder / "sitecustomize.py").write_text(site)
    paths = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, *args], env=os.environ | {"PYTHONPATH": paths}, cwd=folder, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("program", [["-m", "mixwell"], ["-c", "import mixwell_cli as m, sys; sys.exit(m.main())"]])
@pytest.mark.parametrize("argument", [None, "--help", "-h", "help", "--version", "-V"])
def test_help_does_not_import_torch(program: list[str], argument: str | None, tmp_path: Path):
    """It takes less than a second of computing, from a bare installation too, and goes to stdout."""
    seconds = "import atexit, os, sys; atexit.register(lambda: print('torch' in sys.modules, sum(os.times()[:2])))"
    found = start(tmp_path, *program, *[argument] * (argument is not None), site=f"{WITHOUT_EXTRA}{seconds}")
    *said, (loaded, used) = (line.split() for line in found.stdout.splitlines())
    assert (found.returncode, found.stderr) == (0, "") and loaded == "False" and float(used) < 1
    assert said == [["mixwell", mixwell.__version__]] if argument in ("--version", "-V") else ["commands:"] in said


def test_importing_the_library_never_ends_the_program(tmp_path: Path):
    """Only ``python -m mixwell`` answers --help in place of the program; another module that imports it does not."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("import mixwell")
    (tmp_path / "theirs" / "__main__.py").write_text("print('their help')")
    assert start(tmp_path, "-m", "theirs", "--help").stdout == "their help\n"
    assert start(tmp_path, "-c", "import sys; sys.argv = []; import mixwell; print(1)", "--help").stdout == "1\n"


@pytest.mark.parametrize("command", ["train digits", "report run", "demo"])
def test_missing_packages_are_named(command: str, tmp_path: Path):
    """Without the extra ``train`` every command says how to install it."""
    found = start(tmp_path, "-m", "mixwell", *command.split(), site=WITHOUT_EXTRA)
    assert found.returncode == 2 and found.stdout == ""
    said = [line for line in found.stderr.splitlines() if "NumPy" not in line]  # torch warns of its absence
    assert re.fullmatch(
        r"mixwell: the module \w+ is missing: install the packages of the training program with pip install "
        r"'mixwell\[train\]', or from a clone with pip install '\.\[train\]'",
        said[-1],
    ) and "Traceback" not in found.stderr  # fmt: skip


SHELL = f"{shlex.quote(sys.executable)} -m mixwell"
TRAIN = " ".join([SHELL, "train digits --epochs 12 --warmup 0 --threads 1", *TINY, "--out run"])


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("redirection", "out"),
    [
        ("| head -1", "epoch"),
        *(pytest.param(r, "", marks=pytest.mark.slow) for r in ("<&- >&- 2>&-", "2> /dev/full > /dev/full")),
    ],
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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_is_lost_is_an_error(tmp_path):
    """What is only printed, and not in a file, is lost on a full disk; a reader that has seen enough is no error."""
    found = subprocess.run(f"{SHELL} list > /dev/full", shell=True, capture_output=True, text=True, check=False)
    assert found.returncode == 2 and found.stderr == "mixwell: cannot write the output: No space left on device\n"
    found = subprocess.run(f"{SHELL} list | head -1", shell=True, capture_output=True, text=True, check=True)
    assert found.stdout == "recipes\n" and found.stderr == ""


def test_streams_that_lose_what_is_buffered():
    """The loss shows only when the stream is flushed; that is an error unless the reader has gone."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as gone:  # noqa: PTH123
        output = SafeStream(gone)
        output.write("epoch 1")
        output.flush()
        assert output.error and not output.incomplete
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            output = SafeStream(full)
            output.write("epoch 1")
            output.flush()
            assert output.incomplete


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and links")
def test_a_device_or_link_is_not_replaced_by_a_file(tmp_path):
    """As root, a report that is written to /dev/null would otherwise take its place."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    save(tmp_path / "pipe", b"page")
    assert os.read(reader, 100) == b"page" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for content in (b"new", b"again"):
        save(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == content
    assert not [*tmp_path.glob("*.part")]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("", "a path is empty"),
        ("x" * 300, "cannot be a path: File name too long"),
        ("/".join(["y" * 200] * 30), "cannot be a path: File name too long"),
        ("a\0b", "cannot be a path: embedded null"),
        ("~nobody_of_that_name/x", "cannot find the home directory"),
    ],
)
def test_what_cannot_be_a_path(path, sentence, tmp_path, monkeypatch, capsys):
    """Every command says so in one line, before anything else."""
    monkeypatch.chdir(tmp_path)
    for words in (
        ["train", "digits", "--out", path],
        ["train", "folder", "--data", path or "~nobody_of_that_name"],
        ["train", "--resume", path],
        ["eval", path],
        ["report", path],
        ["check", path],
        ["show", "CutMix", "--images", path],
        ["sweep", path],
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and (re.search(sentence, said) or not path), (words, said)
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(sys.platform != "linux", reason="needs names of any bytes")
def test_run_directory_whose_name_is_not_text(tmp_path, capsys):
    out = os.fsencode(tmp_path) + b"/\xff"
    assert main(["train", "digits", "--epochs", "1", "--warmup", "0", *TINY, "--out", os.fsdecode(out)]) == 2
    assert r"\udcff: its name is not UTF-8" in capsys.readouterr().err


def test_ascii_terminal():
    """Characters that the encoding of stdout lacks are escaped."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    output = SafeStream(stream)
    output.write("93.4 ± 0.2")
    output.flush()
    assert stream.buffer.getvalue() == b"93.4 \\xb1 0.2"
