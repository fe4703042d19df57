"""The Trainer of Hugging Face: methods as models, mixing in the collator, several processes."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from torch import nn
from torch.multiprocessing import start_processes

import mixwell as mw

with warnings.catch_warnings():  # of other packages, while they are imported
    warnings.simplefilter("ignore")
    from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from mixwell.integrations.transformers import AfterStep, MethodModel, MixCollator, MixTrainer, soft_cross_entropy
from steps import free_port

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory"),
]


def rows(count: int = 160) -> list[dict]:
    """Images whose brightness in one channel is their class."""
    torch.manual_seed(0)
    found = []
    for k in range(count):
        image = 0.1 * torch.rand(3, 8, 8)
        image[k % 3] += 0.8
        found.append({"pixel_values": image, "label": k % 3})
    return found


def network() -> ViTForImageClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes, **dropout))


def arguments(folder: Path, **settings) -> TrainingArguments:
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2, **settings}
    return TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to=[],
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **settings,
    )


def losses(trainer: Trainer) -> list[float]:
    """Return the logged training losses."""
    return [float(record["loss"]) for record in trainer.state.log_history if "loss" in record]


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


METHODS = {
    "Mixing": lambda model: mw.Mixing(model, mw.CutMix(alpha=0.2)),
    "SUMix": lambda model: mw.SUMix(model, mw.CutMix(alpha=0.2), num_classes=3),
    "AutoMix": lambda model: mw.AutoMix(model, num_classes=3, momentum=mw.Linear(0.9, 1.0)),
}


@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps(name: str, tmp_path: Path) -> None:
    """The loss falls; evaluation runs the classifier on unmixed images; the saved classifier is a plain model."""
    model = MethodModel(METHODS[name](network()))
    data = rows()
    trainer = Trainer(
        model,
        arguments(tmp_path, max_grad_norm=5.0),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=accuracy,
        callbacks=[AfterStep()],
    )
    trainer.train()
    found = losses(trainer)
    assert len(found) == 20 and sum(found[-5:]) < 0.8 * sum(found[:5])
    assert model.method.progress == 1.0
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] > 0.6
    images, labels = torch.stack([row["pixel_values"] for row in data]), torch.tensor([row["label"] for row in data])
    model.save_pretrained(tmp_path / "classifier")
    plain = ViTForImageClassification.from_pretrained(tmp_path / "classifier").eval()
    with torch.no_grad():
        logits = plain(images).logits
    assert metrics["eval_loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-4)
    assert trainer.predict(data[:4]).predictions.shape == (4, 3)


def test_accumulation_is_a_plain_loop(tmp_path: Path) -> None:
    """With accumulation, weights are those of a plain loop, and ``after_step`` runs once per optimizer step."""
    settings = {"gradient_accumulation_steps": 4, "max_grad_norm": 0.0, "optim": "sgd", "lr_scheduler_type": "constant"}
    data, told = rows(), []
    model = MethodModel(mw.Mixing(network()))
    model.method.after_step = told.append  # type: ignore[method-assign]
    made = arguments(tmp_path, train_sampling_strategy="sequential", **settings)
    Trainer(model, made, train_dataset=data, callbacks=[AfterStep()]).train()
    assert told == [0.2, 0.4, 0.6, 0.8, 1.0]
    method = mw.Mixing(network()).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=made.learning_rate)
    for step in range(5):
        for k in range(4):
            piece = data[8 * (4 * step + k) :][:8]
            images = torch.stack([row["pixel_values"] for row in piece])
            (method(images, torch.tensor([row["label"] for row in piece]))["loss"] / 4).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(list(model.method.parameters()), list(method.parameters()))


def test_checkpoint_is_resumed(tmp_path: Path) -> None:
    """The Trainer's own checkpoint holds the method, its teacher and its progress."""

    def trainer(epochs: int) -> Trainer:
        settings = {"num_train_epochs": epochs, "lr_scheduler_type": "constant"}
        made = arguments(tmp_path, **settings)
        made.save_strategy = "epoch"
        model = MethodModel(METHODS["AutoMix"](network()))
        return Trainer(model, made, train_dataset=rows(80), callbacks=[AfterStep()])

    first = trainer(1)
    first.train()
    second = trainer(2)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 20 and second.model.method.progress == 1.0
    assert len(losses(second)) == 20


def test_trainer_that_mixes_while_collating(tmp_path: Path) -> None:
    """Training batches are mixed, evaluation batches are not, and the loss falls, also with accumulation."""
    data = rows(320)
    trainer = MixTrainer(
        network(),
        arguments(tmp_path, gradient_accumulation_steps=2),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=accuracy,
        mix=mw.MixTargets(mw.CutMix(alpha=0.2), num_classes=3),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["labels"].shape == (8, 3) and batch["labels"].dtype == torch.float32
    assert next(iter(trainer.get_eval_dataloader()))["labels"].dtype == torch.int64
    trainer.train()
    found = losses(trainer)
    assert len(found) == 20 and sum(found[-5:]) < 0.8 * sum(found[:5]) and found[0] < 2
    assert trainer.evaluate()["eval_accuracy"] > 0.6


def test_loss_of_accumulated_batches() -> None:
    """Pieces of a step add up to the mean over all images, for dense labels and for indices."""
    logits, labels = torch.randn(6, 5), torch.randint(5, (6,))
    for given in (labels, F.one_hot(labels, 5).float()):
        pieces = [soft_cross_entropy({"logits": logits[k : k + 2]}, given[k : k + 2], given.numel()) for k in (0, 2, 4)]
        torch.testing.assert_close(sum(pieces), F.cross_entropy(logits, labels))


def test_collator_and_errors() -> None:
    """The collator keeps other columns, and a model that is not one of Transformers is refused."""
    given = [{"pixel_values": torch.rand(3, 8, 8), "label": k, "index": 10 + k} for k in range(4)]
    batch = MixCollator(mw.MixTargets(mw.MixUp(), num_classes=4))(given)
    assert batch["index"].tolist() == [10, 11, 12, 13] and "label" not in batch
    with pytest.raises(TypeError, match="around Linear"):
        MethodModel(mw.Mixing(nn.Linear(2, 2)))


def one_of_two(rank: int, folder: str, port: int) -> None:
    """Train in one of two processes, and write what it has found."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    AcceleratorState._reset_state(reset_partial_state=True)  # of the tests before, in the process that forked
    model = MethodModel(METHODS["AutoMix"](network()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = arguments(Path(folder))
        trainer = Trainer(model, made, train_dataset=rows(320), callbacks=[AfterStep()])
        trainer.train()
    found = {
        "weights": [p.detach() for p in model.method.parameters()],
        "steps": trainer.state.global_step,
        "progress": model.method.progress,
        "draw": float(torch.rand(())),
        "losses": losses(trainer),
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
