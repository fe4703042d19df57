"""Label policies from features and attention inside methods, beside the same steps written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mixwell as mw
from mixwell import models
from mixwell.features.observer import Observer
from mixwell.labels import View

timm = pytest.importorskip("timm")
IMAGES, LABELS = torch.rand(6, 3, 32, 32), torch.arange(6)


def network() -> nn.Module:
    torch.manual_seed(0)
    return models.build("mini_resnet", 6, 3)


def transformer() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=6)
    for block in model.blocks:  # attention of initial weights is nearly even
        nn.init.normal_(block.attn.qkv.weight, std=0.2)
    return model


def losses(method: mw.Method, seed: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return method(IMAGES, LABELS)


@torch.no_grad()
def features_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the last map of mini_resnet by its own layers."""
    kept = {}
    handle = model.layer3.register_forward_hook(lambda module, args, output: kept.update(map=output))
    model(images)
    handle.remove()
    return kept["map"]


def test_activation_share_in_a_step() -> None:
    """The step equals: clean pass, weights from its features, cross entropy of the mixed images."""
    model = network().eval()
    method = mw.Mixing(model, mw.CutMix(scope="sample"), label=mw.ActivationShare())
    step = losses(method)
    torch.manual_seed(3)
    mixed = mw.CutMix(scope="sample")(IMAGES, LABELS)
    weights = mw.ActivationShare()(mixed, View(clean_features=features_of(model, IMAGES)))
    assert not weights.allclose(mixed.weights)
    assert step["loss"].item() == pytest.approx(
        mw.cross_entropy(model(mixed.images), mixed.with_weights(weights)).item()
    )


def test_activation_share_in_sumix() -> None:
    """Its clean pass serves both; the regulariser keeps its distances."""
    model = network().eval()
    method = mw.SUMix(model, mw.CutMix(scope="sample"), num_classes=6, gamma=0.0, label=mw.ActivationShare())
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    step = losses(method)
    handle.remove()
    assert len(passes) == 2
    torch.manual_seed(3)
    mixed = mw.CutMix(scope="sample")(IMAGES, LABELS)
    weights = mw.ActivationShare()(mixed, View(clean_features=features_of(model, IMAGES)))
    assert step["loss"].item() == pytest.approx(
        mw.cross_entropy(model(mixed.images), mixed.with_weights(weights)).item()
    )


@pytest.mark.parametrize(
    "label", [mw.AttentionShare(), mw.ProgressiveAttentionShare(), mw.TokenLabelAlignment()], ids=repr
)
def test_attention_in_a_step(label: mw.LabelPolicy) -> None:
    """One pass only, with the weights of the attention that a second pass of the same network shows."""
    from mixwell.features.attention import AttentionHook

    model = transformer().eval()
    method, passes = mw.Mixing(model, mw.CutMix(scope="sample"), label=label), []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    step = losses(method)
    handle.remove()
    assert len(passes) == 1 and not any(module._forward_hooks for module in model.modules())
    assert all(block.attn.fused_attn for block in model.blocks)
    torch.manual_seed(3)
    mixed = mw.CutMix(scope="sample")(IMAGES, LABELS)
    with torch.no_grad(), (hook := AttentionHook(model, every_block=True)):
        logits = model(mixed.images)
    view = View(logits, attention=hook.take(mixed.images))
    if "attentions" in label.needs:
        with torch.no_grad(), hook:
            model(mixed.images)
        view = View(logits, attentions=hook.take_all(mixed.images))
    weights = label(mixed, view)
    assert not weights.allclose(mixed.weights, atol=1e-3)
    assert step["loss"].item() == pytest.approx(mw.cross_entropy(logits, mixed.with_weights(weights)).item(), abs=1e-5)


METHODS = {
    "HiddenMix": lambda model, label: mw.HiddenMix(model, label=label),
    "AlignMix": lambda model, label: mw.AlignMix(model, label=label),
    "GridLoss": lambda model, label: mw.GridLoss(model, num_classes=6, label=label),
    "PerturbedMixing": lambda model, label: mw.PerturbedMixing(model, mw.CutMix(), label=label),
    "AugMix": lambda model, label: mw.AugMix(model, mw.CutMix(), label=label),
    "RegionLoss": lambda model, label: mw.RegionLoss(model, mw.SMMix(cells=4), num_classes=6, label=label),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("label", [mw.ActivationShare(), mw.SaliencyShare(mw.SpectralResidual())], ids=repr)
def test_every_method_takes_them(name: str, label: mw.LabelPolicy) -> None:
    method = METHODS[name](network(), label)
    step = losses(method)
    step["loss"].backward()
    assert bool(step["loss"].isfinite())
    assert not any(module._forward_hooks for module in method.model.modules())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mw.Mixing(network(), label=mw.AttentionShare()), "no attention that could be read"),
        (lambda: mw.AlignMix(transformer(), label=mw.AttentionShare()), "AlignMix mixes features behind the attention"),
        (lambda: mw.HiddenMix(transformer(), label=mw.TokenLabelAlignment()), "mixes the output of 'blocks.0', behind"),
        (
            lambda: mw.HiddenMix(transformer(), layers=("blocks.1",), label=mw.AttentionShare()),
            "mixes the output of 'blocks.1', behind it: name earlier layers",
        ),
        (lambda: mw.AutoMix(network(), label=mw.AttentionShare()), "no attention that could be read"),
        (lambda: mw.AdAutoMix(network(), label=mw.LUMixShare()), "needs two sources: use sources=2 instead of 3"),
        (lambda: mw.Mixing(nn.Linear(2, 2), label=mw.ActivationShare()), "Could not infer the last feature map"),
    ],
)
def test_refused_when_built(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("label", [mw.ActivationShare(), mw.SemanticShare()], ids=repr)
def test_region_loss_looks_once(label: mw.LabelPolicy) -> None:
    """Its pass over the unmixed images serves the label policy, too."""
    model, passes = network(), []
    method = mw.RegionLoss(model, mw.CutMix(), num_classes=6, label=label)
    model.register_forward_hook(lambda *_: passes.append(1))
    losses(method)
    assert len(passes) == 2


def test_scheduled_start() -> None:
    """The labels are those by area until the schedule changes, and by activation afterwards."""
    label = mw.ActivationShare(area=mw.Step({0.0: 1.0, 0.1: 0.0}))
    model = network().eval()
    method = mw.Mixing(model, mw.CutMix(scope="sample"), label=label)
    for progress, plain in ((0.0, mw.PixelShare()), (0.2, mw.ActivationShare())):
        method.after_step(progress)
        wanted = losses(mw.Mixing(model, mw.CutMix(scope="sample"), label=plain))["loss"]
        assert losses(method)["loss"].item() == pytest.approx(wanted.item(), abs=1e-6)


def test_region_loss_written_out() -> None:
    """SMMix's step: windows by the attention of all patches, regions, and consistency with the blended predictions."""
    from mixwell.features.attention import AttentionHook

    model = transformer().eval()
    method = mw.RegionLoss(model, mw.SMMix(cells=4), num_classes=6, region_weight=0.7, consistency_weight=0.3)
    step = losses(method)
    with torch.no_grad(), (hook := AttentionHook(model)):
        clean = model(IMAGES)
    saliency = hook.take(IMAGES, by_patches=True)
    torch.manual_seed(3)
    mixed = mw.SMMix(cells=4)(IMAGES, LABELS, saliency=saliency)
    kept = {}
    handle = model.blocks[-1].register_forward_hook(lambda module, args, output: kept.update(tokens=output))
    logits = model(mixed.images)
    handle.remove()
    tokens, share = kept["tokens"][:, 1:], F.adaptive_avg_pool2d(mixed.plan.share((32, 32)), 4).flatten(2)
    total = mw.cross_entropy(logits, mixed)
    region, consistency = torch.zeros(()), torch.zeros(())
    for row in range(6):
        for k in range(2):
            if share[row, k].sum() > 0:
                pooled = (share[row, k][:, None] * tokens[row]).sum(0) / share[row, k].sum()
                region = region + F.cross_entropy(method.head(pooled)[None], mixed.labels[row, k][None]) / 12
        a, b = mixed.plan.sources[row].tolist()
        target = (mixed.weights[row, 0] * clean[a] + mixed.weights[row, 1] * clean[b]).softmax(0)
        consistency = consistency + (target * (target.log() - logits[row].log_softmax(0))).sum() / 6
    assert step["region_loss"] == pytest.approx(region.item(), abs=1e-5)
    assert step["consistency"] == pytest.approx(consistency.item(), abs=1e-5)
    assert step["loss"].item() == pytest.approx((total + 0.7 * region + 0.3 * consistency).item(), abs=1e-5)


def test_attention_of_the_last_and_of_all_blocks() -> None:
    """Label policies that need both get both from one pass."""
    model, images = transformer().eval(), torch.rand(2, 3, 32, 32)
    needs = ({"attention"}, {"attentions"}, {"attention", "attentions"})
    last, every, both = (Observer(model, frozenset(each)).mixed_pass(model, images) for each in needs)
    torch.testing.assert_close(both, last | every)
    torch.testing.assert_close(both["attention"].flatten(1), both["attentions"][-1][:, 0, 1:])
