"""What a mixed image is called: the learned ratio against loops, its direction, its limits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from mixwell import (
    BlendPlan,
    Constant,
    CutMix,
    Given,
    MixedBatch,
    MixUp,
    Pairs,
    PixelShare,
    SemanticShare,
    View,
    parse,
)
from mixwell.labels.semantic import SIMILARITIES, Agreement, Distance, Released
from sumix_loops import Step, ratio

NAMES = sorted(SIMILARITIES)
INVARIANT = [name for name in NAMES if name != "reference"]


def mix(labels: Tensor, partner: Tensor, lam: Tensor) -> MixedBatch:
    """Make a mixed batch of which nothing but sources, labels and weights counts."""
    plan = BlendPlan(Pairs(partner, lam, (1, 1)))
    return MixedBatch(torch.zeros(len(labels), 1, 1, 1), labels[plan.sources], plan.weights, plan)


def random_step(rows: int = 6, classes: int = 5, sharp: float = 3.0) -> tuple[MixedBatch, View]:
    labels, partner = torch.randint(classes, (rows,)), torch.randperm(rows)
    labels[partner[0]] = labels[0]  # a pair of one class
    logits, clean = torch.randn(2, rows, classes) * sharp
    return mix(labels, partner, torch.rand(rows)), View(logits, clean)


def as_loops(mixed: MixedBatch, view: View) -> Step:
    return Step(
        view.logits.tolist(),
        view.clean_logits.tolist(),
        [],
        [],
        mixed.labels[:, 0].tolist(),
        mixed.plan.sources[:, 1].tolist(),
        mixed.weights[:, 0].double().tolist(),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("rows", "classes"), [(6, 5), (1, 3), (4, 2), (5, 40)])
def test_ratio_is_that_of_loops(name: str, kappa: float, rows: int, classes: int) -> None:
    """Sample by sample and class by class, as the formula is written."""
    mixed, view = random_step(rows, classes)
    weights = SemanticShare(similarity=name, kappa=kappa)(mixed, view)
    expected = torch.tensor(ratio(as_loops(mixed, view), name, kappa))
    torch.testing.assert_close(weights[:, 0], expected, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(weights.sum(1), torch.ones(rows))
    if not kappa:
        torch.testing.assert_close(weights, mixed.weights)


def slide(shown: float, name: str, kappa: float, *, classes: int = 100, sure: float = 1.0, lam: float = 0.5) -> float:
    """Return the learned share of an anchor drawn at ``lam`` whose class the model sees with probability ``shown``."""
    clean = torch.full((2, classes), (1 - sure) / (classes - 1))
    clean[[0, 1], [0, 1]] = sure
    seen = torch.zeros(2, classes)
    seen[:, 0], seen[:, 1] = shown, 1 - shown
    view = View(seen.clamp_min(1e-30).log(), clean.clamp_min(1e-30).log())
    mixed = mix(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([lam]))
    return float(SemanticShare(similarity=name, kappa=kappa)(mixed, view)[0, 0])


@pytest.mark.parametrize(("name", "sign"), [("distance", 1), ("agreement", 1), ("released", -1), ("reference", -1)])
def test_a_hidden_object_loses_weight(name: str, sign: int) -> None:
    """As the publication says; the released formula does the opposite."""
    shares = [slide(shown, name, 1.0) for shown in (1.0, 0.75, 0.5, 0.25, 0.0)]
    steps = [sign * (before - after) for before, after in itertools.pairwise(shares)]
    assert min(steps) > 1e-3 and shares[2] == pytest.approx(0.5)
    assert shares[0] == pytest.approx(1 - shares[-1], abs=1e-6)


def settled(name: str, kappa: float, start: float, step: float = 0.5, **case: float) -> float:
    """Return where a prediction ends that follows its own label."""
    for _ in range(200):
        start = (1 - step) * start + step * slide(start, name, kappa, **case)
    return start


@pytest.mark.parametrize(
    ("kappa", "shares"),
    [(1.0, [0.018, 0.084, 0.150, 0.256, 0.344, 0.5]), (10.0, [0.238, 0.329, 0.371, 0.418, 0.450, 0.5])],
)
def test_the_released_formula_presses_labels_together(kappa: float, shares: list[float]) -> None:
    """Where labels settle, as measured on the authors' own function with clean predictions of 0.95."""
    for lam, share in zip([0.01, 0.05, 0.1, 0.2, 0.3, 0.5], shares, strict=True):
        assert settled("released", kappa, 0.5, 1 / (2 + kappa), sure=0.95, lam=lam) == pytest.approx(share, abs=2e-3)


@pytest.mark.filterwarnings("ignore:kappa=")
@pytest.mark.parametrize(
    ("name", "kappa", "runs_away"),
    [("distance", k, k > math.sqrt(2)) for k in (1.0, 1.3, 1.6)]
    + [("agreement", k, k > 1.13) for k in (1.0, 1.1, 1.6)],
)
def test_labels_run_away_above_the_stated_kappa(name: str, kappa: float, runs_away: bool) -> None:
    """Positive feedback settles at 0.5 while it is weak; where it is strong, labels end near 0 or 1."""
    high, low = settled(name, kappa, 0.9), settled(name, kappa, 0.1)
    assert (high > 0.7 and low < 0.3) if runs_away else (high, low) == pytest.approx((0.5, 0.5), abs=0.02)


@pytest.mark.parametrize("name", INVARIANT)
def test_batch_size_does_not_matter(name: str) -> None:
    """A copy of the batch changes nothing, nor do rows that are not among a row's sources."""
    mixed, view = random_step(8)
    weights = SemanticShare(similarity=name)(mixed, view)
    partner, lam = mixed.plan.sources[:, 1], mixed.weights[:, 0]
    twice = mix(mixed.labels[:, 0].repeat(2), torch.cat((partner, partner + 8)), lam.repeat(2))
    doubled = SemanticShare(similarity=name)(twice, View(view.logits.repeat(2, 1), view.clean_logits.repeat(2, 1)))
    torch.testing.assert_close(doubled, weights.repeat(2, 1), rtol=0, atol=1e-6)
    pair = torch.tensor([3, int(partner[3])])
    alone = mix(mixed.labels[pair, 0], torch.tensor([1, 0]), lam[pair])
    got = SemanticShare(similarity=name)(alone, View(view.logits[pair], view.clean_logits[pair]))
    torch.testing.assert_close(got[0], weights[3], rtol=0, atol=1e-6)


def test_batch_size_does_matter_to_the_released_code() -> None:
    """Its scale is the batch size, which is why it is no default."""
    mixed, view = random_step(8)
    twice = mix(mixed.labels[:, 0].repeat(2), mixed.plan.sources[:, 1].repeat(2), mixed.weights[:, 0].repeat(2))
    double = View(view.logits.repeat(2, 1), view.clean_logits.repeat(2, 1))
    reference = SemanticShare(similarity="reference", kappa=1.0)
    assert (reference(twice, double)[:8] - reference(mixed, view)).abs().max() > 0.01


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_class_count_does_not_matter(classes: int) -> None:
    """Two predictions are as far apart among a thousand classes as among two."""
    assert slide(0.9, "distance", 1.0, classes=classes) == pytest.approx(slide(0.9, "distance", 1.0), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [3, 4096])
@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_stay_finite_and_what_is_not_there_gets_no_label(name, rows, classes, dtype) -> None:
    """At ratios of 0 and 1, with logits of 1e4, large batches, few and many classes, half precision."""
    partner = torch.arange(rows).roll(1)
    lam = torch.tensor([0.0, 1.0, 0.5, 1e-7]).repeat(rows)[:rows]
    mixed = mix(torch.randint(classes, (rows,)), partner, lam)
    logits, clean = (torch.randn(2, rows, classes).sign() * 1e4).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        weights = SemanticShare(similarity=name)(mixed, View(logits, clean))
    assert weights.dtype == torch.float32 and weights.isfinite().all()
    assert weights[0::4].tolist() == [[0.0, 1.0]] * len(weights[0::4])
    assert weights[1::4].tolist() == [[1.0, 0.0]] * len(weights[1::4])


@pytest.mark.parametrize("name", NAMES)
def test_weights_carry_no_gradient(name: str) -> None:
    """The ratio is a label, not something to descend along."""
    mixed, view = random_step()
    view = View(view.logits.requires_grad_(), view.clean_logits.requires_grad_())
    weights, terms = SemanticShare(similarity=name).terms(mixed, view)
    assert not weights.requires_grad and not terms.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_an_image_mixed_with_itself_keeps_its_ratio(name: str) -> None:
    """Both sources are equally far then."""
    _, view = random_step()
    mixed = mix(torch.arange(6) % 5, torch.arange(6), torch.rand(6))
    torch.testing.assert_close(SemanticShare(similarity=name)(mixed, view), mixed.weights)


def test_rows_keep_their_sum() -> None:
    """Weights that do not sum to one are shifted between the sources, and no more."""
    mixed, view = random_step()
    loose = mixed.with_weights(mixed.weights * torch.rand(6, 1) * 3)
    weights = SemanticShare()(loose, view)
    torch.testing.assert_close(weights.sum(1), loose.weights.sum(1))
    torch.testing.assert_close(weights / weights.sum(1, keepdim=True), SemanticShare()(mixed, view))


def test_distance_takes_dense_labels() -> None:
    """It looks at predictions only; the released formula needs to know which class to take out."""
    mixed, view = random_step()
    hot = torch.nn.functional.one_hot(mixed.labels, 5).float()
    dense = MixedBatch(mixed.images, hot, mixed.weights, mixed.plan)
    torch.testing.assert_close(SemanticShare()(dense, view), SemanticShare()(mixed, view))
    with pytest.raises(ValueError, match=r"Agreement\(\) needs class indices, but the labels are dense"):
        SemanticShare(similarity="agreement")(dense, view)


def test_pixel_share_is_what_the_policy_says() -> None:
    """Untouched, and with no look at the predictions."""
    mixed = CutMix()(torch.rand(4, 3, 8, 8), torch.arange(4))
    assert PixelShare()(mixed, View(torch.zeros(4, 5))) is mixed.weights
    assert not PixelShare.needs
    assert SemanticShare.needs == {"clean_logits"}


def test_a_similarity_of_ones_own() -> None:
    """Names are short for objects, and any object of the kind will do."""

    class OnlyPartner(Distance):
        def __call__(self, clean, mixed, labels, sources, kappa):
            terms = torch.zeros(*sources.shape, mixed.shape[1])
            return torch.tensor([50.0, 0.0]).expand(len(sources), 2), terms

    mixed, view = random_step()
    assert (SemanticShare(similarity=OnlyPartner())(mixed, view)[:, 1] > 0.99).all()
    torch.testing.assert_close(SemanticShare(similarity=Distance())(mixed, view), SemanticShare()(mixed, view))
    assert parse("SemanticShare(similarity=Released(sign=-1))").similarity == Released(sign=-1)
    assert Agreement() != Released(sign=-1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SemanticShare(similarity="cosine"), "similarity must be one of distance, .* but got 'cosine'"),
        (lambda: SemanticShare(kappa=-1.0), "kappa must be a finite number of at least 0.0, but got -1.0"),
        (lambda: SemanticShare(kappa=math.nan), "kappa must be a finite number"),
        (lambda: SemanticShare(kappa=math.inf), "kappa must be a finite number"),
        (lambda: Released(sign=0.5), "sign must be 1 or -1, but got 0.5"),
        (
            lambda: SemanticShare()(random_step()[0], View(torch.zeros(6, 5))),
            "compares with the predictions for the unmixed images: pass",
        ),
        (lambda: SemanticShare()(three_sources(), View(*torch.zeros(2, 6, 5))), "these images have 3 sources"),
    ],
)
def test_wrong_input_is_refused(make, sentence) -> None:
    """One sentence each."""
    with pytest.raises(ValueError, match=sentence):
        make()


def three_sources() -> MixedBatch:
    mixed = MixUp(alpha=Constant(0.5), pairing=Given(range(6)))(torch.rand(6, 3, 2, 2), torch.arange(6) % 5)
    return mixed.with_weights(torch.full((6, 3), 1 / 3))
