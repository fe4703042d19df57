"""Part of the suite that trains simple classifiers on the features: k nearest neighbours and a linear probe."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from mixwell.evaluation.transfer import neighbour_scores
from mixwell.features.maps import pooled
from mixwell.features.passes import FeatureHook
from mixwell.metrics import top_k_accuracy
from mixwell.train.data import load, stratified
from mixwell.train.dataset import Split, match_classes
from mixwell.train.errors import RunError
from mixwell.train.suite import Figure, Subject, UnavailableError
from mixwell.train.suite_predictions import Named

LARGEST = 20_000  # training images; the probe of more would take long
NEIGHBOURS = 20


def transfer(subject: Subject) -> Named:
    """Yield the accuracy of two classifiers trained on the features, for the data set of the run or another one.

    Raises:
        UnavailableError: There are no training images or features, or features are NaN or Inf.
    """
    train, test, classes, name = _data(subject)
    chosen = stratified(train.labels, min(LARGEST, len(train)), classes)[0]
    (features, labels), (others, truth) = (_features(subject, part) for part in (train.take(chosen), test))
    if not bool(features.isfinite().all() & others.isfinite().all()):
        raise UnavailableError("features are NaN or Inf")
    where = f"inputs of the last layer; {len(labels)} training and {len(truth)} test images of {name}"
    count = min(NEIGHBOURS, len(labels))
    scores = neighbour_scores(features, labels, others, classes, count)
    how = f"Accuracy of a vote of the {count} nearest neighbours, cosine similarity, temperature 0.07; {where}."
    yield "knn", Figure(top_k_accuracy(scores, truth).item(), how, "%")
    how = f"Accuracy of logistic regression (L2, C = 1) on standardized features; {where}."
    yield "linear_probe", Figure(100 * (probe(features, labels, others) == truth).double().mean().item(), how, "%")


def _data(subject: Subject) -> tuple[Split, Split | None, int, str]:
    """Return training and test images, the number of classes and a name; None for the measured images."""
    folder, classes = subject.others.transfer, subject.data.classes
    try:
        if folder is None:
            data = load(subject.config)
            return match_classes(data.train, data.classes, classes), None, len(classes), "the run's data set"
        data = load(replace(subject.config, dataset="folder", data=str(folder), subset=0, val_split=0.0))
    except RunError as error:
        raise UnavailableError(str(error)) from None
    return data.train, data.test, len(data.classes), folder.name


@torch.no_grad()
def _features(subject: Subject, split: Split | None) -> tuple[Tensor, Tensor]:
    found = []
    try:
        hook = FeatureHook(subject.model, num_classes=len(subject.data.classes))
        for batch, labels, _ in subject.batches(split):
            with hook:
                logits = subject.logits_of(batch)
            found.append((pooled(hook.take(logits)).float().cpu(), labels.cpu()))
            subject.step(len(labels))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UnavailableError(str(error)) from None
    features, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return features, labels


def probe(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Return the classes that logistic regression predicts."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    deviation, mean = torch.std_mean(train.double(), 0, correction=0)
    train, test = (((part - mean) / deviation.clamp_min(1e-6)).float() for part in (train, test))
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        fitted = LogisticRegression(max_iter=300).fit(train.numpy(), labels.numpy())
    return torch.from_numpy(fitted.predict(test.numpy()))
