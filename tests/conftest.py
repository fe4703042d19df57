"""What tests get: a seed, a device, the folder of shared data, a compiler."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

# One thread for each test process unless told otherwise: several processes share the cores, and sums stay in one order.
# Set before torch is imported, so that programs started by the tests inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--device``, ``--only-device`` and ``--shared``."""
    parser.addoption("--device", default="cpu", help="device of the tests that take one: cpu, cuda, cuda:1, mps")
    parser.addoption("--only-device", action="store_true", help="run the tests that take a device, and golden vectors")
    parser.addoption("--shared", type=Path, default=SHARED, help="folder of reference numbers and images [../shared]")


class Seeded:
    """Starts every test from the same random state, in whatever order or process it runs.

    A plugin and not a fixture, because this file's fixtures do not reach the doctests in ``src``.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Seed every generator that we or the peers that we compare with draw from."""
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)


def pytest_configure(config: pytest.Config) -> None:
    """Keep torch to the threads that the environment grants."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.backends.cudnn.allow_tf32 = False  # on a GPU convolutions would have fewer digits than the tests compare
    config.pluginmanager.register(Seeded())
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as shells start jobs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what no device changes, with ``--only-device``."""
    if config.getoption("--only-device"):
        parts: tuple[list[pytest.Item], list[pytest.Item]] = ([], [])
        for item in items:
            parts[bool({"device", "shared"} & {*getattr(item, "fixturenames", ())})].append(item)
        config.hook.pytest_deselected(items=parts[0])
        items[:] = parts[1]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Return the device named by ``--device``."""
    name = request.config.getoption("--device")
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        pytest.skip(f"--device {name} is not here: {str(error).splitlines()[0]}")


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest) -> Path:
    """Return the folder of reference numbers and images, by default the one beside the repository."""
    folder = request.config.getoption("--shared")
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} of reference numbers and images: name it with --shared")
    return folder.resolve()


@pytest.fixture
def compiler() -> Iterator[str]:
    """Return the C++ compiler that ``torch.compile`` needs on a CPU, and forget all graphs afterwards."""
    found = next(filter(None, map(shutil.which, [os.environ.get("CXX") or "g++", "clang++"])), None)
    if found is None:
        pytest.skip("torch.compile needs a C++ compiler, and neither g++ nor clang++ is on PATH")
    yield found
    torch.compiler.reset()
