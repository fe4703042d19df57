"""Lightning: a callback and a module, with accumulation, clipping, bf16, checkpoints and several processes."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader, TensorDataset

import mixwell as mw

with warnings.catch_warnings():  # of other packages, while they are imported
    warnings.simplefilter("ignore")
    import lightning as L

from mixwell.integrations.lightning import AfterStep, MethodModule, MixCallback
from steps import free_port

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),  # the average, the teacher
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but"),
]


def loader(rows: int = 160, batch: int = 8) -> DataLoader:
    """Images whose brightness in one channel is their class."""
    torch.manual_seed(0)
    labels = torch.arange(rows) % 3
    images = 0.1 * torch.rand(rows, 3, 8, 8)
    images[torch.arange(rows), labels] += 0.8
    return DataLoader(TensorDataset(images, labels), batch)


def trainer(**settings) -> L.Trainer:
    settings = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, **settings}
    return L.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **settings
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


class Losses(L.Callback):
    """Keeps the training losses."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_) -> None:
        self.values.append(float(outputs["loss"]))


METHODS = {
    "Mixing": lambda model: mw.Mixing(model, mw.CutMix(alpha=0.2)),
    "SUMix": lambda model: mw.SUMix(model, mw.CutMix(alpha=0.2), num_classes=3),
    "AutoMix": lambda model: mw.AutoMix(model, layer="3", momentum=mw.Linear(0.9, 1.0)),
}


@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps(name: str) -> None:
    """The loss falls, the classifier learns, and its average is the one that is validated."""
    method = METHODS[name](network())
    module = MethodModule(
        method,
        partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        torch.optim.lr_scheduler.CosineAnnealingLR,
        weight_decay=1e-4,
        ema=0.5,
    )
    losses = Losses()
    run = trainer(callbacks=[losses], gradient_clip_val=5.0)
    run.fit(module, loader(), loader())
    assert len(losses.values) == 20 and sum(losses.values[-5:]) < 0.8 * sum(losses.values[:5])
    assert run.global_step == 20 and method.progress == 1.0
    assert run.optimizers[0].param_groups[0]["lr"] < 1e-6
    assert run.callback_metrics["val_accuracy"] > 60
    assert "train_accuracy" in run.callback_metrics
    assert torch.cat(run.predict(module, loader())).shape == (160, 3)


def test_accumulation_and_average() -> None:
    """Methods and average advance once per optimizer step, as in a plain loop with the same settings."""
    module = MethodModule(mw.Mixing(network()), partial(torch.optim.SGD, lr=0.05), weight_decay=0.0, ema=0.9)
    told: list[float] = []
    module.method.after_step = told.append  # type: ignore[method-assign]
    trainer(accumulate_grad_batches=4).fit(module, loader())
    assert told == [0.2, 0.4, 0.6, 0.8, 1.0]
    method = mw.Mixing(network())
    average, optimizer = mw.EMA(method.model, 0.9), torch.optim.SGD(method.parameters(), lr=0.05)
    for k, (images, labels) in enumerate(loader()):
        (method(images, labels)["loss"] / 4).backward()
        if k % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
            average.update(method.model, k // 4)
    torch.testing.assert_close(module.method.model.state_dict(), method.model.state_dict())
    torch.testing.assert_close(module.average.state_dict(), average.state_dict())


def test_bfloat16_and_resume(tmp_path: Path) -> None:
    """Mixed precision trains, and a run from a checkpoint continues progress, average and weights."""

    def module() -> MethodModule:
        return MethodModule(METHODS["SUMix"](network()), partial(torch.optim.SGD, lr=0.05), ema=0.9)

    whole = module()
    run = trainer(precision="bf16-mixed", max_epochs=2)
    run.fit(whole, loader())
    first = module()
    run = trainer(precision="bf16-mixed", max_epochs=1)
    run.fit(first, loader())
    run.save_checkpoint(tmp_path / "last.ckpt")
    second = module()
    run = trainer(precision="bf16-mixed", max_epochs=2)
    run.fit(second, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert run.global_step == 40 and second.method.progress == 1.0
    assert not torch.equal(first.average.module[0].weight, second.average.module[0].weight)


class Theirs(L.LightningModule):
    """A user's own module."""

    def __init__(self, method: mw.Mixing | None = None) -> None:
        super().__init__()
        self.model, self.method = network(), method

    def training_step(self, batch, _):
        if self.method is not None:
            return self.method(*batch)["loss"]
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch, _):
        assert batch[1].dtype == torch.int64

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters() if self.method is None else self.method.param_groups(), lr=0.05)


def test_callback_mixes_training_batches() -> None:
    """Only the callback is added to a user's module."""
    seen: list = []

    class Spy(Theirs):
        def training_step(self, batch, index):
            seen.append(batch[1])
            return super().training_step(batch, index)

    losses = Losses()
    mix = MixCallback(mw.MixTargets(mw.CutMix(), num_classes=3))
    trainer(callbacks=[mix, losses]).fit(Spy(), loader(), loader())
    assert all(targets.shape == (8, 3) for targets in seen)
    assert any(((targets > 0) & (targets < 1)).any() for targets in seen)
    assert sum(losses.values[-5:]) < sum(losses.values[:5])
    with pytest.raises(TypeError, match="list or a dict, but got a tuple"):
        mix.on_train_batch_start(None, None, (torch.rand(2, 3, 8, 8), torch.arange(2)), 0)


def test_after_step_in_a_users_module() -> None:
    """A method inside any module advances with one more callback; without an end of the training it says so."""
    module = Theirs(mw.Mixing(network(), mw.CutMix(alpha=mw.Linear(0.1, 1.0))))
    trainer(callbacks=[AfterStep()]).fit(module, loader())
    assert module.method.policy.alpha == 1.0
    with pytest.raises(ValueError, match="max_epochs or max_steps"):
        trainer(callbacks=[AfterStep()], max_epochs=-1).fit(module, loader())
    with pytest.raises(TypeError, match="wrap the model"):
        MethodModule(network())


def one_of_two(rank: int, folder: str, port: int) -> None:
    """Train in one of two processes, and write what it has found."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    torch.manual_seed(0)
    module, losses = MethodModule(METHODS["AutoMix"](network()), partial(torch.optim.SGD, lr=0.05), ema=0.9), Losses()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer(callbacks=[losses], devices=2, strategy="ddp", gradient_clip_val=5.0)
        run.fit(module, loader(320))
    found = {
        "weights": [p.detach() for p in module.method.parameters()],
        "steps": run.global_step,
        "progress": module.method.progress,
        "draw": float(torch.rand(())),
        "losses": losses.values,
    }
    torch.save(found, f"{folder}/{rank}.pt")


def test_two_processes(tmp_path: Path) -> None:
    """Both processes end with the same weights and draw different ratios, and the loss falls."""
    start_processes(one_of_two, (str(tmp_path), free_port()), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    assert first["steps"] == second["steps"] == 20 and first["progress"] == 1.0
    assert first["draw"] != second["draw"]
    assert sum(first["losses"][-5:]) < sum(first["losses"][:5])
