"""Policies and methods in Lightning: a callback that mixes batches, and a ``LightningModule`` around a method."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, MutableSequence
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.ema import EMA
from mixwell.features.passes import logits_of
from mixwell.integrations.steps import after_step, seed_process
from mixwell.methods.method import Method
from mixwell.mixtargets import MixTargets


class MixCallback(L.Callback):
    """Mix every training batch before it reaches ``training_step``.

    Images and labels of the batch are replaced by mixed images and dense targets ``(B, N)``, float32; the loss must
    accept these, as ``torch.nn.functional.cross_entropy`` does. Validation batches are not changed. Every process of a
    distributed run is seeded differently when training starts.

    Args:
        mix: The policy with the number of classes, as in ``MixTargets(CutMix(), num_classes=10)``.
        images: Index or key of the images in a batch.
        labels: Index or key of the labels in a batch.

    Raises:
        TypeError: When a batch arrives that cannot be changed, such as a tuple.

    Example:
        >>> from mixwell import CutMix
        >>> callback = MixCallback(MixTargets(CutMix(), num_classes=10, smoothing=0.1))
        >>> trainer = L.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)  # doctest: +SKIP
    """

    def __init__(self, mix: MixTargets, images: int | str = 0, labels: int | str = 1) -> None:
        self.mix, self.images, self.labels = mix, images, labels

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed this process by its rank."""
        seed_process(trainer.global_rank)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mix a batch in place."""
        if not isinstance(batch, MutableSequence | MutableMapping):
            raise TypeError(
                f"MixCallback needs batches that are a list or a dict, but got a {type(batch).__name__}: let the "
                "collate_fn return a list, or use MixTargets as the collate_fn's last step."
            )
        batch[self.images], batch[self.labels] = self.mix(batch[self.images], batch[self.labels])  # type: ignore[index]


class AfterStep(L.Callback):
    """Call ``after_step`` of every method in a module after each optimizer step, also with gradient accumulation.

    Progress is ``trainer.global_step / trainer.estimated_stepping_batches``. Every process of a distributed run is
    seeded differently when training starts. :class:`MethodModule` has this callback already.

    Raises:
        ValueError: When training starts: the trainer does not know the number of steps.
    """

    def __init__(self) -> None:
        self.steps = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed this process by its rank, and check that the training has an end."""
        if not 0 < trainer.estimated_stepping_batches < float("inf"):
            raise ValueError("A method needs to know the number of steps: give the Trainer max_epochs or max_steps.")
        seed_process(trainer.global_rank)
        self.steps = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the methods if this batch ended an optimizer step."""
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            after_step(pl_module, min(self.steps / trainer.estimated_stepping_batches, 1.0))


class MethodModule(L.LightningModule):
    """A method as a ``LightningModule`` with automatic optimization.

    Accumulation, clipping, precision and strategy are those of the ``Trainer``. The module logs ``train_loss``,
    ``train_accuracy`` and everything else that the method reports. ``val_loss`` and ``val_accuracy``, and the same for
    ``test``, are those of the classifier or its EMA on unmixed images. Calling the module predicts with it.

    Args:
        method: The method around the classifier.
        optimizer: Creates the optimizer from parameter groups.
        scheduler: Creates the learning-rate schedule from the optimizer and the number of optimizer steps; it advances
            after every step. None keeps the learning rate.
        weight_decay: See :meth:`mixwell.methods.method.Method.param_groups`; None leaves it to the optimizer.
        ema: Decay of an exponential moving average of the classifier, in [0, 1); None keeps no average.

    Attributes:
        method: The method; ``method.model`` is the classifier.
        average: The EMA, or None; ``average.module`` is the averaged classifier.

    Raises:
        TypeError: The method is not a method.
        ValueError: The decay is out of range.

    Example:
        >>> from mixwell import CutMix, SUMix
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
        >>> module = MethodModule(SUMix(model, CutMix(), num_classes=10), weight_decay=5e-4, ema=0.99)
        >>> module(torch.rand(4, 3, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        method: Method,
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] = partial(
            torch.optim.SGD, lr=0.1, momentum=0.9
        ),
        scheduler: Callable[[torch.optim.Optimizer, int], Any] | None = None,
        weight_decay: float | None = None,
        ema: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(method, Method):
            raise TypeError(
                f"method must be a method such as Mixing(model, CutMix()), but got {type(method).__name__}: wrap the "
                "model in one."
            )
        self.method = method
        self.make_optimizer, self.make_scheduler, self.weight_decay = optimizer, scheduler, weight_decay
        self.average = None if ema is None else EMA(method.model, ema)
        self._averaged = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, N)`` of the classifier or its EMA."""
        return logits_of((self.method.model if self.average is None else self.average.module)(images))

    def configure_callbacks(self) -> list[L.Callback]:
        """Return the callback that calls ``after_step``."""
        return [AfterStep()]

    def configure_optimizers(self) -> Any:
        """Return the optimizer of all parameters that the method trains, and its schedule."""
        optimizer = self.make_optimizer(self.method.param_groups(self.weight_decay))
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Run the method on a batch ``(images, labels)`` and log what it reports."""
        images, labels = batch
        out = self.method(images, labels)
        logged = {f"train_{name}": value.detach() for name, value in out.items() if name != "output"}
        self.log_dict(logged, batch_size=len(images))
        return out["loss"]

    def on_train_start(self) -> None:
        """Count the optimizer steps that the average has seen from here on."""
        self._averaged = self.trainer.global_step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update the average if this batch ended an optimizer step."""
        if self.average is not None and self.trainer.global_step > self._averaged:
            self.average.update(self.method.model, self._averaged)
            self._averaged = self.trainer.global_step

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and accuracy on unmixed images."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and accuracy on unmixed images."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the logits of a batch of images, or of ``(images, labels)``."""
        return self(batch if isinstance(batch, Tensor) else batch[0])

    def _evaluate(self, batch: Any, name: str) -> None:
        images, labels = batch
        logits = self(images)
        accuracy = 100 * (logits.argmax(1) == labels).float().mean()
        found = {f"{name}_loss": F.cross_entropy(logits.float(), labels), f"{name}_accuracy": accuracy}
        self.log_dict(found, batch_size=len(images), sync_dist=True, prog_bar=True)
