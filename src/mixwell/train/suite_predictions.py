"""Parts of the suite that need only logits of unchanged images: accuracy, calibration, selective prediction, OOD."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell import metrics
from mixwell.evaluation import calibration as measures
from mixwell.evaluation import selective as ranking
from mixwell.train.suite import Figure, Subject, folder_of_images

Named = Iterator[tuple[str, Figure]]
POINTS = 101  # of a risk-coverage curve


def accuracy(subject: Subject) -> Named:
    """Yield top-1, top-5 and NLL, or mAP and binary cross-entropy for several labels per image."""
    logits, labels = subject.predictions
    bad = int((~logits.isfinite().all(1)).sum())
    yield "images_with_nan_or_inf", Figure(bad, "Images with a logit that is NaN or Inf; NaN counts as a wrong class.")
    if labels.ndim == 2:
        mean = metrics.mean_average_precision(logits, labels).item()
        yield "map", Figure(mean, "Mean over classes of the average precision without interpolation.", "%")
        loss = F.binary_cross_entropy_with_logits(logits.double(), labels.double()).item()
        yield "bce", Figure(loss, "Mean binary cross-entropy over images and classes, in nats.")
        return
    for k in (1, 5):
        how = f"Share of images whose label is among the {k} highest logits."
        yield f"top{k}", Figure(metrics.top_k_accuracy(logits, labels, k).item(), how, "%")
    loss = metrics.negative_log_likelihood(logits, labels).item()
    yield "nll", Figure(loss, "Mean -log softmax of the label, in nats.")


def calibration(subject: Subject) -> Named:
    """Yield calibration errors before and after temperature scaling, and the reliability diagram."""
    logits, labels = subject.predictions
    logits = logits.double()
    yield from _errors(logits, labels, "", "")
    points = {name: part.tolist() for name, part in measures.reliability(logits, labels, 15).items()}
    yield "reliability", Figure(points, "Count, mean confidence and accuracy in 15 bins of equal width.")
    if subject.held is not None:
        temperature = measures.fit_temperature(*subject.predict(subject.held))
        scaled = logits / temperature
        how = f" after division by the temperature fitted on {len(subject.held)} other images"
        yield "temperature", Figure(temperature.item(), "Minimises the NLL of held-out images.")
    else:
        scaled, temperatures = _crossed(logits, labels)
        how = " after division by a temperature; each half of the images is scaled by that of the other half"
        yield "temperature", Figure(sum(temperatures) / 2, "Mean of two, each minimises the NLL of one half.")
    yield from _errors(scaled, labels, "_scaled", how)


def _crossed(logits: Tensor, labels: Tensor) -> tuple[Tensor, list[float]]:
    """Scale each half of the images by the temperature that suits the other half."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    halves, scaled = order.tensor_split(2), logits.clone()
    temperatures = [measures.fit_temperature(logits[half], labels[half]) for half in halves]
    for half, other in zip(halves, reversed(temperatures), strict=True):
        scaled[half] = logits[half] / other
    return scaled, [one.item() for one in temperatures]


def _errors(logits: Tensor, labels: Tensor, suffix: str, how: str) -> Named:
    for bins in (10, 15):
        value = metrics.expected_calibration_error(logits, labels, bins).item()
        text = f"Mean |accuracy - confidence| over {bins} bins (a, b] of equal width, weighted by count{how}."
        yield f"ece{bins}{suffix}", Figure(value, text)
    value = measures.adaptive_calibration_error(logits, labels, 15).item()
    yield f"adaptive_ece{suffix}", Figure(value, f"The same over 15 bins of equal count{how}.")
    value = measures.brier_score(logits, labels).item()
    yield f"brier{suffix}", Figure(value, f"Mean squared distance of softmax and one-hot label, 0 to 2{how}.")
    if suffix:
        value = F.cross_entropy(logits, labels).item()
        yield f"nll{suffix}", Figure(value, f"Mean -log softmax of the label, in nats{how}.")


SCORES = {
    "max_probability": (ranking.max_probability, "the largest softmax probability"),
    "energy": (ranking.negative_energy, "logsumexp of the logits"),
}


def selective(subject: Subject) -> Named:
    """Yield how well confidence separates right from wrong predictions."""
    logits, labels = subject.predictions
    hits = metrics.top_k_hits(logits, labels)
    for name, (score, words) in SCORES.items():
        scores = score(logits)
        how = f"Mean error rate over all coverages, images ranked by {words}; ties share their errors."
        yield f"aurc_{name}", Figure(100 * ranking.aurc(scores, hits).item(), how, "%")
        how = f"Probability that a right prediction has a higher score than a wrong one; score: {words}."
        yield f"auroc_{name}", Figure(ranking.auroc(scores[hits], scores[~hits]).item(), how)
    risks = ranking.risk_coverage(ranking.max_probability(logits), hits)
    places = torch.linspace(0, len(risks) - 1, min(POINTS, len(risks))).round().long()
    curve = {"coverage": ((places + 1) / len(risks)).tolist(), "risk": (100 * risks[places]).tolist()}
    yield "risk_coverage", Figure(curve, "Error rate among the most confident share of the images.", "%")


def ood(subject: Subject) -> Named:
    """Yield how well scores separate the measured images from those of another folder."""
    (logits, _), folder = subject.predictions, subject.given("ood")
    others, _ = subject.predict(folder_of_images(folder))
    where = f"{len(logits)} measured images against {len(others)} of {folder.name}"
    for name, (score, words) in SCORES.items():
        inside, outside = score(logits), score(others)
        how = f"Probability that a measured image has a higher score than another one; score: {words}; {where}."
        yield f"auroc_{name}", Figure(ranking.auroc(inside, outside).item(), how)
        how = f"Share of other images accepted at the threshold that accepts 95 % of the measured ones; score: {words}."
        yield f"fpr95_{name}", Figure(100 * ranking.false_positive_rate(inside, outside).item(), how, "%")
