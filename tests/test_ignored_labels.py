"""Labels that name no class, which a loss may ignore: what reads classes leaves those images as they are."""

from __future__ import annotations

import pytest
import torch

from mixwell import (
    AttentionShare,
    ClassActivation,
    Constant,
    CutMix,
    InputGradient,
    LabelPolicy,
    LUMixShare,
    MixUp,
    ProgressiveAttentionShare,
    Roll,
    SemanticShare,
    SnapMix,
    View,
)
from mixwell.losses.softmax import without
from small_nets import Net

IGNORED = pytest.mark.parametrize("ignored", [-100, 255])
LABELS = torch.tensor([0, 1, 3, 3, 6])


@IGNORED
@pytest.mark.parametrize(
    "label",
    [
        SemanticShare(similarity="released", kappa=0.5),
        SemanticShare(similarity="reference", kappa=0.5),
        SemanticShare(similarity="agreement", kappa=0.5),
        LUMixShare(random=0.0, predicted=0.5),
    ],
    ids=repr,
)
def test_label_policies_that_read_classes(label: LabelPolicy, ignored: int) -> None:
    """Images with such a source keep the weights of the sample policy; all others have the weights they had."""
    mixed = MixUp(alpha=Constant(0.7), pairing=Roll())(torch.rand(5, 3, 8, 8), LABELS)
    view = View(torch.randn(5, 7), clean_logits=torch.randn(5, 7))
    before = label(mixed, view)
    mixed.labels = torch.where(mixed.plan.sources == 1, ignored, mixed.labels)
    affected = (mixed.plan.sources == 1).any(1)
    expected = torch.where(affected[:, None], mixed.weights, before)
    torch.testing.assert_close(label(mixed, view), expected)
    assert affected.sum() == 2 and not before.allclose(mixed.weights)


@IGNORED
def test_progressive_attention(ignored: int) -> None:
    """The trust is the cosine of the prediction with the labels that are left."""
    policy, logits, attention = CutMix(alpha=Constant(0.7), pairing=Roll()), torch.randn(5, 7), torch.rand(5, 4, 4)
    mixed = policy(torch.rand(5, 3, 8, 8), torch.full((5,), ignored))
    view = View(logits, attention=attention)
    torch.testing.assert_close(ProgressiveAttentionShare(smoothing=0.0)(mixed, view), mixed.weights)
    mixed.labels[:, 0] = LABELS
    target = torch.zeros(5, 7).scatter(1, LABELS[:, None], mixed.weights[:, :1])
    trust = torch.cosine_similarity(target, logits.softmax(1))[:, None]
    attended = AttentionShare(area=0.0)(mixed, view)
    found = ProgressiveAttentionShare(smoothing=0.0)(mixed, view)
    torch.testing.assert_close(found, mixed.weights + trust * (attended - mixed.weights))
    assert not found.allclose(mixed.weights)


@IGNORED
@pytest.mark.parametrize("source", [ClassActivation(), ClassActivation(gradient=True), InputGradient()], ids=repr)
def test_saliency_of_classes(source: ClassActivation | InputGradient, ignored: int) -> None:
    """The map of such an image is zero, and all others are as they were."""
    model, images = Net(), torch.rand(5, 3, 8, 8)
    before = source(model, images, LABELS)
    labels = LABELS.clone()
    labels[1] = ignored
    before[1] = 0
    torch.testing.assert_close(source(model, images, labels), before)
    assert before[0].any()


def test_snapmix_falls_back_to_the_area() -> None:
    model, images, labels = Net(), torch.rand(4, 3, 16, 16), torch.full((4,), -100)
    mixed = SnapMix()(images, labels, model=model)
    torch.testing.assert_close(mixed.weights, mixed.plan.share((16, 16)).mean((2, 3)))


def test_nothing_is_left() -> None:
    mixed = MixUp()(torch.rand(4, 3, 8, 8), torch.full((4,), 255))
    rest, left = without(mixed, 255)
    assert left == 0 and not rest.weights.any() and not rest.labels.any()
    assert without(mixed, None) == (mixed, None)
