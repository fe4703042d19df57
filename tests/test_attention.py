"""Attention of stock timm models, beside the same computed from queries and keys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mixwell as mw
from mixwell.features.attention import AttentionHook

timm = pytest.importorskip("timm")

# model, settings, side, grid, whether there are tokens besides the patches
FAMILIES = [
    ("vit_tiny_patch16_224", {"img_size": 64}, 64, (4, 4), True),
    ("deit_tiny_patch16_224", {"img_size": 64}, 64, (4, 4), True),
    ("deit_tiny_distilled_patch16_224", {"img_size": 64}, 64, (4, 4), True),
    ("deit3_small_patch16_224", {"img_size": 48, "depth": 2}, 48, (3, 3), True),
    ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 2}, 56, (4, 4), True),
    ("vit_tiny_patch16_224", {"img_size": 64, "global_pool": "avg"}, 64, (4, 4), True),
    ("vit_tiny_patch16_224", {"img_size": 64, "global_pool": "avg", "class_token": False}, 64, (4, 4), False),
    ("vit_relpos_small_patch16_224", {"img_size": 64, "depth": 2}, 64, (4, 4), False),
    ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}, 56, (4, 4), True),
    ("beit_base_patch16_224", {"img_size": 64, "depth": 2}, 64, (4, 4), True),
    ("swin_tiny_patch4_window7_224", {"img_size": 224, "depths": (1, 1, 1, 2), "embed_dim": 24}, 224, (7, 7), False),
    ("pvt_v2_b0", {}, 64, (2, 2), False),
    ("cait_xxs24_224", {"img_size": 64, "depth": 2}, 64, (4, 4), True),
    ("xcit_nano_12_p16_224", {"img_size": 64, "depth": 2}, 64, (4, 4), True),
]
every_family = pytest.mark.parametrize(("name", "settings", "side", "grid", "extra"), FAMILIES, ids=str)


def built(name: str, settings: dict) -> nn.Module:
    torch.manual_seed(0)
    heads = {"num_heads": (1, 2, 3, 4)} if name.startswith("swin") else {}
    return timm.create_model(name, num_classes=5, **settings, **heads).eval()


@every_family
def test_attention_of_every_family(name: str, settings: dict, side: int, grid: tuple, extra: bool) -> None:
    """Maps have the model's grid, are a part of a distribution, and reading them changes neither logits nor model."""
    model, images = built(name, settings), torch.rand(2, 3, side, side)
    before = {key: value for module in model.modules() for key, value in vars(module).items() if key == "fused_attn"}
    with torch.no_grad():
        plain = model(images)
        with (hook := AttentionHook(model)):
            logits = model(images)
    maps = hook.take(images)
    assert maps.shape == (2, *grid) and maps.dtype == torch.float32 and not maps.requires_grad
    assert logits == pytest.approx(plain, abs=1e-4)
    assert bool((maps >= 0).all()) and bool((maps.sum((1, 2)) <= 1 + 1e-5).all())
    assert bool((maps.sum((1, 2)) < 1 - 1e-4).all()) == extra  # other tokens receive attention, too
    after = {key: value for module in model.modules() for key, value in vars(module).items() if key == "fused_attn"}
    assert before == after
    assert not any(module._forward_hooks for module in model.modules())


def by_queries_and_keys(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the last block's attention of a ViT from its own projections."""
    tokens = model._pos_embed(model.patch_embed(images))
    for block in model.blocks[:-1]:
        tokens = block(tokens)
    attention, tokens = model.blocks[-1].attn, model.blocks[-1].norm1(tokens)
    shape = (len(images), tokens.shape[1], 3, attention.num_heads, -1)
    query, key, _ = attention.qkv(tokens).reshape(shape).permute(2, 0, 3, 1, 4)
    return (query @ key.transpose(2, 3) * attention.scale).softmax(3).mean(1)


@torch.no_grad()
def test_values_of_a_vit() -> None:
    model, images = built("vit_tiny_patch16_224", {"img_size": 64}), torch.rand(2, 3, 64, 64)
    wanted = by_queries_and_keys(model, images)
    with (hook := AttentionHook(model)):
        model(images)
    assert hook.take(images) == pytest.approx(wanted[:, 0, 1:].unflatten(1, (4, 4)), abs=1e-6)
    by_patches = mw.Attention(by_patches=True)(model, images, torch.zeros(2).long())
    assert by_patches == pytest.approx(wanted[:, 1:, 1:].mean(1).unflatten(1, (4, 4)), abs=1e-6)
    with (hook := AttentionHook(model, every_block=True)):
        model(images)
    matrices = hook.take_all(images)
    assert len(matrices) == 12 and matrices[-1] == pytest.approx(wanted, abs=1e-6)


@torch.no_grad()
def test_windows_of_swin_are_put_back_in_place() -> None:
    """At twice the size the last stage has four windows: each image quarter alone gives the map of its window."""
    settings = {"img_size": 448, "depths": (1, 1, 1, 1), "embed_dim": 24}
    model, images = built("swin_tiny_patch4_window7_224", settings), torch.rand(2, 3, 448, 448)
    with (hook := AttentionHook(model)):
        model(images)
    maps = hook.take(images)
    assert maps.shape == (2, 14, 14)
    quarters = maps.unflatten(1, (2, 7)).unflatten(3, (2, 7)).sum((2, 4))
    assert quarters == pytest.approx(torch.ones(2, 2, 2), abs=1e-5)  # a distribution in each window


@every_family
@pytest.mark.parametrize("every_block", [False, True])
def test_the_model_is_restored_after_an_error(
    name: str, settings: dict, side: int, grid: tuple, extra: bool, every_block: bool
) -> None:
    """An error in the classifier, behind all attention: fused attention is on again, and no hook stays."""

    def fused() -> list[object]:
        return [getattr(module, "fused_attn", None) for module in model.modules()]

    def fail(*_: object) -> None:
        assert fused() != before or True not in before
        raise RuntimeError("in the classifier")

    model = built(name, settings)
    before = fused()
    heads = model.get_classifier()  # a distilled DeiT has two
    (heads if isinstance(heads, nn.Module) else heads[0]).register_forward_pre_hook(fail)
    with torch.no_grad(), pytest.raises(RuntimeError, match="in the classifier"), AttentionHook(model, every_block):
        model(torch.rand(1, 3, side, side))
    assert fused() == before
    assert not any(module._forward_hooks for module in model.modules())


QUICK = {"deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2", "pvt_v2_b0", "xcit_nano_12_p16_224"}
COMPILED = [
    pytest.param(*family[:3], "eager", marks=[] if family[0] in QUICK else pytest.mark.slow, id=str(family[:2]))
    for family in FAMILIES
] + [pytest.param("deit_tiny_patch16_224", {"img_size": 48, "depth": 2}, 48, "inductor", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("name", "settings", "side", "backend"), COMPILED)
def test_compiled(name: str, settings: dict, side: int, backend: str) -> None:
    model, images = built(name, settings), torch.rand(2, 3, side, side)
    with torch.no_grad(), (hook := AttentionHook(model)):
        model(images)
    wanted = hook.take(images)
    torch.compiler.reset()
    model.compile(backend=backend)
    compiled = AttentionHook(model)
    for _ in range(2):
        with torch.no_grad(), compiled:
            model(images)
        assert compiled.take(images) == pytest.approx(wanted, abs=1e-5)


def test_errors() -> None:
    with pytest.raises(ValueError, match="has no attention that could be read"):
        AttentionHook(nn.Linear(2, 2))
    model, images = built("pvt_v2_b0", {}), torch.rand(1, 3, 64, 64)
    with torch.no_grad(), (hook := AttentionHook(model, every_block=True)):
        model(images)
    with pytest.raises(ValueError, match="the same tokens in all blocks"):
        hook.take_all(images)


@torch.no_grad()
def test_tokens_that_do_not_fill_the_images() -> None:
    """A network that drops patches has tokens that form a smaller grid, or none."""
    for side, dropped in ((64, 0.4), (112, 0.1)):
        model = built("vit_tiny_patch16_224", {"img_size": side, "depth": 2, "patch_drop_rate": dropped}).train()
        images = torch.rand(2, 3, side, side)
        with (hook := AttentionHook(model, every_block=True)):
            model(images)
        for take in (hook.take, hook.take_all):
            with (hook := AttentionHook(model, every_block=True)):
                model(images)
            with pytest.raises(ValueError, match=f"do not form a grid of patches for images of {side} x {side}: use"):
                getattr(hook, take.__name__)(images)
