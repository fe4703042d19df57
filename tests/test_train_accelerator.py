"""Processes that train together: how they connect, and the messages if they cannot."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import pytest
import torch

pytest.importorskip("accelerate")
from mixwell.train import accelerator
from mixwell.train.cli import main
from mixwell.train.errors import RunError

Start = Callable[..., str]


@contextmanager
def listening(port: int = 0) -> Iterator[int]:
    """Occupy a port, any one or the given, and say which."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    """Return a port at which no process listens."""
    with listening() as port:
        return port


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Start:
    """Start one of two processes, and return its error message."""

    def started(rank: int, port: int | str, host: str = "127.0.0.1") -> str:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": host, "MASTER_PORT": port}
        for name, value in place.items():
            monkeypatch.setenv(name, str(value))
        assert main(["train", "digits", "--device", "cpu", "--out", str(tmp_path / "run")]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("mixwell: ") and said.err.count("\n") == 1 and said.out == ""
        assert not (tmp_path / "run").exists()
        return said.err

    return started


def test_nobody_answers(start: Start, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port or a host that does not answer is named."""
    monkeypatch.setattr(accelerator, "PATIENCE", 0.3)
    said = start(1, closed_port)
    assert (
        f"the processes cannot connect at 127.0.0.1:{closed_port} (MASTER_ADDR:MASTER_PORT): Connection refused" in said
    )
    assert "cannot connect at nowhere.invalid:80 " in start(1, 80, host="nowhere.invalid")


def test_port_of_somebody_else(start: Start) -> None:
    """The first process cannot wait for the others at a port that is taken."""
    with listening() as port:
        said = start(0, port)
    assert f"the processes cannot connect at 127.0.0.1:{port} " in said and "address already in use" in said


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", "http"), ("127.0.0.1", "0"), ("127.0.0.1", "65536"), ("", 80)]
)
def test_no_port_at_all(start: Start, rank: int, host: str, port: int | str) -> None:
    """The message shows a host or port that is not valid."""
    said = start(rank, port, host)
    assert "MASTER_ADDR and MASTER_PORT" in said and f"{host!r} and {str(port)!r}" in said and "torchrun" in said


def test_the_first_process_may_be_the_last(
    closed_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that starts early waits until the first one answers, and prints so once."""
    ready = threading.Event()

    def late() -> None:
        sleep(0.5)
        with listening(closed_port):
            ready.set()
            sleep(1.0)

    thread = threading.Thread(target=late)
    thread.start()
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": closed_port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(accelerator, "QUIET", 0.2)
    accelerator.check_meeting_place()
    assert ready.is_set()
    assert capsys.readouterr().err == f"mixwell: waiting up to 60 s for 127.0.0.1:{closed_port}\n"
    thread.join()


@pytest.mark.parametrize("name", ["cuda", "cuda:7"])
@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="here these GPUs exist")
def test_gpu_that_is_not_there(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists the available devices."""
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("here there is a GPU")
    assert main(["train", "digits", "--device", name, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith(f"mixwell: device '{name}' is not available: torch can use auto, cpu") and said.count("\n") == 1
    )
    assert not (tmp_path / "run").exists()


def test_one_gpu_for_all_processes(start: Start, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--device cuda:1`` would be ignored where every process has a GPU of its own."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch, "empty", lambda *_, device: torch.zeros(1).as_subclass(OnGpu))
    with pytest.raises(RunError, match="every process has a GPU of its own: use --device auto instead of cuda:1"):
        accelerator.check_device("cuda:1")


class OnGpu(torch.Tensor):
    """A tensor that claims to be on a GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Return the device."""
        return torch.device("cuda:1")


def test_errors_of_a_lost_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with the rank, in a launch of several processes; an error of the model itself is left alone."""
    lost = RuntimeError("[third_party/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")

    def fail(error: Exception) -> None:
        with accelerator.unbroken(lambda: "advice"):
            raise error

    with pytest.raises(RuntimeError, match="gloo"):
        fail(lost)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    for error in (
        lost,
        RuntimeError("NCCL error: remote process exited"),
        torch.distributed.DistNetworkError("socket"),
    ):
        with pytest.raises(RunError, match=r"^rank 3 of 4: another process has ended: advice$"):
            fail(error)
    with pytest.raises(RuntimeError, match="shapes in the residual connection differ"):
        fail(RuntimeError("shapes in the residual connection differ"))
    assert accelerator.launch()[1] == "torchrun --nproc-per-node 4 -m "
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert accelerator.launch()[1] == "torchrun --nproc-per-node 2 -m "
    monkeypatch.delenv("WORLD_SIZE")
    assert accelerator.launch() == ("", "")
