"""SUMix's learned ratio: when it is learned, when it runs away, and where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixwell import SemanticShare, SUMix
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


def test_warmup_keeps_the_drawn_ratio() -> None:
    """Then labels are learned, by any similarity; the regulariser does not wait; a resumed training goes on."""
    model, batch = Net(), data()
    with torch.no_grad():
        model.fc.weight.mul_(30)
    for similarity in ("distance", Stubborn()):
        method, learned = (SUMix(model, fixed(8), num_classes=10, similarity=similarity, warmup=w) for w in (0.5, 0.0))
        learned.load_state_dict(method.state_dict())
        for progress, waits in ((0.0, True), (0.49, True), (0.5, False), (0.2, True)):
            method.follow(progress)
            out = method(*batch)
            assert (out["ratio_shift"] < 1e-6) if waits else (out["ratio_shift"] > 1e-3)
            torch.testing.assert_close(out["regulariser"], learned(*batch)["regulariser"])
    with pytest.raises(ValueError, match=r"warmup.*1.5"):
        SUMix(model, fixed(8), num_classes=10, warmup=1.5)


def test_labels_that_run_away_are_counted() -> None:
    """Labels that were drawn pure are not counted, those that a strong similarity makes pure are."""
    for lam, kappa, share in ((0.005, 0.0, 0.0), (0.5, 0.0, 0.0), (0.5, 9.0, 1.0), (0.005, 9.0, 0.0)):
        method = SUMix(Net(), fixed(8, lam), num_classes=10, similarity=Stubborn(), kappa=kappa)
        assert float(method(*data())["saturated"]) == share


@pytest.mark.parametrize("similarity", ["agreement", Released(sign=-1.0), "distance"])
def test_a_strong_similarity_is_warned_of(similarity: str | Similarity) -> None:
    """By whatever name it is called."""
    with pytest.warns(UserWarning, match=r"kappa=2.0.*at most 1"):
        SUMix(Net(), fixed(8), num_classes=10, similarity=similarity, kappa=2.0)


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
