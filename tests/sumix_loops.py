"""SUMix the slow way: plain Python over samples and classes, from the formulas of the released code."""

from __future__ import annotations

import math
from dataclasses import dataclass

Rows = list[list[float]]
SIGNS = {"released": 1.0, "reference": 1.0, "agreement": -1.0}


def log_softmax(row: list[float]) -> list[float]:
    top = max(row)
    total = math.log(sum(math.exp(z - top) for z in row)) + top
    return [z - total for z in row]


def softmax(row: list[float]) -> list[float]:
    return [math.exp(z) for z in log_softmax(row)]


def length(row: list[float]) -> float:
    return math.sqrt(sum(z * z for z in row))


@dataclass
class Step:
    """All that goes into the loss of one step: ``partner[i]`` is mixed into row ``i``, which keeps ``lam[i]``."""

    logits: Rows
    clean: Rows
    head: Rows
    clean_head: Rows
    labels: list[int]
    partner: list[int]
    lam: list[float]


def away(step: Step, i: int, source: int, other: int, similarity: str, kappa: float) -> tuple[float, list[float]]:
    """Return how far row ``i`` is from a source, whose fellow source is ``other``: one number, and class by class."""
    own_class, other_class = step.labels[source], step.labels[other]
    clean, mixed = softmax(step.clean[source]), softmax(step.logits[i])
    if similarity == "distance":
        terms = [kappa * abs(m - c) for m, c in zip(mixed, clean, strict=True)]
        return length(terms), terms
    if own_class != other_class or similarity == "reference":
        clean[other_class] = 0.0
    gap = softmax([SIGNS[similarity] * (m - c) for m, c in zip(mixed, clean, strict=True)])
    scale = kappa * (len(step.logits) if similarity == "reference" else math.sqrt(len(gap)))
    terms = [scale * g / length(gap) for g in gap]
    return terms[own_class], terms


def ratio(step: Step, similarity: str, kappa: float) -> list[float]:
    """Return the learned share of every anchor: ``lam e^-A / (lam e^-A + (1 - lam) e^-A')``."""
    shares = []
    for i, (partner, lam) in enumerate(zip(step.partner, step.lam, strict=True)):
        a, b = away(step, i, i, partner, similarity, kappa)[0], away(step, i, partner, i, similarity, kappa)[0]
        nearest = min(a, b)  # takes a common factor out, which keeps both from vanishing
        own, other = lam * math.exp(nearest - a), (1 - lam) * math.exp(nearest - b)
        shares.append(own / (own + other))
    return shares


def main_loss(logits: Rows, step: Step, shares: list[float], published: bool) -> float:
    """Return the weighted cross entropy of both labels."""
    if published:
        shares = [sum(shares) / len(shares)] * len(shares)
    total = 0.0
    for i, share in enumerate(shares):
        log_p = log_softmax(logits[i])
        total -= share * log_p[step.labels[i]] + (1 - share) * log_p[step.labels[step.partner[i]]]
    return total / len(shares)


def regulariser(head: Rows, clean_head: Rows, step: Step, similarity: str, kappa: float, form: str) -> float:
    """Return the uncertainty term, before ``gamma``."""
    total = 0.0
    for i, (partner, lam) in enumerate(zip(step.partner, step.lam, strict=True)):
        for source, other, weight in ((i, partner, lam), (partner, i, 1 - lam)):
            terms = away(step, i, source, other, similarity, kappa)[1]
            penalty = [u + v + t for u, v, t in zip(clean_head[source], head[i], terms, strict=True)]
            feature = [math.exp(-p) if form == "exp" else -p for p in penalty]
            total -= weight * log_softmax(feature)[step.labels[source]]
    return total / len(step.lam)
