"""One training run, from config to summary."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import accelerate.utils
import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mixwell.report import masks
from mixwell.train import build, checkpoint
from mixwell.train.average import Average
from mixwell.train.config import Config
from mixwell.train.data import load
from mixwell.train.dataset import DataSet
from mixwell.train.display import Display
from mixwell.train.engine import engine, environment, seed_everything
from mixwell.train.errors import RunError
from mixwell.train.evaluate import evaluate
from mixwell.train.images import summary as skipped_files
from mixwell.train.loader import ProcessInfo, loaders
from mixwell.train.runs import curve

Record = dict[str, Any]


class Training:
    """Everything that one run consists of, and the loop over it.

    Args:
        config: What to do.
        run: Directory of the run; it holds ``config.json`` already.
        command: The command line, for the summary.
    """

    def __init__(self, config: Config, run: Path, command: str = "") -> None:
        self.config, self.run, self.command = config, run, command
        self.accelerator: Accelerator = engine(config)
        self.main = self.accelerator.is_main_process
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        seed_everything(config.seed)
        self.data: DataSet = load(config)
        process = ProcessInfo(self.accelerator.device, rank, world)
        self.train, self.val, self.test = loaders(config, self.data, process, run)
        folder = checkpoint.latest(run)
        self.restored = None if folder is None else checkpoint.load(folder, config, world)
        if self.restored is not None:
            self.data.check_fingerprint(self.restored[1].get("data"))
        # A resumed run has all weights in its checkpoint.
        start = config if folder is None else replace(config, weights="")
        model = build.classifier(start, self.data).to(self.accelerator.device)
        self.average = Average(model, config.ema) if config.ema else None
        self.method = build.method(config, model, len(self.data.classes)).to(self.accelerator.device)
        if config.compile:
            model.compile()  # in place, after the method has set its taps: names of weights stay as they are
        self.optimizer: Any
        self.forward: nn.Module
        self.forward, self.optimizer = self.accelerator.prepare(self.method, build.optimizer(config, self.method))
        self.steps = len(self.train) // config.accumulate
        self.rate = build.schedule(config, self.steps)
        self.history: list[Record] = []
        if rank:  # the weights are the same everywhere, the mixing must not be
            seed_everything(config.seed + 1_000_003 * rank)

    @property
    def shipped(self) -> nn.Module:
        """The classifier that goes into ``model.safetensors``."""
        return self.average.module if self.average else self.method.model

    def __call__(self) -> Record:
        """Train from the newest checkpoint, or from the start, to the end; return the summary."""
        self.resume()
        if self.main and self.data.skipped.total():
            print(skipped_files(self.data.skipped), flush=True)
        epochs, images = self.config.epochs, self.steps * self.config.batch_size
        with Display(epochs, images, len(self.history), silent=not self.main) as display:
            for epoch in range(len(self.history) + 1, epochs + 1):
                began = perf_counter()
                record = self.train_epoch(epoch, display)
                record["images_per_second"] = images / (perf_counter() - began)
                if epoch % self.config.val_every == 0 or epoch > epochs - 10:
                    record |= self.validate()
                    _check_number("validation", record["val_loss"], epoch)
                record["seconds"] = perf_counter() - began
                self.history.append(record)
                display.epoch(record)
                self.keep(epoch)
        return self.finish()

    def train_epoch(self, epoch: int, display: Display) -> Record:
        """Take every optimiser step of an epoch; return the means of what the method reports."""
        config, accelerator = self.config, self.accelerator
        self.method.train()
        sums: dict[str, Tensor] = {}
        counts: Counter[str] = Counter()
        rate = config.lr
        for index, (images, labels) in enumerate(self.train):
            step = (epoch - 1) * self.steps + index // config.accumulate
            with accelerator.accumulate(self.forward):
                for group in self.optimizer.param_groups:
                    group["lr"] = self.rate(step, group["peak"], group.get("lr_min", config.lr_min))
                out = self.predict(images, labels)
                accelerator.backward(out["loss"])
                if config.clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.method.parameters(), config.clip)
                if accelerator.sync_gradients and accelerator.scaler is None:
                    self.method.before_step(self.optimizer)
                self.optimizer.step()
                self.optimizer.zero_grad()
            if accelerator.sync_gradients:
                self.method.after_step((step + 1) / (config.epochs * self.steps))
                if self.average:
                    self.average.update(self.method.model, step)
                display.step(config.batch_size)
            rate = self.rate(step, config.lr)
            for name, value in out.items():  # summed where they are: reading one would make the device wait
                if name != "output":
                    sums[name] = sums.get(name, 0) + value.detach().float()
                    counts[name] += 1
        return {"epoch": epoch, **self.means(sums, counts, epoch), "lr": rate}

    def predict(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Run the method on a batch; what it cannot do with its policy it says in its first step."""
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        try:
            return self.forward(images, labels)
        except ValueError as error:
            raise RunError(str(error)) from error

    def means(self, sums: Mapping[str, Tensor], counts: Mapping[str, int], epoch: int) -> dict[str, float]:
        """Read the sums of an epoch, once, and average each over the steps of all processes that reported it.

        Raises:
            RunError: the loss is no number any more, or most steps had to be left out because of that.
        """
        values = torch.stack(list(sums.values())).tolist()
        mine = {name: (value, counts[name]) for name, value in zip(sums, values, strict=True)}
        everyone: list[dict[str, tuple[float, int]]] = accelerate.utils.gather_object([mine])
        means = {}
        for name in dict.fromkeys(name for each in everyone for name in each):
            found = [each[name] for each in everyone if name in each]
            means[f"train_{name}"] = sum(total for total, _ in found) / sum(count for _, count in found)
        skipped = means.get("train_skipped", 0.0)
        loss = means["train_loss"] / (1 - skipped) if skipped < 0.5 else math.nan  # steps left out count as zero
        _check_number("training", loss, epoch)
        return means | {"train_loss": loss}

    def validate(self) -> dict[str, float]:
        """Measure the classifier, and its moving average where there is one, on the validation images."""
        for buffer in self.method.buffers():  # every process has batch-norm statistics of its own images
            accelerate.utils.broadcast(buffer)
        found = {"val": evaluate(self.method.model, self.val, self.accelerator)}
        if self.average:
            for buffer in self.average.buffers():
                accelerate.utils.broadcast(buffer)
            found["ema"] = evaluate(self.average.module, self.val, self.accelerator)
        return {f"{name}_{key}": value for name, measures in found.items() for key, value in measures.items()}

    def keep(self, epoch: int) -> None:
        """Write the metrics, and the checkpoint when it is time."""
        last = epoch == self.config.epochs
        if self.main:  # before the checkpoint: a run that is killed here does the epoch again
            self.log()
            self.draw(epoch)
        if epoch % self.config.save_every == 0 or last:
            randomness = accelerate.utils.gather_object([checkpoint.random_state()])
            if self.main:
                self.save(epoch, randomness)

    def draw(self, epoch: int) -> None:
        """Picture the masks of a method that learns some."""
        predictor = self.method.mask_predictor()
        if predictor is not None:
            picture = masks.keep(self.run, epoch, predictor, self.val, self.data.classes)
            if picture is not None:
                self.board.add_image("masks", np.asarray(picture), epoch, dataformats="HWC")
                self.board.flush()

    def save(self, epoch: int, randomness: list[dict[str, Any]]) -> None:
        """Write the checkpoint, then the classifier alone."""
        scaler = self.accelerator.scaler
        state = {
            "config": self.config.json(),
            "command": self.command,
            "world": self.accelerator.num_processes,
            "data": self.data.fingerprint(),
            "history": self.history,
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "scaler": scaler.state_dict() if scaler else None,
            "random": randomness,
            "loader": self.train.generator.get_state() if self.train.generator else None,
        }
        checkpoint.save(self.run, epoch, self.method.state_dict(), state)
        self.ship()

    def ship(self) -> None:
        """Write the classifier alone."""
        card = {"model": self.config.model, "classes": self.data.classes, "recipe": self.config.recipe}
        checkpoint.write(self.run / "model.safetensors", checkpoint.weights(self.shipped.state_dict(), card))

    def resume(self) -> None:
        """Continue where the newest checkpoint ends; without one, start."""
        if self.restored is not None:
            weights, state = self.restored
            self.restored = None  # frees the memory
            self.method.load_state_dict(weights)
            kinds = [group.get("fused") for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(state["optimizer"])
            for group, kind in zip(self.optimizer.param_groups, kinds, strict=True):
                if kind is not None:  # a run of an older version had another
                    group["fused"] = kind
            if self.average:
                self.average.load_state_dict(state["average"])
            if self.accelerator.scaler:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            if self.train.generator:
                self.train.generator.set_state(state["loader"])
            checkpoint.restore_random_state(state["random"][self.accelerator.process_index])
            self.history, self.command = state["history"], state["command"]
            self.method.follow(len(self.history) / self.config.epochs)
            if self.main:  # a run that was killed after its checkpoint has the classifier of the one before
                self.ship()
        if self.main:
            self.log(afresh=True)

    def log(self, afresh: bool = False) -> None:
        """Write ``metrics.jsonl``, as a whole so that a resumed run has no epoch twice, and the TensorBoard events."""
        lines = "".join(json.dumps(record) + "\n" for record in self.history)
        checkpoint.write(self.run / "metrics.jsonl", lines.encode())
        if afresh:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.run / "tensorboard"), purge_step=len(self.history) + 1)
        elif self.history:
            record = self.history[-1]
            for name, value in record.items():
                self.board.add_scalar(name.replace("_", "/", 1), value, record["epoch"])
            self.board.flush()

    def finish(self) -> Record:
        """Measure what is shipped on the test images, write ``summary.json``, and return it."""
        test = evaluate(self.shipped, self.test, self.accelerator)
        config, data = self.config, self.data
        summary = {
            **{name: getattr(config, name) for name in ("recipe", "dataset", "model", "method", "seed", "epochs")},
            "policy": repr(build.policy(config) or "none").strip("'"),
            **{name: curve(self.history, name) for name in ("val_top1", "ema_top1") if name in self.history[-1]},
            "validated_on": "held-out images" if config.val_split or data.val is not data.test else "test images",
            "test": test,
            "parameters": sum(p.numel() for p in self.method.model.parameters()),
            "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
            "classes": len(data.classes),
            "skipped_files": dict(data.skipped),
            "bad_images": len(self.train.bad.reasons),
            "seconds": sum(record["seconds"] for record in self.history),
            "images_per_second": statistics.median(record["images_per_second"] for record in self.history),
            "command": self.command,
            "environment": environment(self.accelerator),
        }
        if self.main:
            if predictor := self.method.mask_predictor():
                summary["mask"] = repr(masks.export(self.run, predictor, config, data))
            checkpoint.write(self.run / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
            self.board.close()
        self.accelerator.end_training()
        return summary


def _check_number(what: str, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise RunError(f"the {what} loss became {loss} in epoch {epoch}: try a smaller --lr, or --clip 1")
