"""The training loop: one run, from its settings to its summary."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import accelerate.utils
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mixwell.ema import EMA
from mixwell.report import masks
from mixwell.step_guard import StepGuard
from mixwell.train import accelerator as processes
from mixwell.train import build, checkpoint, conflicts, sharding, stop
from mixwell.train.config import Config
from mixwell.train.data import load
from mixwell.train.dataset import DataSet
from mixwell.train.display import Display, warn
from mixwell.train.errors import RunError, mistakes
from mixwell.train.evaluate import evaluate
from mixwell.train.files import write
from mixwell.train.image_files import has_size
from mixwell.train.images import summary as skipped_files
from mixwell.train.loader import ProcessInfo, loaders
from mixwell.train.records import Means, Record, Records
from mixwell.train.runs import curve
from mixwell.train.stream import Stream
from mixwell.train.summary import Summary

CURVES = ("val_top1", "ema_top1", "val_map", "ema_map")
LOWER = "try a smaller --lr, or gradient clipping with --clip 1"


class Training:
    """The objects of one run, and the loop over them.

    Args:
        config: The settings.
        run: Run directory.
        command: Command line, for the summary.
    """

    def __init__(self, config: Config, run: Path, command: str) -> None:
        self.config, self.run, self.command = config, run, command
        self.accelerator: Accelerator = processes.start(config)
        self.main = self.accelerator.is_main_process
        device, rank, world = self.accelerator.device, self.accelerator.process_index, self.accelerator.num_processes
        processes.seed_everything(config.seed)
        self.data: DataSet = load(config)
        self.train, self.val, self.test = loaders(config, self.data, ProcessInfo(device, rank, world), run)
        self.steps = len(self.train) // config.accumulate
        self.folder = checkpoint.latest(run)
        self.restored = self.folder and checkpoint.load(self.folder, config)
        if self.restored:
            self.data.check_fingerprint(self.restored.get("data"))
        # A resumed run has all its weights in the checkpoint.
        model = build.classifier(replace(config, weights="") if self.folder else config, self.data).to(device)
        self.average = EMA(model, config.ema) if config.ema else None
        self.method = build.method(config, model, len(self.data.classes), self.data.normalization).to(device)
        if self.data.train.labels.ndim == 2:
            build.check_several_labels(self.method)
        self.warn(world)
        if config.compile:
            model.compile()  # in place, and after the method has added its hooks: names of weights stay as they are
        sharded = config.shard and world > 1
        if sharded:
            sharding.check(config, self.method)
            sharding.shard(model, device, world)
        self.optimizer: Any = self.accelerator.prepare(build.optimizer(config, self.method))
        # FSDP takes the place of DistributedDataParallel.
        self.forward: nn.Module = self.accelerator.prepare_model(self.method, evaluation_mode=sharded)
        self.guard = StepGuard(self.method, self.optimizer, self.accelerator.scaler)
        self.rate = build.schedule(config, self.steps)
        self.history: list[Record] = []
        if rank:  # all processes have the same weights, but draw different random numbers
            processes.seed_everything(config.seed + 1_000_003 * rank)

    def warn(self, world: int) -> None:
        """Print a warning for each setting without effect."""
        few = conflicts.check_pieces(self.config, self.method, world)
        resized = not has_size(self.data.train, self.config.image_size)
        for sentence in [*filter(None, [few]), *conflicts.ignored(self.config, self.steps, resized)]:
            if self.main:
                warn(sentence)

    def __call__(self) -> Summary:
        """Train from the newest checkpoint, or from the start, to the end; return the summary."""
        self.resume()
        if self.main and self.data.skipped.total():
            print(skipped_files(self.data.skipped), flush=True)
        config, images = self.config, self.steps * self.config.batch_size
        with Display(config.epochs, images, len(self.history), silent=not self.main) as display:
            for epoch in range(len(self.history) + 1, config.epochs + 1):
                began = perf_counter()
                record = {"epoch": epoch, **self.train_epoch(epoch, display)}
                record["images_per_second"] = images / (perf_counter() - began)
                if epoch % config.val_every == 0 or epoch > config.epochs - 10:
                    record |= self.validate(epoch)
                record["seconds"] = perf_counter() - began
                self.history.append(record)
                display.epoch(record)
                if self.main:  # before the checkpoint: a run that is killed here repeats the epoch
                    self.records.add(self.history)
                    self.accelerator.log(record, step=epoch)
                    self.draw(epoch)
                last, asked = epoch == config.epochs, stop.asked()
                if epoch % config.save_every == 0 or last or asked:
                    self.save(epoch)
                if asked and not last:
                    raise stop.Requeued
        return self.finish()

    def train_epoch(self, epoch: int, display: Display) -> Record:
        """Take all optimizer steps of an epoch; return the means of the values that the method logs."""
        config, accelerator, means = self.config, self.accelerator, Means()
        self.method.train()
        loss, rate = torch.zeros((), device=accelerator.device), config.lr
        for index, (images, labels) in enumerate(self.train):
            step, piece = divmod((epoch - 1) * len(self.train) + index, config.accumulate)
            if piece == 0:
                self.guard.begin()
                loss, rate = torch.zeros_like(loss), self.rate(step, config.lr)
                for group in self.optimizer.param_groups:
                    group["lr"] = self.rate(step, group["peak"], group.get("lr_min", config.lr_min))
            with accelerator.accumulate(self.forward):
                values = self.predict(images, labels)
                accelerator.backward(values["loss"])
                loss = loss + values["loss"].detach()
                if accelerator.sync_gradients:
                    self.guard.check(loss)
                    if config.clip:
                        accelerator.clip_grad_norm_(self.method.parameters(), config.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            means.add(values)
            if accelerator.sync_gradients:
                self.method.after_step((step + 1) / (config.epochs * self.steps))
                if self.average:
                    self.average.update(self.method.model, step)
                display.step(config.batch_size)
        return self.checked(means.read(), epoch) | {"lr": rate}

    def predict(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Run the method on a batch; return the scalars that it reports, the loss among them."""
        if self.config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with mistakes():
            out = dict(self.forward(images, labels))
        del out["output"]
        return out

    def checked(self, means: dict[str, float], epoch: int) -> Record:
        """Add the number of skipped steps to the means of an epoch.

        Raises:
            RunError: The loss was never finite, or too many steps in a row were skipped.
        """
        try:
            skipped = self.guard.read()
        except FloatingPointError as error:
            raise RunError(f"in epoch {epoch}, {str(error).partition(':')[0]}: {LOWER}") from None
        if "loss" not in means:
            raise RunError(f"the training loss was NaN or Inf in every step of epoch {epoch}: {LOWER}")
        return {f"train_{name}": value for name, value in means.items()} | {"train_skipped": skipped}

    def validate(self, epoch: int) -> dict[str, float]:
        """Evaluate the classifier, and its EMA if there is one, on the validation images."""
        models = {"val": self.method.model, **({"ema": self.average.module} if self.average else {})}
        for module in (self.method, *models.values()):  # processes have batch-norm statistics of different images
            for buffer in module.buffers():
                accelerate.utils.broadcast(buffer)
        found = {name: evaluate(model, self.val, self.accelerator) for name, model in models.items()}
        if not math.isfinite(found["val"]["loss"]):
            raise RunError(f"the validation loss is NaN or Inf in epoch {epoch}: {LOWER}")
        return {f"{name}_{key}": value for name, measures in found.items() for key, value in measures.items()}

    def draw(self, epoch: int) -> None:
        """Draw the masks of a method that learns some."""
        predictor = self.method.mask_predictor()
        picture = predictor and masks.keep(self.run, epoch, predictor, self.val, self.data.classes)
        if picture is not None:
            self.records.picture("masks", picture, epoch)

    def save(self, epoch: int) -> None:
        """Write the checkpoint, then the classifier alone."""
        randomness = accelerate.utils.gather_object([checkpoint.random_state()])
        weights, optimizer = (sharding.whole(each.state_dict()) for each in (self.method, self.optimizer))
        if self.main:
            scaler = self.accelerator.scaler
            state = {
                "config": self.config.json(),
                "command": self.command,
                "data": self.data.fingerprint(),
                "history": self.history,
                "optimizer": optimizer,
                "average": self.average.state_dict() if self.average else None,
                "scaler": scaler.state_dict() if scaler else None,
                "random": randomness,
                "loader": self.train.generator.get_state() if self.train.generator else None,
            }
            checkpoint.save(self.run, epoch, weights, state)
        self.export()

    @property
    def final(self) -> nn.Module:
        """The classifier that is evaluated and exported: the EMA if there is one."""
        return self.average.module if self.average else self.method.model

    def export(self) -> None:
        """Write the classifier alone."""
        weights = sharding.whole(self.final.state_dict())
        if not self.main:
            return
        card = {"model": self.config.model, "classes": self.data.classes, "recipe": self.config.recipe}
        card |= {"mean": self.data.normalization.mean, "std": self.data.normalization.std}
        write(self.run / "model.safetensors", checkpoint.weights(weights, card))

    def resume(self) -> None:
        """Continue from the newest checkpoint; without one, start at the first epoch."""
        if self.folder and self.restored:
            path = self.folder / "model.safetensors"
            checkpoint.load_weights(self.method, checkpoint.read_weights(path), path)
            with checkpoint.damage(self.folder):
                self.restore(self.restored)
            self.restored = None  # frees the memory
            self.export()  # a run that was killed after its checkpoint has the classifier of the one before
        if self.main:
            self.records = Records(self.run, self.history)
            processes.start_tracker(self.accelerator, self.config, self.run)

    def restore(self, state: dict[str, Any]) -> None:
        """Restore everything but the weights of the method."""
        fused = [group.get("fused") for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        sharding.shard_state(self.optimizer)
        for group, value in zip(self.optimizer.param_groups, fused, strict=True):
            if value is not None:  # a checkpoint of an older version may have another value
                group["fused"] = value
        if self.average:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.train.generator:
            self.train.generator.set_state(state["loader"])
        rank, randomness = self.accelerator.process_index, state["random"]
        if len(randomness) == self.accelerator.num_processes:
            checkpoint.restore_random_state(randomness[rank])
        else:  # the batches are the same, but their parts are those of other processes
            processes.seed_everything(self.config.seed + 1_000_003 * rank + len(state["history"]))
            if self.main:
                now = self.accelerator.num_processes
                batches = "other" if isinstance(self.data.train, Stream) else "same"
                warn(f"processes: {now} here, {len(randomness)} before: {batches} batches, other random numbers")
        for record in state["history"]:
            checkpoint.require(record, {"epoch", "train_loss", "seconds", "images_per_second"})
        self.history, self.command = list(state["history"]), str(state["command"])

    def finish(self) -> Summary:
        """Evaluate the final classifier on the test images, write ``summary.json``, and return it."""
        config, data, history, run = self.config, self.data, self.history, self.run
        test, predictor = evaluate(self.final, self.test, self.accelerator), self.method.mask_predictor()
        summary = Summary(
            recipe=config.recipe,
            dataset=config.dataset,
            model=config.model,
            policy=repr(build.policy(config) or "none").strip("'"),
            method=config.method,
            seed=config.seed,
            epochs=config.epochs,
            **{name: curve(history, name) for name in CURVES if name in history[-1]},
            validated_on="held-out images" if config.val_split or data.val is not data.test else "test images",
            test=test,
            parameters=sum(p.numel() for p in self.method.model.parameters()),
            images={"train": len(data.train), "val": len(data.val), "test": len(data.test)},
            classes=len(data.classes),
            skipped_files=dict(data.skipped),
            bad_images=len(self.train.bad.reasons),
            seconds=sum(record["seconds"] for record in history),
            images_per_second=statistics.median(record["images_per_second"] for record in history),
            command=self.command,
            environment=processes.environment(self.accelerator),
            mask=repr(masks.export(run, predictor, config, data)) if self.main and predictor else None,
        )
        if self.main:
            summary.write(run / "summary.json")
            self.records.board.close()
        self.accelerator.end_training()
        return summary
