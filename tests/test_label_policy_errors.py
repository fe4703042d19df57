"""Label policies that cannot compute weights say why in one sentence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mixwell as mw
from mixwell.labels import (
    ActivationShare,
    AttentionShare,
    ObjectShare,
    ProgressiveAttentionShare,
    SaliencyShare,
    TokenLabelAlignment,
    View,
)
from test_label_policies import ROWS, SIDE, mixed_by


@pytest.mark.parametrize(
    ("label", "view", "words"),
    [
        (ActivationShare(), View(), "needs View\\(clean_features=...\\)"),
        (ActivationShare(), View(clean_features=torch.ones(ROWS, 8)), "feature map"),
        (AttentionShare(), View(), "needs View\\(attention=...\\)"),
        (AttentionShare(), View(attention=torch.ones(ROWS, 16)), "attention must have shape"),
        (TokenLabelAlignment(), View(attentions=(torch.ones(ROWS, 17, 17), torch.ones(ROWS, 9, 9))), "merge tokens"),
        (ObjectShare(), View(), "either masks= or boxes=, but got neither"),
        (ObjectShare(), View(masks=torch.ones(1), boxes=torch.ones(1)), "but got both"),
        (ObjectShare(), View(boxes=torch.ones(ROWS, 5)), "boxes must have shape"),
        (ObjectShare(), View(boxes=torch.ones(ROWS - 1, 4)), "boxes must have shape"),
        (ObjectShare(), View(boxes=[torch.ones(2, 4)]), "boxes must have shape"),
        (ObjectShare(), View(boxes=torch.tensor([[8.0, 4.0, 3.0, 9.0]]).expand(ROWS, 4)), "x1 <= x2"),
        (ObjectShare(), View(boxes=torch.full((ROWS, 4), math.nan)), "x1 <= x2"),
        (ObjectShare(), View(masks=torch.ones(ROWS, SIDE, SIDE + 1)), "masks must have shape"),
        (ObjectShare(), View(masks=torch.ones(ROWS, 1, SIDE, SIDE)), "masks must have shape"),
        (ObjectShare(), View(masks=torch.ones(ROWS, SIDE, SIDE, dtype=torch.uint8)), "use masks > 0"),
        (ObjectShare(), View(masks=torch.full((ROWS, SIDE, SIDE), 255.0)), "must lie in"),
    ],
)
def test_errors(label: mw.LabelPolicy, view: View, words: str) -> None:
    mixed, _ = mixed_by(mw.CutMix())
    with pytest.raises(ValueError, match=words):
        label(mixed, view)


@pytest.mark.parametrize(
    ("label", "fields"),
    [
        (mw.RatioShare(), {}),
        (mw.SemanticShare(), {"clean_logits": torch.zeros(ROWS, 5)}),
        (ActivationShare(), {"clean_features": torch.ones(ROWS, 2, 4, 4)}),
        (SaliencyShare(mw.SpectralResidual()), {}),
        (AttentionShare(), {"attention": torch.ones(ROWS, 4, 4)}),
        (ProgressiveAttentionShare(), {"attention": torch.ones(ROWS, 4, 4)}),
        (TokenLabelAlignment(), {"attentions": (torch.ones(ROWS, 17, 17),)}),
        (ObjectShare(), {"boxes": torch.ones(ROWS, 4)}),
    ],
    ids=str,
)
def test_a_policy_that_reports_no_share(label: mw.LabelPolicy, fields: dict) -> None:
    """A callable of the user's own may return a batch without a plan: labels by its weights still work."""

    def policy(images: Tensor, labels: Tensor, model: object = None) -> mw.MixedBatch:
        pair, half = torch.stack((labels, labels.flip(0)), 1), torch.full((len(labels), 2), 0.5)
        return mw.MixedBatch((images + images.flip(0)) / 2, pair, half, None)  # type: ignore[arg-type]

    images, labels = torch.rand(ROWS, 3, SIDE, SIDE), torch.arange(ROWS)
    view = View(logits=torch.zeros(ROWS, 10), images=images, labels=labels, **fields)
    with pytest.raises(ValueError, match="mixed batch has no plan: pass one to MixedBatch, or use label=PixelShare"):
        label(policy(images, labels), view)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, ROWS))
    assert mw.Mixing(model, policy)(images, labels)["loss"].isfinite()


def test_a_label_policy_is_no_similarity() -> None:
    with pytest.raises(TypeError, match=r"must be a str or a Similarity, but got ActivationShare\(\)"):
        mw.SemanticShare(similarity=ActivationShare())
