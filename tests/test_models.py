"""The networks against torchvision's and transformers', published sizes and the laws of their initialisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import mixwell as mw
from mixwell import models
from mixwell.features.attention import AttentionHook
from mixwell.train.config import Config

torchvision = pytest.importorskip("torchvision")


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_same_function_as_torchvision_with_a_small_stem(name):
    ours, theirs = models.build(name, 100), getattr(torchvision.models, name)(num_classes=100)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    ours.load_state_dict(theirs.state_dict())  # strict: the same names and shapes
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize(
    ("name", "classes", "size"),
    [
        ("resnet18", 100, 11_220_132),  # OpenMixup and weiaicunzai/pytorch-cifar100 state 11.2 M
        ("resnext50_32x4d", 100, 23_177_124),  # torchvision's 25,028,904 with 100 classes and the small stem
        ("wide_resnet28_8", 10, 23_354_842),  # 23.4 M in the paper's table 4
        ("pvt_tiny", 1000, 13_229_288),  # 13.2 M and 24.5 M in the paper's table 1
        ("pvt_small", 1000, 24_485_864),
        ("moganet_tiny", 1000, 5_197_332),  # 5.2 M in the paper's table 2
    ],
)
def test_published_size(name, classes, size):
    with torch.device("meta"):
        assert parameters(models.build(name, classes)) == size


LARGE = [name for name in models.NAMES if name.startswith(("pvt", "moganet"))]


@pytest.mark.parametrize("name", sorted(set(models.NAMES) - set(LARGE)))
@pytest.mark.parametrize("chans", [1, 3])
def test_parts(name, chans):
    model = models.build(name, 7, in_chans=chans)
    images = torch.randn(2, chans, 8, 8)
    assert model.get_classifier() is model.fc
    assert model.forward_features(images).shape[:2] == (2, model.num_features)
    stages = [n for n, _ in model.named_children() if n.startswith("layer")]
    assert stages == [f"layer{i + 1}" for i in range(len(stages))] and len(stages) >= 3
    model(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    compiled = torch.compile(model.eval(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))


def copy_of_pvt(theirs: nn.Module, name: str) -> nn.Module:
    """Return our PVT with the weights of transformers', parameter by parameter."""
    ours = models.build(name, theirs.config.num_labels)
    encoder, state = theirs.pvt.encoder, {}
    for index, (embedding, blocks) in enumerate(zip(encoder.patch_embeddings, encoder.block, strict=True)):
        stage = f"stages.{index}"
        state[f"{stage}.pos_embed"] = embedding.position_embeddings
        if embedding.cls_token is not None:
            state[f"{stage}.cls_token"] = embedding.cls_token
        parts = {f"{stage}.patch_embed": embedding.projection, f"{stage}.norm": embedding.layer_norm}
        for number, block in enumerate(blocks):
            place, attention = f"{stage}.blocks.{number}", block.attention.self
            kv = [attention.key, attention.value]
            state[f"{place}.attn.kv.weight"] = torch.cat([part.weight for part in kv])
            state[f"{place}.attn.kv.bias"] = torch.cat([part.bias for part in kv])
            if attention.sequences_reduction_ratio > 1:
                parts |= {f"{place}.attn.reduction": attention.sequence_reduction}
                parts |= {f"{place}.attn.norm": attention.layer_norm}
            parts |= {
                f"{place}.norm1": block.layer_norm_1, f"{place}.norm2": block.layer_norm_2,
                f"{place}.attn.q": attention.query, f"{place}.attn.proj": block.attention.output.dense,
                f"{place}.mlp.0": block.mlp.dense1, f"{place}.mlp.2": block.mlp.dense2,
            }  # fmt: skip
        for place, part in parts.items():
            state |= {f"{place}.{key}": value for key, value in part.state_dict().items()}
    for place, part in (("norm", encoder.layer_norm), ("head", theirs.classifier)):
        state |= {f"{place}.{key}": value for key, value in part.state_dict().items()}
    ours.load_state_dict(state)  # strict
    return ours.eval()


@pytest.mark.slow  # imports transformers
@torch.no_grad()
def test_same_function_as_pvt_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.PvtForImageClassification(transformers.PvtConfig(depths=[1, 2, 1, 1], num_labels=5)).eval()
    for parameter in theirs.parameters():  # no constants
        parameter.add_(0.05 * torch.randn_like(parameter))
    ours, images = copy_of_pvt(theirs, "pvt_tiny(depths=(1, 2, 1, 1))"), torch.randn(2, 3, 224, 224)
    output = theirs(images, output_attentions=True)
    assert output.logits.std() > 0.1
    torch.testing.assert_close(ours(images), output.logits, atol=1e-4, rtol=1e-4)
    with (hook := AttentionHook(ours)):  # computes attention explicitly
        torch.testing.assert_close(ours(images), output.logits, atol=1e-4, rtol=1e-4)
    by_class = output.attentions[-1].mean(1)[:, 0, 1:].unflatten(1, (7, 7))
    torch.testing.assert_close(hook.take(images), by_class, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["pvt_tiny", "moganet_tiny"])
def test_parts_of_the_large_networks(name):
    model = models.build(f"{name}(depths=(1, 1, 1, 1), drop_path_rate=0.1)", 7, in_chans=1)
    images = torch.randn(2, 1, 64, 96)
    assert model.get_classifier() is model.head and model.head.in_features == model.num_features
    maps = [model.stages[: index + 1](images) for index in range(4)]
    assert [found.shape[2:] for found in maps[:3]] == [(16, 24), (8, 12), (4, 6)]
    assert maps[3].shape == ((2, 7, 512) if name == "pvt_tiny" else (2, 256, 2, 3))
    model.train()(images).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pvt_tiny", "moganet_tiny"])
def test_large_networks_compile(name):
    model, images = models.build(f"{name}(depths=(1, 1, 1, 1))", 7).eval(), torch.randn(2, 3, 64, 96)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))


def test_help_names_all_networks():
    text = Config.__dataclass_fields__["model"].metadata["help"]
    assert all(name in text for name in models.NAMES)


METHODS = [
    lambda model: mw.SUMix(model, mw.CutMix(), num_classes=5),
    lambda model: mw.AutoMix(model, num_classes=5),
    lambda model: mw.SAMix(model, num_classes=5),
    lambda model: mw.AdAutoMix(model, num_classes=5),
    lambda model: mw.HiddenMix(model, num_classes=5),
    lambda model: mw.AlignMix(model, num_classes=5),
    lambda model: mw.RegionLoss(model, mw.SMMix(cells=2), num_classes=5),
    lambda model: mw.Mixing(model, mw.CutMix(), label=mw.SaliencyShare(mw.ClassActivation()), num_classes=5),
]
BY_ATTENTION = [
    lambda model: mw.Mixing(model, mw.CutMix(), label=mw.AttentionShare(), num_classes=5),
    lambda model: mw.Mixing(model, mw.MaskMix(patch=16), label=mw.ProgressiveAttentionShare(), num_classes=5),
]


@pytest.mark.parametrize(
    ("name", "make"),
    [("moganet_tiny", make) for make in METHODS] + [("pvt_tiny", make) for make in METHODS + BY_ATTENTION],
)
def test_methods_on_the_large_networks(name, make):
    """Layers, channels, feature maps and attention are found without being named."""
    torch.manual_seed(0)
    method = make(models.build(f"{name}(depths=(1, 1, 1, 1), drop_path_rate=0.1)", 5))
    method(torch.rand(4, 3, 64, 64), torch.arange(4))["loss"].backward()
    assert all(p.grad is not None for p in method.model.parameters())
    teacher = getattr(method, "teacher", None)
    assert teacher is None or teacher.layer == "stages.2"


def test_positions_of_pvt_are_resized_smoothly():
    """The same position embeddings in the middle of a larger image, and a ramp stays a ramp."""
    stage = models.build("pvt_tiny(depths=(1, 1, 1, 1))", 2).stages[3]
    ramp = torch.linspace(0, 1, 7).repeat_interleave(7)[:, None].expand(49, 512)
    with torch.no_grad():
        stage.pos_embed[0, 1:] = ramp
        found = stage.positions((14, 7))
    assert found.shape == (1, 1 + 14 * 7, 512)
    assert torch.equal(found[:, 0], stage.pos_embed[:, 0])
    rows = found[0, 1:, 0].unflatten(0, (14, 7))
    torch.testing.assert_close(rows[1:13], torch.linspace(1 / 24, 23 / 24, 12)[:, None].expand(12, 7))


def test_context_of_moganet():
    """What one place of the output of a spatial aggregation sees: 5, 13 and 23 places on a side, by channel."""
    from mixwell.models.moganet import SpatialAggregation

    layer = SpatialAggregation(16)
    with torch.no_grad():
        layer.decompose.zero_()  # no global mean
    x = torch.randn(1, 16, 31, 31, requires_grad=True)
    low, middle, high = layer.low(x).split(layer.parts, 1)
    reach = []
    for part in (low, layer.middle(middle), layer.high(high)):
        (gradient,) = torch.autograd.grad(part[0, :, 15, 15].sum(), x, retain_graph=True)
        seen = gradient.abs().sum((0, 1)).nonzero()
        reach.append(int(seen.amax() - seen.amin() + 1))
    assert reach == [5, 13, 23] and layer.parts == (2, 6, 8)


@torch.no_grad()
def test_block_of_moganet_on_one_place():
    """A map of one place, where convolutions are matrices and the global mean is the map: the formulas in NumPy."""
    from mixwell.models.moganet import Block

    torch.manual_seed(0)
    block, x = Block(8, 2, 0.0).eval(), torch.randn(1, 8, 1, 1)
    for parameter in block.parameters():
        parameter.copy_(torch.randn_like(parameter))

    def values(layer):
        size = layer.kernel_size[0] // 2
        matrix, bias = layer.weight[:, :, size, size].double().numpy(), layer.bias.double().numpy()
        return lambda v: (matrix[:, 0] * v if layer.groups > 1 else matrix @ v) + bias

    def norm(layer, v):
        return v / np.sqrt(1 + layer.eps) * layer.weight.double().numpy() + layer.bias.double().numpy()

    def silu(v):
        return v / (1 + np.exp(-v))

    def gelu(v):
        return v * np.vectorize(lambda u: 0.5 * (1 + math.erf(u / math.sqrt(2))))(v)

    v, moga, ca = x.flatten().double().numpy(), block.spatial, block.channel
    n = norm(block.norm1, v)
    y = silu(values(moga.proj)(n))
    low = values(moga.low)(y)  # shares 1 : 3 : 4 of 8 channels
    value = values(moga.value)(np.r_[low[:1], values(moga.middle)(low[1:4]), values(moga.high)(low[4:])])
    n = n + values(moga.out)(silu(values(moga.gate)(y)) * silu(value))
    v = v + block.scale1.double().numpy() * n
    h = gelu(values(ca.conv)(values(ca.fc1)(norm(block.norm2, v))))
    h = h + ca.decompose.double().numpy() * (h - gelu(values(ca.gather)(h)))
    v = v + block.scale2.double().numpy() * values(ca.fc2)(h)
    np.testing.assert_allclose(block(x).flatten().numpy(), v, rtol=1e-3, atol=1e-3)


def test_stochastic_depth():
    from mixwell.models.depth import StochasticDepth, drop_rates

    torch.manual_seed(0)
    layer, x = StochasticDepth(0.25), torch.ones(4000, 2, 3)
    kept = layer(x)
    assert torch.equal(layer.eval()(x), x)
    assert kept.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert torch.equal(kept.amin((1, 2)), kept.amax((1, 2)))  # whole images
    assert kept.mean().item() == pytest.approx(1, abs=0.03)
    assert drop_rates((2, 1, 1, 1), 0.4) == [[0.0, 0.1], [0.2], [pytest.approx(0.3)], [0.4]]


def test_kaiming_initialisation_keeps_the_scale():
    torch.manual_seed(0)
    model = models.resnet18(10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert 0.1 < model(torch.randn(32, 3, 32, 32)).std() < 10


def test_timm_by_name_and_wrong_names():
    pytest.importorskip("timm")
    assert models.build("timm/resnet10t", 5, in_chans=1)(torch.zeros(2, 1, 64, 64)).shape == (2, 5)
    with pytest.raises(ValueError, match="There is no model 'resnet19': did you mean resnet18"):
        models.build("resnet19", 5)
    with pytest.raises(ValueError, match="timm has no model 'resnet19': did you mean"):
        models.build("timm/resnet19", 5)


def test_settings_of_timm_models():
    pytest.importorskip("timm")
    model = models.build("timm/vit_tiny_patch16_224(img_size=32, depth=2, drop_path_rate=0.5)", 5)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5) and len(model.blocks) == 2
    assert model.blocks[1].drop_path1.drop_prob == 0.5
    for text, sentence in [
        ("convnext_tiny", r"There is no model 'convnext_tiny': did you mean timm/convnext_tiny\?"),
        ("timm/resnet18(checkpoint_path='weights.pth')", "timm/resnet18 does not take checkpoint_path, which reads a"),
        ("timm/resnet18(pretrained=True)", "timm/resnet18 does not take pretrained"),
        ("timm/resnet18(depth=3)", "timm cannot create resnet18 with {'depth': 3}: .*unexpected"),
        ("timm/resnet18(__import__('os'))", "Expected NAME"),
        ("timm/resnet18(a=__import__('os'))", "Expected NAME"),
        ("timm/resnet18(a=1", "Expected NAME"),
        ("timm/resnet18(a=1)(b=2)", "Expected NAME"),
        ("timm/resnet18().fc", "Expected NAME"),
        ("timm/resnet19(a=1)", "timm has no model 'resnet19': did you mean"),
        ("pvt_tiny(depth=3)", "mixwell cannot create pvt_tiny with {'depth': 3}: .*unexpected"),
        ("moganet_tiny(depths=(1, 1, 1))", r"depths must be four numbers of blocks, at least 1, but got \(1, 1, 1\)"),
        ("pvt_tiny(depths=(1, 1, 0, 1))", "depths must be four numbers of blocks"),
        ("resnet18(drop_path_rate=0.1)", "mixwell cannot create resnet18 with .*unexpected"),
        ("pvt_tiny(depths=__import__('os'))", "Expected NAME"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            models.build(text, 5)
