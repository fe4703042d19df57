"""Train a small vision transformer with the Trainer of Hugging Face: ``python examples/with_transformers.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cifar10 import loaders
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import mixwell as mw
from mixwell.integrations.transformers import AfterStep, MethodModel


def classifier(num_classes: int, **settings: Any) -> ViTForImageClassification:
    """Return a vision transformer with random weights; use ``from_pretrained`` for pretrained ones."""
    sizes = {"hidden_size": 192, "num_hidden_layers": 9, "num_attention_heads": 3, "intermediate_size": 384}
    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=4, num_labels=num_classes, **sizes | settings))


def accuracy(prediction: Any) -> dict[str, float]:
    """Return the accuracy in percent."""
    return {"accuracy": 100 * float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def train(
    model: ViTForImageClassification,
    train_rows: Sequence[dict],
    test_rows: Sequence[dict],
    arguments: TrainingArguments,
) -> dict[str, float]:
    """Train with SUMix, evaluate and save the classifier; return the metrics."""
    method = mw.SUMix(model, mw.CutMix(), num_classes=model.config.num_labels, normalization=mw.CIFAR10)
    trainer = Trainer(
        MethodModel(method),
        arguments,
        train_dataset=train_rows,
        eval_dataset=test_rows,
        compute_metrics=accuracy,
        callbacks=[AfterStep()],
    )
    trainer.train()
    model.save_pretrained(f"{arguments.output_dir}/classifier")
    return trainer.evaluate()


class Rows(Sequence):
    """A data set of torchvision in the form that a Trainer expects."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        image, label = self.dataset[index]
        return {"pixel_values": image, "labels": label}


if __name__ == "__main__":
    data, test = (Rows(loader.dataset) for loader in loaders())
    settings = TrainingArguments("runs/vit", num_train_epochs=100, per_device_train_batch_size=128, learning_rate=1e-3)
    print(train(classifier(10), data, test, settings))
