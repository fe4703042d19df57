"""SUMix's learned ratio: schedules, saturated labels, samples without weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixwell import Linear, SemanticShare, Step, SUMix
from mixwell.labels import Released, Similarity, View
from steps import Net, data, fixed


class Stubborn(Similarity):
    """Finds the first source near and the second far, or the other way, whatever the model says."""

    def __call__(
        self, clean: Tensor, mixed: Tensor, labels: Tensor, sources: Tensor, kappa: float
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Similarity`."""
        away = kappa * torch.tensor([0.0, 1.0]).expand(len(mixed), 2)
        return away, away[..., None] / mixed.shape[1] * torch.ones_like(mixed[:, None])


def test_kappa_may_be_a_schedule() -> None:
    """Labels keep the drawn ratio while kappa is 0; a resumed training goes on."""
    model, batch = Net(), data()
    with torch.no_grad():
        model.fc.weight.mul_(30)
    label = SemanticShare(kappa=Step({0.0: 0.0, 0.5: 1.0}))
    method, learned = (SUMix(model, fixed(8), num_classes=10, label=one) for one in (label, label.at(1.0)))
    learned.load_state_dict(method.state_dict())
    for progress, waits in ((0.0, True), (0.49, True), (0.5, False), (0.2, True)):
        method.after_step(progress)
        out = method(*batch)
        assert (out["ratio_shift"] < 1e-6) if waits else (out["ratio_shift"] > 1e-3)
        if not waits:
            torch.testing.assert_close(out["loss"], learned(*batch)["loss"])
    method.after_step(0.7)
    resumed = SUMix(model, fixed(8), num_classes=10, label=label)
    resumed.load_state_dict(method.state_dict())
    torch.testing.assert_close(resumed(*batch)["loss"], learned(*batch)["loss"])
    assert SUMix(model, fixed(8), num_classes=10, gamma=Linear(0.0, 1.0))(*batch)["regulariser"] == 0


def test_labels_that_run_away_are_counted() -> None:
    """Labels that were drawn pure are not counted, those that a strong similarity makes pure are."""
    for lam, kappa, share in ((0.005, 0.0, 0.0), (0.5, 0.0, 0.0), (0.5, 9.0, 1.0), (0.005, 9.0, 0.0)):
        method = SUMix(Net(), fixed(8, lam), num_classes=10, label=SemanticShare(similarity=Stubborn(), kappa=kappa))
        assert float(method(*data())["saturated"]) == share


@pytest.mark.parametrize("similarity", ["agreement", Released(sign=-1.0), "distance"])
def test_a_strong_similarity_is_warned_of(similarity: str | Similarity) -> None:
    """By whatever name it is called."""
    with pytest.warns(UserWarning, match=r"kappa=2.0.*at most 1"):
        SUMix(Net(), fixed(8), num_classes=10, label=SemanticShare(similarity=similarity, kappa=2.0))


def test_a_row_without_weight_stays_so() -> None:
    """SnapMix may leave neither source any weight; the others train on."""
    mixed = fixed(8)(*data())
    mixed = mixed.with_weights(mixed.weights.clone().index_fill_(0, torch.tensor([3]), 0.0))
    weights = SemanticShare()(mixed, View(torch.randn(8, 10), torch.randn(8, 10)))
    assert weights[3].tolist() == [0, 0] and weights.isfinite().all()
    torch.testing.assert_close(weights.sum(1), mixed.weights.sum(1))


def test_a_prediction_that_is_no_number_shows() -> None:
    """Not as a label without weight, which would hide it."""
    mixed = fixed(8)(*data())
    clean = torch.randn(8, 10).index_fill_(0, torch.tensor([2]), torch.nan)
    assert bool(SemanticShare()(mixed, View(torch.randn(8, 10), clean))[2].isnan().all())
