"""Policies and methods in the Trainer of Hugging Face: a model around a method, and a collator with its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from mixwell.features.passes import logits_of
from mixwell.integrations.steps import after_step, seed_process
from mixwell.methods.method import Method
from mixwell.mixtargets import MixTargets


class MethodModel(nn.Module):
    """A method as the model of a ``Trainer``.

    In training it computes the method's loss. In evaluation and prediction it runs the classifier on the images as they
    are, and the loss is that of the classifier. Add ``AfterStep()`` to the Trainer's callbacks.

    Args:
        method: The method around a model with an image-classification head, such as ``ViTForImageClassification``.

    Attributes:
        method: The method; ``method.model`` is the classifier.

    Raises:
        TypeError: The method is not a method, or its model is not a model of Transformers.

    Example:
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> from mixwell import CutMix, SUMix
        >>> config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        ...                    image_size=8, patch_size=4, num_labels=10)
        >>> model = MethodModel(SUMix(ViTForImageClassification(config), CutMix(), num_classes=10))
        >>> sorted(model(torch.rand(4, 3, 8, 8), torch.arange(4)))
        ['logits', 'loss']
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        if not (isinstance(method, Method) and isinstance(method.model, PreTrainedModel)):
            got = f"{type(method).__name__} around {type(getattr(method, 'model', None)).__name__}"
            raise TypeError(
                f"method must be a method such as SUMix(model, ...) around a model of Transformers, but got {got}."
            )
        self.method = method

    @property
    def config(self) -> PretrainedConfig:
        """The configuration of the classifier."""
        return self._classifier.config

    @property
    def _classifier(self) -> PreTrainedModel:
        return self.method.model  # type: ignore[return-value]  # checked above

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return loss and logits: of a training step of the method, or in eval mode of the classifier.

        Args:
            pixel_values: Images, shape ``(B, C, H, W)``.
            labels: Class indices ``(B,)`` or dense labels ``(B, N)``; needed in training.
        """
        if self.training and labels is not None:
            out = self.method(pixel_values, labels)
            return {"loss": out["loss"], "logits": out["output"]}
        found = self._classifier(pixel_values=pixel_values, labels=labels)
        return {"logits": found.logits} if labels is None else {"loss": found.loss, "logits": found.logits}

    def save_pretrained(self, path: str | Path, **settings: Any) -> None:
        """Save the classifier, for ``from_pretrained``; the Trainer's checkpoints hold the whole method."""
        self._classifier.save_pretrained(path, **settings)


class AfterStep(TrainerCallback):
    """Call ``after_step`` of every method in the model after each optimizer step.

    Every process of a distributed run is seeded differently when training starts.
    """

    def on_train_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Seed this process by its rank."""
        seed_process(args.process_index)

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Update the methods."""
        after_step(given["model"], min(state.global_step / state.max_steps, 1.0))


class MixCollator:
    """A data collator that mixes images: ``pixel_values`` become mixed images, ``labels`` dense targets ``(B, N)``.

    It mixes every batch, also for evaluation: pass it to :class:`MixTrainer`, which uses it for training only.

    Args:
        mix: The policy with the number of classes, as in ``MixTargets(CutMix(), num_classes=10)``.
        collate: The collator of unmixed rows; None stacks ``pixel_values`` and ``label`` or ``labels``.

    Example:
        >>> from mixwell import CutMix
        >>> rows = [{"pixel_values": torch.rand(3, 8, 8), "label": k} for k in range(4)]
        >>> batch = MixCollator(MixTargets(CutMix(), num_classes=10))(rows)
        >>> batch["pixel_values"].shape, batch["labels"].shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 10]))
    """

    def __init__(
        self, mix: MixTargets, collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]] | None = None
    ) -> None:
        self.mix, self.collate = mix, collate or default_collate

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows and mix them."""
        batch = dict(self.collate(list(rows)))
        labels = batch.pop("label") if "label" in batch else batch.pop("labels")
        batch["pixel_values"], batch["labels"] = self.mix(batch["pixel_values"], torch.as_tensor(labels))
        return batch


def soft_cross_entropy(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross entropy of dense targets or class indices, as the ``compute_loss_func`` of a ``Trainer``.

    The models of Transformers take dense labels for multi-label data and compute a binary cross entropy instead.

    Args:
        outputs: What the model returned.
        labels: Dense targets ``(B, N)`` or class indices ``(B,)``.
        num_items_in_batch: Number of label entries in all batches of one optimizer step, which the Trainer counts; the
            loss is the mean over the images of all of them.

    Example:
        >>> soft_cross_entropy({"logits": torch.zeros(2, 10)}, torch.tensor([3, 5]))
        tensor(2.3026)
    """
    logits = outputs["logits"] if isinstance(outputs, dict) else logits_of(outputs)
    if num_items_in_batch is None:
        return F.cross_entropy(logits.float(), labels)
    images = num_items_in_batch / (labels.numel() / len(labels))
    return F.cross_entropy(logits.float(), labels, reduction="sum") / images


class MixTrainer(Trainer):
    """A ``Trainer`` that mixes training batches while they are collated, and evaluates on unmixed images.

    It takes the arguments of ``Trainer``; the loss is :func:`soft_cross_entropy` unless ``compute_loss_func`` is given.

    Args:
        *args: See ``transformers.Trainer``.
        mix: See :class:`MixCollator`.
        **settings: See ``transformers.Trainer``.
    """

    def __init__(self, *args: Any, mix: MixTargets, **settings: Any) -> None:
        super().__init__(*args, **{"compute_loss_func": soft_cross_entropy, **settings})
        self.mix = mix
        self.add_callback(AfterStep())

    def get_train_dataloader(self) -> Any:
        """Return the loader of mixed training batches."""
        plain = self.data_collator
        self.data_collator = MixCollator(self.mix, plain)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = plain
