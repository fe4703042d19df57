"""SUMix's loss against loops over samples and classes."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sumix_loops as loops
from mixwell import BinaryCrossEntropy, MixedBatch, SemanticShare, UncertaintyHead, sumix_terms
from mixwell.labels.semantic import SIMILARITIES
from mixwell.methods.sumix import normalised_uncertainty
from test_labels import mix

ROWS, CLASSES, GAMMA = 6, 5, 0.7
Outputs = dict[str, Tensor]


def random_step(rows: int = ROWS, classes: int = CLASSES) -> tuple[MixedBatch, Outputs]:
    """Draw a mixed batch, and what a classifier and its second head might say to it."""
    labels, partner = torch.randint(classes, (rows,)), torch.randperm(rows)
    labels[partner[0]] = labels[0]  # a pair of one class
    logits, clean = torch.randn(2, rows, classes) * 3
    head, clean_head = normalised_uncertainty(torch.randn(2 * rows, classes)).chunk(2)
    outputs = {"logits": logits, "clean_logits": clean, "uncertainty": head, "clean_uncertainty": clean_head}
    return mix(labels, partner, torch.rand(rows)), {name: t.requires_grad_() for name, t in outputs.items()}


def as_loops(mixed: MixedBatch, outputs: Outputs) -> loops.Step:
    return loops.Step(
        *(outputs[name].tolist() for name in ("logits", "clean_logits", "uncertainty", "clean_uncertainty")),
        mixed.labels[:, 0].tolist(),
        mixed.plan.sources[:, 1].tolist(),
        mixed.weights[:, 0].double().tolist(),
    )


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
@pytest.mark.parametrize("form", ["linear", "exp"])
@pytest.mark.parametrize("published", [False, True])
def test_loss_is_that_of_loops(name: str, form: str, published: bool) -> None:
    """Every term of the released formula and of ours, sample by sample and class by class."""
    mixed, outputs = random_step()
    share = SemanticShare(similarity=name, kappa=0.8)
    terms = sumix_terms(mixed, **outputs, label=share, gamma=GAMMA, form=form, published=published)
    step = as_loops(mixed, outputs)
    shares = loops.ratio(step, name, 0.8)
    torch.testing.assert_close(terms.weights[:, 0], torch.tensor(shares), rtol=1e-5, atol=2e-6)
    penalty = GAMMA * loops.regulariser(step.head, step.clean_head, step, name, 0.8, form)
    assert terms.regulariser.item() == pytest.approx(penalty, rel=1e-5)
    main = loops.main_loss(step.logits, step, shares, published)
    assert terms.loss.item() == pytest.approx(main + penalty, rel=1e-5)


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
@pytest.mark.parametrize("form", ["linear", "exp"])
def test_gradient_is_that_of_loops(name: str, form: str) -> None:
    """Finite differences of the loops in double precision; ratio and semantic term are held fixed: both are labels."""
    mixed, outputs = random_step()
    terms = sumix_terms(mixed, **outputs, label=SemanticShare(similarity=name, kappa=1.0), gamma=GAMMA, form=form)
    names = ("logits", "uncertainty", "clean_uncertainty")
    gradients = dict(zip(names, torch.autograd.grad(terms.loss, [outputs[n] for n in names]), strict=True))
    step = as_loops(mixed, outputs)
    shares = loops.ratio(step, name, 1.0)

    def loss(moved: dict[str, loops.Rows]) -> float:
        penalty = loops.regulariser(moved["uncertainty"], moved["clean_uncertainty"], step, name, 1.0, form)
        return loops.main_loss(moved["logits"], step, shares, published=False) + GAMMA * penalty

    for output, i, c in itertools.product(names, (0, ROWS - 1), (0, CLASSES - 1)):
        values = []
        for shift in (1e-4, -1e-4):
            moved = {n: outputs[n].tolist() for n in names}
            moved[output][i][c] += shift
            values.append(loss(moved))
        assert gradients[output][i, c].item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-3, abs=1e-6)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(sumix_terms(mixed, **outputs).loss, outputs["clean_logits"])


def test_without_a_head_of_its_own_the_logits_are_the_uncertainty() -> None:
    """Then, and only then, the regulariser reaches the classifier, also through the clean pass."""
    mixed, outputs = random_step()
    logits, clean = outputs["logits"], outputs["clean_logits"]
    by_main = torch.autograd.grad(sumix_terms(mixed, logits, clean, logits, clean, gamma=0.0).loss, logits)[0]
    terms = sumix_terms(mixed, logits, clean, logits, clean, gamma=GAMMA)
    gradients = torch.autograd.grad(terms.loss, (logits, clean))
    assert not torch.allclose(gradients[0], by_main) and gradients[1].abs().max() > 1e-4


@pytest.mark.parametrize("name", ["distance", "released", "agreement"])
def test_a_copy_of_the_batch_changes_nothing(name: str) -> None:
    """Loss and gradients are means over images; the released loss is none."""
    mixed, outputs = random_step()
    partner = mixed.plan.sources[:, 1]
    twice = mix(mixed.labels[:, 0].repeat(2), torch.cat((partner, partner + ROWS)), mixed.weights[:, 0].repeat(2))
    doubled = {key: value.repeat(2, 1) for key, value in outputs.items()}
    share = SemanticShare(similarity=name)
    torch.testing.assert_close(
        sumix_terms(twice, **doubled, label=share).loss, sumix_terms(mixed, **outputs, label=share).loss
    )
    reference = {"label": SemanticShare(similarity="reference", kappa=1.0), "form": "exp", "published": True}
    assert (
        sumix_terms(twice, **doubled, **reference).loss - sumix_terms(mixed, **outputs, **reference).loss
    ).abs() > 1e-3


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (3, 1000), (4096, 2), (4096, 10)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradient_stay_finite(name: str, rows: int, classes: int, dtype: torch.dtype) -> None:
    """At ratios of 0 and 1, with logits of 1e4, large batches, few and many classes, under autocast."""
    partner = torch.arange(rows).flip(0)
    mixed = mix(torch.randint(classes, (rows,)), partner, torch.tensor([0.0, 1.0, 0.5]).repeat(rows)[:rows])
    outputs = [(torch.randn(rows, classes).sign() * 1e4).to(dtype).requires_grad_() for _ in range(2)]
    outputs += [normalised_uncertainty(output) for output in outputs]
    with torch.autocast("cpu", torch.bfloat16):
        for form in ("linear", "exp"):
            terms = sumix_terms(mixed, *outputs, label=SemanticShare(similarity=name), form=form)
            (gradient,) = torch.autograd.grad(terms.loss, outputs[0], retain_graph=True)
            assert terms.loss.isfinite() and terms.loss.dtype == torch.float32 and gradient.isfinite().all()


def test_dense_labels_are_labels_too() -> None:
    """Class indices written as rows of zeros and a one cost the same."""
    mixed, outputs = random_step()
    dense = MixedBatch(mixed.images, F.one_hot(mixed.labels, CLASSES).double(), mixed.weights, mixed.plan)
    for got, expected in zip(sumix_terms(dense, **outputs), sumix_terms(mixed, **outputs), strict=True):
        torch.testing.assert_close(got, expected)


def test_multi_label_targets_are_divided_by_their_sum() -> None:
    """The regulariser of two labels is the mean of those of each; a row without labels costs nothing."""
    mixed, outputs = random_step()
    loss = BinaryCrossEntropy()
    rows = torch.zeros(ROWS, 2, CLASSES)
    rows[:, :, [0, 3]] = 1.0
    rows[0] = 0.0
    both = sumix_terms(MixedBatch(mixed.images, rows, mixed.weights, mixed.plan), **outputs, loss=loss)
    each = []
    for c in (0, 3):
        one = torch.zeros(ROWS, 2, CLASSES)
        one[1:, :, c] = 1.0
        each.append(sumix_terms(MixedBatch(mixed.images, one, mixed.weights, mixed.plan), **outputs, loss=loss))
    torch.testing.assert_close(both.regulariser, (each[0].regulariser + each[1].regulariser) / 2)
    expected = loss(outputs["logits"], MixedBatch(mixed.images, rows, both.weights, mixed.plan))
    torch.testing.assert_close(both.loss - both.regulariser, expected)


def test_the_second_head_alone() -> None:
    """Rows of length one, of features or of maps; a loop says the same."""
    head, maps = UncertaintyHead(6, 4), torch.randn(3, 6, 2, 2)
    rows = head.linear(maps.mean((2, 3))).tolist()
    expected = [[p / loops.length(loops.softmax(row)) for p in loops.softmax(row)] for row in rows]
    torch.testing.assert_close(head(maps), torch.tensor(expected))
    torch.testing.assert_close(head(maps.mean((2, 3))), head(maps))
