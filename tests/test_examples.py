"""Every example trains for two steps on random images, and is at most 100 lines long."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader, TensorDataset

import mixwell as mw
from mixwell.models import mini_resnet
from steps import free_port

FOLDER = Path(__file__).resolve().parents[1] / "examples"
FILES = sorted(FOLDER.glob("*.py"))
LOOPS = [path.stem for path in FILES if not path.stem.startswith("with_") and path.stem != "cifar10"]


def example(name: str) -> ModuleType:
    """Import an example, which finds the data of the examples beside it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FOLDER))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def loader(rows: int = 8) -> DataLoader:
    """Return batches of four images."""
    return DataLoader(TensorDataset(torch.randn(rows, 3, 32, 32), torch.arange(rows) % 10), 4)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_length(path: Path) -> None:
    """A reader sees the whole training at once."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.parametrize("method", mw.names("method"))
def test_every_method_has_an_example(method: str) -> None:
    """A plain loop trains with it."""
    assert any(f"mw.{method}(" in (FOLDER / f"{name}.py").read_text(encoding="utf-8") for name in LOOPS)


@pytest.mark.parametrize("name", LOOPS)
def test_plain_loop(name: str) -> None:
    """The method trains the model: losses are finite, and weights change."""
    torch.manual_seed(0)
    model = mini_resnet(10)
    before = [p.detach().clone() for p in model.parameters()]
    found = example(name).train(model, loader(), steps=2)
    assert len(found) == 2 and all(map(math.isfinite, found))
    assert sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) > len(before) / 2
    assert 0 <= example("cifar10").accuracy(model, loader()) <= 100


@pytest.mark.parametrize("accumulate", [1, 2])
def test_accelerate(accumulate: int) -> None:
    """The example of Accelerate takes optimizer steps, also of several batches."""
    from accelerate.state import AcceleratorState, GradientState

    try:
        found = example("with_accelerate").train(mini_resnet(10), loader(), steps=2, accumulate=accumulate)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    assert len(found) == 2 and all(map(math.isfinite, found))


@pytest.mark.filterwarnings("ignore")
def test_lightning() -> None:
    """The example of Lightning trains and validates."""
    lightning = example("with_lightning")
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.L.Trainer(max_epochs=1, accelerator="cpu", **off)
    module = lightning.train(mini_resnet(10), loader(), loader(), trainer)
    assert module.method.progress == 1.0 and math.isfinite(trainer.callback_metrics["val_loss"])


@pytest.mark.filterwarnings("ignore")
def test_transformers(tmp_path: Path) -> None:
    """The example of Transformers trains, evaluates and saves the classifier."""
    found = example("with_transformers")
    model = found.classifier(10, hidden_size=12, num_hidden_layers=1, intermediate_size=12)
    rows = found.Rows(loader().dataset)
    off = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    arguments = found.TrainingArguments(str(tmp_path), num_train_epochs=1, per_device_train_batch_size=4, **off)
    metrics = found.train(model, rows, rows, arguments)
    assert math.isfinite(metrics["eval_loss"]) and 0 <= metrics["eval_accuracy"] <= 100
    assert (tmp_path / "classifier" / "config.json").exists()


class Separable(torch.utils.data.Dataset):
    """Images whose brightness in one channel is their class."""

    def __len__(self) -> int:
        return 320

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        image = 0.1 * torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(row))
        image[row % 3] += 0.8
        return image, row % 3


def one_of_two(rank: int, folder: str, port: int) -> None:
    """Train the example of Accelerate in one of two processes, and write what it has found."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # of the tests before, in the process that forked
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = mini_resnet(3)
    losses = example("with_accelerate").train(model, DataLoader(Separable(), 8), steps=20, num_classes=3)
    found = {"weights": list(model.parameters()), "losses": losses, "draw": float(torch.rand(()))}
    torch.save(found, f"{folder}/{rank}")


def test_accelerate_in_two_processes(tmp_path: Path) -> None:
    """Both processes end with the same weights and draw different ratios, and the loss falls."""
    start_processes(one_of_two, (str(tmp_path), free_port()), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    assert first["draw"] != second["draw"] and len(first["losses"]) == 20
    assert sum(first["losses"][-5:]) < 0.8 * sum(first["losses"][:5])
